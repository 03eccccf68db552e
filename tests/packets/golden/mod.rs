//! Golden packets: what each hook makes of one packet after another, in both families, for TCP, UDP and SCTP.
//!
//! A case is a list of steps on one dataplane; every case has a client port of its own.

mod affinity;
mod cases;
mod collisions;
mod cost;
mod drops;
mod dsr;
mod eviction;
mod fragments;
mod idle;
mod limits;
mod maglev;
mod migration;
mod orphans;
mod others;
mod pods;
mod pressure;
mod ranges;
mod sctp;
mod unallocated;
mod world;
mod writer;
mod xdp;

use anyhow::{Context as _, Result, bail, ensure};
use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::drop::Drop;

use self::world::{OWN_MAC, Way, World, v4};
use self::writer::{Endpoint, Writer};
use crate::dataplane::Dataplane;
use crate::frame::Frame;
use crate::pcap;

/// `TCX_NEXT`.
const PASS: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;

/// What a case consists of.
enum Step {
    /// A packet from the wire.
    Ingress(Vec<u8>, Expected),
    /// A packet from a pod.
    Pod(Vec<u8>, Expected),
    /// A packet to the wire, or to a pod.
    Egress(Vec<u8>, Expected),
    /// The daemon changes something.
    Change(fn(&mut Dataplane) -> Result<()>),
}

/// What becomes of a packet.
#[derive(Debug)]
enum Expected {
    /// It goes on as it came.
    Untouched,
    /// It goes to the stack, or to the wire, like this.
    Passed(Frame),
    /// The same, for a packet that no [`Frame`] describes.
    Bytes(Vec<u8>),
    /// It is sent on from here like this.
    Sent(Frame),
    /// It is dropped.
    Dropped(Drop),
    /// It is answered like this.
    Refused(Drop, Frame),
}

/// What services can speak.
const PROTOCOLS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];
/// What nearly all of them do.
const TCP_AND_UDP: [Protocol; 2] = [Protocol::TCP, Protocol::UDP];

/// A packet whose destination a hook translates, and which then goes to the stack.
fn reaches(
    hook: fn(Vec<u8>, Expected) -> Step,
    packet: impl Fn(Endpoint) -> Frame,
    to: Endpoint,
    backend: Endpoint,
) -> Step {
    hook(packet(to).bytes(), Expected::Passed(packet(backend)))
}

/// A backend's packet, which leaves as the service's.
fn answers(packet: impl Fn(Endpoint) -> Frame, backend: Endpoint, service: Endpoint) -> Step {
    Step::Egress(packet(backend).bytes(), Expected::Passed(packet(service)))
}

struct Case {
    name: &'static str,
    steps: Vec<Step>,
}

/// Runs a case's steps; an error shows the step with its packets decoded.
fn check(world: &mut World, case: &Case) -> Result<()> {
    for (number, step) in case.steps.iter().enumerate() {
        let (hook, packet, expected) = match step {
            Step::Change(change) => {
                change(&mut world.dataplane)?;
                continue;
            }
            Step::Ingress(packet, expected) => ("ingress", packet, expected),
            Step::Pod(packet, expected) => ("pod_ingress", packet, expected),
            Step::Egress(packet, expected) => ("egress", packet, expected),
        };
        let driver = hook == "ingress" && world.way().meets_driver(number);
        let outcome = if driver && drive(world, packet, expected)? {
            Ok(())
        } else {
            check_packet(world, case.name, (hook, packet), expected)
        };
        outcome.with_context(|| {
            let (name, way) = (case.name, world.way());
            format!(
                "{name} by {way:?}, step {number}: {hook} of {}",
                show(packet)
            )
        })?;
    }
    Ok(())
}

/// Runs the driver's program on a packet that is to become what is `expected`. Whether it sent the packet on; otherwise
/// it must have left it as it was.
fn drive(world: &World, packet: &[u8], expected: &Expected) -> Result<bool> {
    let (verdict, out, _) = world.run("driver", packet, 1)?;
    match (verdict, expected) {
        (XDP_PASS, _) => {
            ensure!(out == packet, "the driver passed {}", show(&out));
            Ok(false)
        }
        (XDP_TX, Expected::Sent(frame)) => {
            let wanted = Frame {
                ethernet: [world.next_hop(frame.destination), OWN_MAC],
                ..frame.clone()
            };
            let wanted = wanted.bytes();
            ensure!(
                out == wanted,
                "the driver sent {}\n  wanted {}",
                show(&out),
                show(&wanted)
            );
            Ok(true)
        }
        _ => bail!("the driver's verdict {verdict}, wanted {expected:?}"),
    }
}

