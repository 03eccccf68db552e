//! Bodies on their way through: from client to backend and back, as a stream, with a limit on every pause.
//!
//! A body that breaks off is passed on as an error, never as an end: the other side then sees a broken message too. Of
//! trailers those pass that [`Trailers`] lets through.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::annotations::timeouts::Patience;
use crate::filters::compress::Compressor;
use crate::filters::mirror::BodyCopy;
use crate::filters::outbound::Outgoing;
use crate::filters::pace::{Pace, Paced};
use crate::forward::pool::Connection;
use crate::message::answer::Reason;
use crate::message::grpc;
use crate::message::trailers::Trailers;
use crate::observe::record::Record;
use crate::request::allowance::{Allowance, BodyLimits};
use crate::server::worker::Worker;

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

/// Most bytes of a request's body that are kept so that it can be sent again.
pub const MOST_KEPT: usize = 64 * 1024;

/// The body of a request on its way to a backend.
#[derive(Debug)]
pub struct RequestBody {
    /// Nothing where there is no body. It is shared with the body of an earlier attempt, which nobody reads any more.
    client: Option<Rc<RefCell<ClientBody>>>,
    /// How many of the pieces that were kept have been handed on.
    handed_on: usize,
    /// Which attempt it is for.
    attempt: u32,
}

#[derive(Debug)]
struct ClientBody {
    incoming: Incoming,
    trailers: Trailers,
    pause: Pause,
    allowance: Allowance,
    progress: Rc<Progress>,
    copy: Option<BodyCopy>,
    /// All that has come so far, unless it is not kept or too much.
    kept: Option<Vec<Bytes>>,
    /// The attempt that reads it.
    attempt: u32,
}

/// How far the body of a request has come, seen from outside.
#[derive(Debug)]
pub struct Progress {
    state: Cell<State>,
    moved: Cell<Instant>,
    /// Whether it is for the client to send more.
    awaits_client: Cell<bool>,
    /// Bytes that have come.
    received: Cell<u64>,
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
    /// Nothing where it stays as it is.
    compression: Option<Box<Compression>>,
    /// Nothing where it is as fast as it can be.
    pace: Option<Box<Paced>>,
}

/// A body on its way through an encoder.
#[derive(Debug)]
struct Compression {
    compressor: io::Result<Compressor>,
    /// What comes after its end.
    trailers: Option<Frame<Bytes>>,
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
    /// When it is given up, if it is the result of a call of gRPC.
    deadline: Deadline,
    /// Taken when the response is complete.
    connection: Option<Connection>,
    progress: Rc<Progress>,
    worker: Rc<Worker>,
    /// Why it breaks off, until the client has been sent what came before.
    failure: Option<BodyError>,
}

