//! HTTP/1 on a client's connection: one request after the other, and next to nothing between them.
//!
//! The parser keeps 16 KiB of buffers for as long as it lives, so it lives only while there is something to parse. A
//! connection that has been quiet for a second is parked: the socket is taken back from the parser, and all that is left
//! is a task that waits for the next byte, for the end of its patience, or for the end of the gateway. Where there are
//! many, they do not wait for that second, so what parsers take does not grow with the clients that have just asked.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::framing::Checked;
use super::socket::{Blocked, Readable, Socket};
use super::{Answerer, report};
use crate::message::answer::{self, Reason};
use crate::request::strict::{MAX_HEADER_BYTES, MAX_HEADERS};
use crate::server::worker::{Peer, Worker};

/// Most bytes that are read ahead of a client's request, or kept of an answer that it does not take: a head, and then some.
const MAX_BUFFER: usize = 2 * MAX_HEADER_BYTES;
/// How long a connection has to be quiet before it is parked.
const PARK: Duration = Duration::from_secs(1);
/// How many parsers of a thread may be awake before connections are parked at the end of each request.
const MANY: usize = 128;
/// How long, and for how many bytes, a client may go on sending what nobody reads after it was answered.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: u64 = 4 * 1024 * 1024;

/// A stream that HTTP/1 can be spoken on.
pub trait Stream: AsyncRead + AsyncWrite + Readable + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Readable + Unpin + Send + 'static> Stream for S {}

/// The parsers of a thread that are awake.
#[derive(Debug, Default)]
pub struct Awake(Cell<usize>);

/// One of them, as long as it is.
struct One<'a>(&'a Awake);

/// A connection on which no request is under way.
struct Quiet<S> {
    socket: Socket<S>,
    /// Since when. Where the socket has bytes, they are the beginning of a head that began to come then.
    since: Instant,
}

/// What happens to a connection whose parser is awake.
enum Event {
    /// The parser has finished.
    Ended(hyper::Result<()>),
    /// A request has been answered, and there are so many parsers that this one need not wait for the next.
    Answered(Instant),
    /// The gateway is to end.
    Stop,
    /// It is time to look at the clock.
    Check,
}

/// What the clock says.
enum Verdict {
    /// There is something to wait for.
    Busy,
    /// Nothing has been under way since then.
    Quiet(Instant),
    /// The head of a request has taken too long.
    Late,
}

/// Serves `socket` to its end. Between requests there is one of everything, so this is no `async fn`, which would keep room
/// for the socket that it is given and for the one that it serves.
pub fn serve<S: Stream>(
    worker: &Rc<Worker>,
    peer: Rc<Peer>,
    socket: Socket<S>,
) -> impl Future<Output = ()> {
    let since = Instant::now();
    let mut quiet = Quiet { socket, since };
    async move {
        loop {
            quiet = match Box::pin(awake(worker, &peer, quiet)).await {
                Some(next) => next,
                None => return,
            };
            if quiet.socket.has_bytes() {
                continue;
            }
            if !parked(worker, &peer, &quiet).await {
                return close(&mut quiet.socket).await;
            }
            quiet.since = Instant::now();
        }
    }
}

/// Waits until something comes, and says whether it did.
async fn parked<S: Stream>(worker: &Worker, peer: &Peer, quiet: &Quiet<S>) -> bool {
    let limit = match peer.requests() {
        0 => worker.settings().header_timeout,
        _ => worker.settings().keep_alive_timeout,
    };
    worker.metrics().parked.count();
    let is_readable = tokio::select! {
        biased;
        readable = poll_fn(|cx| quiet.socket.poll_readable(cx)) => readable.is_ok(),
        () = sleep_until(quiet.since + limit) => false,
        () = worker.shutdown().cancelled() => false,
    };
    worker.metrics().unparked.count();
    is_readable
}

