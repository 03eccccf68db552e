//! What is SCTP's own: its checksum, associations' life, and pieces.

use dataplane_ebpf::abi::{Backend, Run};
use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::drop::Drop;

use super::Step::{Change, Ingress};
use super::cases::{point_to, restore};
use super::world::{TARGET, backend, node_port, service};
use super::writer::Writer;
use super::{Case, Expected, check_all, reaches};
use crate::frame::Frame;
use Expected::{Bytes, Dropped, Passed, Refused};

#[test]
fn associations_stay_with_their_backend_and_keep_their_checksum() {
    check_all(cases, &[Protocol::SCTP]);
}

fn cases(w: Writer) -> Vec<Case> {
    let a = w.a;
    let to = (a.node, node_port(service::SCRATCH));
    let (here, second) = ((a.here, TARGET), (a.second, TARGET));
    let client = |port| (a.client, port);
    let passes = |packet: fn(Writer, _, _) -> Frame, port, backend| {
        reaches(Ingress, |to| packet(w, client(port), to), to, backend)
    };
    let refused = w.open(client(55003), to);
    let long = |frame: Frame| {
        let mut frame = frame;
        frame.body.data_mut().resize(1461, 7);
        frame
    };
    let piece = |frame: Frame| Frame {
        fragment: Some(if a.node.is_ipv4() { 0x2000 } else { 1 }),
        ..frame
    };
    vec![
        Case {
            name: "an association stays, an INIT begins anew",
            steps: vec![
                passes(Writer::open, 55001, here),
                Change(|d| d.change_backend(backend::FIRST, |b| b.flags &= !Backend::SERVING)),
                Change(|d| point_to(d, backend::SECOND)),
                passes(Writer::data, 55001, here),
                passes(Writer::open, 55001, second),
                passes(Writer::data, 55001, second),
                Change(restore),
            ],
        },
        Case {
            name: "an association whose backend is gone moves, or is refused when there is no other",
            steps: vec![
                passes(Writer::data, 55003, here),
                Change(|d| d.change_backend(backend::FIRST, |b| b.generation += 1)),
                Change(|d| point_to(d, backend::SECOND)),
                passes(Writer::data, 55003, second),
                Change(|d| d.set_service(service::SCRATCH, Run::REFUSE, Run::REFUSE, 0)),
                Ingress(
                    refused.bytes(),
                    Refused(Drop::NoBackend, w.refusal(&refused)),
                ),
                Change(restore),
            ],
        },
        Case {
            name: "a long packet, its length no multiple of four",
            steps: vec![Ingress(
                long(w.data(client(55004), to)).bytes(),
                Passed(long(w.data(client(55004), here))),
            )],
        },
        Case {
            name: "a checksum that a device is still to compute",
            steps: vec![Ingress(
                without_checksum(&w.data(client(55005), to)),
                Bytes(without_checksum(&w.data(client(55005), here))),
            )],
        },
        Case {
            name: "pieces of a packet whose port is translated",
            steps: vec![Ingress(
                piece(w.data(client(55006), to)).bytes(),
                Dropped(Drop::Fragment),
            )],
        },
    ]
}

fn without_checksum(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.bytes();
    let l4 = 14 + if frame.source.is_ipv4() { 20 } else { 40 };
    bytes[l4 + 8..l4 + 12].fill(0);
    bytes
}
