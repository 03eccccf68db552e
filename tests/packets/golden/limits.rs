//! Packets that are too big for the next link, or whose time to live runs out: their senders are told.

use std::time::{Duration, Instant};

use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::drop::Drop;

use super::Step::{Change, Ingress, Pod};
use super::pods::{go_straight, go_through_stack};
use super::world::{TARGET, World, node_port, service};
use super::writer::{Writer, forwarded};
use super::{Case, Expected, PROTOCOLS, REDIRECT, check_all};
use crate::cpu::stay_on_one_cpu;
use crate::frame::Frame;
use Expected::{Passed, Refused, Sent, Untouched};

/// The MTU of the uplink, and with it of every way from the node.
const MTU: u32 = 1500;

/// The time-exceeded and the too-big error of a family.
fn kinds(w: Writer) -> [(u8, u8); 2] {
    if w.a.node.is_ipv4() {
        [(11, 0), (3, 4)]
    } else {
        [(3, 0), (2, 0)]
    }
}

#[test]
fn a_sender_learns_that_the_time_to_live_ran_out() {
    check_all(expired, &PROTOCOLS);
}

fn expired(w: Writer) -> Vec<Case> {
    let a = w.a;
    let [exceeded, _] = kinds(w);
    let client = |port| (a.client, port);
    let (local, remote) = (
        (a.node, node_port(service::LOCAL)),
        (a.node, node_port(service::REMOTE)),
    );
    let last = |frame: Frame| Frame { ttl: 1, ..frame };
    let told = |packet: Frame| Refused(Drop::Expired, w.told(&packet, exceeded, 0));
    let (first, second, reply) = (
        last(w.open(client(51001), remote)),
        last(w.open(client(51002), local)),
        last(w.data((a.here, TARGET), client(51002))),
    );
    vec![
        Case {
            name: "time to live runs out on the way to another node",
            steps: vec![Ingress(first.bytes(), told(first))],
        },
        Case {
            name: "time to live runs out between wire and pod",
            steps: vec![
                Change(go_straight),
                Ingress(second.bytes(), told(second)),
                Pod(reply.bytes(), told(reply)),
                Change(go_through_stack),
            ],
        },
        Case {
            name: "the stack counts hops itself",
            steps: vec![Ingress(
                last(w.open(client(51003), local)).bytes(),
                Passed(last(w.open(client(51003), (a.here, TARGET)))),
            )],
        },
        Case {
            name: "an error whose own time to live runs out is not answered",
            steps: vec![
                Ingress(
                    w.open(client(51004), remote).bytes(),
                    Sent(forwarded(w.open((a.node, 51004), (a.elsewhere, TARGET)))),
                ),
                Ingress(
                    last(w.error((a.router, a.node), &w.data(remote, client(51004)), None)).bytes(),
                    Expected::Dropped(Drop::Expired),
                ),
            ],
        },
    ]
}

#[test]
fn a_sender_learns_what_the_next_link_takes() {
    check_all(too_big, &PROTOCOLS);
}

/// A packet of as many bytes that may not be cut to pieces.
fn sized(w: Writer, frame: Frame, length: usize) -> Frame {
    let mut frame = Frame {
        fragment: w.a.node.is_ipv4().then_some(0x4000),
        ..frame
    };
    let missing = length - frame.packet().len();
    frame.body.data_mut().extend(vec![b'x'; missing]);
    frame
}

