//! Bodies on their way through: from client to backend and back, as a stream, with a limit on every pause.
//!
//! A body that breaks off is passed on as an error, never as an end: the other side then sees a broken message too. Of
//! trailers those pass that [`Trailers`] lets through.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::allowance::{Allowance, BodyLimits};
use crate::answer::Reason;
use crate::filters::mirror::BodyCopy;
use crate::filters::outbound::Outgoing;
use crate::filters::pace::{Pace, Paced};
use crate::pool::Connection;
use crate::record::Record;
use crate::trailers::Trailers;
use crate::worker::Worker;

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
}

/// The body of a request on its way to a backend.
#[derive(Debug)]
pub struct RequestBody {
    /// Nothing where there is no body.
    client: Option<ClientBody>,
}

#[derive(Debug)]
struct ClientBody {
    incoming: Incoming,
    trailers: Trailers,
    pause: Pause,
    allowance: Allowance,
    progress: Rc<Progress>,
    copy: Option<BodyCopy>,
}

/// How far the body of a request has come, seen from outside.
#[derive(Debug)]
pub struct Progress {
    state: Cell<State>,
    moved: Cell<Instant>,
}

/// Where the body of a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Sending,
    Complete,
    Failed(Reason),
}

/// The body of a response on its way to a client. Dropping it ends the request's record.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    /// Nothing where somebody else keeps it.
    record: Option<Box<Record>>,
    /// Nothing where it is as fast as it can be.
    pace: Option<Box<Paced>>,
}

#[derive(Debug)]
enum Source {
    Own(Full<Bytes>),
    Backend(Box<BackendBody>),
}

/// What comes from a backend, with the connection it comes on.
#[derive(Debug)]
pub struct BackendBody {
    incoming: Incoming,
    trailers: Trailers,
    pause: Pause,
    /// Taken when the response is complete.
    connection: Option<Connection>,
    progress: Rc<Progress>,
    worker: Rc<Worker>,
}

/// A limit on the time between two steps. The timer runs on while there is progress and looks at the last step only when
/// it fires, so a body that moves costs no timer operations.
#[derive(Debug)]
struct Pause {
    limit: Duration,
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

// Requests.

impl RequestBody {
    /// The body of a request, as the client sends it, with those `trailers`.
    pub fn new(
        incoming: Incoming,
        trailers: Trailers,
        pause: Duration,
        limits: BodyLimits,
    ) -> (Self, Rc<Progress>) {
        let is_empty = incoming.is_end_stream();
        let state = if is_empty {
            State::Complete
        } else {
            State::Sending
        };
        let progress = Rc::new(Progress {
            state: Cell::new(state),
            moved: Cell::new(Instant::now()),
        });
        let client = (!is_empty).then(|| ClientBody {
            incoming,
            trailers,
            pause: Pause::new(pause),
            allowance: Allowance::new(limits),
            progress: progress.clone(),
            copy: None,
        });
        (Self { client }, progress)
    }

    /// A copy that comes of it while it is read; nothing where there is no body.
    pub fn copy(&mut self) -> Option<Outgoing> {
        let (copy, outgoing) = BodyCopy::new();
        self.client.as_mut()?.copy = Some(copy);
        Some(outgoing)
    }

    /// No body.
    pub fn empty() -> Self {
        Self { client: None }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.client {
            Some(client) => client.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let incoming = self.client.as_ref().map(|client| &client.incoming);
        incoming.is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let incoming = self.client.as_ref().map(|client| &client.incoming);
        incoming.map_or(SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl ClientBody {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(frame) = poll_frame(&mut self.incoming, &mut self.pause, cx) else {
            self.allowance.wait(Instant::now());
            return Poll::Pending;
        };
        let now = Instant::now();
        self.progress.moved.set(now);
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, Bytes::len);
            if let Err(reason) = self.allowance.take(length, now) {
                self.progress.fail(reason);
                return Poll::Ready(Some(Err(BodyError::Refused)));
            }
        }
        if let (Some(copy), Some(Ok(frame))) = (&mut self.copy, &frame) {
            frame
                .data_ref()
                .into_iter()
                .for_each(|data| copy.push(data));
        }
        match &frame {
            Some(Err(BodyError::Broken(_))) => self.progress.fail(Reason::BadBody),
            Some(Err(_)) => self.progress.fail(Reason::ClientTimeout),
            Some(Ok(frame)) if frame.is_data() && !self.incoming.is_end_stream() => {}
            _ => {
                self.progress.state.set(State::Complete);
                self.copy
                    .take()
                    .into_iter()
                    .for_each(|mut copy| copy.finish());
            }
        }
        Poll::Ready(self.trailers.pass_frame(frame))
    }
}

impl Progress {
    /// When the body last moved.
    pub fn moved(&self) -> Instant {
        self.moved.get()
    }

