//! The devices on whose drivers the program for drivers may act.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use dataplane_ebpf::abi::{Mac, maps};

use super::Error;
use super::kernel::{absent_is_fine, failed, hash};

/// The addresses of those devices, by index.
#[derive(Debug)]
pub(crate) struct XdpDevices {
    devices: HashMap<MapData, u32, Mac>,
}

impl XdpDevices {
    /// Takes the map out of what was loaded.
    pub(crate) fn take(programs: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            devices: hash(programs, maps::XDP_DEVICES)?,
        })
    }

    /// Lets the program act on those `wanted` and on no others.
    pub(crate) fn keep(&mut self, wanted: &BTreeMap<u32, Mac>) -> Result<(), Error> {
        let known: Result<BTreeMap<u32, Mac>, _> = self.devices.iter().collect();
        let known = known.map_err(failed("list", maps::XDP_DEVICES))?;
        for index in known.keys().filter(|index| !wanted.contains_key(index)) {
            absent_is_fine(self.devices.remove(index), maps::XDP_DEVICES)?;
        }
        for (index, mac) in wanted
            .iter()
            .filter(|(index, mac)| known.get(index) != Some(mac))
        {
            let inserted = self.devices.insert(index, mac, 0);
            inserted.map_err(failed("write", maps::XDP_DEVICES))?;
        }
        Ok(())
    }
}
