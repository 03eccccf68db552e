//! The way to the node agents: HTTPS with our own client certificate, one connection a request, upgrades passed through.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::object::{items, text};

/// How long a node agent may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a node's agent listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agent {
    address: IpAddr,
    port: u16,
}

impl Agent {
    /// The agent of a Node: its first internal address and the port it states.
    pub(crate) fn of(node: &Value) -> Option<Self> {
        let internal = items(node, "/status/addresses")
            .iter()
            .find(|address| text(address, "/type") == "InternalIP")?;
        let port = node
            .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
            .and_then(Value::as_u64)
            .unwrap_or(10250);
        Some(Self {
            address: text(internal, "/address").parse().ok()?,
            port: u16::try_from(port).ok()?,
        })
    }

    /// `host:port`, an IPv6 host in brackets.
    pub(crate) fn authority(&self) -> String {
        std::net::SocketAddr::new(self.address, self.port).to_string()
    }
}

/// The agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error("dial tcp {authority}: {source}")]
    Connect {
        authority: String,
        source: std::io::Error,
    },
    #[error("dial tcp {0}: i/o timeout")]
    Timeout(String),
    #[error("{0}")]
    Exchange(#[from] hyper::Error),
}

/// Connects to node agents.
#[derive(Clone)]
pub(crate) struct Agents {
    tls: TlsConnector,
}

impl std::fmt::Debug for Agents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agents").finish_non_exhaustive()
    }
}

impl Agents {
    pub(crate) fn new(config: ClientConfig) -> Self {
        Self {
            tls: TlsConnector::from(Arc::new(config)),
        }
    }

    /// Sends a request to an agent; dropping the answer ends it.
    pub(crate) async fn send(
        &self,
        agent: Agent,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, AgentError> {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.connect(agent)).await;
        let stream = connecting.map_err(|_| AgentError::Timeout(agent.authority()))??;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a node agent ended");
            }
        });
        Ok(sender.send_request(request).await?)
    }

    async fn connect(
        &self,
        agent: Agent,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, AgentError> {
        let failed = |source| AgentError::Connect {
            authority: agent.authority(),
            source,
        };
        let stream = TcpStream::connect((agent.address, agent.port))
            .await
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        self.tls
            .connect(ServerName::from(agent.address), stream)
            .await
            .map_err(failed)
    }
}
