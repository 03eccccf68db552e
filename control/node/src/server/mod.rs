//! The agent's HTTPS API, in the paths and words of the kubelet's: logs and exec for the API server.
//!
//! Who calls must have a client certificate of the CA with organisation `system:masters`: whoever may exec into a pod
//! here may become anyone in the cluster.

mod exec;
mod logs;
mod terminal;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::args::NodeArgs;
use crate::pod::PodView;
use crate::run::{Error, io};
use crate::tls;

/// How long a client may take to say who it is.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The bound address and how to speak on it; none if no certificates were given.
pub(crate) struct Listener {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

/// Binds the address, so that nothing else is started if that fails.
pub(crate) async fn bind(args: &NodeArgs) -> Result<Option<Listener>, Error> {
    let Some((cert, key, client_ca)) = args.tls_files() else {
        return Ok(None);
    };
    let config = tls::server_config(cert, key, client_ca)?;
    let tcp = TcpListener::bind(args.bind)
        .await
        .map_err(io(format!("listening on {}", args.bind)))?;
    Ok(Some(Listener {
        tcp,
        tls: TlsAcceptor::from(Arc::new(config)),
    }))
}

/// Serves until `shutdown`.
pub(crate) async fn serve(
    agent: Arc<Agent>,
    listener: Option<Listener>,
    shutdown: CancellationToken,
) {
    let Some(listener) = listener else { return };
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.tcp.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(Arc::clone(&agent), listener.tls.clone(), stream);
                let shutdown = shutdown.clone();
                tokio::spawn(async move { shutdown.run_until_cancelled(connection).await });
            }
            Err(error) => {
                // Out of descriptors, most likely.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(agent: Arc<Agent>, tls: TlsAcceptor, stream: TcpStream) {
    let stream = match tokio::time::timeout(HANDSHAKE_PATIENCE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Err(_) => return tracing::debug!("a TLS handshake took too long"),
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
    };
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first());
    let allowed = certificate.is_some_and(|certificate| is_master(certificate));
    let service = service_fn(move |request| {
        let agent = Arc::clone(&agent);
        async move {
            Ok::<_, Infallible>(if allowed {
                answer(&agent, request).await
            } else {
                forbidden()
            })
        }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.with_upgrades().await {
        tracing::debug!(%error, "a connection ended");
    }
}

/// True for a certificate of organisation `system:masters`.
fn is_master(certificate: &[u8]) -> bool {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else {
        return false;
    };
    let mut organizations = certificate.subject().iter_organization();
    organizations.any(|organization| organization.as_str() == Ok("system:masters"))
}

async fn answer(agent: &Arc<Agent>, request: Request<Incoming>) -> Response<Body> {
    let path: Vec<String> = request
        .uri()
        .path()
        .split('/')
        .skip(1)
        .map(decoded)
        .collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match (request.method(), path.as_slice()) {
        (&Method::GET, ["healthz"]) => text(StatusCode::OK, "ok"),
        (&Method::GET, ["metrics"]) => text(StatusCode::OK, &metrics(agent)),
        (&Method::GET, ["containerLogs", namespace, pod, container]) => {
            let query = Query::of(&request);
            match find(agent, namespace, pod) {
                Some(view) => logs::answer(view, pod, container, &query),
                None => text(StatusCode::NOT_FOUND, &format!("pod \"{pod}\" not found\n")),
            }
        }
        (&Method::GET | &Method::POST, ["exec", namespace, pod, container]) => {
            match find(agent, namespace, pod) {
                Some(view) => exec::answer(agent, &view.borrow().clone(), container, request),
                None => text(StatusCode::NOT_FOUND, &format!("pod \"{pod}\" not found\n")),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn find(agent: &Agent, namespace: &str, pod: &str) -> Option<watch::Receiver<PodView>> {
    agent
        .views()
        .get(&(namespace.to_owned(), pod.to_owned()))
        .cloned()
}

fn metrics(agent: &Agent) -> String {
    let views = agent.views();
    let containers: Vec<_> = views
        .values()
        .flat_map(|view| view.borrow().containers.clone())
        .collect();
    let running = containers
        .iter()
        .filter(|(_, container)| container.running.is_some())
        .count();
    let memory: u64 = containers
        .iter()
        .filter_map(|(_, container)| container.running.as_ref()?.memory_usage())
        .sum();
    let mut text = String::new();
    for (name, help, value) in [
        (
            "kubelet_running_pods",
            "Pods that have a task.",
            views.len() as u64,
        ),
        (
            "kubelet_running_containers",
            "Containers that run.",
            running as u64,
        ),
        (
            "portolan_node_containers_memory_bytes",
            "Memory that running containers use.",
            memory,
        ),
    ] {
        text.push_str(&format!(
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"
        ));
    }
    text
}

/// The parameters of a request.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    fn of<B>(request: &Request<B>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        Self(
            form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// True for the ways in which clients say yes.
    fn is_set(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1"))
    }
}

/// A path segment without percent signs.
fn decoded(segment: &str) -> String {
    // Only the part before `=` is a name to this parser; a plus sign means itself in a path.
    let escaped = segment
        .replace('+', "%2B")
        .replace('=', "%3D")
        .replace('&', "%26");
    form_urlencoded::parse(escaped.as_bytes())
        .next()
        .map(|(name, _)| name.into_owned())
        .unwrap_or_default()
}

fn text(status: StatusCode, body: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_owned()))
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("text/plain"));
    response
}

fn forbidden() -> Response<Body> {
    text(
        StatusCode::FORBIDDEN,
        "Forbidden (the client certificate's organization is not system:masters)\n",
    )
}

fn streamed(stream: BoxStream<'static, std::io::Result<Bytes>>) -> Response<Body> {
    let mut response = Response::new(StreamBody::new(stream.map_ok(Frame::data)).boxed_unsync());
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("text/plain"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_segments_are_decoded() {
        for (segment, expected) in [
            ("a", "a"),
            ("a%2Fb", "a/b"),
            ("a+b", "a+b"),
            ("a=b", "a=b"),
            ("", ""),
        ] {
            assert_eq!(decoded(segment), expected);
        }
    }
}
