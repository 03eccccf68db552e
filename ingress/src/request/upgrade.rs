//! Switching to WebSocket: after the backend has agreed, and not before, bytes go both ways unread.
//!
//! A client of HTTP/2 asks by an extended CONNECT (RFC 8441) and gets a stream; the backend is asked in HTTP/1.1 all the
//! same. The proof that it has understood, for which such a client has no fields, is then ours to ask for.

use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::io::copy_bidirectional;

use crate::forward::pool::Connection;
use crate::message::answer::Reason;
use crate::message::body::ResponseBody;
use crate::observe::record::Record;
use crate::request::strict;
use crate::server::worker::Worker;

/// What is appended to a key before it is hashed (RFC 6455 section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A client that asks to switch protocols.
#[derive(Debug)]
pub struct Upgrade {
    /// Its end, once it has the answer.
    client: OnUpgrade,
    /// The key that the backend must know, if it is ours.
    key: Option<HeaderValue>,
}

/// A backend that switches protocols.
pub struct Switch {
    /// Who asked for it.
    pub upgrade: Upgrade,
    /// The connection to the backend.
    pub connection: Connection,
    /// The backend's answer.
    pub response: Response<Incoming>,
}

/// Asks the backend to switch. The fields that ask are hop-by-hop, so they are gone by now.
pub fn prepare(parts: &mut Parts) -> Upgrade {
    announce(&mut parts.headers);
    // The client's end is an extension of the request; the backend's must not take it for its own.
    let client = parts.extensions.remove::<OnUpgrade>();
    let client = client.unwrap_or_else(|| hyper::upgrade::on(http::Request::new(())));
    let is_stream = parts.extensions.remove::<Protocol>().is_some();
    let key = is_stream.then(new_key);
    if let Some(key) = &key {
        parts.headers.insert(SEC_WEBSOCKET_KEY, key.clone());
    }
    Upgrade { client, key }
}

/// A key that nobody can have seen before.
fn new_key() -> HeaderValue {
    let key = STANDARD.encode(rand::random::<[u8; 16]>());
    HeaderValue::try_from(key).unwrap_or_else(|_| HeaderValue::from_static(""))
}

impl Upgrade {
    /// Whether `response` shows that the backend has understood what it was asked. If the key is the client's, so is the
    /// judgement.
    pub fn is_agreed(&self, response: &HeaderMap) -> bool {
        let Some(key) = &self.key else { return true };
        let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
        let accepted = response.get(SEC_WEBSOCKET_ACCEPT);
        accepted.is_some_and(|accepted| *accepted == STANDARD.encode(digest))
    }

    /// The status by which the client is told of the switch.
    pub fn status(&self) -> StatusCode {
        match self.key {
            None => StatusCode::SWITCHING_PROTOCOLS,
            Some(_) => StatusCode::OK,
        }
    }
}

fn announce(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// The answer that makes the client switch. The tunnel begins once the client has it.
pub fn tunnel(worker: &Rc<Worker>, switch: Switch, record: Box<Record>) -> Response<ResponseBody> {
    let Switch {
        upgrade,
        connection,
        mut response,
    } = switch;
    let mut answer = Response::new(Full::<Bytes>::default());
    *answer.status_mut() = upgrade.status();
    *answer.headers_mut() = std::mem::take(response.headers_mut());
    strict::strip_response(answer.headers_mut());
    match upgrade.key {
        None => announce(answer.headers_mut()),
        Some(_) => drop(answer.headers_mut().remove(SEC_WEBSOCKET_ACCEPT)),
    }
    let backend = hyper::upgrade::on(response);
    worker.spawn(carry(upgrade.client, backend, connection, record));
    answer.map(ResponseBody::unrecorded)
}

/// Carries bytes both ways until both sides have finished or one has failed. The connection hands over its socket, so it
/// has to be moved along until then.
async fn carry(
    client: OnUpgrade,
    backend: OnUpgrade,
    mut connection: Connection,
    mut record: Box<Record>,
) {
    let ends = tokio::try_join!(client, connection.carry(backend));
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
