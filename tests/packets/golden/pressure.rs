//! A table of connections far too small for the load: each packet's backend is then chosen anew, and comes out the same
//! as long as the service's backends are the same.

use std::net::IpAddr;

use dataplane_ebpf::abi::Service;
use dataplane_ebpf::addr::Port;
use dataplane_ebpf::maglev;

use super::world::{TARGET, World, backend, cluster_port, service};
use super::writer::Writer;
use super::{PASS, REDIRECT, TCP_AND_UDP};
use crate::dataplane::Dataplane;
use crate::frame::Frame;

/// Entries, of which a connection takes two.
const ROOM: u32 = 64;

const CLIENTS: std::ops::Range<u16> = 40_000..40_500;

#[test]
fn packets_find_their_backends_though_their_connections_are_forgotten() {
    for w in Writer::each(&TCP_AND_UDP) {
        let Writer { a, protocol } = w;
        let dataplane = Dataplane::load_with_room_for(ROOM).expect("the programs load");
        let world = World::create_with(dataplane, a, protocol);
        let mut world = world.expect("a node can be made");
        let backends = [
            (backend::FIRST, a.here),
            (backend::SECOND, a.second),
            (backend::ELSEWHERE, a.elsewhere),
        ];
        let identities = backends.map(|(_, address)| (address.into(), Port::new(TARGET)));
        let table = maglev::table(&identities[..2], maglev::size_for(2));
        let plain = backends.map(|(id, _)| id).to_vec();
        let maglev = table.iter().map(|at| backends[*at as usize].0).collect();
        for (flags, slots) in [(0, plain), (Service::MAGLEV, maglev)] {
            let run = world.dataplane.add_run(&slots);
            let run = run.expect("maps can be written");
            let set = world
                .dataplane
                .set_service(service::SCRATCH, run, run, flags);
            set.expect("maps can be written");
            check(&world, w, &backends);
        }
        assert_eq!(world.drops(), []);
    }
}

/// Each client's packets, of which the later ones find no entry, go where its first one went.
fn check(world: &World, w: Writer, backends: &[(u32, IpAddr)]) {
    let to = (w.a.cluster_ip, cluster_port(service::SCRATCH));
    let send = |packet: Frame| {
        let (verdict, out) = world.translate("ingress", &packet);
        assert!(matches!(verdict, PASS | REDIRECT), "{packet:?}: {verdict}");
        assert_ne!(out.destination, w.a.cluster_ip, "it is translated");
        // The backend, and from which port.
        (out.destination, out.source_port())
    };
    let first: Vec<_> = CLIENTS
        .map(|port| send(w.open((w.a.client, port), to)))
        .collect();
    for _ in 0..2 {
        for (port, expected) in CLIENTS.zip(&first) {
            assert_eq!(&send(w.data((w.a.client, port), to)), expected);
        }
    }
    let reached = |address| first.iter().any(|(backend, _)| *backend == address);
    let used = backends.iter().filter(|(_, address)| reached(*address));
    assert!(used.count() >= 2, "more than one backend is used");
}
