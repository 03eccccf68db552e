//! Switching to WebSocket: after the backend has agreed, and not before, bytes go both ways unread.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use crate::answer::Reason;
use crate::body::ResponseBody;
use crate::pool::Connection;
use crate::record::Record;
use crate::strict;
use crate::worker::Worker;

/// A backend that switches protocols.
pub struct Switch {
    /// The client's end, once it has the answer.
    pub client: OnUpgrade,
    /// The connection to the backend.
    pub connection: Connection,
    /// The backend's answer.
    pub response: Response<Incoming>,
}

/// Asks the backend to switch. The fields that ask are hop-by-hop, so they are gone by now.
pub fn prepare(parts: &mut Parts) -> OnUpgrade {
    announce(&mut parts.headers);
    // The client's end is an extension of the request; the backend's must not take it for its own.
    let client = parts.extensions.remove::<OnUpgrade>();
    client.unwrap_or_else(|| hyper::upgrade::on(http::Request::new(())))
}

fn announce(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// The answer that makes the client switch. The tunnel begins once the client has it.
pub fn tunnel(worker: &Rc<Worker>, switch: Switch, record: Box<Record>) -> Response<ResponseBody> {
    let Switch {
        client,
        connection,
        mut response,
    } = switch;
    let mut answer = Response::new(Full::<Bytes>::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = std::mem::take(response.headers_mut());
    strict::strip_response(answer.headers_mut());
    announce(answer.headers_mut());
    let backend = hyper::upgrade::on(response);
    worker.spawn(carry(client, backend, connection, record));
    answer.map(ResponseBody::unrecorded)
}

/// Carries bytes both ways until both sides have finished or one has failed. The connection's task hands over its socket,
/// so it has to live until then.
async fn carry(
    client: OnUpgrade,
    backend: OnUpgrade,
    connection: Connection,
    mut record: Box<Record>,
) {
    let ends = tokio::try_join!(client, backend);
    drop(connection);
    let (client, backend) = match ends {
        Ok(ends) => ends,
        Err(error) => {
            record.failed(Reason::ClientGone);
            return tracing::debug!(%error, "protocol switch failed");
        }
    };
    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
    match copy_bidirectional(&mut client, &mut backend).await {
        Ok((_, sent)) => {
            record.sent(usize::try_from(sent).unwrap_or(usize::MAX));
            record.complete();
        }
        Err(error) => tracing::debug!(%error, "tunnel broke off"),
    }
}
