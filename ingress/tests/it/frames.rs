//! HTTP/2 frame by frame: what a client may not send, by the sections of RFC 9113 and 7541 that h2spec goes by, and what the
//! gateway does about it.

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

async fn gateway() -> (Gateway, Backend) {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    (Gateway::start(&objects, &[]), backend)
}

/// Sends `bytes` after the beginning of a connection, then a PING, and returns what came of it.
async fn end(gateway: &Gateway, bytes: &[u8]) -> (End, Option<u16>) {
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    let probe = frame(PING, 0, 0, b"are here");
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    // It may be closed before everything is written.
    drop(stream.write_all(&[&begin, bytes, &probe].concat()).await);
    let mut reset = false;
    let mut status = None;
    let mut pinged = false;
    loop {
        // Whoever has answered the PING may still have a stream to end.
        let wait = if pinged { PATIENCE / 40 } else { PATIENCE };
        let read = timeout(wait, read_frame(&mut stream)).await;
        let Ok(read) = read else { break };
        let Some((kind, flags, payload)) = read else {
            return (End::Connection, status);
        };
        match kind {
            GOAWAY => return (End::Connection, status),
            RST_STREAM => reset = true,
            HEADERS => status = status.or(response_status(&payload)),
            PING if flags & ACK != 0 && payload == b"are here" => pinged = true,
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

async fn read_frame(stream: &mut TcpStream) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length.try_into().unwrap()];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], payload))
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
        let is_fine = match expected {
            End::Connection => found.0 == End::Connection,
            End::Stream => found.0 != End::Nothing || matches!(found.1, Some(400..=499 | 599)),
            End::Nothing => found.0 == End::Nothing,
            End::Status(status) => found == (End::Nothing, Some(*status)),
        };
        if !is_fine {
            wrong.push(format!("{name}: expected {expected:?}, found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn frames_and_their_sizes() {
    let padded = |length: u8| [&[length][..], &block(&GET)].concat();
    let data = |length: u8, rest: &[u8]| {
        [
            post(1),
            frame(DATA, PADDED | END_STREAM, 1, &[&[length], rest].concat()),
        ]
        .concat()
    };
    let flags = END_HEADERS | END_STREAM;
    check(&[
        ("3.5 nothing odd", get(1), End::Status(200)),
        (
            "4.1 a frame of unknown type",
            [frame(0x16, 0, 0, b"x"), get(1)].concat(),
            End::Status(200),
        ),
        (
            "4.1 unknown flags",
            frame(PING, 0x16, 0, b"12345678"),
            End::Nothing,
        ),
        (
            "4.1 the reserved bit",
            frame(PING, 0, 1 << 31, b"12345678"),
            End::Nothing,
        ),
        (
            "4.2 DATA of the largest size",
            [post(1), frame(DATA, END_STREAM, 1, &[0; 16_384])].concat(),
            End::Status(200),
        ),
        (
            "4.2 DATA beyond it",
            [post(1), frame(DATA, END_STREAM, 1, &[0; 16_385])].concat(),
            End::Stream,
        ),
        (
            "4.2 HEADERS beyond it",
            frame(HEADERS, flags, 1, &[0; 16_385]),
            End::Connection,
        ),
        (
            "6.1 DATA on stream 0",
            frame(DATA, 0, 0, b"x"),
            End::Connection,
        ),
        (
            "6.1 DATA on a stream that is not open",
            frame(DATA, END_STREAM, 1, b"x"),
            End::Connection,
        ),
        (
            "6.1 padding as long as DATA",
            data(6, b"test"),
            End::Connection,
        ),
        (
            "6.1 padding within DATA",
            data(3, b"testxxx"),
            End::Status(200),
        ),
        (
            "6.2 HEADERS on stream 0",
            frame(HEADERS, flags, 0, &block(&GET)),
            End::Connection,
        ),
        (
            "6.2 padding longer than HEADERS",
            frame(HEADERS, flags | PADDED, 1, &padded(255)),
            End::Connection,
        ),
        (
            "6.3 PRIORITY on stream 0",
            frame(PRIORITY, 0, 0, &[0, 0, 0, 3, 16]),
            End::Connection,
        ),
        (
            "6.3 PRIORITY of another size",
            frame(PRIORITY, 0, 1, &[0, 0, 0, 3]),
            End::Stream,
        ),
        (
            "6.4 RST_STREAM on stream 0",
            frame(RST_STREAM, 0, 0, &[0, 0, 0, 8]),
            End::Connection,
        ),
        (
            "6.4 RST_STREAM on an idle stream",
            frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
            End::Connection,
        ),
        (
            "6.4 RST_STREAM of another size",
            [post(1), frame(RST_STREAM, 0, 1, &[0, 0, 8])].concat(),
            End::Connection,
        ),
        (
            "6.6 PUSH_PROMISE from a client",
            [
                post(1),
                frame(
                    PUSH_PROMISE,
                    END_HEADERS,
                    1,
                    &[&[0, 0, 0, 2], &block(&GET)[..]].concat(),
                ),
            ]
            .concat(),
            End::Connection,
        ),
        ("6.7 PING", frame(PING, 0, 0, b"12345678"), End::Nothing),
        (
            "6.7 PING that is an answer",
            frame(PING, ACK, 0, b"12345678"),
            End::Nothing,
        ),
        (
            "6.7 PING on a stream",
            frame(PING, 0, 1, b"12345678"),
            End::Connection,
        ),
        (
            "6.7 PING of another size",
            frame(PING, 0, 0, b"123456"),
            End::Connection,
        ),
        (
            "6.8 GOAWAY on a stream",
            frame(GOAWAY, 0, 1, &[0; 8]),
            End::Connection,
        ),
    ])
    .await;
}

#[tokio::test]
async fn settings() {
    check(&[
        (
            "6.5 an answer with content",
            frame(SETTINGS, ACK, 0, &[0]),
            End::Connection,
        ),
        (
            "6.5 on a stream",
            frame(SETTINGS, 0, 1, &[0, 3, 0, 0, 0, 100]),
            End::Connection,
        ),
        (
            "6.5 of another size",
            frame(SETTINGS, 0, 0, &[0, 3, 0]),
            End::Connection,
        ),
        ("6.5.2 ENABLE_PUSH of 2", setting(2, 2), End::Connection),
        (
            "6.5.2 INITIAL_WINDOW_SIZE beyond 2^31-1",
            setting(4, 1 << 31),
            End::Connection,
        ),
        (
            "6.5.2 MAX_FRAME_SIZE below 2^14",
            setting(5, 16_383),
            End::Connection,
        ),
        (
            "6.5.2 MAX_FRAME_SIZE beyond 2^24-1",
            setting(5, 1 << 24),
            End::Connection,
        ),
        (
            "6.5.2 an unknown setting",
            [setting(0xff, 1), get(1)].concat(),
            End::Status(200),
        ),
        (
            "6.5.3 the last of two values counts",
            [setting(4, 1), setting(4, 65_535), get(1)].concat(),
            End::Status(200),
        ),
    ])
    .await;
}

#[tokio::test]
async fn windows() {
    let update = |stream, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let most = (1 << 31) - 1;
    check(&[
        ("6.9 an increment of 0", update(0, 0), End::Connection),
        (
            "6.9 an increment of 0 on a stream",
            [post(1), update(1, 0)].concat(),
            End::Stream,
        ),
        (
            "6.9 of another size",
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1]),
            End::Connection,
        ),
        (
            "6.9.1 a window beyond 2^31-1",
            [update(0, most), update(0, most)].concat(),
            End::Connection,
        ),
        (
            "6.9.1 a stream's window beyond 2^31-1",
            [post(1), update(1, most), update(1, most)].concat(),
            End::Stream,
        ),
        (
            "5.1 WINDOW_UPDATE on an idle stream",
            update(1, 100),
            End::Connection,
        ),
    ])
    .await;
}

