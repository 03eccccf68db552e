//! Connections that the full table has lost one direction of.

use dataplane_ebpf::abi::{Connection, Node};
use dataplane_ebpf::addr::{Port, Protocol};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

use super::TCP_AND_UDP;
use super::cases::{ONLY_PORT, leave_one_port};
use super::world::{self, TARGET, World, node_port, service};
use super::writer::Writer;
use crate::frame::tcp;

/// A port that source translation may not keep.
const CLIENT_PORT: u16 = 1024;

/// The flow of the client's packets to a node port.
fn request_flow(w: Writer, to: u16) -> Flow {
    w.flow((w.a.client, CLIENT_PORT), (w.a.node, to))
}

#[test]
fn a_flow_keeps_its_translated_port_when_its_entry_is_lost() {
    let to = node_port(service::REMOTE);
    for (mut world, w) in World::each(&TCP_AND_UDP) {
        let packet = w.data((w.a.client, CLIENT_PORT), (w.a.node, to));
        let flow = request_flow(w, to);
        let mut translated = || {
            world.send(&packet);
            let entry = world.connection(&flow).expect("the connection is known");
            world
                .dataplane
                .evict(&flow)
                .expect("the entry can be removed");
            entry.to
        };
        let first = translated();
        assert_ne!(first.source_port, Port::new(CLIENT_PORT));
        assert_eq!(translated(), first);
    }
}

/// Each direction's packets make the other's entry again, where they have a way to it: a local backend's come by the
/// other hook, but its client's packets choose by the same hash again.
#[test]
fn a_lost_direction_is_made_again_by_the_other() {
    for (mut world, w) in World::each(&TCP_AND_UDP) {
        for id in [service::LOCAL, service::REMOTE] {
            let packet = w.data((w.a.client, CLIENT_PORT), (w.a.node, node_port(id)));
            let request = request_flow(w, node_port(id));
            world.send(&packet);
            let there = world.connection(&request).expect("the connection is known");
            let reply = there.partner();
            let back = world.connection(&reply).expect("so is its other direction");
            lose(&mut world, &reply, &request);
            world.send(&packet);
            assert_eq!(
                without_time(world.connection(&reply)),
                without_time(Some(back))
            );
            if id == service::REMOTE {
                let answer = w.data(
                    (w.a.elsewhere, TARGET),
                    (w.a.node, reply.destination_port.number()),
                );
                lose(&mut world, &request, &reply);
                world.send(&answer);
                assert_eq!(
                    without_time(world.connection(&request)),
                    without_time(Some(there))
                );
            }
        }
    }
}

/// Evicts the entry of `lost`, and lets a moment pass for `kept`.
fn lose(world: &mut World, lost: &Flow, kept: &Flow) {
    world
        .dataplane
        .evict(lost)
        .expect("the entry can be removed");
    world.age(&[*kept], 1);
}

fn without_time(entry: Option<Connection>) -> Option<Connection> {
    entry.map(|entry| Connection { seen: 0, ..entry })
}

/// A port whose reservation was evicted may be another's by now: who had it before must not mix with that one.
#[test]
fn a_connection_whose_port_another_has_got_does_not_use_it_any_more() {
    for (mut world, w) in World::each(&TCP_AND_UDP) {
        leave_one_port(&mut world.dataplane).expect("maps can be written");
        let to = (w.a.node, node_port(service::REMOTE));
        let client = (w.a.client, CLIENT_PORT);
        let flow = request_flow(w, to.1);
        world.send(&w.open(client, to));
        world.send(&w.data(client, to));
        let first = world.connection(&flow).expect("the connection is known");
        let reply = first.partner();
        lose(&mut world, &reply, &flow);
        world.send(&w.open((w.a.client, CLIENT_PORT + 1), to));
        let second = world.connection(&reply).expect("the other has the port");
        assert_eq!(second.to.destination_port, Port::new(CLIENT_PORT + 1));
        assert_eq!(world.drops(), []);

        world.send(&w.data(client, to));
        let reason = match w.protocol {
            Protocol::TCP => Drop::BackendGone,
            // It begins anew, and there is no other port.
            _ => Drop::NoPort,
        };
        assert_eq!(world.drops(), [(reason, 1)]);
        assert_eq!(world.connection(&reply), Some(second), "it is left alone");
        let node = Node {
            last_port: ONLY_PORT + 1,
            first_port: ONLY_PORT,
            ..world::node()
        };
        world.dataplane.set_node(node).expect("maps can be written");
        world.send(&w.open(client, to));
        let anew = world.connection(&flow).expect("it is known again");
        assert_eq!(anew.to.source_port, Port::new(ONLY_PORT + 1));
        assert_eq!(world.connection(&reply), Some(second), "it is left alone");
    }
}

/// A busy node has more connections in two minutes than ports; one that is over keeps its port only while something of it
/// may still come.
#[test]
fn a_connection_that_is_over_and_silent_gives_its_port_up() {
    for (mut world, w) in World::each(&[Protocol::TCP]) {
        leave_one_port(&mut world.dataplane).expect("maps can be written");
        let node_port = (w.a.node, node_port(service::REMOTE));
        let backend = (w.a.elsewhere, TARGET);
        let (flow, masquerade) = (request_flow(w, node_port.1), (w.a.node, ONLY_PORT));
        world.send(&w.open((w.a.client, CLIENT_PORT), node_port));
        let reply = world
            .connection(&flow)
            .expect("the connection is known")
            .partner();
        let next = (w.a.client, CLIENT_PORT + 1);
        let begin = |world: &World| {
            let before = world.drops();
            world.send(&w.open(next, node_port));
            before == world.drops()
        };
        world.age(&[flow, reply], 3);
        assert!(!begin(&world), "a silent connection is not over");
        let fin = tcp::FIN | tcp::ACK;
        world.send(&w.flagged((w.a.client, CLIENT_PORT), node_port, fin));
        assert!(!begin(&world), "half a connection is not over");
        world.send(&w.flagged(backend, masquerade, fin));
        assert!(!begin(&world), "a last packet may be sent again");
        world.age(&[flow, reply], 3);
        assert!(begin(&world), "the port is free");
        assert_eq!(
            world.connection(&flow),
            None,
            "nothing is left of the first"
        );
        let entry = world.connection(&reply).expect("the second has the port");
        assert_eq!(entry.to.destination_port, Port::new(next.1));
    }
}
