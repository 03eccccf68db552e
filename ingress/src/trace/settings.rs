//! The settings for tracing. Names and defaults are those of ingress-nginx's ConfigMap.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use opentelemetry_sdk::trace::Sampler;

use crate::message::variables::{Template, scheme};

/// Arguments about traces.
#[derive(clap::Args, Debug, Clone)]
#[group(skip)]
pub struct TraceArgs {
    /// Host of the collector that spans are sent to, by OTLP over gRPC. Without it nothing is traced, and what clients say
    /// about traces (traceparent, tracestate) passes through.
    #[arg(long, value_name = "HOST", value_parser = NonEmptyStringValueParser::new())]
    pub otlp_collector_host: Option<String>,

    /// Port of that collector.
    #[arg(long, value_name = "PORT", default_value_t = 4317)]
    pub otlp_collector_port: u16,

    /// Speak TLS to that collector, which must prove to be that host.
    #[arg(long, requires = "otlp_collector_host")]
    pub otlp_collector_tls: bool,

    /// File with the certificates, as PEM, that its certificate is verified by; read at the start. Without it: those that the
    /// system trusts.
    #[arg(long, value_name = "FILE", requires = "otlp_collector_tls")]
    pub otlp_collector_ca_file: Option<PathBuf>,

    /// Trace all requests but those for Ingresses that opt out (enable-opentelemetry: "false"). Without it: only those for
    /// Ingresses that ask for it.
    #[arg(long, requires = "otlp_collector_host")]
    pub enable_opentelemetry: bool,

    /// Name of the span of a request, with variables as in opentelemetry-operation-name. Without it: method and path of the
    /// rule.
    #[arg(long, value_name = "TEXT", value_parser = Template::parse)]
    pub opentelemetry_operation_name: Option<Template>,

    /// Whether requests belong to the traces that their clients say (traceparent). Whoever says so can also decide whether a
    /// request is recorded (see --otel-sampler-parent-based).
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub opentelemetry_trust_incoming_span: bool,

    /// What the gateway is called in traces (service.name).
    #[arg(long, value_name = "NAME", default_value = "portolan-ingress")]
    pub otel_service_name: String,

    /// Which new traces are recorded.
    #[arg(long, value_name = "NAME", default_value = "AlwaysOn")]
    pub otel_sampler: RootSampler,

    /// Share of them that TraceIdRatioBased records, from 0 to 1.
    #[arg(long, value_name = "SHARE", default_value = "0.01", value_parser = share)]
    pub otel_sampler_ratio: f64,

    /// Whether traces that clients have begun are recorded as the clients decided. Otherwise they are treated like new ones.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub otel_sampler_parent_based: bool,

    /// Most spans that wait to be sent. Further ones are dropped and counted.
    #[arg(long, value_name = "N", default_value_t = 2_048, value_parser = at_least_one)]
    pub otel_max_queuesize: usize,

    /// How long a span waits for others to be sent with, in milliseconds.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 5_000)]
    pub otel_schedule_delay_millis: u64,

    /// Most spans that are sent at once.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one)]
    pub otel_max_export_batch_size: usize,
}

/// Which new traces are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RootSampler {
    /// All.
    #[value(name = "AlwaysOn")]
    AlwaysOn,
    /// None.
    #[value(name = "AlwaysOff")]
    AlwaysOff,
    /// A share of them, the same ones in all programs that go by the id of the trace.
    #[value(name = "TraceIdRatioBased")]
    TraceIdRatioBased,
}

impl TraceArgs {
    /// The URL of the collector, if there is one.
    pub fn collector(&self) -> Option<String> {
        let (host, port) = (
            self.otlp_collector_host.as_deref()?,
            self.otlp_collector_port,
        );
        let scheme = scheme(self.otlp_collector_tls);
        let is_v6 = host.parse::<Ipv6Addr>().is_ok();
        Some(if is_v6 {
            format!("{scheme}://[{host}]:{port}")
        } else {
            format!("{scheme}://{host}:{port}")
        })
    }

    /// What decides about new traces.
    pub fn sampler(&self) -> Sampler {
        match self.otel_sampler {
            RootSampler::AlwaysOn => Sampler::AlwaysOn,
            RootSampler::AlwaysOff => Sampler::AlwaysOff,
            RootSampler::TraceIdRatioBased => Sampler::TraceIdRatioBased(self.otel_sampler_ratio),
        }
    }

    /// How long a span waits for others.
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.otel_schedule_delay_millis)
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let is_one = (0.0..=1.0).contains(&share);
    is_one
        .then_some(share)
        .ok_or("must be from 0 to 1".to_owned())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|error| format!("{error}"))?;
    (number > 0)
        .then_some(number)
        .ok_or("must not be 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: TraceArgs,
    }

    fn parse(arguments: &[&str]) -> Option<TraceArgs> {
        let arguments = std::iter::once(&"portolan-ingress").chain(arguments);
        Cli::try_parse_from(arguments).ok().map(|cli| cli.args)
    }

    #[test]
    fn a_collector_is_a_host_and_a_port() {
        for (host, url) in [
            ("otel.ns.svc", "http://otel.ns.svc:4317"),
            ("192.0.2.1", "http://192.0.2.1:4317"),
            ("2001:db8::1", "http://[2001:db8::1]:4317"),
        ] {
            let args = parse(&["--otlp-collector-host", host, "--enable-opentelemetry"]);
            assert_eq!(args.and_then(|args| args.collector()).as_deref(), Some(url));
        }
        let args = parse(&["--otlp-collector-host=c", "--otlp-collector-tls"]);
        let url = args.and_then(|args| args.collector());
        assert_eq!(url.as_deref(), Some("https://c:4317"));
        assert!(parse(&[]).is_some_and(|args| args.collector().is_none()));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            "--enable-opentelemetry",
            "--otlp-collector-host=",
            "--otlp-collector-tls",
            "--otlp-collector-ca-file=/ca",
            "--otel-sampler=Perhaps",
            "--otel-sampler-ratio=1.1",
            "--otel-sampler-ratio=NaN",
            "--otel-max-queuesize=0",
            "--otel-max-export-batch-size=0",
            "--opentelemetry-operation-name=$nothing",
        ] {
            assert!(parse(&[bad]).is_none(), "{bad}");
        }
    }
}
