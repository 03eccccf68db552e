//! TCP connections whose backend has left its service: it may still be there and answer.

use anyhow::{Context as _, Result};
use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::drop::Drop;

use super::Expected::{Refused, Sent};
use super::Step::{Change, Ingress};
use super::world::{TARGET, backend, node_port, service};
use super::writer::{Endpoint, Writer, answer, forwarded};
use super::{Case, Step, answers, check_all, reaches};
use crate::dataplane::Dataplane;
use crate::frame::{Body, Frame, tcp};

#[test]
fn orphaned_connections_live_as_long_as_they_are_answered() {
    check_all(cases, &[Protocol::TCP]);
}

/// A connection to the service whose only backend is here, by the client's port.
struct Client {
    w: Writer,
    port: u16,
}

impl Client {
    fn address(&self) -> Endpoint {
        (self.w.a.client, self.port)
    }

    fn service(&self) -> Endpoint {
        (self.w.a.node, node_port(service::SCRATCH))
    }

    fn backend(&self) -> Endpoint {
        (self.w.a.here, TARGET)
    }

    fn passes(&self, packet: impl Fn(Endpoint) -> Frame) -> Step {
        reaches(Ingress, packet, self.service(), self.backend())
    }

    fn opens(&self) -> Step {
        self.passes(|to| self.w.open(self.address(), to))
    }

    fn asks(&self) -> Step {
        self.passes(|to| self.w.data(self.address(), to))
    }

    fn acknowledges(&self) -> Step {
        self.passes(|to| self.w.flagged(self.address(), to, tcp::ACK))
    }

    fn last(&self, to: Endpoint) -> Frame {
        self.w.flagged(self.address(), to, tcp::FIN | tcp::ACK)
    }

    fn ends(&self) -> Step {
        self.passes(|to| self.last(to))
    }

    fn is_answered(&self) -> Step {
        let answer = |from| self.w.data(from, self.address());
        answers(answer, self.backend(), self.service())
    }

    fn is_reset(&self, packet: &Frame) -> Step {
        let reset = Body::Tcp {
            source: self.service().1,
            destination: self.port,
            sequence: 2000,
            acknowledgment: 0,
            flags: tcp::RST,
            data: vec![],
        };
        Ingress(
            packet.bytes(),
            Refused(Drop::BackendGone, answer(packet, reset)),
        )
    }
}

fn cases(w: Writer) -> Vec<Case> {
    let a = w.a;
    let [one, two, three, four, five] =
        [50_001, 50_002, 50_003, 50_004, 50_005].map(|port| Client { w, port });
    let gone = || Change(|d| d.change_backend(backend::FIRST, |b| b.generation += 1));
    let (remote, elsewhere) = ((a.node, node_port(service::REMOTE)), (a.elsewhere, TARGET));
    let (client, source) = ((a.client, 50_006), (a.node, 50_006));
    let asks_remote = || {
        Ingress(
            w.data(client, remote).bytes(),
            Sent(forwarded(w.data(source, elsewhere))),
        )
    };
    vec![
        Case {
            name: "answered, however long both sides are silent in between",
            steps: vec![
                one.opens(),
                one.is_answered(),
                gone(),
                one.asks(),
                one.is_answered(),
                Change(age::<50_001, 60, 60>),
                one.asks(),
                one.is_answered(),
                // An acknowledgment of what came asks for nothing, so it may be the last for long.
                one.acknowledges(),
                Change(age::<50_001, 60, 60>),
                one.acknowledges(),
                one.asks(),
                one.is_answered(),
                one.ends(),
            ],
        },
        Case {
            name: "an acknowledgment from before asks for nothing either",
            steps: vec![
                two.opens(),
                two.is_answered(),
                two.acknowledges(),
                Change(age::<50_002, 60, 61>),
                gone(),
                two.asks(),
            ],
        },
        Case {
            name: "data without an answer, sent again until it is enough",
            steps: vec![
                three.opens(),
                gone(),
                three.asks(),
                Change(age::<50_003, 0, 1>),
                three.asks(),
                Change(age::<50_003, 2, 2>),
                three.acknowledges(),
                three.is_reset(&w.data(three.address(), three.service())),
                three.is_reset(&w.data(three.address(), three.service())),
                three.opens(),
            ],
        },
        Case {
            name: "a FIN without an answer",
            steps: vec![
                four.opens(),
                gone(),
                four.ends(),
                Change(leave_unanswered::<50_004>),
                four.is_reset(&four.last(four.service())),
            ],
        },
        Case {
            name: "a late answer",
            steps: vec![
                five.opens(),
                gone(),
                five.asks(),
                Change(leave_unanswered::<50_005>),
                five.is_answered(),
                five.asks(),
            ],
        },
        Case {
            name: "a backend elsewhere",
            steps: vec![
                asks_remote(),
                Change(|d| d.change_backend(backend::ELSEWHERE, |b| b.generation += 1)),
                asks_remote(),
                Ingress(
                    w.data(elsewhere, source).bytes(),
                    Sent(forwarded(w.data(remote, client))),
                ),
                asks_remote(),
            ],
        },
    ]
}

/// Lets the time pass after which a connection is reset, with a packet of the client's the last.
pub(super) fn leave_unanswered<const PORT: u16>(dataplane: &mut Dataplane) -> Result<()> {
    age::<PORT, 2, 3>(dataplane)
}

/// Makes both directions of the connection from a client's port look unused for so many moments.
fn age<const PORT: u16, const CLIENT: u32, const BACKEND: u32>(
    dataplane: &mut Dataplane,
) -> Result<()> {
    for w in Writer::each(&[Protocol::TCP]) {
        let to = (w.a.node, node_port(service::SCRATCH));
        let flow = w.flow((w.a.client, PORT), to);
        if let Some(connection) = dataplane.connection(&flow)? {
            dataplane.age(&flow, CLIENT)?;
            let aged = dataplane.age(&connection.partner(), BACKEND);
            aged.context("the other direction is there")?;
        }
    }
    Ok(())
}