#[tokio::test]
async fn streams() {
    let reset = frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    let end = frame(DATA, END_STREAM, 1, b"x");
    let more = frame(DATA, END_STREAM, 1, b"y");
    let trailers = |flags| frame(HEADERS, END_HEADERS | flags, 1, &block(&[("x-t", "1")]));
    let on_itself = [&[0, 0, 0, 1, 255][..], &block(&GET)].concat();
    let flags = END_HEADERS | END_STREAM | WITH_PRIORITY;
    check(&[
        (
            "5.1 CONTINUATION on an idle stream",
            frame(CONTINUATION, END_HEADERS, 1, &block(&GET)),
            End::Connection,
        ),
        (
            "5.1 DATA after END_STREAM",
            [post(1), end.clone(), more.clone()].concat(),
            End::Stream,
        ),
        (
            "5.1 HEADERS after END_STREAM",
            [get(1), get(1)].concat(),
            End::Stream,
        ),
        (
            "5.1 DATA after RST_STREAM",
            [post(1), reset.clone(), more].concat(),
            End::Stream,
        ),
        ("5.1.1 an even stream", get(2), End::Connection),
        (
            "5.1.1 a lower stream than before",
            [get(5), get(3)].concat(),
            End::Connection,
        ),
        (
            "5.3.1 a stream that depends on itself",
            frame(HEADERS, flags, 1, &on_itself),
            End::Stream,
        ),
        (
            "8.1 trailers",
            [post(1), frame(DATA, 0, 1, b"x"), trailers(END_STREAM)].concat(),
            End::Status(200),
        ),
        (
            "8.1 trailers that are not the end",
            [post(1), frame(DATA, 0, 1, b"x"), trailers(0)].concat(),
            End::Stream,
        ),
    ])
    .await;
}

