//! Counters, and their text form for Prometheus.
//!
//! Names are ingress-nginx's where the meaning is the same, so dashboards keep working; what it does not have begins
//! with `portolan_ingress_`; `METRICS.md` has all of ingress-nginx's with ours beside. What is counted about requests is
//! in [`series`](crate::observe::series). Counting is an addition to an atomic number, never a lock.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::message::answer::Reason;
use crate::observe::effect::{self, Election};
use crate::observe::process;
use crate::observe::reviews::Reviews;
use crate::observe::series::AllSeries;
use crate::observe::settings::MetricsArgs;
use crate::problem::Problem;
use crate::routes::Table;
use crate::tls::Certificates;

/// All counters.
#[derive(Debug)]
pub struct Metrics {
    /// What is counted about requests.
    pub series: AllSeries,
    /// What is counted about admission reviews.
    pub reviews: Reviews,
    /// The election that this gateway takes part in, if it does.
    pub election: Election,
    identity: Identity,
    problems: Mutex<BTreeMap<&'static str, u64>>,
    reasons: [Counter; Reason::ALL.len()],
    /// Client requests that began.
    pub requests: Counter,
    /// Client connections that were opened.
    pub accepted: Counter,
    /// Client connections that were closed.
    pub closed: Counter,
    /// Client connections that were parked, and that went on or ended after it.
    pub parked: Counter,
    /// See [`parked`](Self::parked).
    pub unparked: Counter,
    /// TLS handshakes that failed.
    pub failed_handshakes: Counter,
    /// Connections to backends that were opened.
    pub connects: Counter,
    /// Requests that went over a connection that had served another.
    pub reuses: Counter,
    /// Requests that were sent again.
    pub retries: Counter,
    /// Requests that were not sent again because their Service's budget was spent.
    pub retries_refused: Counter,
    /// Snapshots that were put into effect.
    pub updates: Counter,
    /// When that was last, in seconds since 1970.
    pub updated: Counter,
    /// Stands for the Ingresses in effect: the same for gateways that have seen the same.
    pub configuration: Counter,
    /// Routes in effect.
    pub routes: Counter,
    lost_lines: Counter,
    /// Spans that the collector has taken.
    pub spans_exported: Counter,
    /// Spans that were dropped as the queue was full.
    pub spans_dropped: Counter,
    /// Spans that were dropped as the collector did not take them.
    pub spans_refused: Counter,
}

/// Which gateway counts: the labels that all series have that ingress-nginx's have.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// The value of spec.controller that makes an IngressClass ours.
    pub class: String,
    /// The namespace that the gateway runs in, if it is known.
    pub namespace: String,
    /// What the gateway calls itself.
    pub pod: String,
}

/// A number that is counted up, and sometimes down, or is set.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

// Counting.

impl Counter {
    /// Counts one.
    pub fn count(&self) {
        self.add(1);
    }

