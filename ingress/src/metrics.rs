//! Counters, and their text form for Prometheus.
//!
//! Names are ingress-nginx's where the meaning is the same, so dashboards keep working; what it does not have begins
//! with `portolan_ingress_`. The number of series is bounded: there is one set for each Ingress and Service, up to
//! [`MAX_SERIES`]; what exceeds that counts together. Counting is an addition to an atomic number, never a lock.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use model::ObjectName;

use crate::answer::Reason;
use crate::problem::Problem;
use crate::tls::Certificates;

/// Most sets of series that are told apart.
pub const MAX_SERIES: usize = 10_000;

/// The status codes that are told apart; others count as their class.
const CODES: [u16; 43] = [
    101, 200, 201, 202, 204, 206, 300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 406,
    408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 425, 426, 429, 431, 451, 499, 500,
    501, 502, 503, 504, 505,
];
const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Upper bounds of the duration histogram, in milliseconds: Prometheus' usual ones, like ingress-nginx.
const BUCKETS: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000];

/// All counters.
#[derive(Debug)]
pub struct Metrics {
    series: Mutex<BTreeMap<SeriesName, Arc<Series>>>,
    problems: Mutex<BTreeMap<&'static str, u64>>,
    reasons: [Counter; Reason::ALL.len()],
    /// Client connections that were opened.
    pub accepted: Counter,
    /// Client connections that were closed.
    pub closed: Counter,
    /// TLS handshakes that failed.
    pub failed_handshakes: Counter,
    /// Connections to backends that were opened.
    pub connects: Counter,
    /// Requests that went over a connection that had served another.
    pub reuses: Counter,
    /// Requests that were sent again.
    pub retries: Counter,
    /// Snapshots that were put into effect.
    pub updates: Counter,
    /// Routes in effect.
    pub routes: Counter,
    lost_lines: Counter,
}

/// A number that only grows, or is set.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// What a set of series is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct SeriesName {
    namespace: Arc<str>,
    ingress: Arc<str>,
    service: Arc<str>,
}

/// The requests of one Ingress to one Service.
#[derive(Debug)]
pub struct Series {
    codes: [Counter; CODES.len()],
    classes: [Counter; CLASSES.len()],
    /// Requests by duration, the last for those above all bounds.
    buckets: [Counter; BUCKETS.len() + 1],
    microseconds: Counter,
    bytes: Counter,
}

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

impl Series {
    fn new() -> Self {
        Self {
            codes: std::array::from_fn(|_| Counter::default()),
            classes: std::array::from_fn(|_| Counter::default()),
            buckets: std::array::from_fn(|_| Counter::default()),
            microseconds: Counter::default(),
            bytes: Counter::default(),
        }
    }

    /// Counts a request.
    pub fn count(&self, status: StatusCode, elapsed: Duration, bytes: u64) {
        let code = status.as_u16();
        match CODES.binary_search(&code) {
            Ok(known) => self.codes[known].count(),
            Err(_) => self.classes[class(code)].count(),
        }
        let elapsed = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|bound| bound * 1_000 < elapsed);
        self.buckets[bucket].count();
        self.microseconds.add(elapsed);
        self.bytes.add(bytes);
    }
}

fn class(code: u16) -> usize {
    match code {
        100..=599 => usize::from(code / 100),
        _ => 0,
    }
}

impl Metrics {
    /// All counters at zero.
    pub fn new() -> Self {
        Self {
            series: Mutex::default(),
            problems: Mutex::default(),
            reasons: std::array::from_fn(|_| Counter::default()),
            accepted: Counter::default(),
            closed: Counter::default(),
            failed_handshakes: Counter::default(),
            connects: Counter::default(),
            reuses: Counter::default(),
            retries: Counter::default(),
            updates: Counter::default(),
            routes: Counter::default(),
            lost_lines: Counter::default(),
        }
    }

