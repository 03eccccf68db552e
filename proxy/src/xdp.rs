//! Which uplinks may have the program for drivers (XDP). Pure.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::str::FromStr;

use dataplane_ebpf::abi::Mac;

use crate::devices::{Device, Devices};

/// The devices whose drivers are asked to run a program, as `--xdp` names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Xdp {
    /// Every uplink that is hardware.
    Auto,
    /// None.
    Off,
    /// The uplinks with these names, whatever they are.
    Named(Vec<String>),
}

impl FromStr for Xdp {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "off" => Self::Off,
            names => Self::Named(names.split(',').map(str::to_owned).collect()),
        })
    }
}

impl Xdp {
    /// The uplinks that are chosen, and their addresses.
    pub(crate) fn chosen<'a>(&self, devices: &'a Devices) -> BTreeMap<&'a Device, Mac> {
        let is_chosen = |device: &&Device| match self {
            Self::Auto => devices.physical.contains(device),
            Self::Off => false,
            Self::Named(names) => names.contains(&device.name),
        };
        let chosen = devices.uplinks.iter().filter(is_chosen);
        let with_address = chosen.filter_map(|device| {
            let mac = devices.macs.get(&device.index)?;
            Some((device, Mac::new(*mac)))
        });
        with_address.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let device = |(index, name): (u32, &str)| Device {
            index,
            name: name.to_owned(),
        };
        let devices = Devices {
            uplinks: [(2, "eth0"), (3, "veth0"), (4, "ib0")].map(device).into(),
            physical: BTreeSet::from([(2, "eth0"), (4, "ib0")].map(device)),
            macs: BTreeMap::from([(2, [2; 6]), (3, [3; 6]), (9, [9; 6])]),
            ..Devices::default()
        };
        let xdp: Xdp = text.parse().expect("every text is one");
        let chosen: Vec<&str> = xdp
            .chosen(&devices)
            .keys()
            .map(|device| &*device.name)
            .collect();
        assert_eq!(chosen, expected);
    }

    #[test]
    fn hardware_is_chosen_by_itself_and_anything_by_name() {
        check("auto", &["eth0"]);
        check("off", &[]);
        check("veth0,gone0", &["veth0"]);
    }
}