fn too_big(w: Writer) -> Vec<Case> {
    let a = w.a;
    let [_, big] = kinds(w);
    let client = |port| (a.client, port);
    let (here, elsewhere) = ((a.here, TARGET), (a.elsewhere, TARGET));
    let (local, remote) = (
        (a.node, node_port(service::LOCAL)),
        (a.node, node_port(service::REMOTE)),
    );
    let told = |packet: Frame| Refused(Drop::TooBig, w.told(&packet, big, MTU));
    let cut = |frame: Frame| Frame {
        fragment: None,
        ..frame
    };
    let fits = |frame| sized(w, frame, 1500);
    let exceeds = |frame| sized(w, frame, 1501);
    let (first, second, reply) = (
        exceeds(w.data(client(52001), remote)),
        exceeds(w.data(client(52002), local)),
        exceeds(w.data(here, client(52002))),
    );
    let mut cases = vec![
        Case {
            name: "the biggest packet that fits",
            steps: vec![Ingress(
                fits(w.data(client(52001), remote)).bytes(),
                Sent(forwarded(fits(w.data((a.node, 52001), elsewhere)))),
            )],
        },
        Case {
            name: "too big on the way to another node",
            steps: vec![Ingress(first.bytes(), told(first))],
        },
        Case {
            name: "too big between wire and pod",
            steps: vec![
                Change(go_straight),
                Ingress(second.bytes(), told(second)),
                Pod(reply.bytes(), told(reply)),
                Change(go_through_stack),
            ],
        },
    ];
    if a.node.is_ipv4() {
        let uncuttable = cut(exceeds(w.data(client(52004), remote)));
        let request = cut(exceeds(w.data(client(52003), local)));
        let reply = cut(exceeds(w.data(here, client(52003))));
        cases.extend([
            Case {
                name: "too big for a link, but the stack may cut it to pieces",
                steps: vec![
                    Change(go_straight),
                    Ingress(
                        request.bytes(),
                        Passed(cut(exceeds(w.data(client(52003), here)))),
                    ),
                    Pod(reply.bytes(), Untouched),
                    Change(go_through_stack),
                ],
            },
            Case {
                name: "too big, and the stack may not have it",
                steps: vec![Ingress(uncuttable.bytes(), told(uncuttable))],
            },
        ]);
    }
    cases
}

/// A packet that stands for several is as big as the longest of them.
#[test]
fn a_packet_that_stands_for_several_is_measured_by_its_segments() {
    for (world, w) in World::each(&[Protocol::TCP]) {
        let a = w.a;
        let headers = if a.node.is_ipv4() { 40 } else { 60 };
        let to = (a.node, node_port(service::REMOTE));
        let packet = sized(w, w.data((a.client, 53001), to), 3000).bytes();
        let sent = |segment| {
            let run = world.namespace.run(|| {
                world
                    .dataplane
                    .run_segmented("ingress", world.uplink, &packet, segment)
            });
            let (verdict, out) = run.expect("the program runs");
            (verdict, out.len())
        };
        assert_eq!(sent(MTU - headers), (REDIRECT, packet.len()));
        assert_eq!(world.drops(), []);
        assert_eq!(sent(MTU - headers + 1).0, REDIRECT);
        let drops = world.drops();
        assert_eq!(drops, [(Drop::TooBig, 1)]);
    }
}

/// Whoever sends with somebody else's address could otherwise have us send that one as much.
#[test]
fn a_cpu_sends_so_many_errors_and_no_more() {
    for (world, udp) in World::each(&[Protocol::UDP]) {
        let tcp = Writer {
            protocol: Protocol::TCP,
            ..udp
        };
        let (client, unknown) = ((udp.a.client, 53_002), (udp.a.cluster_ip, 9));
        let [datagram, segment] = [udp, tcp].map(|w| w.open(client, unknown).bytes());
        world.namespace.run(|| {
            stay_on_one_cpu();
            let answered = |packet: &[u8]| {
                let run = world.dataplane.run("ingress", world.uplink, packet, 1);
                run.expect("the program runs").0 == REDIRECT
            };
            let start = Instant::now();
            let count = (0..2000).filter(|_| answered(&datagram)).count();
            // One for each millisecond, after fifty.
            let most = 51 + start.elapsed().as_millis();
            assert!((50..=most).contains(&(count as u128)), "{count}, {most}");
            // Resets are no larger than what they answer.
            assert!((0..200).all(|_| answered(&segment)));
            let patience = start + Duration::from_secs(10);
            while !answered(&datagram) {
                assert!(Instant::now() < patience, "never answers again");
            }
        });
        let drops = world.drops();
        assert!(matches!(drops[..], [(Drop::UnknownPort, 2201..)]));
    }
}
