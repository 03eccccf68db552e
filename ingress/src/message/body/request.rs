//! The body of a request, from the client to a backend, and perhaps to another one after that.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::{BodyError, Pause, poll_frame};
use crate::annotations::timeouts::Patience;
use crate::filters::mirror::BodyCopy;
use crate::filters::outbound::Outgoing;
use crate::message::answer::Reason;
use crate::message::trailers::Trailers;
use crate::request::allowance::{Allowance, BodyLimits};

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
    /// When it last got on, if it has.
    moved: Cell<Option<Instant>>,
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
        let progress = Progress::new(state);
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
        let body = Self {
            client: None,
            handed_on: 0,
            attempt: 0,
        };
        (body, Progress::new(State::Complete))
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
            client.progress.moved.set(Some(Instant::now()));
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
        self.progress.moved.set(Some(now));
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
    fn new(state: State) -> Rc<Self> {
        Rc::new(Self {
            state: Cell::new(state),
            moved: Cell::new(None),
            awaits_client: Cell::new(false),
            received: Cell::new(0),
        })
    }

    /// When the backend has to have made its next step, after an attempt that `started` then. While it is for the client
    /// to send more, that moves on with the time.
    pub fn deadline(&self, started: Instant, patience: &Patience) -> Instant {
        let moved = self.moved.get().map_or(started, |moved| moved.max(started));
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
