//! Connections that nobody uses any more: when they give up what they hold, and when not yet.

use dataplane_ebpf::abi::{Backend, HALF_OPEN_IDLE, SCTP_IDLE, UDP_IDLE};
use dataplane_ebpf::addr::{Family, Port, Protocol};
use dataplane_ebpf::flow::Flow;

use super::PROTOCOLS;
use super::cases::{ONLY_PORT, leave_one_port, point_to};
use super::world::{TARGET, World, backend, cluster_port, node_port, service, v4, v6};
use super::writer::Writer;
use crate::frame::{Frame, tcp};

type Endpoint = (std::net::IpAddr, u16);

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
    let all = [v4(), v6()]
        .into_iter()
        .flat_map(move |a| protocols.iter().map(move |p| (a, *p)));
    all.map(|(a, protocol)| {
        let mut world = World::create(a, protocol).expect("a node can be made");
        leave_one_port(&mut world.dataplane).expect("maps can be written");
        let w = Writer { a, protocol };
        let to = node_port(service::REMOTE);
        let flow = Flow::new(
            (a.client.into(), Port::new(CLIENT_PORT)),
            (a.node.into(), Port::new(to)),
            protocol,
        );
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
        let drops = || self.world.dataplane.drops().expect("maps can be read");
        let before = drops();
        let run = self.world.run("ingress", &packet.bytes(), 1);
        run.expect("the program runs");
        before == drops()
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
        for flow in self.directions() {
            let aged = self.world.dataplane.age(&flow, moments);
            aged.expect("the entry can be changed");
        }
    }

    fn directions(&mut self) -> [Flow; 2] {
        let known = self.world.dataplane.connection(&self.flow);
        let known = known.expect("the table can be read");
        [self.flow, known.expect("it is known").partner()]
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
        for flow in node.directions() {
            let advanced = node.world.dataplane.advance(&flow, 2);
            advanced.expect("the entry can be changed");
        }
        assert!(!node.another_begins());
    }
}

/// An address that moves from one service to another, both of which stay, takes the flows along.
#[test]
fn a_udp_flow_follows_its_address_to_another_service() {
    for a in [v4(), v6()] {
        let protocol = Protocol::UDP;
        let w = Writer { a, protocol };
        let mut world = World::create(a, protocol).expect("a node can be made");
        let (port, cluster) = (node_port(service::SCRATCH), cluster_port(service::SCRATCH));
        for to in [(a.node, port), (a.cluster_ip, cluster)] {
            let packet = w.data((a.client, CLIENT_PORT), to);
            let reaches = |world: &World| {
                let run = world.run("ingress", &packet.bytes(), 1);
                let (_, out, _) = run.expect("the program runs");
                Frame::decode(&out).expect("a packet").destination
            };
            assert_eq!(reaches(&world), a.here);
            let dataplane = &mut world.dataplane;
            let moved = if to.0 == a.node {
                let family = Family::of(a.node.into());
                dataplane.add_node_port(service::REMOTE, family, port, protocol)
            } else {
                dataplane.add_cluster_ip(service::REMOTE, a.cluster_ip, cluster, protocol)
            };
            moved.expect("maps can be written");
            let flow = Flow::new(
                (a.client.into(), Port::new(CLIENT_PORT)),
                (to.0.into(), Port::new(to.1)),
                protocol,
            );
            dataplane.age(&flow, 1).expect("it is known");
            assert_eq!(reaches(&world), a.elsewhere);
        }
    }
}

#[test]
fn a_udp_flow_that_a_faster_clock_has_seen_stays() {
    for a in [v4(), v6()] {
        let protocol = Protocol::UDP;
        let mut world = World::create(a, protocol).expect("a node can be made");
        let w = Writer { a, protocol };
        let to = (a.node, node_port(service::SCRATCH));
        let packet = w.data((a.client, CLIENT_PORT), to);
        let reaches = |world: &World| {
            let run = world.run("ingress", &packet.bytes(), 1);
            let (_, out, _) = run.expect("the program runs");
            Frame::decode(&out).expect("a packet").destination
        };
        assert_eq!(reaches(&world), a.here);
        let flow = Flow::new(
            (a.client.into(), Port::new(CLIENT_PORT)),
            (to.0.into(), Port::new(to.1)),
            protocol,
        );
        let known = world.dataplane.connection(&flow);
        let known = known.expect("the table can be read").expect("it is known");
        for flow in [flow, known.partner()] {
            let advanced = world.dataplane.advance(&flow, 2);
            advanced.expect("the entry can be changed");
        }
        point_to(&mut world.dataplane, backend::SECOND).expect("maps can be written");
        assert_eq!(reaches(&world), a.here);
        let stop = |b: &mut Backend| b.flags &= !Backend::SERVING;
        let stopped = world.dataplane.change_backend(backend::FIRST, stop);
        stopped.expect("maps can be written");
        assert_eq!(reaches(&world), a.second, "it would have moved");
    }
}
