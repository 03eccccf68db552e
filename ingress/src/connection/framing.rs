//! The chunked coding of requests, held to its grammar byte by byte (RFC 9112 section 7.1).
//!
//! The parser takes any bytes for an extension of a chunk, and blanks behind its size. It drops both, so they reach no
//! backend; yet a message that is not what the standard says is one that another parser may read in another way. So
//! what comes is looked through on its way to the parser, which sees good bytes up to the first bad one, and no more.
//!
//! To know where chunks begin, heads are looked through too, for what says how long the body is. Nothing in them is
//! judged here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most digits of a size; more cannot be meant.
const MAX_DIGITS: u32 = 16;
/// How much of a line of a head is kept until the rest of it comes. The fields that matter here are shorter.
const MAX_LINE: usize = 256;

/// A client's stream that fails where its chunks break the grammar.
#[derive(Debug)]
pub struct Checked<S> {
    stream: S,
    framing: Framing,
    is_bad: bool,
}

/// Chunks that break the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chunk breaks the grammar")]
pub struct BadChunk;

/// Where a client's stream stands.
#[derive(Debug, Default)]
pub struct Framing {
    state: State,
    /// The beginning of a line of a head.
    line: Vec<u8>,
    head: Head,
}

/// What a head has said so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Head {
    has_lines: bool,
    is_chunked: bool,
    length: u64,
    may_switch: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a head, or before one.
    #[default]
    Head,
    /// In a body with so many bytes to come.
    Body(u64),
    /// In the line before a chunk of this size.
    Line(u64, Line),
    /// In a chunk with so many bytes to come.
    Chunk(u64),
    /// Behind a chunk, before its CR and its LF.
    ChunkCr,
    ChunkLf,
    /// In the lines behind the last chunk, and whether this one has anything in it.
    Trailers(bool),
    /// Behind a request to switch protocols, where anything may come.
    Anything,
}

/// Where the line before a chunk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// In the size, behind so many digits.
    Digits(u32),
    /// Behind a blank that only another extension may follow.
    Extension,
    NameStart,
    Name,
    /// Behind a blank that only a value or another extension may follow.
    NameEnd,
    ValueStart,
    Value,
    Quoted,
    QuotedPair,
    QuotedEnd,
    Lf,
}

impl Framing {
    /// Looks at what has come. If some of it is bad, says how much before that is good.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut at = 0;
        while at < bytes.len() {
            at += self.step(&bytes[at..]).map_err(|BadChunk| at)?;
        }
        Ok(())
    }

    /// Takes at least one of `bytes` and says how many.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        match self.state {
            State::Anything => Ok(bytes.len()),
            State::Head => Ok(self.head(bytes)),
            State::Body(left) => Ok(self.pass(bytes, left, State::Body, State::Head)),
            State::Chunk(left) => Ok(self.pass(bytes, left, State::Chunk, State::ChunkCr)),
            state => {
                self.state = next(state, bytes[0])?;
                Ok(1)
            }
        }
    }

    /// Passes over `left` bytes, as far as they are there.
    fn pass(&mut self, bytes: &[u8], left: u64, on: fn(u64) -> State, after: State) -> usize {
        let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let left = left - taken as u64;
        self.state = if left == 0 { after } else { on(left) };
        taken
    }

    /// Takes a line of a head, or what is there of it.
    fn head(&mut self, bytes: &[u8]) -> usize {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.keep(bytes);
            return bytes.len();
        };
        if self.line.is_empty() {
            self.line(&bytes[..end]);
        } else {
            self.keep(&bytes[..end]);
            let mut line = std::mem::take(&mut self.line);
            self.line(&line);
            line.clear();
            self.line = line;
        }
        end + 1
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn line(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.is_empty() {
            self.head.has_lines = true;
            return self.head.field(line);
        }
        // Lines before a request are passed over.
        if self.head.has_lines {
            self.state = self.head.body();
            self.head = Head::default();
        }
    }
}

impl Head {
    /// Notes what the line of a field says about the body.
    fn field(&mut self, line: &[u8]) {
        // Most lines begin with none of these letters.
        if !matches!(line[0].to_ascii_lowercase(), b'c' | b't' | b'u') {
            return;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let codings = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            let mut chunked = codings.filter(|coding| coding.eq_ignore_ascii_case(b"chunked"));
            self.is_chunked |= chunked.next().is_some();
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let number = std::str::from_utf8(value).ok();
            self.length = number.and_then(|number| number.parse().ok()).unwrap_or(0);
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.may_switch = true;
        }
    }

