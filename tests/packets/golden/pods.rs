//! Packets from pods: what the socket hooks did not translate, and replies to clients outside.

use std::net::IpAddr;

use anyhow::Result;
use dataplane_ebpf::abi::Node;
use dataplane_ebpf::drop::Drop;

use super::Step::{Change, Egress, Ingress, Pod};
use super::world::{self, TARGET, backend, cluster_port, ip, node_port, service, v4, v6};
use super::writer::{Writer, forwarded};
use super::{Case, Expected, PROTOCOLS, answers, check_all, reaches};
use crate::dataplane::Dataplane;
use crate::frame::{Body, Frame};
use Expected::{Dropped, Passed, Refused, Sent, Untouched};

#[test]
fn pods_reach_services_and_keep_their_address() {
    check_all(requests, &PROTOCOLS);
}

#[test]
fn packets_between_a_client_outside_and_a_pod_go_straight() {
    check_all(straight, &PROTOCOLS);
}

#[test]
fn errors_of_pods_are_translated() {
    check_all(errors, &PROTOCOLS);
}

/// A pod of this node that is nobody's backend.
fn pod(w: Writer) -> IpAddr {
    ip(if w.a.node.is_ipv4() {
        "10.244.1.7"
    } else {
        "fd00:10:244:1::7"
    })
}

fn requests(w: Writer) -> Vec<Case> {
    let a = w.a;
    let pod = |port| (pod(w), port);
    let (here, elsewhere) = ((a.here, TARGET), (a.elsewhere, TARGET));
    let node = |id| (a.node, node_port(id));
    let cluster = |id| (a.cluster_ip, cluster_port(id));
    let reaches = |port, to, backend| {
        vec![
            reaches(Pod, |to| w.open(pod(port), to), to, backend),
            // The reply goes through the stack as it is, whether it comes from a pod or by wire.
            Pod(w.data(backend, pod(port)).bytes(), Untouched),
            Ingress(w.data(backend, pod(port)).bytes(), Untouched),
            answers(|from| w.data(from, pod(port)), backend, to),
            reaches(Pod, |to| w.data(pod(port), to), to, backend),
        ]
    };
    let refused = |port, to, reason| {
        let packet = w.open(pod(port), to);
        vec![Pod(packet.bytes(), Refused(reason, w.refusal(&packet)))]
    };
    let untouched = |packet: Frame| vec![Pod(packet.bytes(), Untouched)];
    let itself = (a.here, 47008);
    let hairpin = (a.node, 47008);
    vec![
        Case {
            name: "pod, cluster IP, backend here",
            steps: reaches(47001, cluster(service::LOCAL), here),
        },
        Case {
            name: "pod, cluster IP, backend elsewhere",
            steps: reaches(47002, cluster(service::REMOTE), elsewhere),
        },
        Case {
            name: "pod, node port, backend here",
            steps: reaches(47003, node(service::LOCAL), here),
        },
        Case {
            name: "pod, node port, backend elsewhere",
            steps: reaches(47004, node(service::REMOTE), elsewhere),
        },
        Case {
            name: "pod, node port, the external policy does not bind it",
            steps: reaches(47005, node(service::POLICY), elsewhere),
        },
        Case {
            name: "pod, cluster IP, the internal policy binds it",
            steps: vec![Pod(
                w.open(pod(47006), cluster(service::POLICY)).bytes(),
                Dropped(Drop::NoPolicyBackend),
            )],
        },
        Case {
            name: "pod, node port of another node",
            steps: untouched(w.open(pod(47007), (a.router, node_port(service::LOCAL)))),
        },
        Case {
            name: "pod that is its own backend",
            steps: vec![
                Pod(
                    w.open(itself, cluster(service::LOCAL)).bytes(),
                    Sent(forwarded(w.open(hairpin, here))),
                ),
                Pod(
                    w.data(here, hairpin).bytes(),
                    Sent(forwarded(w.data(cluster(service::LOCAL), itself))),
                ),
                Pod(
                    w.data(itself, cluster(service::LOCAL)).bytes(),
                    Sent(forwarded(w.data(hairpin, here))),
                ),
            ],
        },
        Case {
            name: "pod, no backend",
            steps: refused(47009, node(service::EMPTY), Drop::NoBackend),
        },
        Case {
            name: "pod, unknown port",
            steps: refused(47010, (a.cluster_ip, 9), Drop::UnknownPort),
        },
        Case {
            name: "pod, a destination of its own",
            steps: untouched(w.open(pod(47011), (a.client, 443))),
        },
        Case {
            name: "pod, what a socket hook has translated",
            steps: untouched(w.open(pod(47012), here)),
        },
        Case {
            name: "pod, a frame for another pod on the same bridge",
            steps: vec![Pod(
                Frame {
                    ethernet: [[2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 2]],
                    ..w.open(pod(47013), cluster(service::LOCAL))
                }
                .bytes(),
                Passed(Frame {
                    ethernet: [[2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 2]],
                    ..w.open(pod(47013), here)
                }),
            )],
        },
    ]
}

