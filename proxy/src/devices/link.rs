//! The node's devices one by one, and which of them are uplinks or lead to pods. Pure.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

use super::Device;

/// All devices, by index.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<u32, Link>,
}

/// A device and what it can be.
#[derive(Debug)]
struct Link {
    device: Device,
    /// Its packets begin with an Ethernet header. Those of tunnels such as WireGuard begin with the IP header.
    is_ethernet: bool,
    is_up: bool,
    /// Its other end is in a pod or a virtual machine. Others that are no hardware either, such as VXLAN and VLAN devices,
    /// lead to other machines. A bridge is none: its ports are, since pods on it answer each other past it.
    is_pod: bool,
    is_physical: bool,
    /// It leads to other machines by wire: hardware, or what is made of hardware.
    is_wired: bool,
    mac: Option<[u8; 6]>,
}

impl Links {
    /// Takes in what a device is now.
    pub(super) fn insert(&mut self, message: LinkMessage) {
        if !is_about_a_port(&message)
            && let Some(link) = Link::new(message)
        {
            self.links.insert(link.device.index, link);
        }
    }

    /// Takes in that a device is gone.
    pub(super) fn remove(&mut self, message: &LinkMessage) {
        if !is_about_a_port(message) {
            self.links.remove(&message.header.index);
        }
    }

    /// The devices with one of the `indices`, and the names of those among them that cannot be uplinks.
    pub(super) fn by_index(&self, indices: &BTreeSet<u32>) -> (BTreeSet<Device>, BTreeSet<String>) {
        let chosen = indices.iter().filter_map(|index| self.links.get(index));
        let (fit, unfit): (Vec<&Link>, Vec<&Link>) = chosen.partition(|link| link.is_ethernet);
        let uplinks = fit.into_iter().map(|link| link.device.clone());
        let left_out = unfit.into_iter().map(|link| link.device.name.clone());
        (uplinks.collect(), left_out.collect())
    }

    /// Those of the devices with one of the `indices` that are up and lead to other machines by wire.
    pub(super) fn wired(&self, indices: &BTreeSet<u32>) -> BTreeSet<u32> {
        let is_wired = |index: &&u32| {
            let link = self.links.get(index);
            link.is_some_and(|link| link.is_ethernet && link.is_up && link.is_wired)
        };
        indices.iter().filter(is_wired).copied().collect()
    }

    /// The devices with one of the `names`, and those names that no device has which can be an uplink.
    pub(super) fn by_name(&self, names: &[String]) -> (BTreeSet<Device>, BTreeSet<String>) {
        let chosen = self
            .links
            .values()
            .filter(|link| link.is_ethernet && names.contains(&link.device.name));
        let uplinks: BTreeSet<Device> = chosen.map(|link| link.device.clone()).collect();
        let left_out = names
            .iter()
            .filter(|name| uplinks.iter().all(|device| device.name != **name));
        let left_out = left_out.cloned().collect();
        (uplinks, left_out)
    }

    /// Those of the `uplinks` that are hardware.
    pub(super) fn physical(&self, uplinks: &BTreeSet<Device>) -> BTreeSet<Device> {
        let is_physical = |device: &&Device| {
            self.links
                .get(&device.index)
                .is_some_and(|link| link.is_physical)
        };
        uplinks.iter().filter(is_physical).cloned().collect()
    }

    /// The Ethernet addresses of the `uplinks`, by index.
    pub(super) fn macs(&self, uplinks: &BTreeSet<Device>) -> BTreeMap<u32, [u8; 6]> {
        let macs = uplinks.iter().filter_map(|device| {
            let link = self.links.get(&device.index)?;
            Some((device.index, link.mac?))
        });
        macs.collect()
    }

    /// The devices by which packets of pods arrive.
    pub(super) fn pods(&self, uplinks: &BTreeSet<Device>) -> BTreeSet<Device> {
        let links = self
            .links
            .values()
            .filter(|link| link.is_ethernet && link.is_up && link.is_pod);
        let devices = links.map(|link| &link.device);
        devices
            .filter(|device| !uplinks.contains(device))
            .cloned()
            .collect()
    }
}

/// Bridges report what becomes of their ports in messages of their own, also that a port is one no more.
fn is_about_a_port(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Bridge
}

