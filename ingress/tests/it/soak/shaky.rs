//! Connections that break at a byte chosen by lot.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// A source of sources of random numbers: everybody who draws has one of their own.
#[derive(Debug, Clone)]
pub(super) struct Dice {
    next: Arc<AtomicU64>,
    is_calm: Arc<AtomicBool>,
}

/// A body in pieces.
pub(super) type Body = BoxBody<Bytes, io::Error>;

/// A connection that ends or stalls at a byte of its own.
#[derive(Debug)]
pub(super) struct Shaky {
    stream: TcpStream,
    /// Bytes in both directions until its fate strikes.
    left: usize,
    fate: Fate,
}

#[derive(Debug)]
enum Fate {
    Lives,
    Closes,
    /// By RST, with whatever the kernel still holds thrown away.
    Resets,
    Stalls(Duration),
    Stalled(Pin<Box<Sleep>>),
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            next: Arc::new(AtomicU64::new(seed << 32)),
            is_calm: Arc::default(),
        }
    }

    /// From here on nothing breaks.
    pub(super) fn calm(&self) {
        self.is_calm.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    pub(super) fn draw(&self) -> StdRng {
        StdRng::seed_from_u64(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// A time up to two seconds, as often short as long.
pub(super) fn a_while(random: &mut StdRng) -> Duration {
    let magnitude = 1_u64 << random.random_range(1..12);
    Duration::from_millis(random.random_range(0..magnitude))
}

/// `length` bytes of `filler`, of which the length is told or not; some break off.
pub(super) fn body(random: &mut StdRng, filler: u8, length: usize, may_break: bool) -> Body {
    if random.random_bool(0.5) {
        let whole = Full::from(vec![filler; length]);
        return whole.map_err(|never| match never {}).boxed();
    }
    let mut pieces = Vec::new();
    let mut left = length;
    while left > 0 {
        if may_break && random.random_bool(0.02) {
            pieces.push(Err(io::Error::other("broken off")));
            break;
        }
        let piece = random.random_range(1..20_000).min(left);
        pieces.push(Ok(Frame::data(Bytes::from(vec![filler; piece]))));
        left -= piece;
    }
    BodyExt::boxed(StreamBody::new(futures::stream::iter(pieces)))
}

impl Shaky {
    pub(super) fn new(stream: TcpStream, dice: &Dice, random: &mut StdRng) -> Self {
        let fate = match random.random_range(0..10) {
            _ if dice.is_calm() => Fate::Lives,
            0..4 => Fate::Lives,
            4..6 => Fate::Closes,
            6..8 => Fate::Resets,
            _ => Fate::Stalls(a_while(random)),
        };
        // As often among the first bytes as after many.
        let magnitude = 1_usize << random.random_range(0..20);
        Self {
            stream,
            left: random.random_range(0..magnitude),
            fate,
        }
    }

    /// Ready while it lives.
    fn poll_fate(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.left > 0 {
            return Poll::Ready(Ok(()));
        }
        if let Fate::Stalls(length) = self.fate {
            self.fate = Fate::Stalled(Box::pin(sleep(length)));
        }
        match &mut self.fate {
            Fate::Lives | Fate::Stalls(_) => {}
            Fate::Closes => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Fate::Resets => {
                SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            Fate::Stalled(over) => ready!(over.as_mut().poll(cx)),
        }
        self.fate = Fate::Lives;
        self.left = usize::MAX;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Shaky {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_fate(cx))?;
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        self.left = self.left.saturating_sub(into.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Shaky {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_fate(cx))?;
        let most = bytes.len().min(self.left);
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &bytes[..most]))?;
        self.left -= written;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