/// Parses and answers requests until there is none, and gives the connection back; nothing if it has ended.
async fn awake<S: Stream>(
    worker: &Rc<Worker>,
    peer: &Rc<Peer>,
    quiet: Quiet<S>,
) -> Option<Quiet<S>> {
    let clock = Clock::new(worker, peer, &quiet);
    let _one = worker.awake().one();
    let mut parser = Parser::new(worker, peer, quiet.socket);
    let mut is_stopping = false;
    loop {
        let event = tokio::select! {
            biased;
            // First, so that an answer that is ready at the same moment says that the connection ends.
            () = worker.shutdown().cancelled(), if !is_stopping => Event::Stop,
            event = poll_fn(|cx| match parser.poll(cx) {
                Poll::Ready(ended) => Poll::Ready(Event::Ended(ended)),
                Poll::Pending if is_stopping || parser.may_switch() => Poll::Pending,
                Poll::Pending => clock.poll_answered(worker.awake()),
            }) => event,
            () = sleep_until(clock.next()) => Event::Check,
        };
        let verdict = match event {
            Event::Ended(ended) => {
                let may_be_sending = ended.is_err() || peer.had_body();
                report(worker, peer, ended);
                if let Some(socket) = parser.give_back() {
                    end(socket, may_be_sending).await;
                }
                return None;
            }
            Event::Stop => {
                parser.stop();
                is_stopping = true;
                continue;
            }
            Event::Answered(since) => Verdict::Quiet(since),
            Event::Check => clock.verdict(),
        };
        match verdict {
            Verdict::Busy => {}
            Verdict::Late => {
                if let Some(socket) = parser.give_back() {
                    refuse_late_head(worker, socket).await;
                }
                return None;
            }
            Verdict::Quiet(since) if !is_stopping && !parser.may_switch() => {
                let socket = parser.give_back()?;
                return Some(Quiet { socket, since });
            }
            // A parser that may switch protocols is not given back, so its patience ends here.
            Verdict::Quiet(since) if since.elapsed() >= worker.settings().keep_alive_timeout => {
                parser.stop();
                is_stopping = true;
            }
            Verdict::Quiet(_) => {}
        }
    }
}

// The parser.

type Connection<S> = http1::Connection<TokioIo<Checked<Socket<S>>>, Answerer>;
type SwitchingConnection<S> = http1::UpgradeableConnection<TokioIo<Checked<Socket<S>>>, Answerer>;

/// hyper's connection. It can be taken back until a client asks to switch protocols, since it is then bound to hand over
/// its socket to somebody else.
struct Parser<S: Stream> {
    peer: Rc<Peer>,
    plain: Option<Connection<S>>,
    switching: Option<SwitchingConnection<S>>,
}

impl<S: Stream> Parser<S> {
    fn new(worker: &Rc<Worker>, peer: &Rc<Peer>, socket: Socket<S>) -> Self {
        let plain = http1::Builder::new()
            .header_read_timeout(None)
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEADER_BYTES)
            .max_buf_size(MAX_BUFFER)
            .serve_connection(
                TokioIo::new(Checked::new(socket)),
                Answerer::new(worker, peer),
            );
        Self {
            peer: peer.clone(),
            plain: Some(plain),
            switching: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        if let Some(plain) = &mut self.plain {
            if let Poll::Ready(ended) = plain.poll_without_shutdown(cx) {
                return Poll::Ready(ended);
            }
            if !self.peer.asked_to_switch() {
                return Poll::Pending;
            }
            // In time: what a backend answers takes at least one turn of another task.
            self.switching = self.plain.take().map(Connection::with_upgrades);
        }
        match &mut self.switching {
            Some(switching) => Poll::Ready(ready!(Pin::new(switching).poll(cx))),
            None => Poll::Ready(Ok(())),
        }
    }

    fn may_switch(&self) -> bool {
        self.switching.is_some()
    }

    /// Finishes what is under way and ends.
    fn stop(&mut self) {
        if let Some(plain) = &mut self.plain {
            Pin::new(plain).graceful_shutdown();
        }
        if let Some(switching) = &mut self.switching {
            Pin::new(switching).graceful_shutdown();
        }
    }

    fn give_back(self) -> Option<Socket<S>> {
        let parts = self.plain?.into_parts();
        let socket = parts.io.into_inner().into_inner();
        Some(socket.given_back(parts.read_buf))
    }
}

impl Awake {
    fn one(&self) -> One<'_> {
        self.0.set(self.0.get() + 1);
        One(self)
    }

    fn are_many(&self) -> bool {
        self.0.get() > MANY
    }
}

