//! Connections that nobody uses any more: when they give up what they hold, and when not yet.

use dataplane_ebpf::abi::{Backend, HALF_OPEN_IDLE, SCTP_IDLE, UDP_IDLE};
use dataplane_ebpf::addr::{Family, Protocol};
use dataplane_ebpf::flow::Flow;

use super::PROTOCOLS;
use super::cases::{ONLY_PORT, leave_one_port, point_to};
use super::world::{TARGET, World, backend, cluster_port, node_port, service};
use super::writer::{Endpoint, Writer};
use crate::frame::{Frame, tcp};

/// A port that source translation may not keep.
const CLIENT_PORT: u16 = 1024;

/// A node with one port for source translation, which a client's first packet has got.
struct Node {
    world: World,
    w: Writer,
    /// The client's direction of its connection.
    flow: Flow,
}

fn nodes(protocols: &[Protocol]) -> impl Iterator<Item = Node> {
    World::each(protocols).map(|(mut world, w)| {
        leave_one_port(&mut world.dataplane).expect("maps can be written");
        let to = (w.a.node, node_port(service::REMOTE));
        let flow = w.flow((w.a.client, CLIENT_PORT), to);
        let node = Node { world, w, flow };
        assert!(node.takes(&w.open(node.client(), node.service())));
        node
    })
}

impl Node {
    fn client(&self) -> Endpoint {
        (self.w.a.client, CLIENT_PORT)
    }

    fn service(&self) -> Endpoint {
        (self.w.a.node, node_port(service::REMOTE))
    }

    /// Whether a packet is not dropped.
    fn takes(&self, packet: &Frame) -> bool {
        let before = self.world.drops();
        self.world.send(packet);
        before == self.world.drops()
    }

    /// Whether another client gets the port.
    fn another_begins(&self) -> bool {
        let next = (self.w.a.client, CLIENT_PORT + 1);
        self.takes(&self.w.open(next, self.service()))
    }

    /// The backend's packet for the client.
    fn answers(&self, flags: u8) {
        let from = (self.w.a.elsewhere, TARGET);
        let packet = self.w.flagged(from, (self.w.a.node, ONLY_PORT), flags);
        assert!(self.takes(&packet));
    }

    fn goes_on(&self) {
        assert!(self.takes(&self.w.data(self.client(), self.service())));
    }

    /// Lets a time pass in which neither side says anything.
    fn wait(&mut self, moments: u32) {
        let directions = self.directions();
        self.world.age(&directions, moments);
    }

    fn directions(&mut self) -> [Flow; 2] {
        directions(&mut self.world, self.flow)
    }
}

/// Both directions of a connection that is known.
fn directions(world: &mut World, flow: Flow) -> [Flow; 2] {
    let known = world.connection(&flow).expect("it is known");
    [flow, known.partner()]
}

/// Makes a connection look used by another CPU, whose clock is ahead.
fn use_elsewhere(world: &mut World, directions: [Flow; 2]) {
    for flow in directions {
        let advanced = world.dataplane.advance(&flow, 2);
        advanced.expect("the entry can be changed");
    }
}

/// Otherwise a few thousand SYNs would take all ports for a day. The backend answers each of them, without knowing more of
/// the client.
#[test]
fn a_connection_that_is_never_completed_gives_its_port_up() {
    for mut node in nodes(&[Protocol::TCP, Protocol::SCTP]) {
        node.answers(tcp::SYN | tcp::ACK);
        node.wait(HALF_OPEN_IDLE - 10);
        assert!(!node.another_begins(), "the client may be slow");
        node.wait(11);
        assert!(node.another_begins());
    }
}

#[test]
fn an_idle_connection_keeps_its_port() {
    for mut node in nodes(&[Protocol::TCP, Protocol::SCTP]) {
        node.answers(tcp::SYN | tcp::ACK);
        node.goes_on();
        node.wait(HALF_OPEN_IDLE + 10);
        assert!(!node.another_begins());
        if node.w.protocol == Protocol::SCTP {
            node.wait(SCTP_IDLE);
            assert!(node.another_begins(), "its heartbeats have ceased");
        }
    }
}

#[test]
fn an_idle_udp_flow_gives_its_port_up() {
    for mut node in nodes(&[Protocol::UDP]) {
        node.answers(0);
        node.wait(UDP_IDLE - 10);
        assert!(!node.another_begins());
        node.wait(11);
        assert!(node.another_begins());
    }
}

/// The clocks of two CPUs are not quite the same at a moment's end.
#[test]
fn a_connection_that_a_faster_clock_has_seen_is_in_use() {
    for mut node in nodes(&PROTOCOLS) {
        if node.w.protocol == Protocol::TCP {
            let fin = tcp::FIN | tcp::ACK;
            let last = node.w.flagged(node.client(), node.service(), fin);
            assert!(node.takes(&last));
            node.answers(fin);
        }
        let directions = node.directions();
        use_elsewhere(&mut node.world, directions);
        assert!(!node.another_begins());
    }
}

/// An address that moves from one service to another, both of which stay, takes the flows along.
#[test]
fn a_udp_flow_follows_its_address_to_another_service() {
    for (mut world, w) in World::each(&[Protocol::UDP]) {
        let a = w.a;
        let (port, cluster) = (node_port(service::SCRATCH), cluster_port(service::SCRATCH));
        for to in [(a.node, port), (a.cluster_ip, cluster)] {
            let client = (a.client, CLIENT_PORT);
            let packet = w.data(client, to);
            assert_eq!(world.destination(&packet), a.here);
            let dataplane = &mut world.dataplane;
            let moved = if to.0 == a.node {
                let family = Family::of(a.node.into());
                dataplane.add_node_port(service::REMOTE, family, port, w.protocol)
            } else {
                dataplane.add_cluster_ip(service::REMOTE, a.cluster_ip, cluster, w.protocol)
            };
            moved.expect("maps can be written");
            world.age(&[w.flow(client, to)], 1);
            assert_eq!(world.destination(&packet), a.elsewhere);
        }
    }
}

#[test]
fn a_udp_flow_that_a_faster_clock_has_seen_stays() {
    for (mut world, w) in World::each(&[Protocol::UDP]) {
        let a = w.a;
        let (client, to) = (
            (a.client, CLIENT_PORT),
            (a.node, node_port(service::SCRATCH)),
        );
        let packet = w.data(client, to);
        assert_eq!(world.destination(&packet), a.here);
        let directions = directions(&mut world, w.flow(client, to));
        use_elsewhere(&mut world, directions);
        point_to(&mut world.dataplane, backend::SECOND).expect("maps can be written");
        assert_eq!(world.destination(&packet), a.here);
        let stop = |b: &mut Backend| b.flags &= !Backend::SERVING;
        let stopped = world.dataplane.change_backend(backend::FIRST, stop);
        stopped.expect("maps can be written");
        assert_eq!(world.destination(&packet), a.second, "it would have moved");
    }
}
