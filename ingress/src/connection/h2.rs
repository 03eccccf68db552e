//! HTTP/2 on a client's connection: limits, and a graceful end when it has been idle for too long or used often enough.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use futures::FutureExt;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::cork::Uncorking;
use super::flood::Metered;
use super::{Answerer, report};
use crate::message::answer::Reason;
use crate::request::strict::MAX_HEADER_BYTES;
use crate::server::worker::{Peer, Worker};

/// Requests that a client may have open at a time.
const MAX_STREAMS: u32 = 128;
/// Streams that a client may open and reset before its connection is closed (CVE-2023-44487), and streams that may be
/// reset because of its errors (CVE-2025-8671).
const MAX_RESETS: usize = 64;
/// What may be buffered of a response that the client does not take.
const MAX_SEND_BUFFER: usize = 64 * 1024;

/// Serves `stream` to its end.
pub async fn serve<S>(worker: &Rc<Worker>, peer: Rc<Peer>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let settings = worker.settings();
    let flooded = Rc::new(Cell::new(false));
    let stream = Metered::new(stream, flooded.clone());
    let mut connection = Uncorking::new(stream, |stream| {
        http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(MAX_RESETS)
            .max_local_error_reset_streams(MAX_RESETS)
            .max_send_buf_size(MAX_SEND_BUFFER)
            .keep_alive_interval(settings.header_timeout)
            .enable_connect_protocol()
            .serve_connection(TokioIo::new(stream), Answerer::new(worker, &peer))
    });
    let until_used_up = poll_fn(|cx| match connection.poll_unpin(cx) {
        Poll::Pending if peer.requests() >= settings.keep_alive_requests => Poll::Ready(None),
        ended => ended.map(Some),
    });
    let ended = tokio::select! {
        biased;
        ended = until_used_up => ended,
        () = worker.shutdown().cancelled() => None,
        () = peer.idle(settings.keep_alive_timeout) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        // The client is told first that no stream after the last it knows of will be served, and which one that was only
        // once it must have heard (RFC 9113 section 6.8), so none of its requests is lost.
        None => {
            connection.connection().graceful_shutdown();
            (&mut connection).await
        }
    };
    if flooded.get() {
        worker.metrics().count_reason(Reason::Flood);
    }
    report(worker, &peer, ended);
}

/// Runs the tasks of a connection on its own thread.
#[derive(Debug, Clone)]
pub struct LocalExecutor;

impl<F: Future + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        // A block that waits for it would have room for it twice.
        tokio::task::spawn_local(task.map(drop));
    }
}