    /// What follows the head.
    fn body(self) -> State {
        match self {
            Self {
                may_switch: true, ..
            } => State::Anything,
            Self {
                is_chunked: true, ..
            } => State::Line(0, Line::Digits(0)),
            Self { length: 0, .. } => State::Head,
            Self { length, .. } => State::Body(length),
        }
    }
}

/// What comes after `state`, which is one of those that look at each byte.
fn next(state: State, byte: u8) -> Result<State, BadChunk> {
    Ok(match (state, byte) {
        (State::Line(size, at), _) => return line(size, at, byte),
        (State::ChunkCr, b'\r') => State::ChunkLf,
        (State::ChunkLf, b'\n') => State::Line(0, Line::Digits(0)),
        (State::ChunkCr | State::ChunkLf, _) => return Err(BadChunk),
        // The parser judges what is in them, as it does in heads.
        (State::Trailers(false), b'\n') => State::Head,
        (State::Trailers(_), b'\n') => State::Trailers(false),
        (State::Trailers(has_text), b'\r') => State::Trailers(has_text),
        (State::Trailers(_), _) => State::Trailers(true),
        (other, _) => other,
    })
}

/// What comes after `byte` in the line before a chunk.
fn line(size: u64, at: Line, byte: u8) -> Result<State, BadChunk> {
    let is_blank = matches!(byte, b' ' | b'\t');
    let next = match at {
        Line::Digits(count) if byte.is_ascii_hexdigit() && count < MAX_DIGITS => {
            let digit = char::from(byte).to_digit(16).unwrap_or(0);
            return Ok(State::Line(
                size << 4 | u64::from(digit),
                Line::Digits(count + 1),
            ));
        }
        Line::Digits(0) => return Err(BadChunk),
        Line::Lf if byte == b'\n' && size == 0 => return Ok(State::Trailers(false)),
        Line::Lf if byte == b'\n' => return Ok(State::Chunk(size)),
        // What may end here has a line end, another extension or a blank before that behind it.
        Line::Digits(_) | Line::Name | Line::Value | Line::QuotedEnd if byte == b'\r' => Line::Lf,
        Line::Digits(_) | Line::Value | Line::QuotedEnd if is_blank => Line::Extension,
        Line::Digits(_)
        | Line::Extension
        | Line::Name
        | Line::NameEnd
        | Line::Value
        | Line::QuotedEnd
            if byte == b';' =>
        {
            Line::NameStart
        }
        Line::Name | Line::NameEnd if byte == b'=' => Line::ValueStart,
        Line::Name if is_blank => Line::NameEnd,
        Line::ValueStart if byte == b'"' => Line::Quoted,
        Line::Extension | Line::NameStart | Line::NameEnd | Line::ValueStart if is_blank => at,
        Line::NameStart | Line::Name if is_token(byte) => Line::Name,
        Line::ValueStart | Line::Value if is_token(byte) => Line::Value,
        Line::Quoted if byte == b'"' => Line::QuotedEnd,
        Line::Quoted if byte == b'\\' => Line::QuotedPair,
        Line::Quoted | Line::QuotedPair if byte == b'\t' || !byte.is_ascii_control() => {
            Line::Quoted
        }
        _ => return Err(BadChunk),
    };
    Ok(State::Line(size, next))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

// Streams.

impl<S> Checked<S> {
    /// Checks what comes on `stream`, which stands before a head.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            framing: Framing::default(),
            is_bad: false,
        }
    }

    /// The stream itself.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Checked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        if !self.is_bad {
            ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
            let Err(good) = self.framing.read(&into.filled()[before..]) else {
                return Poll::Ready(Ok(()));
            };
            self.is_bad = true;
            into.set_filled(before + good);
            // Nothing at all would be the end of the stream.
            if good > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, BadChunk)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Checked<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str = "POST / HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: chunked\r\n\r\n";
    const NEXT: &str = "GET / HTTP/1.1\r\nHost: a.org\r\n\r\n";

    /// Checks how much of `body` is good behind a head that says that it is chunked, whatever way it comes.
    fn check(body: &str, expected: Result<(), usize>) {
        let bytes = [HEAD, body].concat();
        let expected = expected.map_err(|good| HEAD.len() + good);
        assert_eq!(
            Framing::default().read(bytes.as_bytes()),
            expected,
            "{body:?}"
        );
        let mut framing = Framing::default();
        let bad = bytes
            .bytes()
            .position(|byte| framing.read(&[byte]).is_err());
        assert_eq!(bad.map_or(Ok(()), Err), expected, "{body:?} byte by byte");
        if expected.is_ok() {
            assert_eq!(framing.state, State::Head, "{body:?}");
        }
    }

    #[test]
    fn what_the_grammar_has_is_good() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "A\r\nhelloworld\r\n00\r\n\r\n",
            "5;a\r\nhello\r\n0\r\n\r\n",
            "5;a=b;c=\"d;\\\"\te\"\r\nhello\r\n0;x\r\n\r\n",
            "5 ; a = b ;c\r\nhello\r\n0\r\n\r\n",
            "5\r\n\r\n\r\n\r\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n",
            "0\r\n\r\nGET / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 3\r\n\r\nzz\n",
        ] {
            check(body, Ok(()));
        }
    }

    #[test]
    fn what_it_does_not_have_is_bad_from_there_on() {
        for (body, good) in [
            ("\r\n", 0),
            (" 5\r\n", 0),
            ("+5\r\n", 0),
            ("0x5\r\n", 1),
            ("1_0\r\n", 1),
            ("5\n", 1),
            ("5 \r\n", 2),
            ("5;\r\n", 2),
            ("5;\0\r\n", 2),
            ("5;a\rX\r\n", 4),
            ("5;bad[=x\r\n", 5),
            ("5;a=\r\n", 4),
            ("5;a=\"b\r\n", 6),
            ("5\rhello", 2),
            ("5\r\nhello!!\r\n", 8),
            ("5\r\nhello0\r\n", 8),
            ("5\r\nhello\n", 8),
            ("00000000000000005\r\n", 16),
        ] {
            check(body, Err(good));
        }
    }

    #[test]
    fn bodies_of_known_length_and_switched_protocols_are_nobodys_business() {
        for (head, body) in [
            ("Content-Length: 6\r\n", "5 \r\n\r\n"),
            ("Content-Length: 6\r\nHost: a.org\r\n", "\r\n\r\n5\n"),
            ("Connection: upgrade\r\nUpgrade: websocket\r\n", "\0\r\n \n"),
            ("", "\r\n\r\n"),
        ] {
            let bytes = format!("POST / HTTP/1.1\r\n{head}\r\n{body}{NEXT}");
            assert_eq!(
                Framing::default().read(bytes.as_bytes()),
                Ok(()),
                "{bytes:?}"
            );
        }
        // A chunked body behind one of known length is found.
        let bytes = format!("POST / HTTP/1.1\r\ncontent-length:2\r\n\r\nab{HEAD}5 \r\n");
        assert_eq!(
            Framing::default().read(bytes.as_bytes()),
            Err(bytes.len() - 2)
        );
    }

    proptest! {
        /// Where reads cut the stream makes no difference.
        #[test]
        fn cuts_do_not_matter(
            parts in proptest::collection::vec(prop_oneof![
                Just(HEAD), Just(NEXT), Just("5\r\n"), Just("hello\r\n"), Just("0\r\n\r\n"), Just("5;a=\"b"),
                Just("\r"), Just("\n"), Just("\""), Just("Content-Length: 7\r\n"), Just("\u{fc}"),
            ], 0..20),
            size in 1usize..40,
        ) {
            let bytes = parts.concat().into_bytes();
            let whole = Framing::default().read(&bytes);
            let mut framing = Framing::default();
            let mut cut = Ok(());
            for (number, piece) in bytes.chunks(size).enumerate() {
                if let Err(good) = framing.read(piece) {
                    cut = Err(number * size + good);
                    break;
                }
            }
            prop_assert_eq!(whole, cut);
        }

        #[test]
        fn any_bytes_can_come(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [HEAD.as_bytes(), &bytes].concat();
            if let Err(good) = Framing::default().read(&bytes) {
                prop_assert!((HEAD.len()..bytes.len()).contains(&good));
            }
        }
    }
}
