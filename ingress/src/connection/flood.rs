//! Frames of HTTP/2 that make work and serve no request: how many of them a client may send.
//!
//! h2 bounds what a client can make us keep (streams, resets before they are accepted, header blocks). It answers any
//! number of PINGs and SETTINGS though, and a stream that is reset as soon as it was accepted has already cost a request
//! to a backend (CVE-2019-9512, CVE-2019-9515, CVE-2023-44487). So every such frame costs credit, and credit comes with
//! time, with requests and with the bytes that the client is sent, which it has to acknowledge.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Most credit that a client can have, and what it starts with.
const MAX_CREDIT: u64 = 1_000;
/// Credit that comes with every second.
const PER_SECOND: u64 = 100;
/// Bytes sent to the client that are worth one credit: it acknowledges them by WINDOW_UPDATE, twice over.
const BYTES_PER_CREDIT: u64 = 256;

/// A client's connection that ends when its frames become a flood.
#[derive(Debug)]
pub struct Metered<S> {
    stream: S,
    meter: FrameMeter,
    flooded: Rc<Cell<bool>>,
}

/// Too many frames that serve no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a flood of HTTP/2 frames")]
pub struct Flood;

/// What has been seen of a client's frames.
#[derive(Debug)]
pub struct FrameMeter {
    /// The head of the next frame as far as it has come.
    head: [u8; 9],
    filled: usize,
    /// Bytes to pass over: the preface, then payloads.
    skip: usize,
    credit: u64,
    refilled: Instant,
    written: u64,
}

impl FrameMeter {
    /// A meter for a connection on which nothing has come.
    pub fn new(now: Instant) -> Self {
        Self {
            head: [0; 9],
            filled: 0,
            skip: super::PREFACE.len(),
            credit: MAX_CREDIT,
            refilled: now,
            written: 0,
        }
    }

    /// Looks at what the client has sent by `now`.
    pub fn read(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        self.refill(now);
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            let taken = bytes.len().min(self.head.len() - self.filled);
            let (head, rest) = bytes.split_at(taken);
            self.head[self.filled..self.filled + taken].copy_from_slice(head);
            (self.filled, bytes) = (self.filled + taken, rest);
            if self.filled == self.head.len() {
                self.filled = 0;
                self.frame()?;
            }
        }
        Ok(())
    }

    /// So many bytes were sent to the client.
    pub fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }

    fn refill(&mut self, now: Instant) {
        let seconds = (now - self.refilled).as_secs();
        self.refilled += Duration::from_secs(seconds);
        self.earn(seconds.saturating_mul(PER_SECOND) + self.written / BYTES_PER_CREDIT);
        self.written %= BYTES_PER_CREDIT;
    }

    fn earn(&mut self, credit: u64) {
        self.credit = self.credit.saturating_add(credit).min(MAX_CREDIT);
    }

    fn pay(&mut self, credit: u64) -> Result<(), Flood> {
        self.credit = self.credit.checked_sub(credit).ok_or(Flood)?;
        Ok(())
    }

    /// A whole head has come (RFC 9113 section 4.1).
    fn frame(&mut self) -> Result<(), Flood> {
        const DATA: u8 = 0;
        const HEADERS: u8 = 1;
        const RST_STREAM: u8 = 3;
        const END_STREAM: u8 = 1;
        let [high, middle, low, kind, flags, ..] = self.head;
        self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        match kind {
            DATA if self.skip > 0 || flags & END_STREAM != 0 => Ok(()),
            HEADERS => {
                self.earn(1);
                Ok(())
            }
            // More than a request earns: who resets more than every second stream is not using them.
            RST_STREAM => self.pay(2),
            _ => self.pay(1),
        }
    }
}

impl<S> Metered<S> {
    /// Meters what comes on `stream`, and says in `flooded` why the stream fails, if that is why.
    pub fn new(stream: S, flooded: Rc<Cell<bool>>) -> Self {
        Self {
            stream,
            meter: FrameMeter::new(Instant::now()),
            flooded,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        let read = &into.filled()[before..];
        let checked = self.meter.read(read, Instant::now());
        self.flooded.set(checked.is_err());
        Poll::Ready(checked.map_err(io::Error::other))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.meter.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bytes))?;
        self.meter.wrote(written);
        Poll::Ready(Ok(written))
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
    use crate::connection::PREFACE;
    use proptest::prelude::*;

    /// A frame with a payload of `length` zeros.
    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.resize(9 + usize::from(length), 0);
        frame
    }

    fn meter(now: Instant) -> FrameMeter {
        let mut meter = FrameMeter::new(now);
        assert_eq!(meter.read(PREFACE, now), Ok(()));
        meter
    }

    /// How many times a client may send `frames` at one moment, up to 10,000.
    fn endurance(frames: &[&[u8]]) -> usize {
        let (now, bytes) = (Instant::now(), frames.concat());
        let mut meter = meter(now);
        let times = 0..10_000;
        times
            .take_while(|_| meter.read(&bytes, now).is_ok())
            .count()
    }

    #[test]
    fn frames_that_serve_no_request_are_limited_and_requests_are_not() {
        let (ping, settings, priority) = (frame(6, 0, 8), frame(4, 0, 6), frame(2, 0, 5));
        let (headers, reset, window) = (frame(1, 5, 30), frame(3, 0, 4), frame(8, 0, 4));
        let (data, empty, end) = (frame(0, 0, 100), frame(0, 0, 0), frame(0, 1, 0));
        for flood in [&ping, &settings, &priority, &window, &empty] {
            assert_eq!(endurance(&[flood]), 1_000, "{flood:?}");
        }
        // A stream that is reset costs more than it earns, and two streams of which one is reset do not.
        assert_eq!(endurance(&[&headers, &reset]), 999);
        assert_eq!(endurance(&[&headers, &headers, &reset]), 10_000);
        assert_eq!(endurance(&[&headers, &data, &end, &window]), 10_000);
    }

    #[test]
    fn credit_comes_with_time_and_with_what_the_client_is_sent() {
        let (start, ping) = (Instant::now(), frame(6, 0, 8));
        let mut meter = meter(start);
        for _ in 0..MAX_CREDIT {
            assert_eq!(meter.read(&ping, start), Ok(()));
        }
        let later = start + Duration::from_secs(2);
        for _ in 0..2 * PER_SECOND {
            assert_eq!(meter.read(&ping, later), Ok(()));
        }
        meter.wrote(1024);
        for _ in 0..4 {
            assert_eq!(meter.read(&ping, later), Ok(()));
        }
        assert_eq!(meter.read(&ping, later), Err(Flood));
    }

    proptest! {
        /// Where reads cut the stream makes no difference.
        #[test]
        fn cuts_do_not_matter(
            frames in proptest::collection::vec((0u8..12, 0u8..2, 0u8..40), 0..60),
            size in 1usize..50,
        ) {
            let frames = frames.into_iter().flat_map(|(kind, flags, length)| frame(kind, flags, length));
            let (bytes, now) = (frames.collect::<Vec<u8>>(), Instant::now());
            let (mut whole, mut cut) = (meter(now), meter(now));
            prop_assert_eq!(whole.read(&bytes, now), Ok(()));
            for piece in bytes.chunks(size) {
                prop_assert_eq!(cut.read(piece, now), Ok(()));
            }
            prop_assert_eq!(whole.credit, cut.credit);
            prop_assert_eq!((whole.skip, whole.filled), (cut.skip, cut.filled));
        }
    }
}