    /// What went wrong with the body, if anything.
    pub fn failure(&self) -> Option<Reason> {
        match self.state.get() {
            State::Failed(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether the body has been read to its end.
    pub fn is_complete(&self) -> bool {
        self.state.get() == State::Complete
    }

    fn fail(&self, reason: Reason) {
        self.state.set(State::Failed(reason));
    }
}

// Responses.

impl BackendBody {
    /// The body that comes on `connection`, which is given back once it is complete, with those `trailers`.
    pub fn new(
        incoming: Incoming,
        trailers: Trailers,
        connection: Connection,
        progress: Rc<Progress>,
        worker: Rc<Worker>,
    ) -> Self {
        let pause = Pause::new(worker.settings().backend_timeout);
        let connection = Some(connection);
        let mut body = Self {
            incoming,
            trailers,
            pause,
            connection,
            progress,
            worker,
        };
        if body.incoming.is_end_stream() {
            body.complete();
        }
        body
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(poll_frame(&mut self.incoming, &mut self.pause, cx));
        match &frame {
            Some(Err(_)) => drop(self.connection.take()),
            Some(Ok(frame)) if frame.is_data() && !self.incoming.is_end_stream() => {}
            _ => self.complete(),
        }
        Poll::Ready(self.trailers.pass_frame(frame))
    }

    /// The connection is good for another request, unless the backend answered before it had read this one's body.
    fn complete(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.progress.is_complete()
        {
            self.worker.pool().put(connection);
        }
    }
}

impl ResponseBody {
    /// A body of our own.
    pub fn own(body: Full<Bytes>, record: Box<Record>) -> Self {
        Self {
            source: Source::Own(body),
            record: Some(record),
            pace: None,
        }
    }

    /// A body of our own whose record is kept elsewhere.
    pub fn unrecorded(body: Full<Bytes>) -> Self {
        Self {
            source: Source::Own(body),
            record: None,
            pace: None,
        }
    }

    /// The body that a backend sends.
    pub fn backend(body: BackendBody, record: Box<Record>) -> Self {
        Self {
            source: Source::Backend(Box::new(body)),
            record: Some(record),
            pace: None,
        }
    }

    /// The same, no faster than `pace`.
    pub fn paced(mut self, pace: Option<Pace>) -> Self {
        self.pace = pace.map(|pace| Box::new(Paced::new(pace)));
        self
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let budget = match &mut this.pace {
            Some(pace) => ready!(pace.poll(cx)),
            None => usize::MAX,
        };
        let held = this.pace.as_mut().and_then(|pace| pace.take_held());
        let frame = match (held, &mut this.source) {
            (Some(data), _) => Some(Ok(Frame::data(data))),
            (None, Source::Own(body)) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                frame.map(|frame| frame.map_err(|never| match never {}))
            }
            (None, Source::Backend(body)) => ready!(body.poll_frame(cx)),
        };
        let frame = match &mut this.pace {
            Some(pace) => frame
                .map(|frame| frame.map(|frame| frame.map_data(|data| pace.portion(data, budget)))),
            None => frame,
        };
        let is_end = this.is_end_stream();
        if let Some(record) = &mut this.record {
            take_down(record, frame.as_ref(), is_end);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let is_holding = self.pace.as_ref().is_some_and(|pace| pace.is_holding());
        !is_holding
            && match &self.source {
                Source::Own(body) => body.is_end_stream(),
                Source::Backend(body) => body.incoming.is_end_stream(),
            }
    }

    /// That of what has not been read yet: it is asked for before the first byte, when nothing is held back.
    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(body) => body.size_hint(),
            Source::Backend(body) => body.incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    /// A body may be at its end without ever having been polled: that of an answer to HEAD, or an empty one.
    fn drop(&mut self) {
        if self.is_end_stream()
            && let Some(record) = &mut self.record
        {
            record.complete();
        }
    }
}

/// Takes down what a step of a response's body means for its record.
fn take_down(record: &mut Record, frame: Option<&Result<Frame<Bytes>, BodyError>>, is_end: bool) {
    match frame {
        Some(Ok(frame)) if frame.is_trailers() => record.complete(),
        Some(Ok(data)) => record.sent(data.data_ref().map_or(0, Bytes::len)),
        Some(Err(BodyError::Paused)) => record.failed(Reason::BackendTimeout),
        Some(Err(_)) => record.failed(Reason::Truncated),
        None => record.complete(),
    }
    if is_end {
        record.complete();
    }
}

// Both.

/// The next piece of data, or the trailers.
fn poll_frame(
    incoming: &mut Incoming,
    pause: &mut Pause,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let Poll::Ready(frame) = Pin::new(incoming).poll_frame(cx) else {
        ready!(pause.poll(cx));
        return Poll::Ready(Some(Err(BodyError::Paused)));
    };
    pause.last = Instant::now();
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
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            last: Instant::now(),
            timer: None,
        }
    }

    /// Ready when the last step is too long ago.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let deadline = self.last + self.limit;
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
