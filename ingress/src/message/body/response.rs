//! The body of a response, from a backend or from the gateway itself to the client.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::{BodyError, Pause, Progress, poll_frame, step};
use crate::filters::compress::Compressor;
use crate::filters::pace::{Pace, Paced};
use crate::forward::pool::Connection;
use crate::message::answer::Reason;
use crate::message::grpc;
use crate::message::trailers::Trailers;
use crate::observe::record::Record;
use crate::server::worker::Worker;

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
        let (incoming, pause) = (&mut self.incoming, &mut self.pause);
        let Some(connection) = &mut self.connection else {
            return poll_frame(incoming, pause, cx);
        };
        if connection.has_to_be_moved() {
            let mut nobody = Context::from_waker(Waker::noop());
            let frame = connection.take_quietly(|| step(incoming, pause, &mut nobody));
            if frame.is_ready() {
                return frame;
            }
            connection.advance(cx);
        }
        connection.take_quietly(|| poll_frame(incoming, pause, cx))
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