    /// Counts `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Takes `n` back.
    pub fn subtract(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// Makes it `n`.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// What it stands at.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Metrics {
    /// All counters of the gateway `identity` at zero, as `settings` want them.
    pub fn of(identity: Identity, settings: &MetricsArgs) -> Self {
        Self {
            identity,
            series: AllSeries::new(settings.clone()),
            ..Self::new()
        }
    }

    /// All counters at zero.
    pub fn new() -> Self {
        Self {
            series: AllSeries::default(),
            reviews: Reviews::default(),
            election: Election::default(),
            identity: Identity::default(),
            problems: Mutex::default(),
            reasons: std::array::from_fn(|_| Counter::default()),
            requests: Counter::default(),
            accepted: Counter::default(),
            closed: Counter::default(),
            parked: Counter::default(),
            unparked: Counter::default(),
            failed_handshakes: Counter::default(),
            connects: Counter::default(),
            reuses: Counter::default(),
            retries: Counter::default(),
            retries_refused: Counter::default(),
            updates: Counter::default(),
            updated: Counter::default(),
            configuration: Counter::default(),
            routes: Counter::default(),
            lost_lines: Counter::default(),
            spans_exported: Counter::default(),
            spans_dropped: Counter::default(),
            spans_refused: Counter::default(),
        }
    }

    /// Counts an answer of our own, or a response that failed.
    pub fn count_reason(&self, reason: Reason) {
        if let Some(at) = Reason::ALL.iter().position(|known| *known == reason) {
            self.reasons[at].count();
        }
    }

    /// Client connections that are parked.
    pub fn parked(&self) -> u64 {
        // In this order, so that one that goes on in between is not counted twice.
        let unparked = self.unparked.get();
        self.parked.get().saturating_sub(unparked)
    }

    /// Counts lines of the access log that were dropped.
    pub fn count_lost_lines(&self, lines: u64) {
        self.lost_lines.add(lines);
    }

    /// Sets which problems there are.
    pub fn set_problems<'p>(&self, problems: impl IntoIterator<Item = &'p Problem>) {
        let mut counts = BTreeMap::new();
        for problem in problems {
            *counts.entry(problem.fault.reason()).or_insert(0) += 1;
        }
        *self.problems.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

// Writing.

impl Metrics {
    /// All of it in Prometheus' text format, while `routes` and `certificates` are in effect.
    pub fn render(&self, routes: &Table, certificates: &Certificates) -> String {
        let mut out = String::with_capacity(16 * 1024);
        let written = self.write(&mut out, routes, certificates);
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
        out
    }

    fn write(&self, out: &mut String, routes: &Table, certificates: &Certificates) -> fmt::Result {
        let common = self.identity.to_string();
        self.series.write(out, &common)?;
        process::write(out, &common)?;
        self.write_connections(out, &common)?;
        effect::write_certificates(out, &self.identity.class, certificates)?;
        effect::write_orphans(out, &common, routes)?;
        self.election.write(out, &common)?;
        self.reviews.write(out, &common)?;
        let answers = Reason::ALL.iter().zip(&self.reasons);
        family(
            out,
            "portolan_ingress_reasons_total",
            "counter",
            "Requests that the gateway answered itself or that failed, by reason",
        )?;
        for (reason, count) in answers {
            sample(
                out,
                "portolan_ingress_reasons_total",
                format_args!("reason=\"{}\"", reason.name()),
                count.get(),
            )?;
        }
        family(
            out,
            "portolan_ingress_problems",
            "gauge",
            "Fields of Ingresses that cannot be carried out, by reason",
        )?;
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        for (reason, count) in &*problems {
            sample(
                out,
                "portolan_ingress_problems",
                format_args!("reason=\"{reason}\""),
                count,
            )?;
        }
        self.write_controller(out, &common)?;
        for (name, kind, help, counter) in [
            (
                "portolan_ingress_backend_connects_total",
                "counter",
                "Connections opened to backends",
                &self.connects,
            ),
            (
                "portolan_ingress_backend_reuses_total",
                "counter",
                "Requests sent over a connection that had served another",
                &self.reuses,
            ),
            (
                "portolan_ingress_retries_total",
                "counter",
                "Requests sent again",
                &self.retries,
            ),
            (
                "portolan_ingress_retries_refused_total",
                "counter",
                "Requests not sent again because their Service's budget for that was spent",
                &self.retries_refused,
            ),
            (
                "portolan_ingress_tls_handshake_failures_total",
                "counter",
                "TLS handshakes that failed",
                &self.failed_handshakes,
            ),
            (
                "portolan_ingress_updates_total",
                "counter",
                "Sets of routes put into effect",
                &self.updates,
            ),
            (
                "portolan_ingress_routes",
                "gauge",
                "Routes in effect",
                &self.routes,
            ),
            (
                "portolan_ingress_access_log_lost_lines_total",
                "counter",
                "Lines of the access log dropped because its reader is too slow",
                &self.lost_lines,
            ),
        ] {
            family(out, name, kind, help)?;
            sample(out, name, "", counter.get())?;
        }
        self.write_spans(out)
    }

    fn write_spans(&self, out: &mut String) -> fmt::Result {
        let exported = "portolan_ingress_spans_exported_total";
        family(out, exported, "counter", "Spans that the collector took")?;
        sample(out, exported, "", self.spans_exported.get())?;
        let lost = "portolan_ingress_spans_lost_total";
        family(out, lost, "counter", "Spans that were dropped, by reason")?;
        sample(out, lost, "reason=\"queue_full\"", self.spans_dropped.get())?;
        sample(out, lost, "reason=\"collector\"", self.spans_refused.get())
    }

    /// What ingress-nginx says of its controller. An update cannot fail here, so the last one has always succeeded.
    fn write_controller(&self, out: &mut String, common: &str) -> fmt::Result {
        let release = env!("CARGO_PKG_VERSION");
        for (name, kind, help, value) in [
            (
                "config_hash",
                "gauge",
                "Stands for the Ingresses in effect",
                self.configuration.get(),
            ),
            (
                "config_last_reload_successful",
                "gauge",
                "Whether the last update succeeded",
                1,
            ),
            (
                "config_last_reload_successful_timestamp_seconds",
                "gauge",
                "Time of the last update",
                self.updated.get(),
            ),
            ("success", "counter", "Updates", self.updates.get()),
            ("errors", "counter", "Updates that failed", 0),
        ] {
            let name = format!("nginx_ingress_controller_{name}");
            family(out, &name, kind, help)?;
            sample(out, &name, common, value)?;
        }
        let build = "nginx_ingress_controller_build_info";
        family(out, build, "gauge", "The release of the gateway")?;
        sample(
            out,
            build,
            format_args!("{common},release=\"{release}\""),
            1,
        )
    }

    fn write_connections(&self, out: &mut String, common: &str) -> fmt::Result {
        let prefix = "nginx_ingress_controller_nginx_process";
        let requests = format!("{prefix}_requests_total");
        family(out, &requests, "counter", "Client requests")?;
        sample(out, &requests, common, self.requests.get())?;
        let (accepted, closed) = (self.accepted.get(), self.closed.get());
        let total = format!("{prefix}_connections_total");
        family(out, &total, "counter", "Client connections opened")?;
        // None is turned away once it is accepted.
        for state in ["accepted", "handled"] {
            let labels = format_args!("{common},state=\"{state}\"");
            sample(out, &total, labels, accepted)?;
        }
        let open = format!("{prefix}_connections");
        family(out, &open, "gauge", "Client connections open")?;
        let active = accepted.saturating_sub(closed);
        let labels = format_args!("{common},state=\"active\"");
        sample(out, &open, labels, active)?;
        let parked = "portolan_ingress_parked_connections";
        family(
            out,
            parked,
            "gauge",
            "Client connections that wait for a request without a parser",
        )?;
        sample(out, parked, "", self.parked())
    }
}

pub(crate) fn family(out: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}")
}

pub(crate) fn sample(
    out: &mut String,
    name: &str,
    labels: impl Display,
    value: impl Display,
) -> fmt::Result {
    let labels = labels.to_string();
    match labels.as_str() {
        "" => writeln!(out, "{name} {value}"),
        _ => writeln!(out, "{name}{{{labels}}} {value}"),
    }
}

/// A label's value as the format wants it.
pub(crate) struct Escaped<'v>(pub(crate) &'v str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

impl Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            class,
            namespace,
            pod,
        } = self;
        write!(
            f,
            "controller_class=\"{class}\",controller_namespace=\"{namespace}\",controller_pod=\"{pod}\""
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text format knows three escapes and nothing else (Prometheus, exposition formats).
    #[test]
    fn values_of_labels_are_escaped_as_the_format_says() {
        let escaped = Escaped("a\\b\"c\nd\te\u{200b}'").to_string();
        assert_eq!(escaped, "a\\\\b\\\"c\\nd\te\u{200b}'");
    }

    #[test]
    fn answers_of_our_own_are_counted_by_reason() {
        let metrics = Metrics::new();
        metrics.count_reason(Reason::NoRoute);
        let cert = Certificates::new(
            crate::tls::certificate::Certificate::self_signed().expect("made"),
            None,
        );
        let text = metrics.render(&Table::default(), &cert);
        for line in [
            r#"portolan_ingress_reasons_total{reason="no_route"} 1"#,
            r#"nginx_ingress_controller_nginx_process_connections{controller_class="",controller_namespace="",controller_pod="",state="active"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
