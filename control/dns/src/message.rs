//! Between bytes and meaning: which packets are questions for us, and how a reply becomes a packet of the right size.

use hickory_proto::op::{Edns, Header, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::op::{MessageType, emit_message_parts};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncoder};

use crate::answer::Reply;

/// The longest question taken. An honest one has a name of at most 255 bytes and a few options.
pub(crate) const MAX_QUESTION: usize = 4096;
/// The longest response over UDP, whatever the client would take: no path to a pod has to fragment it.
pub(crate) const MAX_UDP: u16 = 1232;
/// What every client takes over UDP (RFC 1035, section 4.2.1).
const MIN_UDP: u16 = 512;
/// The EDNS record of a response: we send no options.
const EDNS_SIZE: u16 = 11;

/// How a question came, and so how long the response may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// A packet that came in.
#[derive(Debug)]
pub(crate) enum Packet {
    /// A question to answer.
    Question(Box<Request>),
    /// One to decline, with this code.
    Declined(Request, ResponseCode),
    /// Nothing that may be answered: answers to answers go round forever.
    Noise,
}

/// A question and what its response has to repeat.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// What is asked; only a declined request may lack it.
    pub(crate) query: Query,
    /// True if the client wants DNSSEC's records as well.
    pub(crate) dnssec_ok: bool,
    metadata: Metadata,
    has_query: bool,
    /// What the client takes over UDP, if it speaks EDNS.
    payload: Option<u16>,
}

impl Request {
    /// True if the client does not want the upstream to check signatures.
    pub(crate) fn checking_disabled(&self) -> bool {
        self.metadata.checking_disabled
    }

    fn without_query(metadata: Metadata) -> Self {
        Self {
            query: Query::new(),
            dnssec_ok: false,
            metadata,
            has_query: false,
            payload: None,
        }
    }
}

/// Reads a packet. The header goes first: it says whether the rest is worth reading.
pub(crate) fn decode(bytes: &[u8]) -> Packet {
    let Ok(Header { metadata, counts }) = Header::read(&mut BinDecoder::new(bytes)) else {
        return Packet::Noise;
    };
    if metadata.message_type == MessageType::Response {
        return Packet::Noise;
    }
    let decline = |code| Packet::Declined(Request::without_query(metadata), code);
    if metadata.op_code != OpCode::Query {
        return decline(ResponseCode::NotImp);
    }
    if counts.queries != 1 {
        return decline(ResponseCode::FormErr);
    }
    match Message::from_vec(bytes) {
        Ok(message) => inspect(message),
        Err(error) => {
            tracing::debug!(%error, "malformed question");
            decline(ResponseCode::FormErr)
        }
    }
}

fn inspect(mut message: Message) -> Packet {
    let Some(query) = message.queries.pop() else {
        return Packet::Noise;
    };
    let edns = message.edns.as_ref();
    let request = Request {
        query,
        dnssec_ok: edns.is_some_and(|edns| edns.flags().dnssec_ok),
        metadata: message.metadata,
        has_query: true,
        payload: edns.map(Edns::max_payload),
    };
    if edns.is_some_and(|edns| edns.version() > 0) {
        return Packet::Declined(request, ResponseCode::BADVERS);
    }
    if request.query.query_class != DNSClass::IN {
        return Packet::Declined(request, ResponseCode::Refused);
    }
    match request.query.query_type {
        RecordType::AXFR | RecordType::IXFR => Packet::Declined(request, ResponseCode::Refused),
        RecordType::OPT => Packet::Declined(request, ResponseCode::FormErr),
        _ => Packet::Question(Box::new(request)),
    }
}

/// The packet that carries `reply` to whoever sent `request`.
pub(crate) fn encode(request: &Request, reply: Reply, transport: Transport) -> Option<Vec<u8>> {
    let limit = match transport {
        Transport::Tcp => u16::MAX,
        Transport::Udp => request.payload.unwrap_or(MIN_UDP).clamp(MIN_UDP, MAX_UDP),
    };
    fit(response(request, reply), limit)
}

fn response(request: &Request, reply: Reply) -> Message {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.recursion_available = true;
    metadata.authoritative = reply.authoritative;
    metadata.response_code = reply.code;
    let mut message = Message::new(metadata.id, metadata.message_type, metadata.op_code);
    message.metadata = metadata;
    if request.has_query {
        message.add_query(request.query.clone());
    }
    message.answers = reply.answers;
    message.authorities = reply.authorities;
    message.additionals = reply.additionals;
    message.edns = request.payload.map(|_| {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP);
        edns.set_dnssec_ok(request.dnssec_ok);
        edns
    });
    message
}

/// Encodes `message` in at most `limit` bytes. Additional records go first, and unmarked: nobody asked for them (RFC 2181,
/// section 9). Then whole records go from the end, and the truncation bit says so.
fn fit(mut message: Message, limit: u16) -> Option<Vec<u8>> {
    if let Some(bytes) = emit(&message, limit) {
        return Some(bytes);
    }
    message.additionals.clear();
    if let Some(bytes) = emit(&message, limit) {
        return Some(bytes);
    }
    // The encoder would leave out what comes last, and that is EDNS: so the records make room for it.
    let reserved = message.edns.as_ref().map_or(0, |_| EDNS_SIZE);
    let counts = count_fitting(&message, limit - reserved)?;
    message.answers.truncate(usize::from(counts.0));
    message.authorities.truncate(usize::from(counts.1));
    message.metadata.truncation = true;
    emit(&message, limit)
}

/// The packet, if it has room within `limit` bytes for every record.
fn emit(message: &Message, limit: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::from(MIN_UDP));
    let header = emit_into(&mut bytes, message, message.edns.as_ref(), limit)?;
    (header.metadata.truncation == message.metadata.truncation).then_some(bytes)
}

/// How many answers and authorities have room within `limit` bytes.
fn count_fitting(message: &Message, limit: u16) -> Option<(u16, u16)> {
    let header = emit_into(&mut Vec::new(), message, None, limit)?;
    Some((header.counts.answers, header.counts.authorities))
}

fn emit_into(
    bytes: &mut Vec<u8>,
    message: &Message,
    edns: Option<&Edns>,
    limit: u16,
) -> Option<Header> {
    let mut encoder = BinEncoder::new(bytes);
    encoder.set_max_size(limit);
    let written = emit_message_parts(
        &message.metadata,
        &mut message.queries.iter(),
        &mut message.answers.iter(),
        &mut message.authorities.iter(),
        &mut message.additionals.iter(),
        edns,
        None::<&Record<hickory_proto::rr::rdata::TSIG>>,
        &mut encoder,
    );
    written
        .inspect_err(|error| tracing::debug!(%error, "response cannot be encoded"))
        .ok()
}
