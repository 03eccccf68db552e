//! The cases, as tables. Expected packets are written out, never computed by the code under test.

use std::net::IpAddr;

use anyhow::Result;
use dataplane_ebpf::abi::{Backend, Node, Run};
use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::drop::Drop;

use super::Expected::{Dropped, Passed, Refused, Sent, Untouched};
use super::Step::{Change, Egress, Ingress};
use super::world::{self, TARGET, backend, cluster_port, node_port, service};
use super::writer::{Writer, answer, forwarded};
use super::{Case, Expected, answers, orphans, reaches};
use crate::dataplane::Dataplane;
use crate::frame::{ARRIVING, Body, Frame, tcp};

/// The cases that hold for both protocols.
pub(super) fn common(w: Writer) -> Vec<Case> {
    let a = w.a;
    let client = |port| (a.client, port);
    let (here, elsewhere) = ((a.here, TARGET), (a.elsewhere, TARGET));
    let node = |id| (a.node, node_port(id));
    let cluster = |id| (a.cluster_ip, cluster_port(id));
    let other = if a.node.is_ipv4() {
        world::v6()
    } else {
        world::v4()
    };
    let stranger = Writer { a: other, ..w };
    let refused = |port, to, reason| {
        let packet = w.open(client(port), to);
        vec![Ingress(packet.bytes(), Refused(reason, w.refusal(&packet)))]
    };
    let one = |packet: Frame, expected| vec![Ingress(packet.bytes(), expected)];
    let local = |port, to| {
        vec![
            reaches(Ingress, |to| w.open(client(port), to), to, here),
            answers(|from| w.data(from, client(port)), here, to),
            reaches(Ingress, |to| w.data(client(port), to), to, here),
        ]
    };
    let remote = |port, to| {
        let source = (a.node, port);
        vec![
            Ingress(
                w.open(client(port), to).bytes(),
                Sent(forwarded(w.open(source, elsewhere))),
            ),
            Ingress(
                w.data(elsewhere, source).bytes(),
                Sent(forwarded(w.data(to, client(port)))),
            ),
            Ingress(
                w.data(client(port), to).bytes(),
                Sent(forwarded(w.data(source, elsewhere))),
            ),
        ]
    };
    vec![
        Case {
            name: "node port, backend here",
            steps: local(40001, node(service::LOCAL)),
        },
        Case {
            name: "node port, backend elsewhere",
            steps: remote(40002, node(service::REMOTE)),
        },
        Case {
            name: "cluster IP from outside, backend here",
            steps: local(40003, cluster(service::LOCAL)),
        },
        Case {
            name: "cluster IP from outside, backend elsewhere",
            steps: remote(40004, cluster(service::REMOTE)),
        },
        Case {
            name: "node port, local policy, backend here",
            steps: local(40005, node(service::POLICY_LOCAL)),
        },
        Case {
            name: "cluster IP, local policy, backend here",
            steps: local(40006, cluster(service::POLICY_LOCAL)),
        },
        Case {
            name: "node port, no backend",
            steps: refused(40007, node(service::EMPTY), Drop::NoBackend),
        },
        Case {
            name: "cluster IP, no backend",
            steps: refused(40008, cluster(service::EMPTY), Drop::NoBackend),
        },
        Case {
            name: "cluster IP, unknown port",
            steps: refused(40009, (a.cluster_ip, 9), Drop::UnknownPort),
        },
        Case {
            name: "node port, local policy, backend elsewhere",
            steps: one(
                w.open(client(40010), node(service::POLICY)),
                Dropped(Drop::NoPolicyBackend),
            ),
        },
        Case {
            name: "cluster IP, local policy, backend elsewhere",
            steps: one(
                w.open(client(40011), cluster(service::POLICY)),
                Dropped(Drop::NoPolicyBackend),
            ),
        },
        Case {
            name: "the node's own port",
            steps: one(w.open(client(40012), (a.node, 22)), Untouched),
        },
        Case {
            name: "node port of an address that is not the node's",
            steps: one(
                w.open(client(40013), (a.here, node_port(service::LOCAL))),
                Untouched,
            ),
        },
        Case {
            name: "node port that only a service of the other family has",
            steps: one(
                stranger.open(
                    (other.client, 40022),
                    (other.node, node_port(service::LOCAL)),
                ),
                Untouched,
            ),
        },
        Case {
            name: "a frame for another machine",
            steps: one(
                Frame {
                    ethernet: [[2, 0, 0, 0, 0, 9], ARRIVING[1]],
                    ..w.open(client(40021), cluster(service::LOCAL))
                },
                Untouched,
            ),
        },
        Case {
            name: "another protocol",
            steps: one(
                Frame::new(
                    a.client,
                    a.cluster_ip,
                    Body::Other {
                        protocol: 133,
                        data: vec![0; 32],
                    },
                ),
                Dropped(Drop::UnknownPort),
            ),
        },
        Case {
            name: "echo request",
            steps: one(
                Frame::new(
                    a.client,
                    a.node,
                    Body::Icmp {
                        kind: if a.node.is_ipv4() { 8 } else { 128 },
                        code: 0,
                        rest: 1,
                        data: vec![1; 8],
                    },
                ),
                Untouched,
            ),
        },
        Case {
            name: "a packet of ours that leaves without a connection",
            steps: vec![Egress(w.data(here, client(40017)).bytes(), Untouched)],
        },
        Case {
            name: "a reply of a local backend that arrives by wire",
            steps: vec![
                reaches(
                    Ingress,
                    |to| w.open(client(40018), to),
                    node(service::LOCAL),
                    here,
                ),
                Ingress(w.data(here, client(40018)).bytes(), Untouched),
            ],
        },
        Case {
            name: "a packet of a connection the table has lost",
            steps: vec![
                reaches(
                    Ingress,
                    |to| w.data(client(40019), to),
                    node(service::LOCAL),
                    here,
                ),
                answers(
                    |from| w.data(from, client(40019)),
                    here,
                    node(service::LOCAL),
                ),
            ],
        },
    ]
}

