//! What is attached and pinned, taken away again: one program, what another layout left, or everything.

use std::fs;
use std::path::{Path, PathBuf};

use dataplane_ebpf::abi::LAYOUT_VERSION;
use tracing::info;

use super::filter;
use crate::pins::{Error, Pins, all, file, layout, list, remove_all, remove_pins};

/// The directories of a layout, in the order in which they are removed.
const PARTS: [&str; 4] = ["filters", "links", "maps", "maps-next"];

/// Removes every program, link and map under `root`: traffic is no longer translated. Returns whether there was anything.
/// What cannot be removed does not keep the rest from it; the first error is returned.
pub fn cleanup(root: &Path) -> Result<bool, Error> {
    let layouts = layouts(root)?;
    all(&layouts, |directory| remove(directory))?;
    Ok(!layouts.is_empty())
}

/// Removes what a daemon with another layout left. To be called when this build's maps hold all.
pub(super) fn remove_other_layouts(pins: &Pins) -> Result<(), Error> {
    for directory in layouts(&pins.root)? {
        if !directory.ends_with(layout()) {
            info!(path = %directory.display(), "removing another layout");
            remove(&directory)?;
        }
    }
    Ok(())
}

/// Removes the link or filter at `pin`, which detaches its program.
pub(super) fn detach(pins: &Pins, pin: &Path) -> Result<(), Error> {
    let removed = if pin.starts_with(&pins.filters) {
        filter::remove(pin, LAYOUT_VERSION)
    } else {
        fs::remove_file(pin)
    };
    removed.map_err(file("remove", pin))
}

/// The directories of all layouts under `root`.
fn layouts(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut layouts = list(root)?;
    let has = |directory: &Path, part| directory.join(part).is_dir();
    layouts.retain(|path| PARTS.iter().any(|part| has(path, part)));
    Ok(layouts)
}

/// Removes the layout in `directory`: first what runs, then what it works with.
fn remove(directory: &Path) -> Result<(), Error> {
    let version = directory
        .file_name()
        .and_then(|name| name.to_str()?.strip_prefix('v')?.parse().ok());
    let [filters, others @ ..] = PARTS;
    let detached = match version {
        Some(version) => remove_all(&directory.join(filters), |pin| filter::remove(pin, version)),
        None => Ok(()),
    };
    let removed = all(&others, |part| remove_pins(&directory.join(part)));
    detached.and(removed)?;
    fs::remove_dir(directory).map_err(file("remove", directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's file system is not needed for it: what cannot be removed is a directory in the place of a pin.
    #[test]
    fn what_cannot_be_removed_keeps_nothing_else() -> anyhow::Result<()> {
        let root = std::env::temp_dir().join(format!("portolan-pins-{}", std::process::id()));
        for stuck in ["v1/filters/ingress-0/x", "v1/links/stuck", "v2/maps/stuck"] {
            fs::create_dir_all(root.join(stuck))?;
        }
        for other in ["v1/filters/egress-0", "v1/maps", "v2/links", "v3/links"] {
            fs::create_dir_all(root.join(other))?;
        }
        for pin in ["v1/links/a", "v1/links/z", "v1/maps/M", "v2/links/a"] {
            fs::write(root.join(pin), "")?;
        }
        let failed = cleanup(&root).map_err(|error| error.to_string());
        let mut left: Vec<PathBuf> = Vec::new();
        for layout in list(&root)? {
            for part in list(&layout)? {
                left.extend(list(&part)?);
            }
        }
        left.sort();
        let is_known_still = layouts(&root)?.len();
        fs::remove_dir_all(&root)?;
        assert!(failed.is_err_and(|error| error.contains("cannot remove")));
        let stuck = ["v1/filters/ingress-0", "v1/links/stuck", "v2/maps/stuck"];
        assert_eq!(left, stuck.map(|path| root.join(path)));
        assert_eq!(is_known_still, 2);
        Ok(())
    }
}