    /// Counts an answer of our own, or a response that failed.
    pub fn count_reason(&self, reason: Reason) {
        if let Some(at) = Reason::ALL.iter().position(|known| *known == reason) {
            self.reasons[at].count();
        }
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

    /// The series of the requests of `ingress` to `service`. It lasts as long as somebody has it, up to the next
    /// [`drop_unused`](Self::drop_unused).
    pub fn series(&self, ingress: &ObjectName, service: &Arc<str>) -> Arc<Series> {
        let mut known = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let name = SeriesName::new(ingress, service);
        let is_over = known.len() >= MAX_SERIES && !known.contains_key(&name);
        let name = if is_over {
            SeriesName::overflow()
        } else {
            name
        };
        let new = || Arc::new(Series::new());
        known.entry(name).or_insert_with(new).clone()
    }

    /// Drops the series that no route has any more.
    pub fn drop_unused(&self) {
        let mut known = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, series| Arc::strong_count(series) > 1);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl SeriesName {
    fn new(ingress: &ObjectName, service: &Arc<str>) -> Self {
        Self {
            namespace: ingress.namespace.clone(),
            ingress: ingress.name.clone(),
            service: service.clone(),
        }
    }

    /// No object can have these names.
    fn overflow() -> Self {
        let other: Arc<str> = "_other".into();
        Self {
            namespace: other.clone(),
            ingress: other.clone(),
            service: other,
        }
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
        self.write_series(out)?;
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
        Ok(())
    }

    fn write_series(&self, out: &mut String) -> fmt::Result {
        let series = self
            .series
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let requests = "nginx_ingress_controller_requests";
        family(out, requests, "counter", "Client requests")?;
        for (name, series) in &series {
            let known = CODES.iter().map(ToString::to_string).zip(&series.codes);
            let classes = CLASSES.iter().map(ToString::to_string).zip(&series.classes);
            for (status, count) in known.chain(classes).filter(|(_, count)| count.get() > 0) {
                sample(
                    out,
                    requests,
                    format_args!("{name},status=\"{status}\""),
                    count.get(),
                )?;
            }
        }
        let duration = "nginx_ingress_controller_request_duration_seconds";
        family(
            out,
            duration,
            "histogram",
            "Time from the head of a request to the end of its response",
        )?;
        for (name, series) in &series {
            write_histogram(out, duration, name, series)?;
        }
        let bytes = "portolan_ingress_response_bytes_total";
        family(out, bytes, "counter", "Bytes of response bodies handed on")?;
        for (name, series) in &series {
            sample(out, bytes, name, series.bytes.get())?;
        }
        Ok(())
    }

    fn write_connections(&self, out: &mut String) -> fmt::Result {
        let (accepted, closed) = (self.accepted.get(), self.closed.get());
        let total = "nginx_ingress_controller_nginx_process_connections_total";
        family(out, total, "counter", "Client connections opened")?;
        sample(out, total, "state=\"accepted\"", accepted)?;
        let open = "nginx_ingress_controller_nginx_process_connections";
        family(out, open, "gauge", "Client connections open")?;
        sample(
            out,
            open,
            "state=\"active\"",
            accepted.saturating_sub(closed),
        )
    }
}

fn write_histogram(
    out: &mut String,
    metric: &str,
    name: &SeriesName,
    series: &Series,
) -> fmt::Result {
    let mut total = 0;
    for (number, bucket) in series.buckets.iter().enumerate() {
        total += bucket.get();
        let bound = match BUCKETS.get(number) {
            Some(bound) => format!("{}", Duration::from_millis(*bound).as_secs_f64()),
            None => "+Inf".to_owned(),
        };
        let labels = format_args!("{name},le=\"{bound}\"");
        sample(out, &format!("{metric}_bucket"), labels, total)?;
    }
    let seconds = Duration::from_micros(series.microseconds.get()).as_secs_f64();
    sample(out, &format!("{metric}_sum"), name, seconds)?;
    sample(out, &format!("{metric}_count"), name, total)
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

fn family(out: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}")
}

fn sample(out: &mut String, name: &str, labels: impl Display, value: impl Display) -> fmt::Result {
    let labels = labels.to_string();
    match labels.as_str() {
        "" => writeln!(out, "{name} {value}"),
        _ => writeln!(out, "{name}{{{labels}}} {value}"),
    }
}

impl Display for SeriesName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            ingress,
            service,
        } = self;
        write!(
            f,
            "namespace=\"{namespace}\",ingress=\"{ingress}\",service=\"{service}\""
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(metrics: &Metrics, number: usize) -> Arc<Series> {
        let name = ObjectName::new("ns", format!("i{number}"));
        metrics.series(&name, &"s".into())
    }

    #[test]
    fn requests_are_counted_by_status_and_duration() {
        let metrics = Metrics::new();
        let series = series(&metrics, 0);
        series.count(StatusCode::OK, Duration::from_millis(5), 10);
        series.count(StatusCode::IM_A_TEAPOT, Duration::from_secs(60), 0);
        metrics.count_reason(Reason::NoRoute);
        let cert = Certificates::new(crate::certificate::Certificate::self_signed().expect("made"));
        let text = metrics.render(&cert);
        let labels = r#"namespace="ns",ingress="i0",service="s""#;
        for line in [
            &format!(r#"nginx_ingress_controller_requests{{{labels},status="200"}} 1"#),
            &format!(r#"nginx_ingress_controller_requests{{{labels},status="4xx"}} 1"#),
            &format!(
                r#"nginx_ingress_controller_request_duration_seconds_bucket{{{labels},le="0.005"}} 1"#
            ),
            &format!(
                r#"nginx_ingress_controller_request_duration_seconds_bucket{{{labels},le="+Inf"}} 2"#
            ),
            &format!("nginx_ingress_controller_request_duration_seconds_sum{{{labels}}} 60.005"),
            &format!("portolan_ingress_response_bytes_total{{{labels}}} 10"),
            r#"portolan_ingress_reasons_total{reason="no_route"} 1"#,
            r#"nginx_ingress_controller_nginx_process_connections{state="active"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn series_are_kept_across_updates_bounded_and_dropped_with_their_routes() {
        let metrics = Metrics::new();
        let first = series(&metrics, 0);
        first.count(StatusCode::OK, Duration::ZERO, 0);
        metrics.drop_unused();
        assert!(Arc::ptr_eq(&first, &series(&metrics, 0)));
        let many: Vec<_> = (0..MAX_SERIES + 10)
            .map(|number| series(&metrics, number))
            .collect();
        assert!(Arc::ptr_eq(&many[MAX_SERIES], &many[MAX_SERIES + 9]));
        assert!(!Arc::ptr_eq(&many[0], &many[MAX_SERIES]));
        drop((first, many));
        let _last = series(&metrics, 1);
        metrics.drop_unused();
        assert_eq!(metrics.series.lock().map(|all| all.len()).ok(), Some(1));
        assert_eq!(series(&metrics, 0).bytes.get(), 0);
        assert_eq!(series(&metrics, 0).buckets[0].get(), 0);
    }

    #[test]
    fn codes_are_sorted() {
        assert!(CODES.is_sorted());
    }
}
