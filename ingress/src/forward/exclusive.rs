//! A connection of HTTP/1.1 to a backend, lent to one request at a time.
//!
//! It has no task of its own: who waits for something that comes on it moves it along, so a request crosses both its
//! connections within one task, and no step of it has to be scheduled. Between requests nobody does; what happens there
//! is found out by who takes it next.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use crate::forward::pool::{Dialer, Key};
use crate::forward::stall::Alarm;
use crate::message::answer::Reason;
use crate::message::body::RequestBody;

/// Most bytes that are read ahead of a response whose client is slow, its head included, or kept of a request that its
/// backend does not take.
const MAX_BUFFER: usize = 64 * 1024;

/// A connection. Dropping it closes it.
pub(crate) struct Exclusive {
    sender: http1::SendRequest<RequestBody>,
    wire: Wire,
    alarm: Alarm,
    /// When it was opened.
    pub(super) opened: Instant,
    /// How many requests it has served.
    pub(super) requests: u32,
}

/// What is between a request's body and its response's.
struct Wire {
    /// Nothing once it has ended.
    moving: Option<Pin<Box<dyn Future<Output = hyper::Result<()>>>>>,
    bell: Arc<Bell>,
    /// What rings it.
    waker: Waker,
}

/// Wakes who waits for something on a connection, but not for what they take from it themselves: that wakes the wire it
/// came on, which they will move along when they want more.
#[derive(Default)]
struct Bell {
    waiting: AtomicWaker,
    is_muted: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_muted.load(Ordering::Relaxed) {
            self.waiting.wake();
        }
    }
}

impl Exclusive {
    /// Opens one that is good for `key`.
    pub(crate) async fn open(key: &Key, dialer: &Dialer) -> Result<Self, Reason> {
        let stream = dialer.dial(key).await?;
        match &key.spoken.tls {
            None => Self::over(stream).await,
            Some(expected) => Self::over(dialer.secure(key, expected, stream).await?).await,
        }
    }

    async fn over<S>(stream: S) -> Result<Self, Reason>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let handshake = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = handshake.map_err(|_| Reason::ConnectFailed)?;
        Ok(Self {
            sender,
            wire: Wire::new(connection.with_upgrades()),
            alarm: Alarm::default(),
            opened: Instant::now(),
            requests: 0,
        })
    }

    /// Moves it along as far as it can be.
    pub(crate) fn advance(&mut self, cx: &mut Context<'_>) {
        self.wire.advance_for(cx);
    }

    /// Takes something of what comes on it, and wakes nobody by that.
    pub(crate) fn quietly<T>(&self, take: impl FnOnce() -> T) -> T {
        let bell = &self.wire.bell;
        bell.is_muted.store(true, Ordering::Relaxed);
        let taken = take();
        bell.is_muted.store(false, Ordering::Relaxed);
        taken
    }

    /// Whether it has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.wire.moving.is_none() || self.sender.is_closed()
    }

    /// Leaves the last request behind, and says whether another can be sent. What has come meanwhile is seen now: an end,
    /// or bytes that nobody asked for, which end it too.
    pub(crate) fn settle(&mut self) -> bool {
        // Whoever had it last is to be woken no more, and who takes it will move it along without that.
        self.wire.bell.waiting.take();
        self.wire.advance();
        !self.is_closed() && self.sender.is_ready()
    }

    /// Sends `request` and waits for the head of the response until `deadline`, which moves on.
    pub(crate) async fn send(
        &mut self,
        request: Box<Request<RequestBody>>,
        deadline: impl Fn() -> Instant,
    ) -> Option<Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> {
        // All that the response waits for is the wire, which has been moved along whenever it is looked at. So there is
        // nobody to wake, and no budget that might make it wait for itself.
        let mut response = pin!(unconstrained(self.sender.try_send_request(*request)));
        let mut nobody = Context::from_waker(Waker::noop());
        poll_fn(|cx| {
            self.wire.advance_for(cx);
            if let Poll::Ready(response) = response.as_mut().poll(&mut nobody) {
                return Poll::Ready(Some(response));
            }
            // The alarm is the connection's, so whom it wakes is who waits for that.
            let mut cx = Context::from_waker(&self.wire.waker);
            self.alarm.poll(deadline(), &mut cx).map(|()| None)
        })
        .await
    }
}

impl Wire {
    fn new(moving: impl Future<Output = hyper::Result<()>> + 'static) -> Self {
        let bell = Arc::<Bell>::default();
        Self {
            moving: Some(Box::pin(moving)),
            waker: bell.clone().into(),
            bell,
        }
    }

    /// Moves on as far as it can, and wakes the task of `cx` when there is more to do.
    fn advance_for(&mut self, cx: &mut Context<'_>) {
        self.bell.waiting.register(cx.waker());
        self.advance();
    }

    fn advance(&mut self) {
        let Some(moving) = &mut self.moving else {
            return;
        };
        let mut cx = Context::from_waker(&self.waker);
        if let Poll::Ready(ended) = moving.as_mut().poll(&mut cx) {
            self.moving = None;
            if let Err(error) = ended {
                tracing::debug!(%error, "connection to a backend ended");
            }
        }
    }
}

impl fmt::Debug for Exclusive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exclusive")
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use hyper::body::Body;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn who_takes_a_body_is_woken_by_what_comes_but_not_by_the_taking() {
        let (ours, mut backend) = tokio::io::duplex(1024);
        let mut exclusive = Exclusive::over(ours).await.unwrap();
        let answer = async {
            assert!(backend.read(&mut [0; 1024]).await.unwrap() > 0);
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
            backend.write_all(head).await.unwrap();
        };
        let request = Box::new(Request::new(RequestBody::nothing().0));
        let never = || Instant::now() + Duration::from_secs(60);
        let (response, ()) = tokio::join!(exclusive.send(request, never), answer);

        let mut body = pin!(response.unwrap().unwrap().into_body());
        let mut take = || {
            let mut nobody = Context::from_waker(Waker::noop());
            body.as_mut().poll_frame(&mut nobody)
        };
        let count = Arc::<Count>::default();
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        for byte in 1..=2 {
            exclusive.advance(&mut cx);
            assert!(exclusive.quietly(&mut take).is_pending());
            backend.write_all(b"x").await.unwrap();
            assert_eq!(count.0.load(Ordering::Relaxed), byte);
            exclusive.advance(&mut cx);
            assert!(exclusive.quietly(&mut take).is_ready());
            assert_eq!(count.0.load(Ordering::Relaxed), byte);
        }
    }
}
