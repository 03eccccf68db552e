//! Answers the load balancers that ask on a Service's `healthCheckNodePort` whether this node has an endpoint of it
//! (`externalTrafficPolicy: Local`). Answers are kube-proxy's (`pkg/proxy/healthcheck/service_health.go`).
//!
//! There is a listener for each such Service at each address where NodePorts answer. One that cannot be opened, because
//! somebody else has the port, is told in an event and tried again; all others are unaffected.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use hyper::{Response, StatusCode};
use model::{Family, ServiceName, World};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::events::{Events, Note};
use crate::health::{self, Health};

/// How many changes are taken in before listeners are opened and closed.
const BURST: usize = 1024;
/// The wait before a listener is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// The header in which load balancers find how many endpoints there are.
const WEIGHT: &str = "x-load-balancing-endpoint-weight";

/// What is answered for a Service, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The port.
    pub port: NonZeroU16,
    /// The Service's, for events.
    pub uid: Option<Box<str>>,
    /// How many endpoints this node has that are ready.
    pub local_endpoints: usize,
}

/// Something that changes what is answered, or where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A Service's check, or that it has none.
    Service(ServiceName, Option<Check>),
    /// The addresses where NodePorts answer.
    Addresses(BTreeSet<IpAddr>),
}

/// The check of the Service called `name`, if load balancers ask for it. Of a Service in two families, the larger count
/// holds: its endpoints in one are those in the other.
pub fn check(world: &World, name: &ServiceName) -> Option<Check> {
    let service = world.service(name).filter(|service| service.is_proxied())?;
    let port = service.health_check_node_port?;
    let count = |family| {
        let ports = service.ports.iter();
        let backends = ports.flat_map(|port| world.backends(name, port, family));
        let ready = backends.filter(|b| b.endpoint.ready && b.endpoint.is_local(world.place()));
        let distinct: BTreeSet<IpAddr> = ready.map(|b| b.address.ip()).collect();
        distinct.len()
    };
    Some(Check {
        port,
        uid: service.uid.clone(),
        local_endpoints: Family::ALL.into_iter().map(count).max().unwrap_or(0),
    })
}

/// The listeners of one Service.
struct Served {
    check: Check,
    /// What the listeners answer.
    local_endpoints: Arc<AtomicUsize>,
    listeners: BTreeMap<SocketAddr, Listener>,
}

/// A listener that is served.
struct Listener {
    stop: CancellationToken,
    served: JoinHandle<()>,
}

struct Server {
    node: String,
    addresses: BTreeSet<IpAddr>,
    services: BTreeMap<ServiceName, Served>,
    health: watch::Receiver<Health>,
    events: Events,
}

