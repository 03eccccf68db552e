//! The settings of the gateway; their documentation is its `--help`.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, FromArgMatches};
use http::{HeaderValue, StatusCode};
use ipnetwork::IpNetwork;
use model::Node;
use model::ObjectName;

use crate::admission::AdmissionArgs;
use crate::annotations::value;
use crate::api::watch::WatchArgs;
use crate::filters::compress::CompressArgs;
use crate::filters::global_auth::GlobalAuthArgs;
use crate::inspect::socket;
use crate::observe::log_format::LogFormat;
use crate::observe::settings::MetricsArgs;
use crate::request::allowance::BodyLimits;
use crate::tls::settings::TlsArgs;
use crate::trace::settings::TraceArgs;
use crate::upstream::Ejection;
use crate::upstream::external::ExternalNameArgs;

/// Command line arguments.
#[derive(clap::Args, Debug, Clone)]
pub struct IngressArgs {
    /// File that says how to reach the Kubernetes API. Without it: $KUBECONFIG, ~/.kube/config, or the service account
    /// of the pod this runs in.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Value of spec.controller by which an IngressClass is ours.
    #[arg(long, value_name = "NAME", default_value = "portolan.dev/ingress")]
    pub controller_class: String,

    /// Class that an Ingress may name in its annotation kubernetes.io/ingress.class even if no IngressClass of that name
    /// exists.
    #[arg(long, value_name = "NAME", default_value = "portolan")]
    pub ingress_class: String,

    /// ConfigMap with settings, as NAMESPACE/NAME, which has the keys of ingress-nginx's. It is followed: what it says takes
    /// effect at once, but for a few settings that wait for the next start, of which a line of the log tells. What an Ingress
    /// says by annotation goes over the ConfigMap, and the ConfigMap over the command line. A value that cannot be used
    /// counts as absent, with an Event. What keeps requests out (block-*, denylist-source-range, whitelist-source-range,
    /// global-auth-*) and cannot be used stays as it last could; at the start the gateway does not become ready with it, nor
    /// while it may not read the ConfigMap. One that does not exist says nothing. `lint` tells what becomes of each key.
    /// The gateway needs the right to list and watch it by name, and those that it names (proxy-set-headers, add-headers).
    #[arg(long, value_name = "CONFIGMAP", value_parser = object_name)]
    pub configmap: Option<ObjectName>,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would take a comment for the title of the whole help"
    )]
    pub watch: WatchArgs,

    /// Addresses or host names at which clients reach this gateway. They are written to the status of every Ingress it
    /// serves; without them no status is written.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub publish_status_address: Vec<String>,

    /// Service whose addresses to write there, as NAMESPACE/NAME: those that a load balancer gave it, and its external
    /// IPs. They follow the Service.
    #[arg(
        long,
        value_name = "SERVICE",
        value_parser = object_name,
        conflicts_with = "publish_status_address"
    )]
    pub publish_service: Option<ObjectName>,

    /// Remove those addresses from all Ingresses at a clean shutdown, if this gateway is the leader then. Meant for a
    /// gateway that goes for good; where another takes over, it writes them again.
    #[arg(long)]
    pub clear_status_on_shutdown: bool,

    /// Name of the Lease by which several gateways agree on the one that writes statuses.
    #[arg(long, value_name = "NAME", default_value = "portolan-ingress-leader")]
    pub election_id: String,

    /// Namespace of that Lease. Without it: that of the service account or the kubeconfig.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    pub election_namespace: Option<String>,

    /// How long a leader may be silent before another takes its place.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub election_ttl: Duration,

    /// Write statuses without asking who else does.
    #[arg(long)]
    pub disable_leader_election: bool,

    /// What this gateway calls itself in the Lease.
    #[arg(
        long,
        value_name = "NAME",
        env = "POD_NAME",
        default_value = "portolan-ingress"
    )]
    pub pod_name: String,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would take a comment for the title of the whole help"
    )]
    pub admission: AdmissionArgs,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would take a comment for the title of the whole help"
    )]
    pub gateway: GatewayArgs,
}

