//! What the daemon answers about itself: `/healthz` and `/livez` for load balancers and the kubelet, `/metrics` and
//! `/proxyMode` for those who look closer. Bodies and codes are kube-proxy's.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::metrics::Metrics;
use crate::standing::Standing;

/// How long something may be other than it should be before the proxy counts as unhealthy: twice the period in which
/// kube-proxy synchronises.
const PATIENCE: Duration = Duration::from_secs(60);

/// The state of the proxy as others may know it.
#[derive(Debug, Clone)]
pub struct Health {
    last_updated: SystemTime,
    standing: Standing,
    /// Since when a device is without its program.
    unattached_since: Option<Instant>,
}

/// The body of `/healthz` and `/livez`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
}

impl Health {
    /// The state of a proxy that has just started: healthy, with nothing done yet.
    pub fn new() -> Self {
        Self {
            last_updated: SystemTime::now(),
            standing: Standing::default(),
            unattached_since: None,
        }
    }

    /// Takes in how the reconciler stands after a round.
    pub fn update(&mut self, standing: &Standing) {
        self.standing = *standing;
        self.note_update();
    }

    /// Takes in whether all devices have their programs as of `now`. True if that is news.
    pub fn update_attached(&mut self, is_complete: bool, now: Instant) -> bool {
        let was_complete = self.unattached_since.is_none();
        if is_complete {
            self.unattached_since = None;
        } else {
            self.unattached_since.get_or_insert(now);
        }
        self.note_update();
        was_complete != is_complete
    }

    /// Keeps the moment at which everything was last as it should be.
    fn note_update(&mut self) {
        if self.wrong_since().is_none() {
            self.last_updated = SystemTime::now();
        }
    }

    /// Since when anything is other than it should be.
    fn wrong_since(&self) -> Option<Instant> {
        let behind = self.standing.behind_since.into_iter();
        behind.chain(self.unattached_since).min()
    }

    /// Whether the first round is over, after which the maps hold everything.
    pub fn is_steady(&self) -> bool {
        self.standing.is_steady
    }

    /// Whether all changes reach the kernel, and all devices get their programs, in time.
    pub(crate) fn is_live(&self, now: Instant) -> bool {
        self.wrong_since()
            .is_none_or(|since| now.duration_since(since) < PATIENCE)
    }

    fn body(&self, node_eligible: Option<bool>) -> String {
        let text = |time: SystemTime| {
            Timestamp::try_from(time)
                .map(|time| time.to_string())
                .unwrap_or_default()
        };
        // While nothing is wrong, the state is as good as just updated.
        let last_updated = if self.wrong_since().is_none() {
            SystemTime::now()
        } else {
            self.last_updated
        };
        let body = Body {
            last_updated: text(last_updated),
            current_time: text(SystemTime::now()),
            node_eligible,
        };
        serde_json::to_string(&body).unwrap_or_default()
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

/// Serves `/healthz` and `/livez` on `listener` until `shutdown`.
pub async fn serve_health(
    listener: TcpListener,
    health: watch::Receiver<Health>,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    serve(listener, shutdown, move |path| {
        answer_health(path, &health.borrow(), &metrics)
    })
    .await;
}

/// Serves `/metrics` and `/proxyMode` on `listener` until `shutdown`.
pub async fn serve_metrics(listener: TcpListener, metrics: Metrics, shutdown: CancellationToken) {
    serve_later(listener, shutdown, move |path| {
        answer_metrics(path, metrics.clone())
    })
    .await;
}

async fn answer_metrics(path: String, metrics: Metrics) -> Response<Full<Bytes>> {
    let plain = |status, body: &str| text(status, "text/plain", body.to_owned());
    match path.as_str() {
        // Reading the programs' counters takes long enough to keep everything else waiting.
        "/metrics" => match tokio::task::spawn_blocking(move || metrics.encode()).await {
            Ok(body) => text(StatusCode::OK, crate::metrics::CONTENT_TYPE, body),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        },
        "/proxyMode" => plain(StatusCode::OK, "ebpf"),
        "/healthz" => plain(StatusCode::OK, "ok"),
        _ => plain(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// Opens the listener at `address`.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

fn answer_health(path: &str, health: &Health, metrics: &Metrics) -> Response<Full<Bytes>> {
    let live = health.is_live(Instant::now());
    let stays = !health.standing.is_leaving;
    let (ok, eligible) = match path {
        "/healthz" => (live && stays, Some(stays)),
        "/livez" => (live, None),
        _ => {
            return text(
                StatusCode::NOT_FOUND,
                "text/plain",
                "404 page not found\n".to_owned(),
            );
        }
    };
    let status = if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    metrics.count_probe(path, status.as_u16());
    text(status, "application/json", health.body(eligible))
}

pub(crate) fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Answers whoever asks at `listener` until `shutdown`.
pub(crate) async fn serve<F>(listener: TcpListener, shutdown: CancellationToken, answer: F)
where
    F: Fn(&str) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
{
    serve_later(listener, shutdown, move |path| {
        std::future::ready(answer(&path))
    })
    .await;
}

/// The same, with answers that take their time.
async fn serve_later<F, R>(listener: TcpListener, shutdown: CancellationToken, answer: F)
where
    F: Fn(String) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    if let Ok(address) = listener.local_addr() {
        info!(%address, "serving");
    }
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(shutdown.clone().run_until_cancelled_owned(converse(stream, answer.clone())));
                }
                // Out of descriptors, most likely: a pause lets some be closed.
                Err(error) => {
                    debug!(error = &error as &dyn std::error::Error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn converse<F, R>(stream: TcpStream, answer: F)
where
    F: Fn(String) -> R + Sync,
    R: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(request.uri().path().to_owned());
        async move { Ok::<_, Infallible>(response.await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(
            error = &error as &dyn std::error::Error,
            "a connection ended early"
        );
    }
}
