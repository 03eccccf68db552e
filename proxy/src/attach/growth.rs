//! Larger maps in the place of ones that are full, while everything goes on.
//!
//! The size of a map is fixed when it is made, and a program names its maps for good. So a second set of programs is
//! loaded, with larger maps of the kind that is full and the same maps otherwise, and takes over attachment by attachment.
//! Both sets hold the same then, with the same ids, so it does not matter which of them a packet meets. Nothing else may
//! write meanwhile. A daemon may die at any step: the next one finds the old maps in their directory, complete, until
//! the very last step puts the new ones there at once; and takes over all attachments in either case.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{MapData, MapType};
use aya::util::nr_cpus;
use dataplane_ebpf::{Hook, OBJECT, PROGRAMS};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::net::if_::{Interface, if_nameindex};
use tracing::{debug, info, warn};

use super::spot::{Attachment, Side};
use super::{Dataplane, Error, filter, link, load, program};
use crate::devices::Device;
use crate::maps::KernelMaps;
use crate::pins::{DECLARATIONS, file};
use crate::sys::{self, LinkTarget};
use dataplane_ebpf::abi::maps;

/// The maps that grow together, since the same ids lead into them.
const TOGETHER: [&[&str]; 6] = [
    &[maps::FRONTENDS],
    &[maps::NODEPORTS],
    &[maps::SERVICES, maps::STATS, maps::NAMES],
    &[maps::SLOTS],
    &[maps::BACKENDS, maps::UDP_CONNECTED],
    &[maps::SOURCE_RANGES],
];

/// A second set of programs, with larger maps. Dropping it leaves what a daemon that dies leaves.
pub struct Growth {
    programs: Ebpf,
    directory: PathBuf,
    grown: &'static [&'static str],
}

impl Growth {
    /// Sets the marks of connected UDP sockets that are set in the directory `from` in the other one, too.
    fn carry_marks(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let name = maps::UDP_CONNECTED;
        if !self.grown.contains(&name) {
            return Ok(());
        }
        merge_marks(&from.join(name), &to.join(name))
    }
}

impl Dataplane {
    /// Makes room where the map called `full` is: all there is goes on with twice as much of it. After an error all goes on
    /// with the present maps, unless it [says otherwise](Error::is_fatal).
    pub fn grow(&mut self, full: &str) -> Result<KernelMaps, Error> {
        let mut growth = self.begin_growth(full)?;
        let changed = self.change_over(&mut growth);
        let finished = changed.and_then(|()| self.finish_growth(&growth));
        if let Err(error) = finished {
            // The old set still holds everything, and whoever writes goes on with it.
            self.change_over(&mut growth)
                .map_err(|source| Error::Divided(source.into()))?;
            // What the new programs noted meanwhile.
            growth.carry_marks(&growth.directory, &self.pins.maps)?;
            return Err(error);
        }
        finished
    }

    /// The first step: the larger maps, filled with what the present ones hold.
    pub fn begin_growth(&self, full: &str) -> Result<Growth, Error> {
        let refused = || Error::NoGrowth(full.to_owned());
        let grown = TOGETHER.into_iter().find(|group| group.contains(&full));
        let grown = grown.ok_or_else(refused)?;
        let directory = self.pins.next_maps()?;
        let mut loader = self.pins.loader_at(&directory);
        for declaration in &DECLARATIONS {
            let path = self.pins.maps.join(declaration.name);
            let map = MapData::from_pin(&path).map_err(Error::map(declaration.name))?;
            if grown.contains(&declaration.name) {
                let size = map
                    .info()
                    .map_err(Error::map(declaration.name))?
                    .max_entries();
                let larger = self
                    .sizes
                    .next(declaration.name, size)
                    .ok_or_else(refused)?;
                loader.map_max_entries(declaration.name, larger);
            } else {
                let pinned = map.pin(directory.join(declaration.name));
                pinned.map_err(|source| Error::Pin {
                    name: declaration.name,
                    source,
                })?;
            }
        }
        let programs = load::object(loader, OBJECT)?;
        for name in grown {
            copy(name, &self.pins.maps, &directory)?;
        }
        Ok(Growth {
            programs,
            directory,
            grown,
        })
    }