fn straight(w: Writer) -> Vec<Case> {
    let a = w.a;
    let client = |port| (a.client, port);
    let here = (a.here, TARGET);
    let to = (a.node, node_port(service::LOCAL));
    let scratch = (a.node, node_port(service::SCRATCH));
    let process = (a.node, TARGET);
    vec![
        Case {
            name: "straight to the pod and back",
            steps: vec![
                Change(go_straight),
                Ingress(
                    w.open(client(48001), to).bytes(),
                    Sent(forwarded(w.open(client(48001), here))),
                ),
                Pod(
                    w.data(here, client(48001)).bytes(),
                    Sent(forwarded(w.data(to, client(48001)))),
                ),
                Ingress(
                    w.data(client(48001), to).bytes(),
                    Sent(forwarded(w.data(client(48001), here))),
                ),
            ],
        },
        Case {
            name: "through the stack and back",
            steps: vec![
                Change(go_through_stack),
                reaches(Ingress, |to| w.open(client(48002), to), to, here),
                Pod(w.data(here, client(48002)).bytes(), Untouched),
                answers(|from| w.data(from, client(48002)), here, to),
            ],
        },
        Case {
            name: "a backend in the node's own network",
            steps: vec![
                Change(go_straight),
                Change(|d| d.change_backend(backend::FIRST, become_process)),
                Ingress(
                    Frame {
                        ttl: 1,
                        ..w.open(client(48003), scratch)
                    }
                    .bytes(),
                    Passed(Frame {
                        ttl: 1,
                        ..w.open(client(48003), process)
                    }),
                ),
                answers(|from| w.data(from, client(48003)), process, scratch),
            ],
        },
    ]
}

/// Makes a backend a process of the node.
fn become_process(backend: &mut dataplane_ebpf::abi::Backend) {
    let node = if backend.address.is_v4() { v4() } else { v6() }.node;
    backend.address = node.into();
}

pub(super) fn go_straight(dataplane: &mut Dataplane) -> Result<()> {
    dataplane.set_node(Node {
        flags: 0,
        ..world::node()
    })
}

pub(super) fn go_through_stack(dataplane: &mut Dataplane) -> Result<()> {
    dataplane.set_node(world::node())
}

fn errors(w: Writer) -> Vec<Case> {
    let a = w.a;
    let here = (a.here, TARGET);
    let (client, pod) = ((a.client, 49001), (pod(w), 49002));
    let to = (a.node, node_port(service::LOCAL));
    let about = w.data(client, here);
    let error = w.error((a.here, a.client), &about, None);
    let translated = w.error((a.node, a.client), &w.data(client, to), Some(&about));
    let reply = w.data(to, pod);
    vec![
        Case {
            name: "a pod does not want a packet from outside",
            steps: vec![
                reaches(Ingress, |to| w.open(client, to), to, here),
                Pod(error.bytes(), Untouched),
                Egress(error.bytes(), Passed(translated.clone())),
                Change(go_straight),
                Pod(error.bytes(), Sent(forwarded(translated))),
                Change(go_through_stack),
            ],
        },
        Case {
            name: "a pod does not want a reply",
            steps: vec![
                reaches(Pod, |to| w.open(pod, to), to, here),
                Pod(
                    w.error((pod.0, a.node), &reply, None).bytes(),
                    Passed(w.error((pod.0, a.here), &w.data(here, pod), Some(&reply))),
                ),
            ],
        },
        Case {
            name: "a backend does not want a pod's packet",
            steps: vec![
                Pod(
                    w.error((a.here, pod.0), &w.data(pod, here), None).bytes(),
                    Untouched,
                ),
                Egress(
                    w.error((a.here, pod.0), &w.data(pod, here), None).bytes(),
                    Passed(w.error((a.node, pod.0), &w.data(pod, to), Some(&w.data(pod, here)))),
                ),
            ],
        },
        Case {
            name: "an error about a connection of the pod's own",
            steps: vec![Pod(
                w.error((pod.0, a.client), &w.data(client, (pod.0, 443)), None)
                    .bytes(),
                Untouched,
            )],
        },
        Case {
            name: "a pod's echo request",
            steps: vec![Pod(
                Frame::new(
                    pod.0,
                    a.client,
                    Body::Icmp {
                        kind: if a.node.is_ipv4() { 8 } else { 128 },
                        code: 0,
                        rest: 1,
                        data: vec![1; 8],
                    },
                )
                .bytes(),
                Untouched,
            )],
        },
    ]
}
