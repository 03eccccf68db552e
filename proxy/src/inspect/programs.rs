//! Which programs run where, as the pinned links tell, and which are missing.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::programs::{ProgramInfo, loaded_programs};
use dataplane_ebpf::{Hook, PROGRAMS};
use serde::Serialize;

use super::text;
use crate::pinned::{Error, PinDirectory};
use crate::sys::{self, LinkTarget};

/// How many cgroups are looked at to find one by its id. A node with more than that shows the id.
const CGROUPS: usize = 10_000;
/// How many places of a program are named.
const NAMED: usize = 4;

/// A program that is attached somewhere.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attached {
    pub(super) program: String,
    /// A cgroup or a device; nothing if it is gone.
    pub(super) target: Option<String>,
    /// `link`, or `filter` on kernels without links for traffic control.
    pub(super) by: &'static str,
    /// What the verifier looked at to accept the program.
    pub(super) verified_instructions: Option<u32>,
}

impl Attached {
    pub(super) fn is_same_program(&self, other: &Self) -> bool {
        (&self.program, self.by) == (&other.program, other.by)
    }
}

/// Where `attached`, which are of one program, are attached. A node has two for each pod, so not all are named.
pub(super) fn targets(attached: &[Attached]) -> String {
    let names = attached.iter().take(NAMED);
    let names = names.map(|one| one.target.as_deref().unwrap_or("(gone)"));
    let names = names.collect::<Vec<_>>().join(", ");
    match attached.len().saturating_sub(NAMED) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

/// Everything that is attached by what `directory` records, in order of programs.
pub(super) fn attached(directory: &PinDirectory) -> Result<Vec<Attached>, Error> {
    let programs: HashMap<u32, ProgramInfo> = loaded_programs()
        .flatten()
        .map(|program| (program.id(), program))
        .collect();
    let mut all = Vec::new();
    for pin in directory.list("links")? {
        all.push(link(&pin, &programs)?);
    }
    for pin in directory.list("filters")? {
        all.extend(filter(&pin));
    }
    all.sort_by(|a, b| (&a.program, a.by).cmp(&(&b.program, b.by)));
    Ok(all)
}

fn link(pin: &Path, programs: &HashMap<u32, ProgramInfo>) -> Result<Attached, Error> {
    let link = sys::open_pin(pin).and_then(|link| sys::link_info(link.as_fd()));
    let link = link.map_err(|source| Error::Read {
        path: pin.to_owned(),
        source,
    })?;
    let program = programs.get(&link.program);
    let name = program.and_then(ProgramInfo::name_as_str);
    Ok(Attached {
        program: name.unwrap_or("unknown").to_owned(),
        target: target(link.target),
        by: "link",
        verified_instructions: program.and_then(ProgramInfo::verified_instruction_count),
    })
}

/// A filter is recorded by the name of its program, which is that of a side of a device, and the device's index.
fn filter(pin: &Path) -> Option<Attached> {
    let (program, device) = pin.file_name()?.to_str()?.split_once('-')?;
    Some(Attached {
        program: program.to_owned(),
        target: device.parse().ok().and_then(device_if_there),
        by: "filter",
        verified_instructions: None,
    })
}

/// What people call `target`; nothing if it is gone.
fn target(target: LinkTarget) -> Option<String> {
    match target {
        LinkTarget::Cgroup(id) => cgroup(id),
        LinkTarget::Device(index) => device_if_there(index),
        LinkTarget::Other => Some("unknown".to_owned()),
    }
}

/// The kernel gives a link whose device is gone the index zero.
fn device_if_there(index: u32) -> Option<String> {
    (index != 0).then(|| format!("device {}", text::device(index)))
}

/// The directory of the cgroup with `id`, which is its inode; the kernel gives one that is gone the id zero.
fn cgroup(id: u64) -> Option<String> {
    if id == 0 {
        return None;
    }
    let found = find_cgroup(id).map(|path| path.display().to_string());
    Some(format!("cgroup {}", found.unwrap_or(format!("#{id}"))))
}

fn find_cgroup(id: u64) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let fields = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let root = fields
        .filter(|fields| fields.get(2) == Some(&"cgroup2"))
        .find_map(|fields| fields.get(1).map(PathBuf::from))?;
    let mut waiting = vec![root];
    for _ in 0..CGROUPS {
        let directory = waiting.pop()?;
        if fs::metadata(&directory).is_ok_and(|found| found.ino() == id) {
            return Some(directory);
        }
        let below = fs::read_dir(&directory).into_iter().flatten().flatten();
        let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        waiting.extend(below.map(|entry| entry.path()));
    }
    None
}

/// What is not attached as it should be.
pub(super) fn missing(attached: &[Attached]) -> Vec<String> {
    let runs = |name: &str| {
        let mut running = attached.iter().filter(|attached| attached.target.is_some());
        running.any(|attached| attached.program == name)
    };
    let mut missing = Vec::new();
    for program in PROGRAMS.iter().filter(|program| !runs(program.name)) {
        let effect = match program.hook {
            Hook::SocketAddress => "sockets on this node are not translated as they should be",
            Hook::Socket => "processes of the node can take node ports",
            Hook::Ingress => "clients outside are not served",
            Hook::Egress => "clients outside get no answers from backends on this node",
            // Not every node has pods, nor every device a driver for it.
            Hook::Pod | Hook::Xdp => continue,
        };
        missing.push(format!(
            "program {} is not attached: {effect}",
            program.name
        ));
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_do_not_run_are_missed_but_for_those_that_need_not() {
        let running = |program: &str, target: Option<&str>| Attached {
            program: program.to_owned(),
            target: target.map(str::to_owned),
            by: "link",
            verified_instructions: None,
        };
        let mut all: Vec<Attached> = PROGRAMS
            .iter()
            .filter(|program| !matches!(program.hook, Hook::Pod | Hook::Xdp))
            .map(|program| running(program.name, Some("somewhere")))
            .collect();
        assert_eq!(missing(&all), Vec::<String>::new());
        all.retain(|attached| attached.program != "egress");
        assert_eq!(missing(&all).len(), 1);
        all.push(running("egress", None));
        assert_eq!(missing(&all).len(), 1, "its device is gone");
    }
}