/// Packets that lie about themselves: nobody knows whose they are at the node and at a cluster IP, but elsewhere they are
/// none of ours.
pub(super) fn malformed(w: Writer) -> Vec<Case> {
    let a = w.a;
    let dropped = [
        (a.node, node_port(service::LOCAL)),
        (a.cluster_ip, cluster_port(service::LOCAL)),
    ];
    let mut cases: Vec<Case> = dropped
        .into_iter()
        .flat_map(|to| lies(w, to))
        .map(|(name, bytes)| Case {
            name,
            steps: vec![Ingress(bytes, Dropped(Drop::Malformed))],
        })
        .collect();
    cases.extend(
        lies(w, (a.here, TARGET))
            .into_iter()
            .map(|(name, bytes)| Case {
                name,
                steps: vec![Ingress(bytes.clone(), Untouched), Egress(bytes, Untouched)],
            }),
    );
    cases
}

fn lies(w: Writer, to: (IpAddr, u16)) -> Vec<(&'static str, Vec<u8>)> {
    let packet = w.open((w.a.client, 41001), to).bytes();
    let header = if w.a.node.is_ipv4() { 20 } else { 40 };
    let mut long = packet.clone();
    let field = if w.a.node.is_ipv4() { 16 } else { 18 };
    long[field] = 0x7f;
    let mut lies = vec![("a length beyond the packet", long)];
    // The IP header is right, and announces less than a transport header.
    let short = Frame::new(
        w.a.client,
        to.0,
        Body::Other {
            protocol: w.protocol.number(),
            data: packet[14 + header..14 + header + 6].to_vec(),
        },
    );
    lies.push(("half a transport header", short.bytes()));
    if w.a.node.is_ipv4() {
        let mut tiny = packet;
        tiny[14] = 0x44;
        lies.push(("a header length below the minimum", tiny));
    }
    lies
}