#[tokio::test]
async fn continuations() {
    let (half, rest) = (block(&GET[..2]), block(&GET[2..]));
    let begin = frame(HEADERS, END_STREAM, 1, &half);
    let go_on = |flags, stream| frame(CONTINUATION, flags, stream, &rest);
    check(&[
        (
            "6.10 in two",
            [begin.clone(), go_on(END_HEADERS, 1)].concat(),
            End::Status(200),
        ),
        (
            "6.10 in four",
            [
                begin.clone(),
                go_on(0, 1),
                frame(CONTINUATION, 0, 1, &[]),
                frame(CONTINUATION, END_HEADERS, 1, &[]),
            ]
            .concat(),
            End::Status(200),
        ),
        (
            "6.10 on another stream",
            [begin.clone(), go_on(END_HEADERS, 3)].concat(),
            End::Connection,
        ),
        (
            "6.10 on stream 0",
            [begin.clone(), go_on(END_HEADERS, 0)].concat(),
            End::Connection,
        ),
        (
            "6.10 after END_HEADERS",
            [get(1), go_on(END_HEADERS, 1)].concat(),
            End::Connection,
        ),
        (
            "6.10 DATA between",
            [
                begin.clone(),
                frame(DATA, 0, 1, b"x"),
                go_on(END_HEADERS, 1),
            ]
            .concat(),
            End::Connection,
        ),
        (
            "5.5 an unknown frame between",
            [begin, frame(0x16, 0, 0, b"x"), go_on(END_HEADERS, 1)].concat(),
            End::Connection,
        ),
    ])
    .await;
}

