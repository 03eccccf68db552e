//! Requests of our own, to services that a filter asks: over HTTP/1.1, in the clear or over TLS, to a name that DNS knows.
//!
//! They are few next to those for backends and go where an Ingress says, so they have a client of their own, hyper's,
//! with connections that are kept. Certificates are verified like those of backends.

use std::cell::OnceCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};

use crate::tls::backend::Defaults;

/// The most of an answer's body that is read for the sake of keeping its connection.
const MAX_BODY: usize = 64 * 1024;
/// How long an idle connection is kept.
const KEEP: Duration = Duration::from_secs(60);
/// Most idle connections to one service.
const MAX_IDLE: usize = 64;

/// The body of a request of our own.
pub type Outgoing = UnsyncBoxBody<Bytes, io::Error>;

/// The connections of a thread to such services.
#[derive(Debug)]
pub struct Outbound {
    client: OnceCell<Client<HttpsConnector<HttpConnector>, Outgoing>>,
    tls: Arc<Defaults>,
}

/// The head of an answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The service cannot be reached, or breaks the protocol.
    #[error("the service does not answer")]
    Failed(#[source] hyper_util::client::legacy::Error),
    /// It takes too long.
    #[error("the service takes too long")]
    Late,
}

/// No body.
pub fn empty() -> Outgoing {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

impl Outbound {
    /// No connections yet; over TLS they will be as `tls` says.
    pub fn new(tls: Arc<Defaults>) -> Self {
        Self {
            client: OnceCell::new(),
            tls,
        }
    }

    /// Sends `request`, whose target is a URL, and waits for the head of the answer. Dropping it takes the request back.
    pub async fn call(
        &self,
        request: Request<Outgoing>,
        limit: Duration,
    ) -> Result<Answer, NoAnswer> {
        let client = self.client.get_or_init(|| client(&self.tls));
        let call = async {
            let (parts, body) = client.request(request).await?.into_parts();
            // A connection is kept only once its answer has been read. What the rest of it says matters to nobody.
            drop(Limited::new(body, MAX_BODY).collect().await);
            Ok(Answer {
                status: parts.status,
                headers: parts.headers,
            })
        };
        let answer = tokio::time::timeout(limit, call).await;
        answer
            .map_err(|_| NoAnswer::Late)?
            .map_err(NoAnswer::Failed)
    }
}

fn client(tls: &Defaults) -> Client<HttpsConnector<HttpConnector>, Outgoing> {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls_config(tls))
        .https_or_http()
        .enable_http1()
        .build();
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(KEEP)
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(MAX_IDLE)
        .build(connector)
}

/// As for backends of which no Ingress says anything. Where that cannot be had, as without any roots, no certificate is good,
/// and services without TLS are asked all the same.
fn tls_config(defaults: &Defaults) -> ClientConfig {
    defaults.client_config().unwrap_or_else(|error| {
        tracing::warn!(%error, "services cannot be asked over TLS");
        ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth()
    })
}