/// TCP's life and death.
pub(super) fn tcp_only(w: Writer) -> Vec<Case> {
    let a = w.a;
    let to = (a.node, node_port(service::SCRATCH));
    let (here, second) = ((a.here, TARGET), (a.second, TARGET));
    let client = |port| (a.client, port);
    let reset = Frame::new(
        a.client,
        a.cluster_ip,
        w.body(42001, cluster_port(service::EMPTY), tcp::RST, b""),
    );
    let late = w.data(client(42002), to);
    let late_answer = Body::Tcp {
        source: to.1,
        destination: 42002,
        sequence: 2000,
        acknowledgment: 0,
        flags: tcp::RST,
        data: vec![],
    };
    vec![
        Case {
            name: "a reset is never answered",
            steps: vec![Ingress(reset.bytes(), Dropped(Drop::NoBackend))],
        },
        Case {
            name: "a connection stays with a backend that no longer serves, and is reset when it is gone and silent",
            steps: vec![
                reaches(Ingress, |to| w.open(client(42002), to), to, here),
                Change(|d| d.change_backend(backend::FIRST, |b| b.flags &= !Backend::SERVING)),
                Change(|d| point_to(d, backend::SECOND)),
                Ingress(late.bytes(), Passed(w.data(client(42002), here))),
                reaches(Ingress, |to| w.open(client(42003), to), to, second),
                Change(|d| d.change_backend(backend::FIRST, |b| b.generation += 1)),
                Ingress(late.bytes(), Passed(w.data(client(42002), here))),
                Change(orphans::leave_unanswered::<42002>),
                Ingress(
                    late.bytes(),
                    Refused(Drop::BackendGone, answer(&late, late_answer)),
                ),
                reaches(Ingress, |to| w.open(client(42002), to), to, second),
                Change(restore),
            ],
        },
        Case {
            name: "a SYN sent again stays, one after the end chooses anew",
            steps: vec![
                reaches(Ingress, |to| w.open(client(42004), to), to, here),
                Change(|d| point_to(d, backend::SECOND)),
                reaches(Ingress, |to| w.open(client(42004), to), to, here),
                Ingress(
                    w.flagged(client(42004), to, tcp::FIN | tcp::ACK).bytes(),
                    Passed(w.flagged(client(42004), here, tcp::FIN | tcp::ACK)),
                ),
                reaches(Ingress, |to| w.open(client(42004), to), to, here),
                Egress(
                    w.flagged(here, client(42004), tcp::FIN | tcp::ACK).bytes(),
                    Passed(w.flagged(to, client(42004), tcp::FIN | tcp::ACK)),
                ),
                reaches(Ingress, |to| w.open(client(42004), to), to, second),
                Change(restore),
            ],
        },
    ]
}

/// UDP flows, which can move.
pub(super) fn udp_only(w: Writer) -> Vec<Case> {
    let a = w.a;
    let to = (a.node, node_port(service::SCRATCH));
    let (here, second) = ((a.here, TARGET), (a.second, TARGET));
    let client = |port| (a.client, port);
    let passes = |port, backend| reaches(Ingress, |to| w.data(client(port), to), to, backend);
    let gone = w.open(client(43003), to);
    vec![
        Case {
            name: "a flow stays while policy and selection change, and moves when its backend no longer serves",
            steps: vec![
                passes(43001, here),
                Change(|d| point_to(d, backend::SECOND)),
                passes(43001, here),
                Change(|d| d.change_backend(backend::FIRST, |b| b.flags &= !Backend::SERVING)),
                passes(43001, second),
                Change(restore),
            ],
        },
        Case {
            name: "a flow keeps a backend that no longer serves when there is no other",
            steps: vec![
                passes(43002, here),
                Change(|d| d.change_backend(backend::FIRST, |b| b.flags &= !Backend::SERVING)),
                Change(|d| d.set_service(service::SCRATCH, Run::REFUSE, Run::REFUSE, 0)),
                passes(43002, here),
                Change(restore),
            ],
        },
        Case {
            name: "a flow whose backend is gone moves, or is refused when there is no other",
            steps: vec![
                passes(43003, here),
                Change(|d| d.change_backend(backend::FIRST, |b| b.generation += 1)),
                Change(|d| point_to(d, backend::SECOND)),
                passes(43003, second),
                Change(|d| d.change_backend(backend::SECOND, |b| b.generation += 1)),
                Change(|d| d.set_service(service::SCRATCH, Run::REFUSE, Run::REFUSE, 0)),
                Ingress(gone.bytes(), Refused(Drop::NoBackend, w.refusal(&gone))),
                Change(restore),
            ],
        },
    ]
}

