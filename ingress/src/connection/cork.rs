//! A stream that gathers what is written until the connection on it has no more to do.
//!
//! h2 flushes after every DATA frame of 256 bytes or more, so answers of several streams that are ready together would
//! each take a write of their own, and over TLS a record. Here a flush by the connection passes without a write; once the
//! connection has been polled and waits, what it has written is sent and flushed with its waker. So nothing is kept back
//! while it waits and the stream takes it. What the stream does not take is bounded: a connection that has written a whole
//! record more has to wait.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice};
use std::iter;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are gathered at most: what a record of TLS can carry (RFC 8446 section 5.1). What is more is sent in
/// multiples of it.
const RECORD: usize = 16 * 1024;
/// Slices that are passed on in one write; h2 has three.
const MAX_SLICES: usize = 8;

/// A connection on a [`Corked`] stream, which it uncorks each time that it was polled.
#[derive(Debug)]
pub struct Uncorking<C, S> {
    connection: C,
    cork: Rc<RefCell<Cork<S>>>,
}

/// A stream that writes when it must, or when it is uncorked.
#[derive(Debug)]
pub struct Corked<S>(Rc<RefCell<Cork<S>>>);

#[derive(Debug)]
struct Cork<S> {
    stream: S,
    /// What was written and not sent, at most a record. Without anything in it, it has no room either, since most
    /// connections are idle most of the time.
    gathered: Vec<u8>,
    /// Why it could not be sent, until the connection hears of it.
    failed: Option<io::Error>,
}

impl<C, S> Uncorking<C, S> {
    /// The connection that `connect` makes on `stream`.
    pub fn new(stream: S, connect: impl FnOnce(Corked<S>) -> C) -> Self {
        let cork = Rc::new(RefCell::new(Cork {
            stream,
            gathered: Vec::new(),
            failed: None,
        }));
        let connection = connect(Corked(cork.clone()));
        Self { connection, cork }
    }
}

impl<C: Unpin, S> Uncorking<C, S> {
    /// The connection itself, to be told something; it is polled through this type alone.
    pub fn connection(&mut self) -> Pin<&mut C> {
        Pin::new(&mut self.connection)
    }
}

impl<C: Future + Unpin, S: AsyncWrite + Unpin> Future for Uncorking<C, S> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let polled = self.connection().poll(cx);
        // One that has ended waits for nothing: a proper end was sent when it shut the stream down, and of an improper one
        // goes what the stream takes.
        self.cork.borrow_mut().uncork(cx);
        polled
    }
}

