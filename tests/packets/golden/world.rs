//! The node that golden packets meet: its addresses, services and backends.

use std::net::IpAddr;

use anyhow::Result;
use dataplane_ebpf::abi::{Connection, Node, Run, Service};
use dataplane_ebpf::addr::{Family, Protocol};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;
use harness::Namespace;

use super::writer::Writer;
use crate::dataplane::{Dataplane, Place};
use crate::frame::Frame;

/// The services, by what they have.
pub(super) mod service {
    /// One backend, on this node.
    pub(in crate::golden) const LOCAL: u32 = 1;
    /// One backend, on another node.
    pub(in crate::golden) const REMOTE: u32 = 2;
    /// No backend.
    pub(in crate::golden) const EMPTY: u32 = 3;
    /// A backend elsewhere, and policies that allow only this node's.
    pub(in crate::golden) const POLICY: u32 = 4;
    /// A backend here and one elsewhere, and policies that allow only this node's.
    pub(in crate::golden) const POLICY_LOCAL: u32 = 5;
    /// For cases that change it.
    pub(in crate::golden) const SCRATCH: u32 = 6;
}

/// The node port of a service.
pub(super) const fn node_port(service: u32) -> u16 {
    30080 + service as u16
}

/// The cluster IP's port of a service.
pub(super) const fn cluster_port(service: u32) -> u16 {
    80 + service as u16
}

/// Where the backends listen.
pub(super) const TARGET: u16 = 8080;

pub(super) mod backend {
    pub(in crate::golden) const HERE: u32 = 1;
    pub(in crate::golden) const ELSEWHERE: u32 = 2;
    /// The backends of the service that cases change.
    pub(in crate::golden) const FIRST: u32 = 3;
    pub(in crate::golden) const SECOND: u32 = 4;
}

/// The addresses of one family.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    pub(super) client: IpAddr,
    /// On the way to anywhere.
    pub(super) router: IpAddr,
    pub(super) node: IpAddr,
    pub(super) cluster_ip: IpAddr,
    pub(super) other_ip: IpAddr,
    pub(super) here: IpAddr,
    pub(super) elsewhere: IpAddr,
    pub(super) second: IpAddr,
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("the tables hold addresses")
}

pub(super) fn v4() -> Addresses {
    Addresses {
        client: ip("198.51.100.7"),
        router: ip("203.0.113.1"),
        node: ip("192.0.2.1"),
        cluster_ip: ip("10.96.0.10"),
        other_ip: ip("10.96.0.11"),
        here: ip("10.244.1.5"),
        elsewhere: ip("10.244.2.6"),
        second: ip("10.244.1.9"),
    }
}

pub(super) fn v6() -> Addresses {
    Addresses {
        client: ip("2001:db8:51::7"),
        router: ip("2001:db8:113::1"),
        node: ip("2001:db8::1"),
        cluster_ip: ip("fd00:10:96::a"),
        other_ip: ip("fd00:10:96::b"),
        here: ip("fd00:10:244:1::5"),
        elsewhere: ip("fd00:10:244:2::6"),
        second: ip("fd00:10:244:1::9"),
    }
}

/// The uplink's address.
pub(super) const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The address of the router on the way to anywhere.
pub(super) const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The address of the node that backends elsewhere run on.
pub(super) const OTHER_NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];

/// The node's settings.
pub(super) fn node() -> Node {
    Node {
        source_v4: v4().node.into(),
        source_v6: v6().node.into(),
        netns_cookie: 1,
        seed: 42,
        first_port: 32768,
        last_port: 65535,
        // Cases without it say so.
        flags: Node::THROUGH_STACK,
        ..Node::default()
    }
}

/// The way that packets from the wire come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Straight to the ingress hook.
    Ingress,
    /// Through the driver's hook first.
    Driver,
    /// One this way and one that way, as when the program is attached while traffic flows.
    Both,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::Ingress, Self::Driver, Self::Both];

    /// Whether the packet of step `number` meets the driver's hook.
    pub(super) fn meets_driver(self, number: usize) -> bool {
        match self {
            Self::Ingress => false,
            Self::Driver => true,
            Self::Both => number % 2 == 1,
        }
    }
}

/// A node with an uplink, and the dataplane on it.
///
/// Its methods panic where the test cannot go on, such as when a map cannot be read.
pub(super) struct World {
    pub(super) dataplane: Dataplane,
    pub(super) namespace: Namespace,
    pub(super) uplink: u32,
    pub(super) addresses: Addresses,
    pub(super) protocol: Protocol,
    way: Way,
}

impl World {
    /// A node of its own for each family and each of `protocols`, and who writes its packets.
    pub(super) fn each(protocols: &[Protocol]) -> impl Iterator<Item = (Self, Writer)> {
        Writer::each(protocols).map(|w| {
            let world = Self::create(w.a, w.protocol).expect("a node can be made");
            (world, w)
        })
    }

    pub(super) fn create(addresses: Addresses, protocol: Protocol) -> Result<Self> {
        Self::create_with(Dataplane::load()?, addresses, protocol)
    }