/// Makes the scratch service have one backend.
pub(super) fn point_to(dataplane: &mut Dataplane, id: u32) -> Result<()> {
    let run = dataplane.add_run(&[id])?;
    dataplane.set_service(service::SCRATCH, run, run, 0)
}

/// Undoes what a case changed.
pub(super) fn restore(dataplane: &mut Dataplane) -> Result<()> {
    dataplane.change_backend(backend::FIRST, |b| b.flags |= Backend::SERVING)?;
    point_to(dataplane, backend::FIRST)
}

/// Two connections that would look the same to the backend, and ports that run out.
pub(super) fn ports(w: Writer) -> Vec<Case> {
    let a = w.a;
    let client = |port| (a.client, port);
    let here = (a.here, TARGET);
    let elsewhere = (a.elsewhere, TARGET);
    let one = (a.cluster_ip, cluster_port(service::LOCAL));
    let other = (a.other_ip, cluster_port(service::LOCAL));
    let third = (a.node, node_port(service::LOCAL));
    let remote = (a.node, node_port(service::REMOTE));
    let moved = (a.client, ONLY_PORT);
    let node = (a.node, ONLY_PORT);
    vec![
        Case {
            name: "three services, one backend, one client port",
            steps: vec![
                Change(leave_one_port),
                reaches(Ingress, |to| w.open(client(44001), to), one, here),
                Ingress(
                    w.open(client(44001), other).bytes(),
                    Passed(w.open(moved, here)),
                ),
                Ingress(
                    w.data(client(44001), other).bytes(),
                    Passed(w.data(moved, here)),
                ),
                answers(|from| w.data(from, client(44001)), here, one),
                Egress(
                    w.data(here, moved).bytes(),
                    Passed(w.data(other, client(44001))),
                ),
                Ingress(w.open(client(44001), third).bytes(), Dropped(Drop::NoPort)),
            ],
        },
        Case {
            name: "a port outside the node's range is not kept, and the range runs out",
            steps: vec![
                Change(leave_one_port),
                Ingress(
                    w.open(client(1024), remote).bytes(),
                    Sent(forwarded(w.open(node, elsewhere))),
                ),
                Ingress(
                    w.data(elsewhere, node).bytes(),
                    Sent(forwarded(w.data(remote, client(1024)))),
                ),
                Ingress(w.open(client(1025), remote).bytes(), Dropped(Drop::NoPort)),
            ],
        },
    ]
}

/// The one port that [`leave_one_port`] leaves.
pub(super) const ONLY_PORT: u16 = 50001;

pub(super) fn leave_one_port(dataplane: &mut Dataplane) -> Result<()> {
    dataplane.set_node(Node {
        first_port: ONLY_PORT,
        last_port: ONLY_PORT,
        ..world::node()
    })
}

