//! Counters, and their text form for Prometheus.
//!
//! Names are ingress-nginx's where the meaning is the same, so dashboards keep working; what it does not have begins
//! with `portolan_ingress_`. What is counted about requests is in [`series`](crate::observe::series). Counting is an addition to an
//! atomic number, never a lock.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::message::answer::Reason;
use crate::observe::process;
use crate::observe::series::AllSeries;
use crate::problem::Problem;
use crate::tls::Certificates;

/// All counters.
#[derive(Debug)]
pub struct Metrics {
    /// What is counted about requests.
    pub series: AllSeries,
    identity: Identity,
    problems: Mutex<BTreeMap<&'static str, u64>>,
    reasons: [Counter; Reason::ALL.len()],
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

/// A number that only grows, or is set.
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
    /// All counters of the gateway `identity` at zero.
    pub fn of(identity: Identity) -> Self {
        Self {
            identity,
            ..Self::new()
        }
    }

    /// All counters at zero.
    pub fn new() -> Self {
        Self {
            series: AllSeries::default(),
            identity: Identity::default(),
            problems: Mutex::default(),
            reasons: std::array::from_fn(|_| Counter::default()),
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
    /// All of it in Prometheus' text format.
    pub fn render(&self, certificates: &Certificates) -> String {
        let mut out = String::with_capacity(16 * 1024);
        let written = self.write(&mut out, certificates);
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
        out
    }

    fn write(&self, out: &mut String, certificates: &Certificates) -> fmt::Result {
        let common = self.identity.to_string();
        self.series.write(out, &common)?;
        process::write(out, &common)?;
        self.write_connections(out)?;
        write_certificates(out, certificates)?;
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
        let prefix = "nginx_ingress_controller";
        let successful = format!("{prefix}_config_last_reload_successful");
        family(
            out,
            &successful,
            "gauge",
            "Whether the last update succeeded",
        )?;
        sample(out, &successful, common, 1)?;
        let at = format!("{prefix}_config_last_reload_successful_timestamp_seconds");
        family(out, &at, "gauge", "Time of the last update")?;
        sample(out, &at, common, self.updated.get())?;
        let success = format!("{prefix}_success");
        family(out, &success, "counter", "Updates")?;
        sample(out, &success, common, self.updates.get())?;
        let build = format!("{prefix}_build_info");
        family(out, &build, "gauge", "The release of the gateway")?;
        let release = env!("CARGO_PKG_VERSION");
        sample(
            out,
            &build,
            format_args!("{common},release=\"{release}\""),
            1,
        )
    }

    fn write_connections(&self, out: &mut String) -> fmt::Result {
        let (accepted, closed) = (self.accepted.get(), self.closed.get());
        let total = "nginx_ingress_controller_nginx_process_connections_total";
        family(out, total, "counter", "Client connections opened")?;
        sample(out, total, "state=\"accepted\"", accepted)?;
        let open = "nginx_ingress_controller_nginx_process_connections";
        family(out, open, "gauge", "Client connections open")?;
        let active = accepted.saturating_sub(closed);
        sample(out, open, "state=\"active\"", active)?;
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

fn write_certificates(out: &mut String, certificates: &Certificates) -> fmt::Result {
    let expiry = "nginx_ingress_controller_ssl_expire_time_seconds";
    family(
        out,
        expiry,
        "gauge",
        "When the certificate of a Secret expires, in seconds since 1970",
    )?;
    for (secret, certificate) in certificates.in_use() {
        let (namespace, name) = (&secret.namespace, &secret.name);
        let labels = format_args!("namespace=\"{namespace}\",secret_name=\"{name}\"");
        sample(out, expiry, labels, certificate.expires())?;
    }
    Ok(())
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

    #[test]
    fn answers_of_our_own_are_counted_by_reason() {
        let metrics = Metrics::new();
        metrics.count_reason(Reason::NoRoute);
        let cert = Certificates::new(
            crate::tls::certificate::Certificate::self_signed().expect("made"),
            None,
        );
        let text = metrics.render(&cert);
        for line in [
            r#"portolan_ingress_reasons_total{reason="no_route"} 1"#,
            r#"nginx_ingress_controller_nginx_process_connections{state="active"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