impl Drop for One<'_> {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get().saturating_sub(1));
    }
}

// Time.

/// Knows what to wait for while a parser is awake. It is asked about once a second, so requests cost no timers.
struct Clock<'c> {
    peer: &'c Peer,
    header_timeout: Duration,
    blocked: Blocked,
    since: Instant,
    /// Whether the beginning of a head was there when the parser woke.
    has_part: bool,
    requests_before: u32,
}

impl<'c> Clock<'c> {
    fn new<S>(worker: &Worker, peer: &'c Peer, quiet: &Quiet<S>) -> Self {
        Self {
            peer,
            header_timeout: worker.settings().header_timeout,
            blocked: quiet.socket.blocked(),
            since: quiet.since,
            has_part: quiet.socket.has_bytes(),
            requests_before: peer.requests(),
        }
    }

    fn verdict(&self) -> Verdict {
        let Some((since, patience)) = self.pending() else {
            return Verdict::Busy;
        };
        match since.elapsed() >= patience {
            true if self.waits_for_head() => Verdict::Late,
            true => Verdict::Quiet(since),
            false => Verdict::Busy,
        }
    }

    /// Ready when a request has been answered and no other begun, if there are many parsers. What follows a head with a
    /// body has to be told apart from the rest of that, so there it takes its time.
    fn poll_answered(&self, awake: &Awake) -> Poll<Event> {
        let is_over = awake.are_many()
            && !self.is_untouched()
            && !self.peer.had_body()
            && !self.blocked.is_blocked();
        match self.peer.idle_since().filter(|_| is_over) {
            Some(since) => Poll::Ready(Event::Answered(since)),
            None => Poll::Pending,
        }
    }

    /// When to ask again: soon, since a request that begins and ends in between changes what is waited for.
    fn next(&self) -> Instant {
        let now = Instant::now();
        let due = self.pending().map(|(since, patience)| since + patience);
        let soon = now + PARK;
        due.filter(|due| *due > now).unwrap_or(soon).min(soon)
    }

    /// What is being waited for: since when, and for how long that may go on.
    fn pending(&self) -> Option<(Instant, Duration)> {
        let idle_since = self.peer.idle_since()?;
        if self.waits_for_head() {
            return Some((self.since, self.header_timeout));
        }
        // What is answered is not over before the client has taken it.
        let since = match self.is_untouched() {
            true => self.since,
            false => idle_since,
        };
        (!self.blocked.is_blocked()).then_some((since, PARK))
    }

    fn waits_for_head(&self) -> bool {
        self.has_part && self.is_untouched()
    }

    /// Whether no request has begun since the parser woke.
    fn is_untouched(&self) -> bool {
        self.peer.requests() == self.requests_before
    }
}

// Ends.

/// Tells a client that it was too slow. One that has sent nothing at all did not ask for anything.
async fn refuse_late_head<S: Stream>(worker: &Worker, mut socket: Socket<S>) {
    if !socket.has_bytes() {
        return close(&mut socket).await;
    }
    worker.metrics().count_reason(Reason::HeaderTimeout);
    let answer = answer::in_bytes(Reason::HeaderTimeout);
    if let Ok(Ok(())) = timeout(LINGER, socket.write_all(&answer)).await {
        end(socket, true).await;
    }
}

/// Ends a connection. A socket that is closed while its client sends makes the client's kernel throw away the answer
/// (RFC 9112 section 9.6), so first only our half is closed.
async fn end<S: Stream>(mut socket: Socket<S>, may_be_sending: bool) {
    if !may_be_sending {
        return close(&mut socket).await;
    }
    let lingering = async {
        socket.shutdown().await?;
        let mut rest = socket.take(LINGER_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    if !matches!(timeout(LINGER, lingering).await, Ok(Ok(_))) {
        tracing::trace!("a client went on sending, or was gone");
    }
}

/// Says good-bye, which takes a message in TLS. Whether the client hears it is its business.
async fn close<S: Stream>(socket: &mut Socket<S>) {
    if !matches!(timeout(LINGER, socket.shutdown()).await, Ok(Ok(()))) {
        tracing::trace!("a client was gone before the end");
    }
}
