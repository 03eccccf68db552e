//! A client's stream in the hands of a parser that may give it back: what the parser has read too much is read again,
//! and whether it could write everything can be seen from outside.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A stream whose arrival of bytes can be waited for without taking them.
pub trait Readable {
    /// Ready when there may be something to read.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// A stream that begins with bytes that were read before.
#[derive(Debug)]
pub struct Socket<S> {
    stream: S,
    read: Bytes,
    /// Whether the last write or flush could not be finished. An upgraded connection moves between threads as far as
    /// types go, hence an atomic.
    blocked: Arc<AtomicBool>,
}

/// What a [`Socket`] is stuck with, seen from outside.
#[derive(Debug, Clone)]
pub struct Blocked(Arc<AtomicBool>);

impl<S> Socket<S> {
    /// `stream`, of which `read` has been read already.
    pub fn new(stream: S, read: Bytes) -> Self {
        Self {
            stream,
            read,
            blocked: Arc::default(),
        }
    }

    /// The same once somebody has given it back with `read` taken from it and not used.
    ///
    /// An empty `read` is dropped, since it may still hold on to the buffer that it was the end of.
    pub fn given_back(mut self, read: Bytes) -> Self {
        if read.is_empty() {
            return self;
        }
        if self.read.is_empty() {
            self.read = read;
        } else {
            let mut both = BytesMut::from(&read[..]);
            both.extend_from_slice(&self.read);
            self.read = both.freeze();
        }
        self
    }

    /// Whether it begins with bytes that were read before.
    pub fn has_bytes(&self) -> bool {
        !self.read.is_empty()
    }

    /// What says whether it is stuck with something to write.
    pub fn blocked(&self) -> Blocked {
        Blocked(self.blocked.clone())
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    fn noted<T>(&self, result: Poll<T>) -> Poll<T> {
        let is_blocked = result.is_pending();
        if self.blocked.load(Ordering::Relaxed) != is_blocked {
            self.blocked.store(is_blocked, Ordering::Relaxed);
        }
        result
    }
}

impl Blocked {
    /// Whether something is waiting to be written.
    pub fn is_blocked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Readable for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }
}

impl<S: Readable> Readable for Box<S> {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.as_ref().poll_readable(cx)
    }
}

impl<S: Readable> Readable for TlsStream<S> {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (stream, session) = self.get_ref();
        // What was decrypted already makes no socket readable.
        match session.wants_read() {
            true => stream.poll_readable(cx),
            false => Poll::Ready(Ok(())),
        }
    }
}

impl<S: Readable> Readable for Socket<S> {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_bytes() {
            return Poll::Ready(Ok(()));
        }
        self.stream.poll_readable(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let count = self.read.len().min(into.remaining());
        into.put_slice(&self.read[..count]);
        self.read.advance(count);
        if self.read.is_empty() {
            // The rest of an allocation should not live as long as the connection.
            self.read = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.noted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.noted(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_was_read_before_comes_first_and_in_order() {
        let (mut client, stream) = tokio::io::duplex(64);
        client.write_all(b"four").await.unwrap();
        drop(client);
        let mut socket = Socket::new(stream, Bytes::from_static(b"twothree"));
        let mut taken = [0; 3];
        socket.read_exact(&mut taken).await.unwrap();
        let mut socket = socket.given_back(Bytes::from_static(b"onetwo"));
        let mut all = String::new();
        socket.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "onetwothreefour");
    }

    #[test]
    fn nothing_left_over_holds_no_buffer() {
        let (_, stream) = tokio::io::duplex(1);
        let buffer = Bytes::from(vec![0; 8192]);
        let mut rest = buffer.clone();
        rest.advance(rest.len());
        let socket = Socket::new(stream, Bytes::new()).given_back(rest);
        assert!(buffer.is_unique() && !socket.has_bytes());
    }

    #[tokio::test]
    async fn it_is_blocked_while_its_peer_does_not_read() {
        let (mut client, stream) = tokio::io::duplex(4);
        let mut socket = Socket::new(stream, Bytes::new());
        let blocked = socket.blocked();
        assert!(!blocked.is_blocked());
        let writing = async {
            socket.write_all(b"12345").await.unwrap();
            socket.flush().await.unwrap();
        };
        let reading = async {
            assert!(blocked.is_blocked());
            client.read_exact(&mut [0; 5]).await.unwrap();
        };
        // The writer goes first and cannot finish.
        tokio::join!(writing, reading);
        assert!(!blocked.is_blocked());
    }
}
