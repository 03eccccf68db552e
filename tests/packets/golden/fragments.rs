//! Packets that arrive in pieces.

use std::net::IpAddr;

use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::drop::Drop;

use super::Step::{Change, Egress, Ingress, Pod};
use super::pods::{go_straight, go_through_stack};
use super::world::{TARGET, cluster_port, node_port, service};
use super::writer::{Writer, forwarded};
use super::{Case, Expected, TCP_AND_UDP, check_all};
use crate::frame::{Body, Frame};
use Expected::{Dropped, Passed, Refused, Sent, Untouched};

#[test]
fn pieces_go_where_the_first_one_went() {
    check_all(cases, &TCP_AND_UDP);
}

/// The first piece, which has the ports and a checksum.
fn first(w: Writer, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Frame {
    Frame {
        fragment: Some(if w.a.node.is_ipv4() { 0x2000 } else { 1 }),
        ..w.data(source, destination)
    }
}

/// Another piece, which has neither.
fn later(w: Writer, source: IpAddr, destination: IpAddr) -> Frame {
    let body = Body::Other {
        protocol: w.protocol.number(),
        data: b"more data, of which nobody knows anything".to_vec(),
    };
    Frame {
        fragment: Some(if w.a.node.is_ipv4() { 100 } else { 800 }),
        ..Frame::new(source, destination, body)
    }
}

fn cases(w: Writer) -> Vec<Case> {
    let a = w.a;
    let client = |port| (a.client, port);
    let (here, elsewhere) = ((a.here, TARGET), (a.elsewhere, TARGET));
    let node = |id| (a.node, node_port(id));
    let cluster = |id| (a.cluster_ip, cluster_port(id));
    let untouched = |packet: Frame| vec![Ingress(packet.bytes(), Untouched)];
    let refused = first(w, client(54003), cluster(service::EMPTY));
    let refusal = match w.protocol {
        Protocol::UDP => Refused(Drop::NoBackend, w.refusal(&refused)),
        // Who knows what a reset would have to acknowledge.
        _ => Dropped(Drop::NoBackend),
    };
    vec![
        Case {
            name: "a later piece that comes first, to a cluster IP and to the node",
            steps: vec![
                Ingress(
                    later(w, a.client, a.cluster_ip).bytes(),
                    Dropped(Drop::Fragment),
                ),
                Ingress(later(w, a.client, a.node).bytes(), Untouched),
                Pod(
                    later(w, a.client, a.cluster_ip).bytes(),
                    Dropped(Drop::Fragment),
                ),
            ],
        },
        Case {
            name: "pieces to a backend here",
            steps: vec![
                Ingress(
                    first(w, client(54001), node(service::LOCAL)).bytes(),
                    Passed(first(w, client(54001), here)),
                ),
                Ingress(
                    later(w, a.client, a.node).bytes(),
                    Passed(later(w, a.client, a.here)),
                ),
                Egress(
                    first(w, here, client(54001)).bytes(),
                    Passed(first(w, node(service::LOCAL), client(54001))),
                ),
                Egress(
                    later(w, a.here, a.client).bytes(),
                    Passed(later(w, a.node, a.client)),
                ),
            ],
        },
        Case {
            name: "pieces that go straight",
            steps: vec![
                Change(go_straight),
                Ingress(
                    first(w, client(54001), node(service::LOCAL)).bytes(),
                    Sent(forwarded(first(w, client(54001), here))),
                ),
                Ingress(
                    later(w, a.client, a.node).bytes(),
                    Sent(forwarded(later(w, a.client, a.here))),
                ),
                Pod(
                    first(w, here, client(54001)).bytes(),
                    Sent(forwarded(first(w, node(service::LOCAL), client(54001)))),
                ),
                Pod(
                    later(w, a.here, a.client).bytes(),
                    Sent(forwarded(later(w, a.node, a.client))),
                ),
                Change(go_through_stack),
            ],
        },
        Case {
            name: "pieces to a backend elsewhere",
            steps: vec![
                Ingress(
                    first(w, client(54002), cluster(service::REMOTE)).bytes(),
                    Sent(forwarded(first(w, (a.node, 54002), elsewhere))),
                ),
                Ingress(
                    later(w, a.client, a.cluster_ip).bytes(),
                    Sent(forwarded(later(w, a.node, a.elsewhere))),
                ),
                Ingress(
                    first(w, elsewhere, (a.node, 54002)).bytes(),
                    Sent(forwarded(first(w, cluster(service::REMOTE), client(54002)))),
                ),
                Ingress(
                    later(w, a.elsewhere, a.node).bytes(),
                    Sent(forwarded(later(w, a.cluster_ip, a.client))),
                ),
            ],
        },
        Case {
            name: "pieces that are refused",
            steps: vec![Ingress(refused.bytes(), refusal)],
        },
        Case {
            name: "pieces of the node's own, at a port that no service has",
            steps: [
                untouched(first(w, (a.router, 54004), (a.node, 22))),
                untouched(later(w, a.router, a.node)),
            ]
            .into_iter()
            .flatten()
            .collect(),
        },
    ]
}
