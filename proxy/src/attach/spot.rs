//! The places on devices where programs run, and their names in the pin directory.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use dataplane_ebpf::Hook;

use super::Error;
use crate::pins::{Pins, file};

/// A place on a device; at most one program of ours runs there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    pub(crate) side: Side,
    /// The device's index.
    pub(crate) device: u32,
}

/// A side of a device. In the order in which programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// What leaves by the device.
    Egress,
    /// What arrives by a device towards pods.
    PodIngress,
    /// What arrives by an uplink.
    Ingress,
    /// The same in the device's driver. After the others, which do what it does not.
    Driver,
}

/// A place that is taken, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attachment {
    pub(crate) spot: Spot,
    /// By a link; else by a filter.
    pub(crate) is_link: bool,
}

impl Spot {
    /// Where on a device the programs with `hook` run; nowhere if they are for sockets.
    pub(crate) fn side(hook: Hook) -> Option<Side> {
        match hook {
            Hook::Ingress => Some(Side::Ingress),
            Hook::Pod => Some(Side::PodIngress),
            Hook::Egress => Some(Side::Egress),
            Hook::Xdp => Some(Side::Driver),
            Hook::SocketAddress | Hook::Socket => None,
        }
    }
}

impl Attachment {
    /// Its name in the file system.
    pub(crate) fn pin(&self, pins: &Pins) -> PathBuf {
        let directory = if self.is_link {
            &pins.links
        } else {
            &pins.filters
        };
        directory.join(self.spot.to_string())
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.spot.fmt(f)
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Egress => "egress",
            Side::PodIngress => "pod_ingress",
            Side::Ingress => "ingress",
            Side::Driver => "driver",
        };
        write!(f, "{side}-{}", self.device)
    }
}

impl FromStr for Spot {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let (side, device) = name.split_once('-').ok_or(())?;
        let side = match side {
            "egress" => Side::Egress,
            "pod_ingress" => Side::PodIngress,
            "ingress" => Side::Ingress,
            "driver" => Side::Driver,
            _ => return Err(()),
        };
        let device = device.parse().map_err(|_| ())?;
        Ok(Self { side, device })
    }
}

/// What is attached to devices. The directory has links of sockets' programs too, whose names are no places.
pub(crate) fn list(pins: &Pins) -> Result<BTreeSet<Attachment>, Error> {
    let mut found = BTreeSet::new();
    for (directory, is_link) in [(&pins.links, true), (&pins.filters, false)] {
        for entry in fs::read_dir(directory).map_err(file("list", directory))? {
            let name = entry.map_err(file("list", directory))?.file_name();
            let spot = name.to_str().and_then(|name| name.parse().ok());
            found.extend(spot.map(|spot| Attachment { spot, is_link }));
        }
    }
    Ok(found)
}