/// Arguments of the data plane.
#[derive(clap::Args, Debug, Clone)]
#[group(skip)]
pub struct GatewayArgs {
    /// Where to listen for HTTP.
    #[arg(
        long,
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "0.0.0.0:80,[::]:80"
    )]
    pub http_bind: Vec<SocketAddr>,

    /// Where to listen for HTTPS.
    #[arg(
        long,
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "0.0.0.0:443,[::]:443"
    )]
    pub https_bind: Vec<SocketAddr>,

    /// Where to serve /healthz, /readyz and /metrics.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10254")]
    pub admin_bind: SocketAddr,

    /// Where the subcommands find a running gateway: a socket that only its own user may open.
    #[arg(long, value_name = "FILE", default_value = socket::DEFAULT_PATH)]
    pub admin_socket: PathBuf,

    /// Number of threads that serve connections. Without it: one for each core.
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,

    /// Most client connections at a time, shared out among the threads. Further ones wait in the listen queue.
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    pub max_connections: usize,

    /// Ranges of proxies whose X-Forwarded-* and X-Real-IP headers are believed. From everybody else they are removed.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub trusted_proxies: Vec<IpNetwork>,

    /// Ranges of load balancers that begin every connection with a PROXY protocol header (version 1 or 2), which then
    /// names the client. A connection from them without one is closed; from everybody else none is taken.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub proxy_protocol_from: Vec<IpNetwork>,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would take a comment for the title of the whole help"
    )]
    pub tls: TlsArgs,

    /// Forward headers with an underscore in their name. Many backends cannot tell X_Real_IP from X-Real-IP.
    #[arg(long)]
    pub keep_underscore_headers: bool,

    /// Keep runs of slashes in paths instead of merging them into one.
    #[arg(long)]
    pub keep_slashes: bool,

    /// Refuse paths with an encoded slash or backslash (%2F, %5C) with 400. Without it they are data: neither ends an
    /// element of a path, and a backend gets them as they are. Some backends take them for slashes.
    #[arg(long)]
    pub refuse_encoded_slashes: bool,

    /// Look under less specific hosts (the wildcard, then rules without a host) for a path that the host of a request does
    /// not have. Without it a host, once chosen, is not left, as in ingress-nginx.
    #[arg(long)]
    pub host_fall_through: bool,

    /// Status of the answer to requests over a limit. ingress-nginx has 503.
    #[arg(long, value_name = "STATUS", default_value = "429", value_parser = error_status)]
    pub limit_status_code: StatusCode,

    /// Leading bits of an IPv6 address that make a client where clients are limited: whoever has one address of a network
    /// has all of it.
    #[arg(long, value_name = "BITS", default_value_t = 64, value_parser = clap::value_parser!(u8).range(1..=128))]
    pub limit_ipv6_prefix: u8,

    /// Secret with the certificate for clients that ask for a host without one of its own, or for none, as NAMESPACE/NAME.
    /// It is followed when it changes, and the gateway needs the right to list and watch it by name. Without it, or
    /// until it is there: a self-signed one.
    #[arg(long, value_name = "SECRET", value_parser = object_name)]
    pub default_ssl_certificate: Option<ObjectName>,

    /// Service for requests that no Ingress has a rule or default backend for, as NAMESPACE/NAME; its first TCP port is used.
    /// It is asked for other answers in place of errors, too (custom-http-errors), where the Ingress names no default
    /// backend. Without it, or while it does not exist: 404.
    #[arg(long, value_name = "SERVICE", value_parser = object_name)]
    pub default_backend_service: Option<ObjectName>,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would take a comment for the title of the whole help"
    )]
    pub external_name: ExternalNameArgs,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would take a comment for the title of the whole help"
    )]
    pub global_auth: GlobalAuthArgs,

    /// How lines of the access log look: `json`, `nginx` for ingress-nginx's own format, or a text with variables of nginx
    /// like `$remote_addr "$request" $status`.
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    pub access_log_format: LogFormat,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would take a comment for the title of the whole help"
    )]
    pub metrics: MetricsArgs,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would take a comment for the title of the whole help"
    )]
    pub trace: TraceArgs,

    #[command(flatten)]
    #[expect(
        missing_docs,
        reason = "clap would take a comment for the title of the whole help"
    )]
    pub compress: CompressArgs,

    /// Redirect plain HTTP to HTTPS for hosts with a TLS section, where the Ingress says nothing of it (ssl-redirect).
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub ssl_redirect: bool,

    /// Redirect plain HTTP to HTTPS for all hosts, where the Ingress says nothing of it (force-ssl-redirect). Meant for a
    /// gateway behind something that ends TLS and says so in X-Forwarded-Proto (see --trusted-proxies).
    #[arg(long)]
    pub force_ssl_redirect: bool,

    /// Refuse TLS to clients that ask for a host that no Ingress has a rule for, or for none, in place of showing them the
    /// default certificate (ssl-reject-handshake).
    #[arg(long)]
    pub ssl_reject_handshake: bool,

    /// Tell clients that come over TLS to a host with a TLS section to come by HTTPS only (Strict-Transport-Security).
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub hsts: bool,

    /// How long clients keep to that.
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = duration)]
    pub hsts_max_age: Duration,

    /// Whether that goes for all hosts below as well.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub hsts_include_subdomains: bool,

    /// Whether browsers may ship with that.
    #[arg(long)]
    pub hsts_preload: bool,

    /// Do not write an access log to standard output.
    #[arg(long)]
    pub no_access_log: bool,

    /// How long a client may take for a TLS handshake, and for the head of a request.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub header_timeout: Duration,

    /// How long an idle connection of a client is kept.
    #[arg(long, value_name = "DURATION", default_value = "75s", value_parser = duration)]
    pub keep_alive_timeout: Duration,

    /// Most requests over one connection of a client. After them it has to open another.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_alive_requests: u32,

    /// Largest body of a request, in bytes or with one of the suffixes k, m and g; 0 for no limit. Larger ones are
    /// answered with 413.
    #[arg(long, value_name = "SIZE", default_value = "1m", value_parser = value::size)]
    pub max_body_size: u64,

    /// Fewest bytes per second, over the whole body, at which a client may send the body of a request; 0 for no limit.
    /// Slower ones are answered with 408. Clients that stream in their own time need it to be 0.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub min_body_rate: u64,

    /// How long a client may pause while it sends a body, or while it takes a response.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub client_timeout: Duration,

    /// How long connecting to a backend may take.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub connect_timeout: Duration,

    /// How long a backend may take to begin its response after it has the request, or pause while it sends the response.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub backend_timeout: Duration,

    /// How long a request may take from its head to the end of its response, all attempts included. Without it: as long as
    /// no single step takes too long.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub request_timeout: Option<Duration>,

    /// Most requests that an endpoint may have in flight. When all endpoints of a Service have as many, further requests
    /// are answered with 503. Without it: any number.
    #[arg(long, value_name = "N")]
    pub max_requests_per_endpoint: Option<NonZeroU32>,

    /// For how long a new endpoint gets less than its share of requests, growing from a tenth. Without it: its share at
    /// once, as in ingress-nginx.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub slow_start: Option<Duration>,

    /// Most idle connections to backends that each thread keeps, for all of them together. One more, and the one that has
    /// been idle for longest is closed. HTTP/2 needs few, and they are not counted.
    #[arg(long, value_name = "N", default_value_t = 320)]
    pub upstream_keepalive_connections: usize,

    /// How long an idle connection to a backend is kept.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub upstream_keepalive_timeout: Duration,

    /// Most requests over one connection to a backend. After them another is opened.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub upstream_keepalive_requests: u32,

    /// How long a connection to a backend is used. Requests under way then are finished.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub upstream_keepalive_time: Duration,

    /// File with the certificates, as PEM, by which those of backends are verified where the Ingress names none
    /// (proxy-ssl-secret), and those of other services that it names by URL (auth-url, mirror-target). Without it: those
    /// that the system trusts.
    #[arg(long, value_name = "FILE")]
    pub backend_ca_file: Option<PathBuf>,

    /// Do not verify these certificates unless the Ingress asks for it (proxy-ssl-verify), as ingress-nginx does.
    #[arg(long)]
    pub no_backend_verify: bool,

    /// Node that this gateway runs on. Endpoints are then chosen by the hints of their EndpointSlices (trafficDistribution
    /// and topology-aware routing), as kube-proxy does; without this and --zone all endpoints are used alike.
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<Box<str>>,

    /// Zone of that node.
    #[arg(long, value_name = "NAME")]
    pub zone: Option<Box<str>>,

    /// Leave an endpoint alone after so many failures in a row (no connection, no response, or none that makes sense). At
    /// least half of a Service's endpoints stay in use. 0 turns this off.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub eject_after: u32,

    /// How long such an endpoint is left alone before a request tries it again; twice as long every time that fails, up
    /// to five minutes.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub eject_for: Duration,

    /// Unix socket on which the listening sockets are handed to a successor. A process that finds another one there at
    /// its start takes over from it, without a connection being refused or lost. Whoever can open it can take over, so
    /// it belongs in a directory of its own.
    #[arg(long, value_name = "PATH")]
    pub handover_socket: Option<PathBuf>,

    /// How long requests under way may take to finish after the signal to stop.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub drain_timeout: Duration,
}