/// Headers between the IP header and the transport header.
pub(super) fn options(w: Writer) -> Vec<Case> {
    let a = w.a;
    let client = |port| (a.client, port);
    let with = |frame: Frame| Frame {
        options: true,
        ..frame
    };
    let to = (a.node, node_port(service::REMOTE));
    let request = with(w.open(client(45001), to));
    let forward = forwarded(with(w.open((a.node, 45001), (a.elsewhere, TARGET))));
    let refused = with(w.open(client(45002), (a.node, node_port(service::EMPTY))));
    let refusal = match w.protocol {
        // A reset keeps the options; an ICMP error quotes them.
        Protocol::TCP => with(w.refusal(&refused)),
        _ => w.refusal(&refused),
    };
    vec![
        Case {
            name: "translated with options",
            steps: vec![Ingress(request.bytes(), Sent(forward))],
        },
        Case {
            name: "refused with options",
            steps: vec![Ingress(refused.bytes(), Refused(Drop::NoBackend, refusal))],
        },
    ]
}

/// A UDP checksum of zero says that there is none (RFC 768), and has to stay.
pub(super) fn no_checksum(w: Writer) -> Vec<Case> {
    let to = (w.a.node, node_port(service::LOCAL));
    let without = |frame: Frame| {
        let mut bytes = frame.bytes();
        bytes[14 + 20 + 6..14 + 20 + 8].fill(0);
        bytes
    };
    let request = without(w.open((w.a.client, 45003), to));
    let wanted = without(w.open((w.a.client, 45003), (w.a.here, TARGET)));
    vec![Case {
        name: "no checksum",
        steps: vec![Ingress(request, Expected::Bytes(wanted))],
    }]
}

/// ICMP errors, from the client's side and from the backend's, about packets to backends here and elsewhere.
pub(super) fn errors(w: Writer) -> Vec<Case> {
    let a = w.a;
    let client = |port| (a.client, port);
    let (here, elsewhere) = ((a.here, TARGET), (a.elsewhere, TARGET));
    let (local, remote) = (
        (a.node, node_port(service::LOCAL)),
        (a.node, node_port(service::REMOTE)),
    );
    let source = (a.node, 46002);
    let open_local = reaches(Ingress, |to| w.open(client(46001), to), local, here);
    let open_remote = Ingress(
        w.open(client(46002), remote).bytes(),
        Sent(forwarded(w.open(source, elsewhere))),
    );
    vec![
        Case {
            name: "a router near the client cannot pass on a local backend's reply",
            steps: vec![
                open_local,
                Ingress(
                    w.error((a.router, a.node), &w.data(local, client(46001)), None)
                        .bytes(),
                    Passed(w.error(
                        (a.router, a.here),
                        &w.data(here, client(46001)),
                        Some(&w.data(local, client(46001))),
                    )),
                ),
            ],
        },
        Case {
            name: "a local backend does not want a client's packet",
            steps: vec![Egress(
                w.error((a.here, a.client), &w.data(client(46001), here), None)
                    .bytes(),
                Passed(w.error(
                    (a.node, a.client),
                    &w.data(client(46001), local),
                    Some(&w.data(client(46001), here)),
                )),
            )],
        },
        Case {
            name: "a router near the client cannot pass on a remote backend's reply",
            steps: vec![
                open_remote,
                Ingress(
                    w.error((a.router, a.node), &w.data(remote, client(46002)), None)
                        .bytes(),
                    Sent(forwarded(w.error(
                        (a.node, a.elsewhere),
                        &w.data(elsewhere, source),
                        Some(&w.data(remote, client(46002))),
                    ))),
                ),
            ],
        },
        Case {
            name: "a router near a remote backend cannot pass on a client's packet",
            steps: vec![Ingress(
                w.error((a.router, a.node), &w.data(source, elsewhere), None)
                    .bytes(),
                Sent(forwarded(w.error(
                    (a.node, a.client),
                    &w.data(client(46002), remote),
                    Some(&w.data(source, elsewhere)),
                ))),
            )],
        },
        Case {
            name: "an error about a connection of the node's own",
            steps: vec![Ingress(
                w.error(
                    (a.router, a.node),
                    &w.data((a.node, 46003), client(443)),
                    None,
                )
                .bytes(),
                Untouched,
            )],
        },
    ]
}
