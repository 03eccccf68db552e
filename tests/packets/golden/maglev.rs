//! Maglev: nodes that know nothing of each other choose the same backend for a packet.

use std::net::IpAddr;

use dataplane_ebpf::abi::Service;
use dataplane_ebpf::addr::{Port, Protocol};
use dataplane_ebpf::maglev;

use super::TCP_AND_UDP;
use super::world::{self, Addresses, TARGET, World, backend, cluster_port, service};
use super::writer::{Endpoint, Writer};
use crate::frame::Frame;

const CLIENTS: std::ops::Range<u16> = 20_000..20_200;

/// A node whose hashes are its own, and which has given the service's backends the ids `ids`.
fn node(seed: u32, ids: [u32; 2], a: Addresses, protocol: Protocol, flags: u32) -> World {
    let mut world = World::create(a, protocol).expect("a node can be made");
    let dataplane = &mut world.dataplane;
    let mut node = world::node();
    node.seed = seed;
    dataplane.set_node(node).expect("maps can be written");
    let backends = [a.here, a.second];
    for (id, address) in ids.into_iter().zip(backends) {
        let place = crate::dataplane::Place::Here;
        let set = dataplane.set_backend(id, (address, TARGET), protocol, place);
        set.expect("maps can be written");
    }
    let identities = backends.map(|address| (address.into(), Port::new(TARGET)));
    let table = maglev::table(&identities, maglev::size_for(backends.len()));
    let slots: Vec<u32> = table.into_iter().map(|at| ids[at as usize]).collect();
    let run = dataplane.add_run(&slots).expect("maps can be written");
    let set = dataplane.set_service(service::SCRATCH, run, run, flags);
    set.expect("maps can be written");
    world
}

/// Where each client's packet goes.
fn choices(world: &World, packet: impl Fn(Endpoint) -> Frame) -> Vec<IpAddr> {
    let client = world.addresses.client;
    let reached = |port| world.destination(&packet((client, port)));
    CLIENTS.map(reached).collect()
}

/// The second node never saw a connection begin: its clients' packets come there in the middle of it.
#[test]
fn nodes_agree_on_the_backend_of_every_packet() {
    for w in Writer::each(&TCP_AND_UDP) {
        let Writer { a, protocol } = w;
        let to = (a.cluster_ip, cluster_port(service::SCRATCH));
        let (ids, others) = (
            [backend::FIRST, backend::SECOND],
            [backend::SECOND, backend::FIRST],
        );
        let choose = |flags| {
            let one = node(42, ids, a, protocol, flags);
            let other = node(43, others, a, protocol, flags);
            (
                choices(&one, |from| w.open(from, to)),
                choices(&other, |from| w.data(from, to)),
            )
        };
        let (one, other) = choose(Service::MAGLEV);
        assert_eq!(one, other);
        // Of 200 clients, each of two backends gets 100 give or take 28: four standard deviations.
        let first = one.iter().filter(|backend| **backend == a.here).count();
        assert!((72..=128).contains(&first), "{first} of {}", one.len());
        let (one, other) = choose(0);
        assert_ne!(one, other, "without it, a node's choice is its own");
    }
}