/// The end that a call's client has set.
#[derive(Debug)]
enum Deadline {
    /// There is none.
    None,
    /// It is to come.
    At(Pin<Box<Sleep>>),
    /// It has come, and the client has been told.
    Passed,
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
            awaits_client: Cell::new(false),
            received: Cell::new(0),
        });
        let client = (!is_empty).then(|| ClientBody {
            incoming,
            trailers,
            pause: Pause::new(pause, None),
            allowance: Allowance::new(limits),
            progress: progress.clone(),
            copy: None,
            kept: None,
            attempt: 0,
        });
        let body = Self {
            client: client.map(|client| Rc::new(RefCell::new(client))),
            handed_on: 0,
            attempt: 0,
        };
        (body, progress)
    }

    /// A copy that comes of it while it is read; nothing where there is no body.
    pub fn copy(&mut self) -> Option<Outgoing> {
        let (copy, outgoing) = BodyCopy::new();
        self.client.as_ref()?.borrow_mut().copy = Some(copy);
        Some(outgoing)
    }

    /// Keeps what comes, up to [`MOST_KEPT`], so that it can be sent again.
    pub fn keep(&mut self) {
        if let Some(client) = &self.client {
            client.borrow_mut().kept.get_or_insert_default();
        }
    }

    /// The same body from its beginning, for another attempt. Once that reads it, an earlier one gets nothing more.
    pub fn again(&self) -> Self {
        Self {
            client: self.client.clone(),
            handed_on: 0,
            attempt: self.attempt + 1,
        }
    }

    /// Whether it can still be read from its beginning.
    pub fn is_whole(&self) -> bool {
        let client = self.client.as_ref();
        client.is_none_or(|client| client.borrow().kept.is_some())
    }

    /// No body, in the form of one that is through.
    pub fn nothing() -> (Self, Rc<Progress>) {
        let progress = Progress {
            state: Cell::new(State::Complete),
            moved: Cell::new(Instant::now()),
            awaits_client: Cell::new(false),
            received: Cell::new(0),
        };
        let body = Self {
            client: None,
            handed_on: 0,
            attempt: 0,
        };
        (body, Rc::new(progress))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self {
            client,
            handed_on,
            attempt,
        } = &mut *self;
        let Some(client) = client else {
            return Poll::Ready(None);
        };
        let mut client = client.borrow_mut();
        if client.attempt > *attempt {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        client.attempt = *attempt;
        if let Some(piece) = client.kept(*handed_on).first() {
            *handed_on += 1;
            client.progress.moved.set(Instant::now());
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        let frame = ready!(client.poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            client.keep(frame);
            *handed_on += 1;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.client.as_ref().is_none_or(|client| {
            let client = client.borrow();
            client.kept(self.handed_on).is_empty() && client.incoming.is_end_stream()
        })
    }

    fn size_hint(&self) -> SizeHint {
        let Some(client) = &self.client else {
            return SizeHint::with_exact(0);
        };
        let client = client.borrow();
        let kept = client.kept(self.handed_on).iter().map(Bytes::len);
        let kept = kept.sum::<usize>() as u64;
        let rest = client.incoming.size_hint().exact();
        rest.map_or_else(SizeHint::default, |rest| SizeHint::with_exact(kept + rest))
    }
}

impl ClientBody {
    /// The pieces that were kept, from this one on.
    fn kept(&self, from: usize) -> &[Bytes] {
        let kept = self.kept.as_deref().unwrap_or_default();
        kept.get(from..).unwrap_or_default()
    }

    /// Keeps `frame` if everything is kept and it is not too much. Trailers are not kept.
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(kept) = &mut self.kept else { return };
        let length: usize = kept.iter().map(Bytes::len).sum();
        match frame.data_ref() {
            Some(data) if length + data.len() <= MOST_KEPT => kept.push(data.clone()),
            _ => self.kept = None,
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = poll_frame(&mut self.incoming, &mut self.pause, cx);
        self.progress.awaits_client.set(frame.is_pending());
        let Poll::Ready(frame) = frame else {
            self.allowance.wait(Instant::now());
            return Poll::Pending;
        };
        let now = Instant::now();
        self.progress.moved.set(now);
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, Bytes::len);
            self.progress.add(length);
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
    /// When the backend has to have made its next step, after an attempt that `started` then. While it is for the client
    /// to send more, that moves on with the time.
    pub fn deadline(&self, started: Instant, patience: &Patience) -> Instant {
        let moved = self.moved.get().max(started);
        match self.state.get() {
            State::Sending if self.awaits_client.get() => Instant::now() + patience.send,
            State::Sending => moved + patience.send,
            State::Complete | State::Failed(_) => moved + patience.read,
        }
    }

    /// What went wrong with the body, if anything.
    pub fn failure(&self) -> Option<Reason> {
        match self.state.get() {
            State::Failed(reason) => Some(reason),
            _ => None,
        }
    }

    /// How many bytes of the body have come.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    fn add(&self, bytes: usize) {
        let received = self.received.get().saturating_add(bytes as u64);
        self.received.set(received);
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
    /// The body that comes on `connection`, which is given back once it is complete, with those `trailers`. `pause` bounds
    /// its pauses.
    pub fn new(
        incoming: Incoming,
        trailers: Trailers,
        pause: Pause,
        connection: Connection,
        progress: Rc<Progress>,
        worker: Rc<Worker>,
    ) -> Self {
        let connection = Some(connection);
        let mut body = Self {
            incoming,
            trailers,
            pause,
            deadline: Deadline::None,
            connection,
            progress,
            worker,
            failure: None,
        };
        if body.incoming.is_end_stream() {
            body.complete();
        }
        body
    }

    /// Gives it up at `deadline`, in gRPC's terms, if it is not through by then.
    pub fn end_by(&mut self, deadline: Option<Instant>) {
        if let Some(deadline) = deadline {
            self.deadline = Deadline::At(Box::pin(tokio::time::sleep_until(deadline)));
        }
    }

    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.deadline {
            Deadline::At(sleep) => sleep.as_mut().poll(cx).is_ready(),
            Deadline::None | Deadline::Passed => false,
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_overdue(cx) {
            drop(self.connection.take());
            self.deadline = Deadline::Passed;
            let trailers = grpc::deadline_exceeded();
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Some(Err(failure)));
        }
        let frame = ready!(self.poll_incoming(cx));
        match frame {
            // An error makes the client's connection drop what it has not sent yet, so it gets a turn to send that.
            Some(Err(failure)) => {
                drop(self.connection.take());
                self.failure = Some(failure);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Ok(ref frame)) if frame.is_data() && !self.incoming.is_end_stream() => {}
            _ => self.complete(),
        }
        Poll::Ready(self.trailers.pass_frame(frame))
    }

    /// The next frame: one that is there already, else one that comes of moving the connection along.
    fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(connection) = &mut self.connection
            && connection.has_to_be_moved()
        {
            let mut nobody = Context::from_waker(Waker::noop());
            if let Poll::Ready(frame) = step(&mut self.incoming, &mut self.pause, &mut nobody) {
                return Poll::Ready(frame);
            }
            connection.advance(cx);
        }
        poll_frame(&mut self.incoming, &mut self.pause, cx)
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
            compression: None,
            pace: None,
        }
    }

    /// A body of our own whose record is kept elsewhere.
    pub fn unrecorded(body: Full<Bytes>) -> Self {
        Self {
            source: Source::Own(body),
            record: None,
            compression: None,
            pace: None,
        }
    }

    /// The body that a backend sends.
    pub fn backend(body: Box<BackendBody>, record: Box<Record>) -> Self {
        Self {
            source: Source::Backend(body),
            record: Some(record),
            compression: None,
            pace: None,
        }
    }

    /// The same, compressed by `compressor`. Its headers must say so.
    pub fn compressed(mut self, compressor: Option<io::Result<Compressor>>) -> Self {
        self.compression = compressor.map(|compressor| Box::new(Compression::new(compressor)));
        self
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
        let frame = match (held, &mut this.compression) {
            (Some(data), _) => Some(Ok(Frame::data(data))),
            (None, Some(compression)) => ready!(compression.poll_frame(&mut this.source, cx)),
            (None, None) => ready!(this.source.poll_frame(cx)),
        };
        let frame = match &mut this.pace {
            Some(pace) => frame
                .map(|frame| frame.map(|frame| frame.map_data(|data| pace.portion(data, budget)))),
            None => frame,
        };
        let is_end = this.is_end_stream();
        if let Some(record) = &mut this.record {
            if let Source::Backend(body) = &this.source
                && matches!(body.deadline, Deadline::Passed)
            {
                record.failed(Reason::DeadlineExceeded);
            }
            take_down(record, frame.as_ref(), is_end);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let is_holding = self.pace.as_ref().is_some_and(|pace| pace.is_holding());
        let is_through = match &self.compression {
            Some(compression) => compression.is_through(),
            None => self.source.is_end_stream(),
        };
        is_through && !is_holding
    }

    /// That of what has not been read yet: it is asked for before the first byte, when nothing is held back.
    fn size_hint(&self) -> SizeHint {
        match &self.source {
            _ if self.compression.is_some() => SizeHint::default(),
            Source::Own(body) => body.size_hint(),
            Source::Backend(body) => body.incoming.size_hint(),
        }
    }
}

