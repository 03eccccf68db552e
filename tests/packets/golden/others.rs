//! Packets of protocols that services cannot speak, at the services' addresses.

use std::net::IpAddr;

use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::drop::Drop;

use super::Expected::{Dropped, Passed, Untouched};
use super::Step::{Change, Egress, Ingress, Pod};
use super::unallocated::know;
use super::world::{TARGET, ip, node_port, service};
use super::writer::Writer;
use super::{Case, check_all, reaches};
use crate::frame::{Body, Frame};

#[test]
fn nothing_reaches_a_services_address_untranslated() {
    check_all(cases, &[Protocol::TCP]);
}

/// An echo request, a tunnel's packet (GRE), and one behind an extension header that nobody knows.
fn others(w: Writer, to: IpAddr) -> [Frame; 3] {
    let echo = Body::Icmp {
        kind: if to.is_ipv4() { 8 } else { 128 },
        code: 0,
        rest: 1,
        data: vec![1; 8],
    };
    let other = |protocol| Body::Other {
        protocol,
        data: vec![0; 24],
    };
    [echo, other(47), other(253)].map(|body| Frame::new(w.a.client, to, body))
}

fn cases(w: Writer) -> Vec<Case> {
    let a = w.a;
    let unallocated = ip(if a.node.is_ipv4() {
        "10.111.255.255"
    } else {
        "fd00:10:96::ffff"
    });
    let dropped = |to, reason| {
        let packets = others(w, to).into_iter().map(|packet| packet.bytes());
        packets.flat_map(move |packet| {
            [
                Ingress(packet.clone(), Dropped(reason)),
                Pod(packet.clone(), Dropped(reason)),
                Egress(packet, Untouched),
            ]
        })
    };
    let passed = |to| {
        let packets = others(w, to).into_iter().map(|packet| packet.bytes());
        packets
            .flat_map(|packet| [Ingress(packet.clone(), Untouched), Pod(packet, Untouched)])
            .collect()
    };
    let (client, here) = ((a.client, 45101), (a.here, TARGET));
    let to = (a.node, node_port(service::LOCAL));
    let strange = w.error(
        (a.router, a.cluster_ip),
        &w.data((a.cluster_ip, 80), client),
        None,
    );
    let piece = Frame {
        fragment: Some(if a.node.is_ipv4() { 100 } else { 800 }),
        ..Frame::new(
            a.client,
            unallocated,
            Body::Other {
                protocol: w.protocol.number(),
                data: vec![0; 24],
            },
        )
    };
    vec![
        Case {
            name: "other protocols at a service's address",
            steps: dropped(a.cluster_ip, Drop::UnknownPort).collect(),
        },
        Case {
            name: "an error about nothing that is known",
            steps: vec![Ingress(strange.bytes(), Dropped(Drop::UnknownPort))],
        },
        Case {
            name: "other protocols at the node, at a pod, and at an address of which nothing is known",
            steps: [a.node, a.here, unallocated]
                .into_iter()
                .flat_map(|to| -> Vec<_> { passed(to) })
                .collect(),
        },
        Case {
            name: "other protocols at an address that no service has",
            steps: std::iter::once(Change(know))
                .chain(dropped(unallocated, Drop::Unallocated))
                .chain([Ingress(piece.bytes(), Dropped(Drop::Unallocated))])
                .collect(),
        },
        Case {
            name: "an error about a connection, all the same",
            steps: vec![
                reaches(Ingress, |to| w.open(client, to), to, here),
                Ingress(
                    w.error((a.client, a.node), &w.data(to, client), None)
                        .bytes(),
                    Passed(w.error(
                        (a.client, a.here),
                        &w.data(here, client),
                        Some(&w.data(to, client)),
                    )),
                ),
            ],
        },
    ]
}