#[tokio::test]
async fn messages() {
    let without = |name: &str| {
        let rest: Vec<_> = GET
            .into_iter()
            .filter(|(other, _)| *other != name)
            .collect();
        only(&rest)
    };
    let twice = |name: &str| {
        let again = GET.into_iter().filter(|(other, _)| *other == name);
        only(&GET.into_iter().chain(again).collect::<Vec<_>>())
    };
    let late = [&[("x-a", "1")], &GET[..]].concat();
    let empty = [GET[0], GET[1], (":path", ""), GET[3]];
    let sized = |length: &'static str, parts: &[&[u8]]| {
        let fields = [&POST[..], &[("content-length", length)]].concat();
        let mut bytes = frame(HEADERS, END_HEADERS, 1, &block(&fields));
        for (number, part) in parts.iter().enumerate() {
            let is_last = number + 1 == parts.len();
            bytes.extend(frame(DATA, if is_last { END_STREAM } else { 0 }, 1, part));
        }
        bytes
    };
    let trailer = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &block(&[(":method", "GET")]),
    );
    check(&[
        (
            "8.1.2 a name in upper case",
            with(&[("X-A", "1")]),
            End::Stream,
        ),
        (
            "8.1.2.1 an unknown pseudo-header",
            with(&[(":test", "1")]),
            End::Stream,
        ),
        (
            "8.1.2.1 that of a response",
            with(&[(":status", "200")]),
            End::Stream,
        ),
        (
            "8.1.2.1 one in trailers, which is left out",
            [post(1), frame(DATA, 0, 1, b"x"), trailer].concat(),
            End::Status(200),
        ),
        ("8.1.2.1 one after a field", only(&late), End::Stream),
        (
            "8.1.2.2 Connection",
            with(&[("connection", "keep-alive")]),
            End::Stream,
        ),
        (
            "8.1.2.2 TE other than trailers",
            with(&[("te", "trailers, deflate")]),
            End::Stream,
        ),
        (
            "8.1.2.2 TE: trailers",
            with(&[("te", "trailers")]),
            End::Status(200),
        ),
        ("8.1.2.3 an empty :path", only(&empty), End::Stream),
        ("8.1.2.3 no :method", without(":method"), End::Stream),
        ("8.1.2.3 no :scheme", without(":scheme"), End::Stream),
        ("8.1.2.3 no :path", without(":path"), End::Stream),
        ("8.1.2.3 two :method", twice(":method"), End::Stream),
        ("8.1.2.3 two :scheme", twice(":scheme"), End::Stream),
        ("8.1.2.3 two :path", twice(":path"), End::Stream),
        (
            "8.1.2.6 a length that DATA keeps",
            sized("4", &[b"te", b"st"]),
            End::Status(200),
        ),
        (
            "8.1.2.6 a length that DATA does not keep",
            sized("1", &[b"test"]),
            End::Stream,
        ),
        (
            "8.1.2.6 nor in several",
            sized("1", &[b"te", b"st"]),
            End::Stream,
        ),
        (
            "10.3 a line feed in a value",
            with(&[("x-a", "1\nx-b: 2")]),
            End::Stream,
        ),
        (
            "10.3 a NUL in a value",
            with(&[("x-a", "1\0")]),
            End::Stream,
        ),
        (
            "8.2.1 a space in a name",
            with(&[("x a", "1")]),
            End::Stream,
        ),
    ])
    .await;
}

#[tokio::test]
async fn compression() {
    let request = |block: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 1, block);
    let after = |bytes: &[u8]| request(&[&block(&GET), bytes].concat());
    // GET, http, / and a literal authority, by the static table.
    let indexed = [&[0x82, 0x86, 0x84][..], &field(":authority", "a.org")].concat();
    let indexing = [&block(&GET)[..], &[0x40, 3], b"x-a", &[1], b"1", &[0xbe]].concat();
    check(&[
        (
            "7541 2.3 the static table",
            request(&indexed),
            End::Status(200),
        ),
        (
            "7541 6.2.1 the dynamic table",
            request(&indexing),
            End::Status(200),
        ),
        (
            "7541 2.3.3 an index beyond both tables",
            after(&[0xbf]),
            End::Connection,
        ),
        ("7541 6.1 index 0", after(&[0x80]), End::Connection),
        (
            "7541 4.2 a size change after a field",
            after(&[0x20]),
            End::Connection,
        ),
        (
            "7541 6.3 a size beyond the limit",
            request(&[&[0x3f, 0xff, 0xff, 0xff, 0x07], &block(&GET)[..]].concat()),
            End::Connection,
        ),
        (
            "7541 5.2 Huffman padding of 8 bits",
            after(&[0, 3, b'x', b'-', b'a', 0x82, 0x1f, 0xff]),
            End::Connection,
        ),
        (
            "7541 5.2 Huffman padding of zeros",
            after(&[0, 3, b'x', b'-', b'a', 0x81, 0x18]),
            End::Connection,
        ),
        (
            "7541 5.2 EOS in a string",
            after(&[0, 3, b'x', b'-', b'a', 0x84, 0xff, 0xff, 0xff, 0xff]),
            End::Connection,
        ),
        (
            "4.3 a block that breaks off",
            after(&[0, 9, b'x']),
            End::Connection,
        ),
    ])
    .await;
}

#[tokio::test]
async fn another_preface_is_not_http2() {
    let (gateway, _backend) = gateway().await;
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    let bytes = b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n";
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // Closing with bytes unread resets the connection.
    drop(ended.expect("the end of the connection in time"));
}