impl Link {
    fn new(message: LinkMessage) -> Option<Self> {
        let LinkMessage {
            header, attributes, ..
        } = message;
        let mut name = None;
        let mut infos = Vec::new();
        let mut has_parent = false;
        let mut has_end_elsewhere = false;
        let mut mac = None;
        for attribute in attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text),
                LinkAttribute::LinkInfo(found) => infos = found,
                LinkAttribute::ParentDevName(_) => has_parent = true,
                LinkAttribute::Address(bytes) => mac = bytes.try_into().ok(),
                LinkAttribute::LinkNetNsId(_) => has_end_elsewhere = true,
                _ => {}
            }
        }
        let kind = infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind),
            _ => None,
        });
        Some(Self {
            device: Device {
                index: header.index,
                name: name?,
            },
            is_ethernet: header.link_layer_type == LinkLayerType::Ether
                && !header.flags.contains(LinkFlags::Loopback),
            is_up: header.flags.contains(LinkFlags::Up),
            is_pod: kind.is_some_and(|kind| match kind {
                InfoKind::Veth | InfoKind::Netkit => has_end_elsewhere,
                InfoKind::Tun => true,
                _ => false,
            }),
            is_physical: kind.is_none() && has_parent,
            is_wired: match kind {
                None => has_parent,
                Some(kind) => matches!(kind, InfoKind::Bond | InfoKind::Team | InfoKind::Vlan),
            },
            mac,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn message(index: u32, name: &str, kind: LinkLayerType, flags: LinkFlags) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.link_layer_type = kind;
        message.header.flags = flags;
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        message
    }

    fn ethernet(index: u32, name: &str, kind: InfoKind) -> LinkMessage {
        let mut message = message(index, name, LinkLayerType::Ether, LinkFlags::Up);
        let kind = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]);
        message.attributes.push(kind);
        message
    }

    fn veth(index: u32, name: &str) -> LinkMessage {
        let mut message = ethernet(index, name, InfoKind::Veth);
        message.attributes.push(LinkAttribute::LinkNetNsId(0));
        message
    }

    pub(in super::super) fn links() -> Links {
        let up = LinkFlags::Up;
        let mut eth0 = message(2, "eth0", LinkLayerType::Ether, up);
        let parent = LinkAttribute::ParentDevName("0000:00:03.0".to_owned());
        eth0.attributes.push(parent);
        let mut down = veth(9, "down0");
        down.header.flags = LinkFlags::empty();
        let messages = [
            message(1, "lo", LinkLayerType::Loopback, LinkFlags::Loopback),
            eth0,
            message(3, "wg0", LinkLayerType::None, up),
            message(4, "ppp0", LinkLayerType::Ppp, up),
            veth(5, "veth5"),
            ethernet(6, "both-ends-here", InfoKind::Veth),
            ethernet(7, "cni0", InfoKind::Bridge),
            ethernet(8, "flannel.1", InfoKind::Vxlan),
            down,
            ethernet(10, "tap0", InfoKind::Tun),
            ethernet(11, "bond0", InfoKind::Bond),
            ethernet(12, "bond0.5", InfoKind::Vlan),
        ];
        let mut links = Links::default();
        messages
            .into_iter()
            .for_each(|message| links.insert(message));
        links
    }

    fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        names.into_iter().map(str::to_owned).collect()
    }

    fn names_of(devices: BTreeSet<Device>) -> Vec<String> {
        devices.into_iter().map(|device| device.name).collect()
    }

    #[track_caller]
    fn check(
        (uplinks, left_out): (BTreeSet<Device>, BTreeSet<String>),
        expected: &[&str],
        expected_out: &[&str],
    ) {
        assert_eq!(names_of(uplinks), expected);
        assert_eq!(Vec::from_iter(left_out), expected_out);
    }

    #[track_caller]
    fn check_pods(links: &Links, uplinks: &[&str], expected: &[&str]) {
        let (uplinks, _) = links.by_name(&names(uplinks.iter().copied()));
        assert_eq!(names_of(links.pods(&uplinks)), expected);
    }

    #[test]
    fn default_routes_make_uplinks_of_ethernet_devices_only() {
        check(
            links().by_index(&BTreeSet::from([2, 3, 4])),
            &["eth0"],
            &["ppp0", "wg0"],
        );
    }

    #[test]
    fn names_make_uplinks_of_ethernet_devices_only() {
        check(
            links().by_name(&names(["eth0", "wg0", "lo", "gone"])),
            &["eth0"],
            &["gone", "lo", "wg0"],
        );
    }

    #[test]
    fn only_hardware_is_physical() {
        let links = links();
        let (uplinks, _) = links.by_name(&names(["eth0", "veth5", "cni0"]));
        assert_eq!(names_of(links.physical(&uplinks)), ["eth0"]);
    }

    #[test]
    fn what_leads_to_other_machines_by_wire_is_hardware_or_made_of_it() {
        let mut links = links();
        let all: BTreeSet<u32> = (1..=20).collect();
        assert_eq!(links.wired(&all), BTreeSet::from([2, 11, 12]));
        assert_eq!(links.wired(&BTreeSet::from([2, 7])), BTreeSet::from([2]));
        let down = message(2, "eth0", LinkLayerType::Ether, LinkFlags::empty());
        links.insert(down);
        assert_eq!(links.wired(&all), BTreeSet::from([11, 12]));
    }

    #[test]
    fn pods_are_behind_virtual_devices_that_are_up() {
        check_pods(&links(), &["eth0"], &["veth5", "tap0"]);
        check_pods(&links(), &["veth5"], &["tap0"]);
    }

    #[test]
    fn a_device_leaves_when_it_is_deleted_but_not_when_it_leaves_a_bridge() {
        let mut links = links();
        let mut left = veth(5, "veth5");
        left.header.interface_family = AddressFamily::Bridge;
        links.remove(&left);
        check_pods(&links, &["eth0"], &["veth5", "tap0"]);
        links.remove(&veth(5, "veth5"));
        check_pods(&links, &["eth0"], &["tap0"]);
    }
}