impl Default for GatewayArgs {
    /// Those of a command line without any.
    fn default() -> Self {
        let command = Self::augment_args(clap::Command::new("portolan-ingress"));
        let matches = command.try_get_matches_from(["portolan-ingress"]);
        let args = matches.and_then(|matches| Self::from_arg_matches(&matches));
        #[expect(
            clippy::expect_used,
            reason = "no argument is required, and a test says so"
        )]
        args.expect("all arguments have defaults")
    }
}

impl GatewayArgs {
    /// The node that the gateway runs on, as far as that is known.
    pub fn node(&self) -> Option<Node> {
        let (name, zone) = (self.node_name.clone(), self.zone.clone());
        let is_known = name.is_some() || zone.is_some();
        is_known.then(|| Node {
            name: name.unwrap_or_default(),
            zone,
            ..Node::default()
        })
    }

    /// When an endpoint that fails is left alone.
    pub fn ejection(&self) -> Ejection {
        Ejection {
            after: self.eject_after,
            base: self.eject_for,
        }
    }

    /// What the body of a request is held to, if its route asks for `size` or for nothing.
    pub fn body_limits(&self, size: Option<u64>) -> BodyLimits {
        let size = size.unwrap_or(self.max_body_size);
        BodyLimits {
            size: (size > 0).then_some(size),
            rate: (self.min_body_rate > 0).then_some(self.min_body_rate),
        }
    }

