//! What operators look into: routes, backends, certificates, and what becomes of a request.
//!
//! Everything is read from the snapshots that requests are served by, so it is what is in effect, not what should be. A
//! view is a plain value, written as a table for people or as JSON for programs; [`socket`] carries it.

use std::sync::Arc;

use model::ServicePortName;
use serde::Serialize;
use tokio::time::Instant;

use crate::routes::{Route, Target};
use crate::server::gateway::Shared;
use crate::upstream::Upstream;
use crate::upstream::endpoint::Endpoint;

pub mod explain;
pub mod socket;
mod table;

/// How a view is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// A path of a host.
#[derive(Debug, Serialize)]
struct RouteView {
    host: String,
    kind: String,
    path: String,
    ingress: String,
    service: String,
    /// Nothing where the object names something that is not there.
    endpoints: Option<usize>,
    tls: bool,
    closed: bool,
}

/// An endpoint of a Service port.
#[derive(Debug, Serialize)]
struct EndpointView {
    service: String,
    port: String,
    address: String,
    in_flight: u32,
    /// Milliseconds to the head of a response, as far as it is known.
    latency_ms: Option<f32>,
    ejected: bool,
}

/// The certificate of a host.
#[derive(Debug, Serialize)]
struct CertificateView {
    host: String,
    /// Nothing for the default certificate.
    secret: Option<String>,
    names: Vec<String>,
    /// As RFC 3339 has it.
    expires: String,
}

/// All routes, in order of hosts and paths.
pub fn routes(shared: &Shared, format: Format) -> String {
    let routes = shared.routes.load();
    let mut views: Vec<_> = routes
        .hosts()
        .iter()
        .flat_map(|(host, all)| {
            let host = host.to_string();
            let tls = routes.is_secure(&host);
            let view = move |route: &Arc<Route>| RouteView::new(host.clone(), tls, route);
            all.routes().map(view).collect::<Vec<_>>()
        })
        .collect();
    views.sort_by(|one, other| (&one.host, &one.path).cmp(&(&other.host, &other.path)));
    let columns = [
        "host",
        "kind",
        "path",
        "ingress",
        "service",
        "endpoints",
        "tls",
        "closed",
    ];
    write(&views, &columns, format)
}

/// The endpoints of all backends, in order of Services.
pub fn upstreams(shared: &Shared, format: Format) -> String {
    let upstreams = shared.upstreams.all();
    let views: Vec<_> = upstreams
        .iter()
        .flat_map(|upstream| endpoints(upstream))
        .collect();
    let columns = [
        "service",
        "port",
        "address",
        "in_flight",
        "latency_ms",
        "ejected",
    ];
    write(&views, &columns, format)
}

/// The certificate of each host with a TLS section, and the default one.
pub fn certificates(shared: &Shared, format: Format) -> String {
    let certificates = shared.certificates.load();
    let mut views: Vec<_> = certificates
        .by_host()
        .map(|(host, secret, certificate)| CertificateView {
            host: host.map_or_else(|| "(default)".to_owned(), |host| host.to_string()),
            secret: secret.map(ToString::to_string),
            names: certificate.names().map(ToString::to_string).collect(),
            expires: jiff::Timestamp::from_second(certificate.facts().expires)
                .map_or_else(|_| "never".to_owned(), |time| time.to_string()),
        })
        .collect();
    views.sort_by(|one, other| one.host.cmp(&other.host));
    write(&views, &["host", "secret", "names", "expires"], format)
}

impl RouteView {
    fn new(host: String, tls: bool, route: &Route) -> Self {
        Self {
            host,
            tls,
            kind: kind(route),
            path: route.path.to_string(),
            ingress: route.ingress.name.to_string(),
            service: route.service.to_string(),
            endpoints: match &route.target {
                Target::Backend(upstream) => Some(upstream.endpoints().len()),
                Target::Nowhere | Target::WithSlash => None,
            },
            closed: route.is_closed(),
        }
    }
}

fn kind(route: &Route) -> String {
    let named = |kind: crate::routes::PathMatch| kind.to_string();
    route.kind.map_or_else(|| "default".to_owned(), named)
}

fn endpoints(upstream: &Upstream) -> Vec<EndpointView> {
    let now = Instant::now();
    let ServicePortName { service, port, .. } = upstream.name();
    let view = |endpoint: &Arc<Endpoint>| EndpointView {
        service: service.to_string(),
        port: port.to_string(),
        address: endpoint.address().to_string(),
        in_flight: endpoint.in_flight(),
        latency_ms: endpoint.latency(now).map(|microseconds| microseconds / 1e3),
        ejected: endpoint.is_ejected(now),
    };
    upstream.endpoints().iter().map(view).collect()
}

fn write<V: Serialize>(views: &[V], columns: &[&str], format: Format) -> String {
    match format {
        Format::Json => json(&views),
        Format::Table => table::table(views, columns),
    }
}

fn json(view: &impl Serialize) -> String {
    // Views have text for keys, so nothing can go wrong.
    let text = serde_json::to_string_pretty(view).unwrap_or_default();
    text + "\n"
}
