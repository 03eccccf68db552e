//! Connections that the full table has lost one direction of.

use dataplane_ebpf::addr::{Port, Protocol};
use dataplane_ebpf::flow::Flow;

use super::world::{World, node_port, service, v4, v6};
use super::writer::Writer;

/// A port that source translation may not keep.
const CLIENT_PORT: u16 = 1024;

fn worlds() -> impl Iterator<Item = (World, Writer)> {
    let protocols = [Protocol::TCP, Protocol::UDP];
    let all = [v4(), v6()]
        .into_iter()
        .flat_map(move |a| protocols.map(|p| (a, p)));
    all.map(|(a, protocol)| {
        let world = World::create(a, protocol).expect("a node can be made");
        (world, Writer { a, protocol })
    })
}

/// The flow of the client's packets to a node port.
fn request_flow(w: Writer, to: u16) -> Flow {
    Flow::new(
        (w.a.client.into(), Port::new(CLIENT_PORT)),
        (w.a.node.into(), Port::new(to)),
        w.protocol,
    )
}

#[test]
fn a_flow_keeps_its_translated_port_when_its_entry_is_lost() {
    let to = node_port(service::REMOTE);
    for (mut world, w) in worlds() {
        let packet = w.data((w.a.client, CLIENT_PORT), (w.a.node, to)).bytes();
        let flow = request_flow(w, to);
        let mut translated = || {
            world.run("ingress", &packet, 1).expect("the program runs");
            let entry = world
                .dataplane
                .connection(&flow)
                .expect("the table can be read");
            world
                .dataplane
                .evict(&flow)
                .expect("the entry can be removed");
            entry.expect("the connection is known").to
        };
        let first = translated();
        assert_ne!(first.source_port, Port::new(CLIENT_PORT));
        assert_eq!(translated(), first);
    }
}