    /// The value of `Strict-Transport-Security`, if it is sent.
    pub fn hsts(&self) -> Option<HeaderValue> {
        let subdomains = if self.hsts_include_subdomains {
            "; includeSubDomains"
        } else {
            ""
        };
        let preload = if self.hsts_preload { "; preload" } else { "" };
        let value = format!(
            "max-age={}{subdomains}{preload}",
            self.hsts_max_age.as_secs()
        );
        HeaderValue::try_from(value).ok().filter(|_| self.hsts)
    }
}

/// Parses `NAMESPACE/NAME`.
pub(crate) fn object_name(text: &str) -> Result<ObjectName, String> {
    let parts = text.split_once('/');
    let parts = parts.filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    let (namespace, name) = parts.ok_or("must be NAMESPACE/NAME")?;
    Ok(ObjectName::new(namespace, name))
}

/// Parses the status of a refusal.
fn error_status(text: &str) -> Result<StatusCode, String> {
    let status: StatusCode = text.parse().map_err(|_| "is not a status".to_owned())?;
    let is_error = status.is_client_error() || status.is_server_error();
    is_error
        .then_some(status)
        .ok_or_else(|| "must be from 400 to 599".to_owned())
}

/// Parses durations like `500ms`, `60s` or `1m 30s`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|error| format!("{error}"))?;
    let parsed = Duration::try_from(parsed).map_err(|_| "must not be negative".to_owned())?;
    if parsed.is_zero() {
        return Err("must not be zero".to_owned());
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: IngressArgs,
    }

    #[test]
    fn defaults_are_legal_and_lists_are_split() {
        let cli = Cli::try_parse_from([
            "portolan-ingress",
            "--publish-status-address=192.0.2.1,example.com",
            "--trusted-proxies=10.0.0.0/8,fd00::/8",
            "--drain-timeout=1m 30s",
        ]);
        let args = cli.unwrap_or_else(|error| panic!("{error}")).args;
        assert_eq!(args.publish_status_address, ["192.0.2.1", "example.com"]);
        assert_eq!(args.gateway.http_bind.len(), 2);
        assert_eq!(args.gateway.trusted_proxies.len(), 2);
        assert_eq!(args.gateway.drain_timeout, Duration::from_secs(90));
        assert_eq!(args.gateway.connect_timeout, Duration::from_secs(5));
    }

    #[test]
    fn durations_are_positive() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        for bad in ["0s", "-1s", "", "5 parsecs"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
