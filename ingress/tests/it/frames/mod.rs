//! HTTP/2 frame by frame: what a client may send and what not, by the sections of RFC 7540 and 7541 that h2spec goes by, and
//! what the gateway does about it. All of h2spec's cases are here, by the section that it has them under.

mod compression;
mod framing;
mod generic;
mod messages;
mod records;
mod streams;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::harness::{Gateway, PATIENCE, ingress, service_of};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

// Flags.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 32;

/// What ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The connection, by a GOAWAY or by closing it.
    Connection,
    /// The stream, by RST_STREAM or an answer of 400, or the connection, which is always allowed (section 5.4).
    Stream,
    /// Nothing: a PING after it is answered.
    Nothing,
    /// Nothing, and there is a response with this status.
    Status(u16),
    /// Nothing or the connection.
    NothingOrConnection,
}

/// A frame of the gateway.
#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A field as a literal that is not indexed (RFC 7541 section 6.2.2), with names and values shorter than 127 bytes.
fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).ok().filter(|n| *n < 127).unwrap();
    [
        &[0, length(name)],
        name.as_bytes(),
        &[length(value)],
        value.as_bytes(),
    ]
    .concat()
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a.org"),
];
const POST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a.org"),
];

/// A whole request.
fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&GET))
}

/// The head of a request whose body is to come.
fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&POST))
}

/// A whole request with more fields.
fn with(more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [&GET[..], more].concat();
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields))
}

/// A whole request with these fields.
fn only(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields))
}

/// A setting.
fn setting(id: u16, value: u32) -> Vec<u8> {
    let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &payload)
}

/// A PRIORITY frame: `stream` depends on another, with a weight less one.
fn priority(stream: u32, on: u32, weight: u8) -> Vec<u8> {
    let payload = [&on.to_be_bytes()[..], &[weight]].concat();
    frame(PRIORITY, 0, stream, &payload)
}

async fn gateway() -> (Gateway, Backend) {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    (Gateway::start(&objects, &[]), backend)
}

/// Opens a connection and sends `bytes` after its beginning.
async fn open(gateway: &Gateway, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    // It may be closed before everything is written.
    drop(stream.write_all(&[&begin, bytes].concat()).await);
    stream
}

/// Sends `bytes` after the beginning of a connection, then a PING, and returns what came of it.
async fn end(gateway: &Gateway, bytes: &[u8]) -> (End, Option<u16>) {
    let stream = open(gateway, bytes).await;
    end_of(stream).await
}

/// The same once a first request, on stream 1, has had its answer.
async fn end_after_answer(gateway: &Gateway, bytes: &[u8]) -> (End, Option<u16>) {
    let mut stream = open(gateway, &get(1)).await;
    let answered = async {
        loop {
            let frame = read_frame(&mut stream).await.unwrap();
            let may_end = matches!(frame.kind, DATA | HEADERS) && frame.stream == 1;
            if may_end && frame.flags & END_STREAM != 0 {
                return;
            }
        }
    };
    timeout(PATIENCE, answered).await.unwrap();
    drop(stream.write_all(bytes).await);
    end_of(stream).await
}

/// Sends a PING and returns what comes up to its answer.
async fn end_of(mut stream: TcpStream) -> (End, Option<u16>) {
    let probe = frame(PING, 0, 0, b"are here");
    drop(stream.write_all(&probe).await);
    let mut reset = false;
    let mut status = None;
    let mut pinged = false;
    loop {
        // Whoever has answered the PING may still have a stream to end.
        let wait = if pinged { PATIENCE / 40 } else { PATIENCE };
        let read = timeout(wait, read_frame(&mut stream)).await;
        let Ok(read) = read else { break };
        let Some(frame) = read else {
            return (End::Connection, status);
        };
        match frame.kind {
            GOAWAY => return (End::Connection, status),
            RST_STREAM => reset = true,
            HEADERS => status = status.or(response_status(&frame.payload)),
            PING if frame.flags & ACK != 0 && frame.payload == b"are here" => pinged = true,
            _ => {}
        }
        if pinged && (reset || status.is_some()) {
            break;
        }
    }
    let end = match reset {
        true => End::Stream,
        false => End::Nothing,
    };
    (end, status)
}

async fn read_frame(stream: &mut TcpStream) -> Option<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length.try_into().unwrap()];
    stream.read_exact(&mut payload).await.ok()?;
    Some(Frame {
        kind: head[3],
        flags: head[4],
        stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
        payload,
    })
}

/// The status at the beginning of a block: one of the static table (RFC 7541 appendix A), or a literal whose name is there.
fn response_status(block: &[u8]) -> Option<u16> {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // A change of the table's size may come first.
    let block = match block {
        [size, rest @ ..] if size & 0xe0 == 0x20 => rest,
        block => block,
    };
    match block {
        [indexed @ 0x88..=0x8e, ..] => STATIC.get(usize::from(indexed & 0x7f) - 8).copied(),
        // Any other of ours: what it is does not matter to these tests.
        [_, ..] => Some(599),
        [] => None,
    }
}

/// Checks every row: `(section, what is sent, what ends)`.
async fn check(rows: &[(&str, Vec<u8>, End)]) {
    let (gateway, _backend) = gateway().await;
    let mut wrong = Vec::new();
    for (name, bytes, expected) in rows {
        let found = end(&gateway, bytes).await;
        wrong.extend(complaint(name, *expected, found));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The same where a first request, on stream 1, has been answered before.
async fn check_after_answer(rows: &[(&str, Vec<u8>, End)]) {
    let (gateway, _backend) = gateway().await;
    let mut wrong = Vec::new();
    for (name, bytes, expected) in rows {
        let found = end_after_answer(&gateway, bytes).await;
        wrong.extend(complaint(name, *expected, found));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn complaint(name: &str, expected: End, found: (End, Option<u16>)) -> Option<String> {
    let is_fine = match expected {
        End::Connection => found.0 == End::Connection,
        End::Stream => found.0 != End::Nothing || matches!(found.1, Some(400..=499 | 599)),
        End::Nothing => found.0 == End::Nothing,
        End::Status(status) => found == (End::Nothing, Some(status)),
        End::NothingOrConnection => found.0 != End::Stream,
    };
    (!is_fine).then(|| format!("{name}: expected {expected:?}, found {found:?}"))
}