/// Serves what `changes` say until `shutdown`. The node is called `node`.
pub async fn run(
    mut changes: mpsc::UnboundedReceiver<Change>,
    node: String,
    health: watch::Receiver<Health>,
    events: Events,
    shutdown: CancellationToken,
) {
    let mut server = Server {
        node,
        addresses: BTreeSet::new(),
        services: BTreeMap::new(),
        health,
        events,
    };
    let mut burst = Vec::new();
    let mut all_open = true;
    loop {
        let retry = async {
            match all_open {
                true => std::future::pending().await,
                false => tokio::time::sleep(RETRY).await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => break,
            count = changes.recv_many(&mut burst, BURST) => {
                if count == 0 {
                    break;
                }
                let mut closing = Vec::new();
                for change in burst.drain(..) {
                    closing.extend(server.take_in(change));
                }
                // A port may pass from one Service to another.
                for listener in closing {
                    listener.close().await;
                }
            }
            () = retry => {}
        }
        all_open = server.open_missing().await;
    }
    for served in server.services.into_values() {
        for listener in served.listeners.into_values() {
            listener.close().await;
        }
    }
}

impl Listener {
    fn open<F>(listener: TcpListener, answer: F) -> Self
    where
        F: Fn(&str) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
    {
        let stop = CancellationToken::new();
        let served = tokio::spawn(health::serve(listener, stop.clone(), answer));
        Self { stop, served }
    }

    /// Ends it and its connections, after which its address is free.
    async fn close(self) {
        self.stop.cancel();
        if let Err(error) = self.served.await {
            warn!(
                error = &error as &dyn std::error::Error,
                "a listener for health checks failed"
            );
        }
    }
}

impl Server {
    /// Takes in `change`; the listeners that are of no use any more are returned.
    fn take_in(&mut self, change: Change) -> Vec<Listener> {
        match change {
            Change::Addresses(addresses) => {
                self.addresses = addresses;
                let services = self.services.values_mut();
                services
                    .flat_map(|served| {
                        let gone = served
                            .listeners
                            .extract_if(.., |at, _| !self.addresses.contains(&at.ip()));
                        gone.map(|(_, listener)| listener).collect::<Vec<_>>()
                    })
                    .collect()
            }
            Change::Service(name, None) => {
                let gone = self.services.remove(&name);
                let gone = gone.into_iter().flat_map(|served| served.listeners);
                gone.map(|(_, listener)| listener).collect()
            }
            Change::Service(name, Some(check)) => {
                let served = self.services.entry(name).or_insert_with(|| Served {
                    check: check.clone(),
                    local_endpoints: Arc::default(),
                    listeners: BTreeMap::new(),
                });
                served
                    .local_endpoints
                    .store(check.local_endpoints, Ordering::Relaxed);
                let moves = served.check.port != check.port;
                served.check = check;
                if !moves {
                    return Vec::new();
                }
                std::mem::take(&mut served.listeners)
                    .into_values()
                    .collect()
            }
        }
    }

    /// Opens the listeners that there should be; false if one could not be.
    async fn open_missing(&mut self) -> bool {
        let mut all = true;
        for (name, served) in &mut self.services {
            for address in &self.addresses {
                let at = SocketAddr::new(*address, served.check.port.get());
                if served.listeners.contains_key(&at) {
                    continue;
                }
                match TcpListener::bind(at).await {
                    Ok(listener) => {
                        info!(service = %name, address = %at, "answering health checks");
                        let answer = answers(name, &served.local_endpoints, &self.health);
                        served
                            .listeners
                            .insert(at, Listener::open(listener, answer));
                    }
                    Err(error) => {
                        all = false;
                        let message = format!(
                            "node {} failed to start healthcheck {:?} on port {}: {at}: {error}",
                            self.node,
                            name.to_string(),
                            served.check.port,
                        );
                        warn!("{message}");
                        self.events.warn(Note {
                            service: name.clone(),
                            uid: served.check.uid.clone(),
                            reason: "FailedToStartServiceHealthcheck",
                            message,
                        });
                    }
                }
            }
        }
        all
    }
}

/// What is answered for the Service called `name` to whoever asks, whatever the path.
fn answers(
    name: &ServiceName,
    local_endpoints: &Arc<AtomicUsize>,
    health: &watch::Receiver<Health>,
) -> impl Fn(&str) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static {
    let (name, local_endpoints, health) = (name.clone(), local_endpoints.clone(), health.clone());
    move |_| {
        let healthy = health.borrow().is_live(Instant::now());
        answer(&name, local_endpoints.load(Ordering::Relaxed), healthy)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Named<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Named<'a> {
    namespace: &'a str,
    name: &'a str,
}

fn answer(name: &ServiceName, local_endpoints: usize, healthy: bool) -> Response<Full<Bytes>> {
    let status = if local_endpoints > 0 && healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = Body {
        service: Named {
            namespace: &name.namespace,
            name: &name.name,
        },
        local_endpoints,
        service_proxy_healthy: healthy,
    };
    let body = serde_json::to_string(&body).unwrap_or_default();
    let mut response = health::text(status, "application/json", body);
    response
        .headers_mut()
        .insert(WEIGHT, HeaderValue::from(local_endpoints));
    response
}
