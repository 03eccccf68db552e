//! Services with one and the same backend, and clients that use one and the same port for them: only the backend's answers
//! could tell the connections apart, so they get different ports.

use std::net::IpAddr;

use super::world::{TARGET, World, cluster_port, node_port, service};
use super::writer::{Endpoint, Writer, forwarded};
use super::{PASS, REDIRECT, TCP_AND_UDP};
use crate::frame::Frame;

const CLIENT_PORT: u16 = 53_001;

#[test]
fn services_with_one_backend_never_collide() {
    for (world, w) in World::each(&TCP_AND_UDP) {
        let a = w.a;
        let addresses = |id| {
            [
                (a.cluster_ip, cluster_port(id)),
                (a.other_ip, cluster_port(id)),
                (a.node, node_port(id)),
            ]
        };
        // Two services of which each has an entry of its own for the backend, and one whose backend is elsewhere.
        let here = [addresses(service::LOCAL), addresses(service::SCRATCH)].concat();
        check(&world, w, &here, a.here);
        check(&world, w, &addresses(service::REMOTE), a.elsewhere);
    }
}

/// Opens a connection to each address from one port, and lets the backend answer all of them.
fn check(world: &World, w: Writer, services: &[Endpoint], backend: IpAddr) {
    let client = (w.a.client, CLIENT_PORT);
    let is_here = backend == w.a.here;
    let run = |hook, packet: &Frame| {
        let (verdict, out) = world.translate(hook, packet);
        let wanted = if is_here { PASS } else { REDIRECT };
        assert_eq!(verdict, wanted, "{hook} of {packet:?}");
        out
    };
    let open = |service: &Endpoint| {
        let packet = run("ingress", &w.open(client, *service));
        assert_eq!(packet.destination, backend);
        (packet.source, packet.source_port())
    };
    let seen: Vec<Endpoint> = services.iter().map(open).collect();
    for (number, from) in seen.iter().enumerate() {
        assert!(!seen[..number].contains(from), "{seen:?}");
    }
    for (service, from) in services.iter().zip(&seen) {
        let request = w.data(client, *service);
        assert_eq!(run("ingress", &request).source_port(), from.1);
        let hook = if is_here { "egress" } else { "ingress" };
        let answer = run(hook, &w.data((backend, TARGET), *from));
        let wanted = w.data(*service, client);
        assert_eq!(answer, if is_here { wanted } else { forwarded(wanted) });
    }
}
