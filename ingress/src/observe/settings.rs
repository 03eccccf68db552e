//! The settings for metrics. Names and defaults are those of ingress-nginx's flags.

use super::series;

/// What names of metrics begin with.
const PREFIX: &str = "nginx_ingress_controller_";

/// Arguments about metrics.
#[derive(clap::Args, Debug, Clone)]
#[group(skip)]
pub struct MetricsArgs {
    /// Count requests apart for each host of a rule. Otherwise those to the same path of all hosts of an Ingress count together.
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set
    )]
    pub metrics_per_host: bool,

    /// Count requests by class of status (2xx, 3xx, ...) instead of by status.
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = false,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set
    )]
    pub report_status_classes: bool,

    /// Metrics about requests that are left out of /metrics, with or without nginx_ingress_controller_ before their names.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = name)]
    pub exclude_socket_metrics: Vec<String>,
}

impl MetricsArgs {
    /// Whether the metric with this whole name is left out.
    pub(super) fn leaves_out(&self, name: &str) -> bool {
        let short = name.strip_prefix(PREFIX).unwrap_or(name);
        self.exclude_socket_metrics.iter().any(|out| out == short)
    }
}

impl Default for MetricsArgs {
    fn default() -> Self {
        Self {
            metrics_per_host: true,
            report_status_classes: false,
            exclude_socket_metrics: Vec::new(),
        }
    }
}

/// The name of a metric about requests, without its beginning.
fn name(text: &str) -> Result<String, String> {
    let short = text.strip_prefix(PREFIX).unwrap_or(text);
    // One of ingress-nginx's that is not here at all.
    let is_known =
        short == "bytes_sent" || series::names().any(|name| name == format!("{PREFIX}{short}"));
    is_known
        .then(|| short.to_owned())
        .ok_or_else(|| "is no metric about requests".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: MetricsArgs,
    }

    fn parse(arguments: &[&str]) -> Option<MetricsArgs> {
        let arguments = std::iter::once(&"portolan-ingress").chain(arguments);
        Cli::try_parse_from(arguments).ok().map(|cli| cli.args)
    }

    #[test]
    fn arguments_are_written_as_for_ingress_nginx() {
        for (arguments, per_host, classes) in [
            (&[][..], true, false),
            (&["--metrics-per-host=false"], false, false),
            (&["--report-status-classes"], true, true),
            (&["--report-status-classes=true"], true, true),
        ] {
            let args =
                parse(arguments).map(|args| (args.metrics_per_host, args.report_status_classes));
            assert_eq!(args, Some((per_host, classes)), "{arguments:?}");
        }
        let list =
            "--exclude-socket-metrics=nginx_ingress_controller_response_size,requests,bytes_sent";
        let args = parse(&[list]).unwrap_or_default();
        assert!(args.leaves_out("nginx_ingress_controller_response_size"));
        assert!(args.leaves_out("nginx_ingress_controller_requests"));
        assert!(!args.leaves_out("nginx_ingress_controller_request_size"));
        assert!(parse(&["--exclude-socket-metrics=config_hash"]).is_none());
    }
}