    pub(super) fn create_with(
        dataplane: Dataplane,
        addresses: Addresses,
        protocol: Protocol,
    ) -> Result<Self> {
        let namespace = Namespace::create()?;
        namespace.ip("link add uplink type veth peer name wire
             link set uplink address 02:00:00:00:00:01
             link set wire up
             link set uplink up
             addr add 192.0.2.1/24 dev uplink
             addr add 2001:db8::1/64 dev uplink nodad
             route add default via 192.0.2.254
             route add 10.244.2.0/24 via 192.0.2.2
             -6 route add default via 2001:db8::fe
             -6 route add fd00:10:244:2::/64 via 2001:db8::2
             neigh add 192.0.2.254 lladdr 02:00:00:00:00:02 dev uplink
             neigh add 192.0.2.2 lladdr 02:00:00:00:00:03 dev uplink
             neigh add 2001:db8::fe lladdr 02:00:00:00:00:02 dev uplink
             neigh add 2001:db8::2 lladdr 02:00:00:00:00:03 dev uplink")?;
        namespace.set("ipv4/ip_forward", "1")?;
        namespace.set("ipv6/conf/all/forwarding", "1")?;
        let uplink = namespace.index("uplink")?;
        let mut world = Self {
            dataplane,
            namespace,
            uplink,
            addresses,
            protocol,
            way: Way::Ingress,
        };
        world.fill()?;
        Ok(world)
    }

    /// Lets packets from the wire come by `way`.
    pub(super) fn take_way(&mut self, way: Way) -> Result<()> {
        self.way = way;
        match way {
            Way::Ingress => Ok(()),
            Way::Driver | Way::Both => self.attach_driver("uplink", OWN_MAC),
        }
    }

    /// Attaches the driver's program to a device. Without that it cannot be run.
    pub(super) fn attach_driver(&mut self, device: &str, mac: [u8; 6]) -> Result<()> {
        let Self {
            namespace,
            dataplane,
            ..
        } = self;
        namespace.run(|| dataplane.attach_driver(device, mac))
    }

    fn fill(&mut self) -> Result<()> {
        let (a, protocol, dataplane) = (self.addresses, self.protocol, &mut self.dataplane);
        dataplane.set_node(node())?;
        // Node ports answer in both families, but only this one has services.
        for node in [v4().node, v6().node] {
            dataplane.add_node_address(node, 0)?;
        }
        dataplane.set_backend(backend::HERE, (a.here, TARGET), protocol, Place::Here)?;
        dataplane.set_backend(
            backend::ELSEWHERE,
            (a.elsewhere, TARGET),
            protocol,
            Place::Elsewhere,
        )?;
        dataplane.set_backend(backend::FIRST, (a.here, TARGET), protocol, Place::Here)?;
        dataplane.set_backend(backend::SECOND, (a.second, TARGET), protocol, Place::Here)?;
        let here = dataplane.add_run(&[backend::HERE])?;
        let elsewhere = dataplane.add_run(&[backend::ELSEWHERE])?;
        let both = dataplane.add_run(&[backend::HERE, backend::ELSEWHERE])?;
        let first = dataplane.add_run(&[backend::FIRST])?;
        let policy = Service::INTERNAL_LOCAL | Service::EXTERNAL_LOCAL;
        for (id, cluster, local, flags) in [
            (service::LOCAL, here, here, 0),
            (service::REMOTE, elsewhere, Run::DROP, 0),
            (service::EMPTY, Run::REFUSE, Run::REFUSE, 0),
            (service::POLICY, elsewhere, Run::DROP, policy),
            (service::POLICY_LOCAL, both, here, policy),
            (service::SCRATCH, first, first, 0),
        ] {
            dataplane.set_service(id, cluster, local, flags)?;
            dataplane.add_node_port(id, Family::of(a.node.into()), node_port(id), protocol)?;
            dataplane.add_cluster_ip(id, a.cluster_ip, cluster_port(id), protocol)?;
            dataplane.add_cluster_ip(id, a.other_ip, cluster_port(id), protocol)?;
        }
        Ok(())
    }

    /// By which way packets from the wire come.
    pub(super) fn way(&self) -> Way {
        self.way
    }

    /// The address that a frame to `destination` leaves with.
    pub(super) fn next_hop(&self, destination: IpAddr) -> [u8; 6] {
        if destination == self.addresses.elsewhere {
            OTHER_NODE_MAC
        } else {
            ROUTER_MAC
        }
    }

    pub(super) fn run(
        &self,
        hook: &str,
        packet: &[u8],
        repeat: u32,
    ) -> Result<(i32, Vec<u8>, std::time::Duration)> {
        self.namespace
            .run(|| self.dataplane.run(hook, self.uplink, packet, repeat))
    }

    /// A packet comes from the wire, whatever becomes of it.
    pub(super) fn send(&self, packet: &Frame) {
        let run = self.run("ingress", &packet.bytes(), 1);
        run.expect("the program runs");
    }

    /// The verdict of `hook` on a packet, and what the packet has become.
    pub(super) fn translate(&self, hook: &str, packet: &Frame) -> (i32, Frame) {
        let run = self.run(hook, &packet.bytes(), 1);
        let (verdict, out, _) = run.expect("the program runs");
        (verdict, Frame::decode(&out).expect("a packet"))
    }

    /// Where a packet from the wire goes.
    pub(super) fn destination(&self, packet: &Frame) -> IpAddr {
        self.translate("ingress", packet).1.destination
    }

    /// How often something was dropped, by reason.
    pub(super) fn drops(&self) -> Vec<(Drop, u64)> {
        self.dataplane.drops().expect("maps can be read")
    }

    /// The entry of one direction of a connection.
    pub(super) fn connection(&mut self, flow: &Flow) -> Option<Connection> {
        let connection = self.dataplane.connection(flow);
        connection.expect("the table can be read")
    }

    /// Makes directions of connections look unused for so many moments.
    pub(super) fn age(&mut self, flows: &[Flow], moments: u32) {
        for flow in flows {
            let aged = self.dataplane.age(flow, moments);
            aged.expect("the direction is there");
        }
    }
}