fn check_packet(
    world: &World,
    name: &str,
    (hook, packet): (&str, &[u8]),
    expected: &Expected,
) -> Result<()> {
    let before = world.dataplane.drops()?;
    let (verdict, out, _) = world.run(hook, packet, 1)?;
    let dropped = dropped_since(&before, &world.dataplane.drops()?);
    let (wanted_verdict, wanted, wanted_drop) = match expected {
        Expected::Untouched => (PASS, packet.to_vec(), None),
        Expected::Passed(frame) => (PASS, frame.bytes(), None),
        Expected::Bytes(bytes) => (PASS, bytes.clone(), None),
        Expected::Sent(frame) => (REDIRECT, frame.bytes(), None),
        // Nobody sees what becomes of a dropped packet.
        Expected::Dropped(reason) => (SHOT, out.clone(), Some(*reason)),
        Expected::Refused(reason, frame) => (REDIRECT, frame.bytes(), Some(*reason)),
    };
    if (verdict, dropped, &out) == (wanted_verdict, wanted_drop, &wanted) {
        return Ok(());
    }
    let pcap = pcap::save(name, &[packet, &out, &wanted])?;
    bail!(
        "became {}\n    verdict {verdict}, drop {dropped:?}\n  wanted {}\n    verdict {wanted_verdict}, drop \
         {wanted_drop:?}\n  all three are in {}",
        show(&out),
        show(&wanted),
        pcap.display()
    )
}

/// The reason that was counted between two readings.
fn dropped_since(before: &[(Drop, u64)], after: &[(Drop, u64)]) -> Option<Drop> {
    let new = after.iter().find(|count| !before.contains(count));
    new.map(|(reason, _)| *reason)
}

fn show(packet: &[u8]) -> String {
    match Frame::decode(packet) {
        Ok(frame) => format!("{frame:?}"),
        Err(error) => format!("{error:#} in {packet:02x?}"),
    }
}

fn check_all(cases: fn(Writer) -> Vec<Case>, protocols: &[Protocol]) {
    for w in Writer::each(protocols) {
        // The driver's program leaves SCTP alone.
        let ways: &[Way] = match w.protocol {
            Protocol::SCTP => &[Way::Driver],
            _ => &Way::ALL,
        };
        for way in ways {
            let mut world = World::create(w.a, w.protocol).expect("a node can be made");
            world
                .take_way(*way)
                .expect("a veth device takes the program");
            for case in cases(w) {
                check(&mut world, &case).unwrap_or_else(|error| panic!("{error:?}"));
            }
        }
    }
}

#[test]
fn requests_and_replies() {
    check_all(cases::common, &PROTOCOLS);
}

#[test]
fn malformed_packets_are_dropped_where_services_answer() {
    check_all(cases::malformed, &PROTOCOLS);
}

#[test]
fn tcp_connections_live_and_die() {
    check_all(cases::tcp_only, &[Protocol::TCP]);
}

#[test]
fn udp_flows_move() {
    check_all(cases::udp_only, &[Protocol::UDP]);
}

#[test]
fn connections_do_not_collide_and_ports_run_out() {
    check_all(cases::ports, &PROTOCOLS);
}

#[test]
fn options_are_skipped_and_kept() {
    check_all(cases::options, &PROTOCOLS);
}

#[test]
fn a_missing_udp_checksum_stays_missing() {
    check(
        &mut World::create(v4(), Protocol::UDP).expect("a node can be made"),
        &cases::no_checksum(Writer {
            a: v4(),
            protocol: Protocol::UDP,
        })[0],
    )
    .unwrap_or_else(|error| panic!("{error:?}"));
}

#[test]
fn errors_are_translated_both_ways() {
    check_all(cases::errors, &PROTOCOLS);
}