impl<S: AsyncWrite + Unpin> Cork<S> {
    /// Sends what it can, and has the task woken when it can send more or has failed.
    fn uncork(&mut self, cx: &mut Context<'_>) {
        if self.failed.is_some() {
            return;
        }
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            self.failed = Some(error);
            // h2 flushes whenever it is polled, which is how the connection hears of it.
            cx.waker().wake_by_ref();
        }
    }

    /// Sends all that was gathered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // Nothing is sent after what is still on its way: rustls would take another 64 KiB.
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            if self.gathered.is_empty() {
                self.gathered = Vec::new();
                return Poll::Ready(Ok(()));
            }
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered))?;
            self.gathered.drain(..progress(sent)?);
        }
    }

    /// Gathers `slices` as far as there is room for them, or else sends of both what makes whole records.
    fn poll_gather(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.heard()?;
        let length = slices.iter().map(|slice| slice.len()).sum::<usize>();
        while self.gathered.len() + length > RECORD {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            let sent = ready!(self.poll_write_together(cx, slices, length))?;
            let gathered = progress(sent)?.min(self.gathered.len());
            self.gathered.drain(..gathered);
            if sent > gathered {
                return Poll::Ready(Ok(sent - gathered));
            }
        }
        if self.gathered.capacity() == 0 && length > 0 {
            self.gathered.reserve_exact(RECORD);
        }
        for slice in slices {
            self.gathered.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }

    /// Writes what was gathered and what follows it, in all more than a record, up to a multiple of a record.
    fn poll_write_together(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        length: usize,
    ) -> Poll<io::Result<usize>> {
        let all = self.gathered.len() + length;
        let mut left = all - all % RECORD;
        let mut together = [IoSlice::new(&[]); MAX_SLICES];
        let parts = iter::once(&self.gathered[..]).chain(slices.iter().map(|slice| &slice[..]));
        for (to, from) in together.iter_mut().zip(parts) {
            let taken = left.min(from.len());
            *to = IoSlice::new(&from[..taken]);
            left -= taken;
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, &together)
    }

    fn heard(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

/// A stream that takes nothing will not take more when it is asked again.
fn progress(sent: usize) -> io::Result<usize> {
    match sent {
        0 => Err(ErrorKind::WriteZero.into()),
        sent => Ok(sent),
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Corked<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_gather(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.borrow_mut().heard())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut cork = self.0.borrow_mut();
        cork.heard()?;
        ready!(cork.poll_send(cx))?;
        Pin::new(&mut cork.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use std::collections::VecDeque;
    use std::future::{pending, poll_fn};
    use std::task::Waker;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What a stream does with a write.
    #[derive(Debug, Clone, Copy)]
    enum Take {
        All,
        Some(usize),
        Nothing,
        Fail,
    }

    /// A stream that keeps what it takes, write by write.
    #[derive(Debug, Default)]
    struct Taker {
        /// What becomes of the next writes; of all others it takes everything.
        next: VecDeque<Take>,
        taken: Vec<Vec<u8>>,
    }

    impl Taker {
        fn that(next: &[Take]) -> Self {
            let next = next.iter().copied().collect();
            Self {
                next,
                taken: Vec::new(),
            }
        }
    }

    impl AsyncWrite for Taker {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let count = match self.next.pop_front().unwrap_or(Take::All) {
                Take::All => bytes.len(),
                Take::Some(most) => bytes.len().min(most),
                Take::Nothing => return Poll::Pending,
                Take::Fail => return Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
            };
            self.taken.push(bytes[..count].to_vec());
            Poll::Ready(Ok(count))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let bytes = slices.iter().flat_map(|slice| slice.iter().copied());
            self.poll_write(cx, &bytes.collect::<Vec<u8>>())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// A connection on `stream` that is moved by hand: the stream as it sees it, and what polls it.
    fn on(stream: Taker) -> (Corked<Taker>, Uncorking<std::future::Pending<()>, Taker>) {
        let mut corked = None;
        let uncorking = Uncorking::new(stream, |stream| {
            corked = Some(stream);
            pending()
        });
        (corked.unwrap(), uncorking)
    }

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn write(corked: &mut Corked<Taker>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(corked).poll_write(&mut context(), bytes)
    }

    fn flush(corked: &mut Corked<Taker>) -> Poll<io::Result<()>> {
        Pin::new(corked).poll_flush(&mut context())
    }

    fn uncork(uncorking: &mut Uncorking<std::future::Pending<()>, Taker>) {
        assert!(Pin::new(uncorking).poll(&mut context()).is_pending());
    }

    #[test]
    fn small_writes_and_flushes_are_one_write_once_the_connection_waits() {
        let (mut corked, mut uncorking) = on(Taker::default());
        for _ in 0..8 {
            assert!(matches!(
                write(&mut corked, &[7; 1_100]),
                Poll::Ready(Ok(1_100))
            ));
            assert!(matches!(flush(&mut corked), Poll::Ready(Ok(()))));
        }
        assert!(corked.0.borrow().stream.taken.is_empty());
        uncork(&mut uncorking);
        assert_eq!(corked.0.borrow().stream.taken, [vec![7; 8_800]]);
    }

    #[test]
    fn an_empty_cork_holds_no_buffer() {
        let (mut corked, mut uncorking) = on(Taker::that(&[Take::Some(1), Take::Nothing]));
        let room = |corked: &Corked<Taker>| corked.0.borrow().gathered.capacity();
        assert_eq!(room(&corked), 0);
        assert!(matches!(write(&mut corked, b"abc"), Poll::Ready(Ok(3))));
        uncork(&mut uncorking);
        assert_eq!(room(&corked), RECORD);
        uncork(&mut uncorking);
        assert_eq!(room(&corked), 0);
    }

    #[test]
    fn a_full_cork_takes_no_more_than_its_stream() {
        let (mut corked, _uncorking) = on(Taker::that(&[Take::Nothing, Take::Some(10)]));
        assert!(matches!(
            write(&mut corked, &[1; RECORD]),
            Poll::Ready(Ok(RECORD))
        ));
        assert!(write(&mut corked, &[2; 10]).is_pending());
        assert!(matches!(write(&mut corked, &[2; 10]), Poll::Ready(Ok(10))));
        assert!(
            corked
                .0
                .borrow()
                .gathered
                .ends_with(&[1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
        );
    }

    #[test]
    fn what_is_large_goes_through_in_whole_records() {
        let (mut corked, _uncorking) = on(Taker::default());
        assert!(matches!(write(&mut corked, &[1; 9]), Poll::Ready(Ok(9))));
        let sent = 2 * RECORD - 9;
        assert!(
            matches!(write(&mut corked, &[2; 2 * RECORD]), Poll::Ready(Ok(count)) if count == sent)
        );
        let cork = corked.0.borrow();
        assert_eq!(cork.stream.taken, [[vec![1; 9], vec![2; sent]].concat()]);
        assert!(cork.gathered.is_empty());
    }

    #[test]
    fn the_connection_hears_of_a_failure() {
        let (mut corked, mut uncorking) = on(Taker::that(&[Take::Fail]));
        assert!(matches!(write(&mut corked, b"abc"), Poll::Ready(Ok(3))));
        uncork(&mut uncorking);
        let Poll::Ready(Err(error)) = flush(&mut corked) else {
            panic!("no failure");
        };
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_waiting_connection_goes_on_when_its_stream_does() {
        let (mut client, stream) = tokio::io::duplex(100);
        let mut uncorking = Uncorking::new(stream, |mut corked| {
            let mut left = 3 * RECORD;
            poll_fn(move |cx| {
                while left > 0 {
                    let bytes = [7; 1_000];
                    let bytes = &bytes[..left.min(bytes.len())];
                    left -= ready!(Pin::new(&mut corked).poll_write(cx, bytes)).unwrap();
                }
                Poll::<()>::Pending
            })
        });
        let mut read = vec![0; 3 * RECORD];
        tokio::select! {
            () = &mut uncorking => unreachable!(),
            count = client.read_exact(&mut read) => assert_eq!(count.unwrap(), read.len()),
        }
        assert!(read.iter().all(|byte| *byte == 7));
    }

    #[tokio::test]
    async fn all_is_sent_before_the_stream_is_shut_down() {
        let (mut client, stream) = tokio::io::duplex(10);
        let mut read = Vec::new();
        let uncorking = Uncorking::new(stream, |mut corked| {
            Box::pin(async move {
                corked.write_all(&[7; 100]).await.unwrap();
                corked.shutdown().await.unwrap();
            })
        });
        let ((), count) = tokio::join!(uncorking, client.read_to_end(&mut read));
        assert_eq!((count.unwrap(), read), (100, vec![7; 100]));
    }

    fn take() -> impl Strategy<Value = Take> {
        prop_oneof![
            Just(Take::All),
            Just(Take::Nothing),
            (1usize..2 * RECORD).prop_map(Take::Some),
        ]
    }

    proptest! {
        /// Whatever is written and however it is taken, it is taken once and in order.
        #[test]
        fn order_is_kept(
            lengths in proptest::collection::vec((0usize..100, 0usize..2 * RECORD, 0usize..4), 1..40),
            takes in proptest::collection::vec(take(), 0..60),
        ) {
            let (mut corked, mut uncorking) = on(Taker::that(&takes));
            let (mut written, mut bytes) = (Vec::<u8>::new(), (0u8..=250).cycle());
            for (head, payload, then) in lengths {
                let head = bytes.by_ref().take(head).collect::<Vec<_>>();
                let payload = bytes.by_ref().take(payload).collect::<Vec<_>>();
                let slices = [IoSlice::new(&head), IoSlice::new(&payload)];
                if let Poll::Ready(count) = Pin::new(&mut corked).poll_write_vectored(&mut context(), &slices) {
                    written.extend(&[head, payload].concat()[..count.unwrap()]);
                }
                match then {
                    0 => uncork(&mut uncorking),
                    _ => prop_assert!(flush(&mut corked).is_ready()),
                }
                let cork = corked.0.borrow();
                prop_assert!(cork.gathered.capacity() <= RECORD);
                prop_assert!([&cork.stream.taken.concat()[..], &cork.gathered].concat() == written);
            }
            corked.0.borrow_mut().stream.next.clear();
            uncork(&mut uncorking);
            prop_assert!(corked.0.borrow().stream.taken.concat() == written);
        }
    }
}