impl Source {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Own(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(|never| match never {})))
            }
            Self::Backend(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Backend(body) => body.incoming.is_end_stream(),
        }
    }
}

impl Compression {
    fn new(compressor: io::Result<Compressor>) -> Self {
        Self {
            compressor,
            trailers: None,
        }
    }

    /// The next piece that comes out of the encoder. While the source pauses, what it has sent so far is handed on.
    fn poll_frame(
        &mut self,
        source: &mut Source,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let compressor = match &mut self.compressor {
            Ok(compressor) => compressor,
            Err(error) => {
                let error = io::Error::from(error.kind());
                return Poll::Ready(Some(Err(BodyError::Coding(error))));
            }
        };
        while !compressor.is_finished() {
            let out = match source.poll_frame(cx) {
                Poll::Pending => {
                    let out = compressor.flush().map_err(BodyError::Coding);
                    if out.as_ref().is_ok_and(Bytes::is_empty) {
                        return Poll::Pending;
                    }
                    out
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => compressor.write(&data).map_err(BodyError::Coding),
                    Err(frame) => {
                        self.trailers = Some(frame);
                        compressor.finish().map_err(BodyError::Coding)
                    }
                },
                Poll::Ready(None) => compressor.finish().map_err(BodyError::Coding),
            };
            if !out.as_ref().is_ok_and(Bytes::is_empty) {
                return Poll::Ready(Some(out.map(Frame::data)));
            }
        }
        Poll::Ready(self.trailers.take().map(Ok))
    }

    fn is_through(&self) -> bool {
        let is_finished = self.compressor.as_ref().is_ok_and(Compressor::is_finished);
        is_finished && self.trailers.is_none()
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
