//! Bodies on their way through: from client to backend and back, as a stream, with a limit on every pause.
//!
//! A body that breaks off is passed on as an error, never as an end: the other side then sees a broken message too. Of
//! trailers those pass that [`Trailers`] lets through.

mod request;
mod response;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use tokio::time::{Instant, Sleep};

use crate::message::trailers::Trailers;

pub use request::{MOST_KEPT, Progress, RequestBody};
pub use response::{BackendBody, ResponseBody};

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Its sender broke the protocol or went away.
    #[error("the body broke off")]
    Broken(#[source] hyper::Error),
    /// Its sender paused for too long.
    #[error("the sender of the body paused for too long")]
    Paused,
    /// It is not what the limits allow.
    #[error("the body exceeds its limits")]
    Refused,
    /// A later attempt to send it has begun.
    #[error("the body is being sent again")]
    Superseded,
    /// It could not be compressed.
    #[error("the body cannot be compressed")]
    Coding(#[source] io::Error),
}

/// A limit on the time between two steps. The timer runs on while there is progress and looks at the last step only when
/// it fires, so a body that moves costs no timer operations.
#[derive(Debug)]
pub struct Pause {
    limit: Duration,
    /// When everything has to be over, if ever.
    until: Option<Instant>,
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

/// The next piece of data, or the trailers.
fn poll_frame(
    incoming: &mut Incoming,
    pause: &mut Pause,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    if let Poll::Ready(frame) = step(incoming, pause, cx) {
        return Poll::Ready(frame);
    }
    ready!(pause.poll(cx));
    Poll::Ready(Some(Err(BodyError::Paused)))
}

/// The next frame if it is there, which ends a pause.
fn step(
    incoming: &mut Incoming,
    pause: &mut Pause,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
    // There is no other to wait for after the last.
    if !incoming.is_end_stream() {
        pause.last = Instant::now();
    }
    Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)))
}

impl Trailers {
    /// What of `frame` is passed on. Trailers of which nothing is left are an end without any.
    fn pass_frame<E>(
        &self,
        frame: Option<Result<Frame<Bytes>, E>>,
    ) -> Option<Result<Frame<Bytes>, E>> {
        let Some(Ok(frame)) = frame else { return frame };
        match frame.into_trailers() {
            Ok(trailers) => self
                .pass(trailers)
                .map(|passed| Ok(Frame::trailers(passed))),
            Err(data) => Some(Ok(data)),
        }
    }
}

impl Pause {
    /// Pauses as long as `limit`, and an end to everything at `until`.
    pub fn new(limit: Duration, until: Option<Instant>) -> Self {
        Self {
            limit,
            until,
            last: Instant::now(),
            timer: None,
        }
    }

    /// Ready when the last step is too long ago.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let pause = self.last + self.limit;
            let deadline = self.until.map_or(pause, |until| until.min(pause));
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}
