//! A question's way from packet to packet. What the records can answer is answered at once, without waiting for anything;
//! only what is asked upstream waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{Name, Record};

use crate::answer::{Answer, Reply, answer};
use crate::message::{Packet, Request, Transport, decode, encode};
use crate::records::Records;
use crate::upstream::{Question, Upstream};

/// Answers packets.
#[derive(Debug)]
pub(crate) struct Resolver {
    records: Arc<RwLock<Records>>,
    upstream: Upstream,
    /// Counts questions, so that equally good records take turns in coming first.
    turn: AtomicUsize,
}

/// What to do about a packet.
#[derive(Debug)]
pub(crate) enum Step {
    /// Send this.
    Send(Vec<u8>),
    /// Ask upstream, with [`Resolver::finish`].
    Wait(Waiting),
    /// Nothing.
    Ignore,
}

/// A question that upstream has to help with.
#[derive(Debug)]
pub(crate) struct Waiting {
    request: Box<Request>,
    transport: Transport,
    aliases: Vec<Record>,
    target: Name,
}

impl Resolver {
    /// Answers from `records`, and beyond them by asking `upstream`.
    pub(crate) fn new(records: Arc<RwLock<Records>>, upstream: Upstream) -> Self {
        Self {
            records,
            upstream,
            turn: AtomicUsize::new(0),
        }
    }

    /// Takes a packet as far as it goes without waiting.
    pub(crate) fn start(&self, packet: &[u8], transport: Transport) -> Step {
        let request = match decode(packet) {
            Packet::Question(request) => request,
            Packet::Declined(request, code) => {
                return send(&request, Reply::empty(code), transport);
            }
            Packet::Noise => return Step::Ignore,
        };
        let (aliases, target) = match self.look_up(&request.query) {
            Answer::Complete(reply) => return send(&request, reply, transport),
            Answer::Elsewhere { aliases, target } => (aliases, target),
            Answer::Outside => (Vec::new(), request.query.name.clone()),
        };
        Step::Wait(Waiting {
            request,
            transport,
            aliases,
            target,
        })
    }

    /// Asks upstream. Nothing is left behind if this is cancelled.
    pub(crate) async fn finish(&self, waiting: Waiting) -> Option<Vec<u8>> {
        let Waiting {
            request,
            transport,
            aliases,
            target,
        } = waiting;
        let question = Question {
            query: Query::query(target, request.query.query_type),
            dnssec_ok: request.dnssec_ok,
            checking_disabled: request.checking_disabled(),
        };
        let mut reply = self.upstream.ask(question).await.unwrap_or_else(|error| {
            tracing::debug!(name = %request.query.name, %error, "upstream did not answer");
            Reply::empty(ResponseCode::ServFail)
        });
        // The flag speaks of the name asked for (RFC 1035, section 4.1.1), and that one is ours if it is an alias.
        reply.authoritative = !aliases.is_empty();
        reply.answers.splice(0..0, aliases);
        encode(&request, reply, transport)
    }

    fn look_up(&self, query: &Query) -> Answer {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        answer(&records, query, turn)
    }
}

fn send(request: &Request, reply: Reply, transport: Transport) -> Step {
    encode(request, reply, transport).map_or(Step::Ignore, Step::Send)
}