    /// The second step: the programs of `growth` take the places of the present ones, one by one, and the other way round.
    pub fn change_over(&mut self, growth: &mut Growth) -> Result<(), Error> {
        std::mem::swap(&mut self.programs, &mut growth.programs);
        self.attach_sockets()?;
        let links = &self.pins.links;
        let devices =
            if_nameindex().map_err(|errno| file("list devices for", links)(errno.into()))?;
        let name = |device: &Interface| device.name().to_string_lossy().into_owned();
        let names = devices.iter().map(|device| (device.index(), name(device)));
        let names: BTreeMap<u32, String> = names.collect();
        for attachment in self.attached.clone() {
            match names.get(&attachment.spot.device) {
                Some(name) => self.take_over(attachment, name)?,
                None => debug!(%attachment, "its device is gone"),
            }
        }
        Ok(())
    }

    /// The last step: the new maps are the ones that a daemon finds, and the old ones go. What can fail comes before that.
    fn finish_growth(&mut self, growth: &Growth) -> Result<KernelMaps, Error> {
        // What the old programs noted after it was copied.
        growth.carry_marks(&self.pins.maps, &growth.directory)?;
        let taken = KernelMaps::take(&mut self.programs)?;
        let (new, old) = (&growth.directory, &self.pins.maps);
        renameat2(AT_FDCWD, new, AT_FDCWD, old, RenameFlags::RENAME_EXCHANGE)
            .map_err(|errno| file("put in place", new)(errno.into()))?;
        info!(maps = ?growth.grown, "grew");
        if let Err(error) = fs::remove_dir_all(new) {
            // The next growth or the next start removes them.
            warn!(?error, path = %new.display(), "the old maps stay");
        }
        Ok(taken)
    }

    /// Puts this daemon's program where one is attached, on the device called `name`.
    fn take_over(&mut self, attachment: Attachment, name: &str) -> Result<(), Error> {
        let spot = attachment.spot;
        let pin = attachment.pin(&self.pins);
        let fits = |hook: Hook| super::Spot::side(hook) == Some(spot.side);
        let Some(entry) = PROGRAMS.iter().find(|program| fits(program.hook)) else {
            return Ok(());
        };
        let device = Device {
            index: spot.device,
            name: name.to_owned(),
        };
        let program = program(&mut self.programs, entry.name)?;
        if attachment.is_link {
            link::take_over(entry.name, program, &pin, LinkTarget::Device(spot.device))?;
            return Ok(());
        }
        debug_assert_ne!(spot.side, Side::Driver, "drivers have links");
        filter::attach(program, spot, &device, &pin).map_err(|source| Error::Attach {
            name: entry.name,
            target: device.name.clone(),
            source,
        })
    }
}

/// Copies all entries of the map called `name` that is pinned in `from` to the larger one in `to`.
fn copy(name: &'static str, from: &Path, to: &Path) -> Result<(), Error> {
    let cpus = nr_cpus().map_err(|(file_name, error)| file(file_name, from)(error))?;
    let open = |directory: &Path| MapData::from_pin(directory.join(name)).map_err(Error::map(name));
    let (old, new) = (open(from)?, open(to)?);
    let info = old.info().map_err(Error::map(name))?;
    let value = match info.map_type().map_err(Error::map(name))? {
        MapType::PerCpuArray => (info.value_size() as usize).next_multiple_of(8) * cpus,
        _ => info.value_size() as usize,
    };
    let key = info.key_size() as usize;
    let copied = sys::copy_map(old.fd().as_fd(), new.fd().as_fd(), key, value);
    Ok(copied.map_err(file("copy", &from.join(name)))?)
}

/// Sets every mark at `to` that is set at `from`.
fn merge_marks(from: &Path, to: &Path) -> Result<(), Error> {
    let open = |path: &Path| {
        let map = MapData::from_pin(path).map_err(Error::map(maps::UDP_CONNECTED))?;
        let info = map.info().map_err(Error::map(maps::UDP_CONNECTED))?;
        let array = sys::Array::<u32>::map(map.fd().as_fd(), info.max_entries());
        array.map_err(|source| Error::from(file("map", path)(source)))
    };
    let (from_marks, to_marks) = (open(from)?, open(to)?);
    let set = from_marks.scan(|index, mark| (mark != 0).then_some(index));
    for index in set.map_err(file("read", from))? {
        to_marks.write(index, 1).map_err(file("write", to))?;
    }
    Ok(())
}
