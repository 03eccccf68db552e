//! The cases of Http11Probe (<https://github.com/MDA2AV/Http11Probe>, MIT) that rest on a MUST of the standard, by their
//! names there.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::client::raw;
use crate::harness::{Gateway, PATIENCE, ingress, service_of};

/// How many there are.
const ALL: usize = 113;

/// What must be refused. `{H}` stands for a good `Host` line, here and below.
#[rustfmt::skip]
const REFUSED: &[(&str, &[u8])] = &[
    ("RFC9110-5.6.2-SP-BEFORE-COLON", b"GET / HTTP/1.1\r\n{H}X-Test : value\r\n\r\n"),
    ("RFC9112-5.1-OBS-FOLD", b"GET / HTTP/1.1\r\n{H}X-Test: value\r\n continued\r\n\r\n"),
    ("RFC9112-7.1-MISSING-HOST", b"GET / HTTP/1.1\r\n\r\n"),
    ("RFC9110-5.4-DUPLICATE-HOST", b"GET / HTTP/1.1\r\n{H}Host: other.example.com\r\n\r\n"),
    ("COMP-DUPLICATE-HOST-SAME", b"GET / HTTP/1.1\r\n{H}{H}\r\n"),
    ("RFC9112-3-CR-ONLY-LINE-ENDING", b"GET / HTTP/1.1\r{H}\r\n"),
    ("RFC9112-5-EMPTY-HEADER-NAME", b"GET / HTTP/1.1\r\n{H}: empty-name\r\n\r\n"),
    ("RFC9112-5-INVALID-HEADER-NAME", b"GET / HTTP/1.1\r\n{H}Bad[Name: value\r\n\r\n"),
    ("RFC9112-5-HEADER-NO-COLON", b"GET / HTTP/1.1\r\n{H}NoColonHere\r\n\r\n"),
    ("COMP-WHITESPACE-BEFORE-HEADERS", b"GET / HTTP/1.1\r\n \r\n{H}\r\n"),
    ("RFC9112-3-MISSING-TARGET", b"GET HTTP/1.1\r\n{H}\r\n"),
    ("COMP-ASTERISK-WITH-GET", b"GET * HTTP/1.1\r\n{H}\r\n"),
    ("COMP-HOST-WITH-USERINFO", b"GET / HTTP/1.1\r\nHost: user@a.org\r\n\r\n"),
    ("COMP-HOST-WITH-PATH", b"GET / HTTP/1.1\r\nHost: a.org/path\r\n\r\n"),
    ("COMP-HOST-EMPTY-VALUE", b"GET / HTTP/1.1\r\nHost: \r\n\r\n"),
    ("COMP-VERSION-MISSING-MINOR", b"GET / HTTP/1\r\n{H}\r\n"),
    ("COMP-VERSION-LEADING-ZEROS", b"GET / HTTP/01.01\r\n{H}\r\n"),
    ("COMP-VERSION-WHITESPACE", b"GET / HTTP/ 1.1\r\n{H}\r\n"),
    ("COMP-VERSION-CASE", b"GET / http/1.1\r\n{H}\r\n"),
    ("COMP-SPACE-IN-TARGET", b"GET /pa th HTTP/1.1\r\n{H}\r\n"),
    ("RFC9112-6.1-CL-NON-NUMERIC", b"POST / HTTP/1.1\r\n{H}Content-Length: abc\r\n\r\n"),
    ("RFC9112-6.1-CL-PLUS-SIGN", b"POST / HTTP/1.1\r\n{H}Content-Length: +5\r\n\r\nhello"),
    ("SMUG-DUPLICATE-CL", b"POST / HTTP/1.1\r\n{H}Content-Length: 5\r\nContent-Length: 10\r\n\r\nhelloworld"),
    ("SMUG-CL-COMMA-DIFFERENT", b"POST / HTTP/1.1\r\n{H}Content-Length: 5, 10\r\n\r\nhello"),
    ("SMUG-CL-NEGATIVE", b"POST / HTTP/1.1\r\n{H}Content-Length: -1\r\n\r\n"),
    ("SMUG-CL-NEGATIVE-ZERO", b"POST / HTTP/1.1\r\n{H}Content-Length: -0\r\n\r\n"),
    ("SMUG-CL-UNDERSCORE", b"POST / HTTP/1.1\r\n{H}Content-Length: 1_0\r\n\r\nhelloworld"),
    ("SMUG-CL-OCTAL", b"POST / HTTP/1.1\r\n{H}Content-Length: 0o5\r\n\r\nhello"),
    ("SMUG-CL-HEX-PREFIX", b"POST / HTTP/1.1\r\n{H}Content-Length: 0x5\r\n\r\nhello"),
    ("SMUG-CL-INTERNAL-SPACE", b"POST / HTTP/1.1\r\n{H}Content-Length: 1 0\r\n\r\nhello12345"),
    ("SMUG-TE-SP-BEFORE-COLON", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\nhello"),
    ("SMUG-TE-NOT-FINAL-CHUNKED", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("SMUG-TE-HTTP10", b"POST / HTTP/1.0\r\n{H}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello"),
    ("SMUG-TE-EMPTY-VALUE", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: \r\nContent-Length: 5\r\n\r\nhello"),
    ("SMUG-TE-DUPLICATE-HEADERS", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello"),
    ("SMUG-TE-IDENTITY", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello"),
    ("SMUG-TE-VTAB", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: \x0bchunked\r\nContent-Length: 5\r\n\r\nhello"),
    ("SMUG-TE-FORMFEED", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: \x0cchunked\r\nContent-Length: 5\r\n\r\nhello"),
    ("SMUG-TE-NULL", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\x00\r\nContent-Length: 5\r\n\r\nhello"),
    ("SMUG-BARE-CR-HEADER-VALUE", b"POST / HTTP/1.1\r\n{H}Content-Length: 5\r\nX-Test: val\rue\r\n\r\nhello"),
    ("SMUG-MULTIPLE-HOST-COMMA", b"GET / HTTP/1.1\r\nHost: a.org, other.example.com\r\n\r\n"),
    ("SMUG-TE-OBS-FOLD", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\nhello"),
    ("SMUG-CHUNK-BARE-SEMICOLON", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5;\r\nhello\r\n0\r\n\r\n"),
    ("SMUG-CHUNK-HEX-PREFIX", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"),
    ("SMUG-CHUNK-UNDERSCORE", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n1_0\r\nhello world!!!!!\r\n0\r\n\r\n"),
    ("SMUG-CHUNK-LEADING-SP", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n"),
    ("SMUG-CHUNK-MISSING-TRAILING-CRLF", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n"),
    ("SMUG-CHUNK-SPILL", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5\r\nhello!!\r\n0\r\n\r\n"),
    ("SMUG-CHUNK-NEGATIVE", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n"),
    ("SMUG-CHUNK-EXT-CTRL", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5;\x00ext\r\nhello\r\n0\r\n\r\n"),
    ("SMUG-CHUNK-EXT-CR", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5;a\x0dX\r\nhello\r\n0\r\n\r\n"),
    ("SMUG-CHUNK-BARE-CR-TERM", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5\rhello\r\n0\r\n\r\n"),
    ("SMUG-TE-XCHUNKED", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n\r\nhello"),
    ("SMUG-CHUNK-SIZE-PLUS", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n"),
    ("SMUG-CHUNK-SIZE-TRAILING-OWS", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n"),
    ("SMUG-CHUNK-EXT-INVALID-TOKEN", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5;bad[=x\r\nhello\r\n0\r\n\r\n"),
    ("SMUG-OPTIONS-TE-OBS-FOLD", b"OPTIONS / HTTP/1.1\r\n{H}Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\n{H}\r\n"),
    ("SMUG-CHUNK-INVALID-SIZE-DESYNC", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\nXGET / HTTP/1.1\r\n{H}\r\n"),
    ("MAL-NUL-IN-URL", b"GET /\x00test HTTP/1.1\r\n{H}\r\n"),
    ("MAL-CONTROL-CHARS-HEADER", b"GET / HTTP/1.1\r\n{H}X-Test: abc\x07\x08\x0Bdef\r\n\r\n"),
    ("MAL-NON-ASCII-HEADER-NAME", b"GET / HTTP/1.1\r\n{H}X-T\xc3\xabst: value\r\n\r\n"),
    ("MAL-NON-ASCII-URL", b"GET /caf\xc3\xa9 HTTP/1.1\r\n{H}\r\n"),
    ("MAL-CL-OVERFLOW", b"POST / HTTP/1.1\r\n{H}Content-Length: 99999999999999999999\r\n\r\n"),
    ("MAL-NUL-IN-HEADER-VALUE", b"GET / HTTP/1.1\r\n{H}X-Test: val\x00ue\r\n\r\n"),
    ("MAL-CHUNK-SIZE-OVERFLOW", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF0\r\nhello\r\n0\r\n\r\n"),
    ("MAL-CL-EMPTY", b"POST / HTTP/1.1\r\n{H}Content-Length: \r\n\r\n"),
    ("MAL-URL-OVERLONG-UTF8", b"GET /\xc0\xaf HTTP/1.1\r\n{H}\r\n"),
    ("NORM-SP-BEFORE-COLON-CL", b"POST /echo HTTP/1.1\r\n{H}Content-Length: 11\r\nContent-Length : 5\r\n\r\nhello world"),
    ("NORM-TAB-IN-NAME", b"POST /echo HTTP/1.1\r\n{H}Content-Length: 11\r\nContent\tLength: 99\r\n\r\nhello world"),
    ("COMP-UNKNOWN-TE-501", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: gzip\r\n\r\n"),
    ("SMUG-CLTE-SMUGGLED-GET-CL-PLUS", b"POST / HTTP/1.1\r\n{H}Content-Length: +36\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n{H}\r\n"),
    ("SMUG-CLTE-SMUGGLED-GET-CL-NON-NUMERIC", b"POST / HTTP/1.1\r\n{H}Content-Length: 36x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n{H}\r\n"),
    ("SMUG-CLTE-SMUGGLED-GET-TE-OBS-FOLD", b"POST / HTTP/1.1\r\n{H}Content-Length: 36\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n{H}\r\n"),
    ("SMUG-TE-DUPLICATE-HEADERS-SMUGGLED-GET", b"POST / HTTP/1.1\r\n{H}Content-Length: 36\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n{H}\r\n"),
    ("SMUG-DUPLICATE-CL-SMUGGLED-GET", b"POST / HTTP/1.1\r\n{H}Content-Length: 4\r\nContent-Length: 35\r\n\r\nPINGGET / HTTP/1.1\r\n{H}\r\n"),
];

/// What is answered once, with a refusal or not, and then ends the connection: what follows is no request.
#[rustfmt::skip]
const LAST: &[(&str, &[u8])] = &[
    ("SMUG-CLTE-PIPELINE", b"0\r\n\r"),
    ("SMUG-TECL-PIPELINE", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\nContent-Length: 30\r\n\r\n0\r\n\r\n"),
    ("SMUG-CLTE-CONN-CLOSE", b"POST / HTTP/1.1\r\n{H}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n{H}\r\n"),
    ("SMUG-TECL-CONN-CLOSE", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n{H}\r\n"),
    ("SMUG-CLTE-DESYNC", b"POST / HTTP/1.1\r\n{H}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nXGET / HTTP/1.1\r\n{H}\r\n"),
    ("SMUG-CLTE-SMUGGLED-GET", b"POST / HTTP/1.1\r\n{H}Content-Length: 36\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n{H}\r\n"),
    ("SMUG-TECL-DESYNC", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\nContent-Length: 30\r\n\r\n0\r\n\r\nXGET / HTTP/1.1\r\n{H}\r\n"),
    ("SMUG-TE-TRAILING-SPACE", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked \r\nContent-Length: 5\r\n\r\nhello"),
    ("SMUG-CLTE-SMUGGLED-HEAD", b"POST / HTTP/1.1\r\n{H}Content-Length: 37\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHEAD / HTTP/1.1\r\n{H}\r\n"),
    ("SMUG-CLTE-SMUGGLED-GET-TE-TRAILING-SPACE", b"POST / HTTP/1.1\r\n{H}Content-Length: 36\r\nTransfer-Encoding: chunked \r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n{H}\r\n"),
    ("SMUG-CLTE-SMUGGLED-GET-TE-LEADING-COMMA", b"POST / HTTP/1.1\r\n{H}Content-Length: 36\r\nTransfer-Encoding: , chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n{H}\r\n"),
    ("SMUG-CLTE-SMUGGLED-GET-TE-CASE-MISMATCH", b"POST / HTTP/1.1\r\n{H}Content-Length: 36\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n{H}\r\n"),
    ("SMUG-TECL-SMUGGLED-GET", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n32\r\nGET / HTTP/1.1\r\n{H}Content-Length: 7\r\n\r\n\r\n0\r\n\r\n"),
];

/// Bodies that do not come whole.
#[rustfmt::skip]
const INCOMPLETE: &[(&str, &[u8])] = &[
    ("COMP-POST-CL-UNDERSEND", b"POST / HTTP/1.1\r\n{H}Content-Length: 10\r\n\r\nhello"),
    ("COMP-CHUNKED-NO-FINAL", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    ("MAL-POST-CL-HUGE-NO-BODY", b"POST / HTTP/1.1\r\n{H}Content-Length: 999999999\r\n\r\n"),
];

/// What must arrive, with the body that the backend sees.
#[rustfmt::skip]
const ACCEPTED: &[(&str, &[u8], &str)] = &[
    ("COMP-POST-CL-BODY", b"POST / HTTP/1.1\r\n{H}Content-Length: 5\r\n\r\nhello", "hello"),
    ("COMP-POST-CL-ZERO", b"POST / HTTP/1.1\r\n{H}Content-Length: 0\r\n\r\n", ""),
    ("COMP-POST-NO-CL-NO-TE", b"POST / HTTP/1.1\r\n{H}\r\n", ""),
    ("COMP-RANGE-POST", b"POST / HTTP/1.1\r\n{H}Content-Length: 5\r\nRange: bytes=0-10\r\n\r\nhello", "hello"),
    ("COMP-CHUNKED-BODY", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello"),
    ("COMP-CHUNKED-MULTI", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world"),
    ("COMP-CHUNKED-EMPTY", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""),
    ("COMP-CHUNKED-HEX-UPPERCASE", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\nA\r\nhelloworld\r\n0\r\n\r\n", "helloworld"),
    ("COMP-CHUNKED-TRAILER-VALID", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Checksum: abc\r\n\r\n", "hello"),
    ("COMP-CHUNKED-EXTENSION", b"POST / HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5;ext=value\r\nhello\r\n0\r\n\r\n", "hello"),
    ("COMP-NO-1XX-HTTP10", b"POST / HTTP/1.0\r\n{H}Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", "hello"),
];

/// What must be answered well, and not by switching protocols.
#[rustfmt::skip]
const ANSWERED: &[(&str, &[u8])] = &[
    ("COMP-CONNECTION-CLOSE", b"GET / HTTP/1.1\r\n{H}Connection: close\r\n\r\n"),
    ("COMP-OPTIONS-STAR", b"OPTIONS * HTTP/1.1\r\n{H}\r\n"),
    ("COMP-UPGRADE-HTTP10", b"GET / HTTP/1.0\r\n{H}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"),
    ("COMP-UPGRADE-POST", b"POST / HTTP/1.1\r\n{H}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"),
    ("COMP-UPGRADE-MISSING-CONN", b"GET / HTTP/1.1\r\n{H}Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"),
    ("COMP-UPGRADE-UNKNOWN", b"GET / HTTP/1.1\r\n{H}Connection: Upgrade\r\nUpgrade: totally-made-up/1.0\r\n\r\n"),
    ("COMP-UPGRADE-INVALID-VER", b"GET / HTTP/1.1\r\n{H}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 99\r\n\r\n"),
    ("COMP-HEAD-NO-BODY", b"HEAD / HTTP/1.1\r\n{H}\r\n"),
    ("COMP-405-ALLOW", b"DELETE / HTTP/1.1\r\n{H}\r\n"),
    ("COMP-DATE-HEADER", b"GET / HTTP/1.1\r\n{H}\r\n"),
    ("COMP-NO-CL-IN-204", b"OPTIONS / HTTP/1.1\r\n{H}\r\n"),
];

async fn gateway(more: &[&str]) -> (Gateway, Backend) {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    (Gateway::start(&objects, more), backend)
}

/// `bytes` with `Host` lines for their placeholders.
fn filled(bytes: &[u8]) -> Vec<u8> {
    let mut filled = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(3).position(|window| window == b"{H}") {
        filled.extend_from_slice(&rest[..at]);
        filled.extend_from_slice(b"Host: a.org\r\n");
        rest = &rest[at + 3..];
    }
    filled.extend_from_slice(rest);
    filled
}

fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    status.unwrap_or(0)
}

/// How many answers there are. What a backend tells of a request may name the protocol too, but never with a status.
fn status_lines(answer: &str) -> usize {
    let is_status = |rest: &&str| rest.as_bytes().first().is_some_and(u8::is_ascii_digit);
    answer.split("HTTP/1.1 ").skip(1).filter(is_status).count()
}

/// The head and the body of the one answer to `bytes`, on a connection that need not end with it.
async fn answer(gateway: &Gateway, bytes: &[u8]) -> (String, String) {
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    stream.write_all(&filled(bytes)).await.unwrap();
    let reading = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.split('\r').next());
        let is_head = bytes.starts_with(b"HEAD");
        let length = length
            .filter(|_| !is_head)
            .map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        (head, String::from_utf8(body).unwrap())
    };
    timeout(PATIENCE, reading).await.unwrap()
}

#[test]
fn no_case_is_left_out() {
    let named = [REFUSED, LAST, INCOMPLETE, ANSWERED].concat();
    let named = named.iter().map(|(name, _)| *name);
    let all: std::collections::BTreeSet<&str> = named
        .chain(ACCEPTED.iter().map(|(name, ..)| *name))
        .collect();
    assert_eq!(all.len(), ALL);
}

#[tokio::test]
async fn what_must_be_refused_is_and_ends_the_connection() {
    let (gateway, _backend) = gateway(&[]).await;
    let mut wrong = Vec::new();
    for (name, bytes) in REFUSED {
        let answer = raw(gateway.http, &filled(bytes)).await;
        let is_once = status_lines(&answer) <= 1;
        if !matches!(status(&answer), 400 | 501) || !is_once {
            wrong.push((name, answer));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn what_is_ambiguous_is_the_last_of_its_connection() {
    let (gateway, _backend) = gateway(&[]).await;
    let mut wrong = Vec::new();
    for (name, bytes) in LAST {
        let answer = raw(gateway.http, &filled(bytes)).await;
        let is_once = status_lines(&answer) == 1;
        if !matches!(status(&answer), 200 | 400 | 501) || !is_once {
            wrong.push((name, answer));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn bodies_that_do_not_come_whole_are_never_passed_for_whole() {
    let (gateway, backend) = gateway(&["--client-timeout=200ms"]).await;
    for (name, bytes) in INCOMPLETE {
        let answer = raw(gateway.http, &filled(bytes)).await;
        assert!(matches!(status(&answer), 408 | 413), "{name}: {answer}");
    }
    assert!(backend.requests() <= 2, "{}", backend.requests());
}

#[tokio::test]
async fn what_must_arrive_does() {
    let (gateway, _backend) = gateway(&[]).await;
    for (name, bytes, body) in ACCEPTED {
        let (head, seen) = answer(&gateway, bytes).await;
        assert_eq!(status(&head), 200, "{name}: {head}");
        let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
        assert_eq!(seen["body"], *body, "{name}");
    }
}

#[tokio::test]
async fn what_must_be_answered_is() {
    let (gateway, _backend) = gateway(&[]).await;
    for (name, bytes) in ANSWERED {
        let (head, _) = answer(&gateway, bytes).await;
        assert_eq!(status(&head), 200, "{name}: {head}");
        assert!(head.contains("\r\ndate: "), "{name}: {head}");
    }
    let close = b"GET / HTTP/1.1\r\n{H}Connection: close\r\n\r\n";
    let answer = raw(gateway.http, &filled(close)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
