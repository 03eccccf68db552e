//! What is counted about requests, apart for each route as far as the budget goes.
//!
//! Names and labels are ingress-nginx's. Each path of a host has a set of series; beyond [`MAX_SERIES`] sets an Ingress
//! and Service share one, and beyond as many of these all the rest does. What has never been counted is not written. So
//! the size of a scrape is bounded, whatever users create; and nothing a client sends makes a series: a method or a
//! status that is not known is counted as `other` or as its class.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use model::ObjectName;

use crate::observe::metrics::{Counter, family, sample};

/// Most sets of series of each kind.
pub const MAX_SERIES: usize = 2_000;

/// The status codes that are told apart; others count as their class.
const CODES: [u16; 43] = [
    101, 200, 201, 202, 204, 206, 300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 406,
    408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 425, 426, 429, 431, 451, 499, 500,
    501, 502, 503, 504, 505,
];
const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The methods that are told apart.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::PATCH,
    Method::HEAD,
    Method::OPTIONS,
];
const OTHER_METHOD: &str = "other";

/// Upper bounds in microseconds: Prometheus' usual ones, like ingress-nginx.
const TIMES: [u64; 11] = [
    5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];
/// Upper bounds in bytes, like ingress-nginx.
const SIZES: [u64; 7] = [10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];

/// All sets of series, by what they are about.
#[derive(Debug, Default)]
pub struct AllSeries(Mutex<BTreeMap<Labels, Arc<Series>>>);

/// What a set of series is about. Empty where it is about more than one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    namespace: Arc<str>,
    ingress: Arc<str>,
    service: Arc<str>,
    host: Arc<str>,
    path: Arc<str>,
}

/// The requests of one route, or of several together.
#[derive(Debug, Default)]
pub struct Series {
    /// By method, the last for all others. Most routes see few of them.
    requests: [OnceLock<Box<ByStatus>>; METHODS.len() + 1],
    duration: Histogram<{ TIMES.len() }>,
    backend_head: Histogram<{ TIMES.len() }>,
    backend_duration: Histogram<{ TIMES.len() }>,
    size: Histogram<{ SIZES.len() }>,
}

#[derive(Debug)]
struct ByStatus {
    codes: [Counter; CODES.len()],
    classes: [Counter; CLASSES.len()],
}

/// How many values were up to each bound. Those above all bounds are in none of the buckets.
#[derive(Debug)]
struct Histogram<const N: usize> {
    buckets: [Counter; N],
    count: Counter,
    sum: Counter,
}

/// What is counted about a request.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'r> {
    /// Its method.
    pub method: &'r Method,
    /// The status of its response.
    pub status: StatusCode,
    /// From its head to the end of its response.
    pub elapsed: Duration,
    /// The same for its backend, if it had one.
    pub backend: Option<BackendTimes>,
    /// Bytes of the response's body.
    pub sent: u64,
}

/// How long a backend took.
#[derive(Debug, Clone, Copy)]
pub struct BackendTimes {
    /// To the head of its response, if that came.
    pub head: Option<Duration>,
    /// To the end of its response.
    pub total: Duration,
}

// Counting.

impl Series {
    /// Counts a request.
    pub fn count(&self, request: &Observed<'_>) {
        let known = METHODS.iter().position(|method| method == request.method);
        let requests = &self.requests[known.unwrap_or(METHODS.len())];
        requests.get_or_init(Box::default).count(request.status);
        self.duration.observe(&TIMES, microseconds(request.elapsed));
        if let Some(backend) = request.backend {
            if let Some(head) = backend.head {
                self.backend_head.observe(&TIMES, microseconds(head));
            }
            let total = microseconds(backend.total);
            self.backend_duration.observe(&TIMES, total);
        }
        self.size.observe(&SIZES, request.sent);
    }
}

impl ByStatus {
    fn count(&self, status: StatusCode) {
        let code = status.as_u16();
        match CODES.binary_search(&code) {
            Ok(known) => self.codes[known].count(),
            Err(_) => self.classes[class(code)].count(),
        }
    }
}

fn class(code: u16) -> usize {
    match code {
        100..=599 => usize::from(code / 100),
        _ => 0,
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl<const N: usize> Histogram<N> {
    fn observe(&self, bounds: &[u64; N], value: u64) {
        if let Some(bucket) = self
            .buckets
            .get(bounds.partition_point(|bound| *bound < value))
        {
            bucket.count();
        }
        self.count.count();
        self.sum.add(value);
    }
}

impl Default for ByStatus {
    fn default() -> Self {
        Self {
            codes: std::array::from_fn(|_| Counter::default()),
            classes: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Counter::default()),
            count: Counter::default(),
            sum: Counter::default(),
        }
    }
}

// Keeping.

impl AllSeries {
    /// The series of the requests to `path` of `host` that go by `ingress` to `service`. They last as long as somebody has
    /// them, up to the next [`drop_unused`](Self::drop_unused).
    pub fn get(&self, ingress: &ObjectName, service: &str, host: &str, path: &str) -> Arc<Series> {
        let mut all = self.lock();
        let none: Arc<str> = "".into();
        let of_ingress = Labels {
            namespace: ingress.namespace.clone(),
            ingress: ingress.name.clone(),
            service: service.into(),
            host: none.clone(),
            path: none,
        };
        let of_route = Labels {
            host: host.into(),
            path: path.into(),
            ..of_ingress.clone()
        };
        let choices = [(of_route, MAX_SERIES), (of_ingress, 2 * MAX_SERIES)];
        let fits =
            |(labels, limit): &(Labels, usize)| all.contains_key(labels) || all.len() < *limit;
        let labels = choices.into_iter().find(fits).map(|(labels, _)| labels);
        let labels = labels.unwrap_or_else(Labels::overflow);
        all.entry(labels).or_default().clone()
    }

    /// Drops the series that no route has any more.
    pub fn drop_unused(&self) {
        self.lock()
            .retain(|_, series| Arc::strong_count(series) > 1);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Labels, Arc<Series>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Labels {
    /// No object can have these names.
    fn overflow() -> Self {
        let other: Arc<str> = "_other".into();
        let none: Arc<str> = "".into();
        Self {
            namespace: other.clone(),
            ingress: other.clone(),
            service: other,
            host: none.clone(),
            path: none,
        }
    }
}

// Writing.

impl AllSeries {
    /// Writes all series in Prometheus' text format, each with the labels `common`.
    pub fn write(&self, out: &mut String, common: &str) -> fmt::Result {
        let all: Vec<_> = self.lock().clone().into_iter().collect();
        let all: Vec<(String, Arc<Series>)> = all
            .into_iter()
            .filter(|(_, series)| series.duration.count.get() > 0)
            .map(|(labels, series)| (format!("{common},{labels}"), series))
            .collect();
        write_requests(out, &all)?;
        let seconds = |microseconds: u64| Duration::from_micros(microseconds).as_secs_f64();
        let bytes = |bytes: u64| bytes as f64;
        write_histograms(
            out,
            "nginx_ingress_controller_request_duration_seconds",
            "Time from the head of a request to the end of its response",
            &all,
            |series| series.duration.read(&TIMES, seconds),
        )?;
        write_histograms(
            out,
            "nginx_ingress_controller_header_duration_seconds",
            "Time until a backend began its response",
            &all,
            |series| series.backend_head.read(&TIMES, seconds),
        )?;
        write_histograms(
            out,
            "nginx_ingress_controller_response_duration_seconds",
            "Time until a backend ended its response",
            &all,
            |series| series.backend_duration.read(&TIMES, seconds),
        )?;
        write_histograms(
            out,
            "nginx_ingress_controller_response_size",
            "Bytes of the bodies of responses",
            &all,
            |series| series.size.read(&SIZES, bytes),
        )
    }
}

fn write_requests(out: &mut String, all: &[(String, Arc<Series>)]) -> fmt::Result {
    let name = "nginx_ingress_controller_requests";
    family(out, name, "counter", "Client requests")?;
    let methods = METHODS.iter().map(Method::as_str).chain([OTHER_METHOD]);
    let methods: Vec<_> = methods.collect();
    for (labels, series) in all {
        for (method, requests) in methods.iter().zip(&series.requests) {
            let Some(requests) = requests.get() else {
                continue;
            };
            let codes = CODES.iter().map(ToString::to_string).zip(&requests.codes);
            let classes = CLASSES.iter().map(ToString::to_string);
            let classes = classes.zip(&requests.classes);
            for (status, count) in codes.chain(classes).filter(|(_, count)| count.get() > 0) {
                let labels = format_args!("{labels},method=\"{method}\",status=\"{status}\"");
                sample(out, name, labels, count.get())?;
            }
        }
    }
    Ok(())
}

/// A histogram as it is written: the bounds with what is up to each, the sum and the count.
struct Reading {
    bounds: Vec<(f64, u64)>,
    sum: f64,
    count: u64,
}

impl<const N: usize> Histogram<N> {
    fn read(&self, bounds: &[u64; N], unit: impl Fn(u64) -> f64) -> Reading {
        let count = self.count.get();
        let mut up_to = 0;
        let bounds = bounds.iter().zip(&self.buckets).map(|(bound, bucket)| {
            up_to += bucket.get();
            (unit(*bound), up_to)
        });
        Reading {
            bounds: bounds.collect(),
            sum: unit(self.sum.get()),
            count,
        }
    }
}

fn write_histograms(
    out: &mut String,
    name: &str,
    help: &str,
    all: &[(String, Arc<Series>)],
    read: impl Fn(&Series) -> Reading,
) -> fmt::Result {
    family(out, name, "histogram", help)?;
    let bucket = format!("{name}_bucket");
    for (labels, series) in all {
        let Reading { bounds, sum, count } = read(series);
        if count == 0 {
            continue;
        }
        for (bound, up_to) in bounds {
            sample(out, &bucket, format_args!("{labels},le=\"{bound}\""), up_to)?;
        }
        sample(out, &bucket, format_args!("{labels},le=\"+Inf\""), count)?;
        sample(out, &format!("{name}_sum"), labels, sum)?;
        sample(out, &format!("{name}_count"), labels, count)?;
    }
    Ok(())
}

impl Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            ingress,
            service,
            host,
            path,
        } = self;
        // A path may have quotes and backslashes in it, which the format escapes as Rust does.
        write!(
            f,
            "canary=\"\",namespace=\"{namespace}\",ingress=\"{ingress}\",service=\"{service}\",\
             host=\"{host}\",path={path:?}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(all: &AllSeries, number: usize) -> Arc<Series> {
        let name = ObjectName::new("ns", format!("i{number}"));
        all.get(&name, "s", "a.org", "/x")
    }

    fn request(method: &Method, status: u16, elapsed: Duration) -> Observed<'_> {
        Observed {
            method,
            status: StatusCode::from_u16(status).expect("a status"),
            elapsed,
            backend: None,
            sent: 10,
        }
    }

    fn text(all: &AllSeries) -> String {
        let mut text = String::new();
        all.write(&mut text, "controller_pod=\"p\"").expect("text");
        text
    }

    #[test]
    fn requests_are_counted_by_method_status_and_duration() {
        let all = AllSeries::default();
        let series = series(&all, 0);
        let odd = Method::from_bytes(b"ODD").expect("a method");
        series.count(&request(&Method::GET, 200, Duration::from_millis(5)));
        series.count(&request(&Method::POST, 418, Duration::from_secs(60)));
        series.count(&Observed {
            backend: Some(BackendTimes {
                head: Some(Duration::from_millis(30)),
                total: Duration::from_millis(40),
            }),
            ..request(&odd, 799, Duration::from_millis(50))
        });
        let text = text(&all);
        let labels = "controller_pod=\"p\",canary=\"\",namespace=\"ns\",ingress=\"i0\",service=\"s\",\
                      host=\"a.org\",path=\"/x\"";
        let prefix = "nginx_ingress_controller";
        for line in [
            format!("{prefix}_requests{{{labels},method=\"GET\",status=\"200\"}} 1"),
            format!("{prefix}_requests{{{labels},method=\"POST\",status=\"4xx\"}} 1"),
            format!("{prefix}_requests{{{labels},method=\"other\",status=\"other\"}} 1"),
            format!("{prefix}_request_duration_seconds_bucket{{{labels},le=\"0.005\"}} 1"),
            format!("{prefix}_request_duration_seconds_bucket{{{labels},le=\"10\"}} 2"),
            format!("{prefix}_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 3"),
            format!("{prefix}_request_duration_seconds_sum{{{labels}}} 60.055"),
            format!("{prefix}_header_duration_seconds_bucket{{{labels},le=\"0.05\"}} 1"),
            format!("{prefix}_response_duration_seconds_sum{{{labels}}} 0.04"),
            format!("{prefix}_response_size_bucket{{{labels},le=\"10\"}} 3"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn series_are_kept_while_they_are_used_and_silent_ones_are_not_written() {
        let all = AllSeries::default();
        let first = series(&all, 0);
        first.count(&request(&Method::GET, 200, Duration::ZERO));
        let second = series(&all, 1);
        all.drop_unused();
        assert!(Arc::ptr_eq(&first, &series(&all, 0)));
        assert!(text(&all).contains("i0") && !text(&all).contains("i1"));
        drop((first, second));
        all.drop_unused();
        assert!(all.lock().is_empty());
    }

    #[test]
    fn series_beyond_the_budget_are_shared() {
        let all = AllSeries::default();
        let name = ObjectName::new("ns", "i");
        let route = |number: usize| all.get(&name, "s", "a.org", &format!("/{number}"));
        let mut kept: Vec<_> = (0..MAX_SERIES).map(route).collect();
        let beyond = [route(MAX_SERIES), route(MAX_SERIES + 1)];
        assert!(Arc::ptr_eq(&beyond[0], &beyond[1]));
        assert!(!Arc::ptr_eq(&beyond[0], &kept[0]));
        assert!(Arc::ptr_eq(&kept[0], &route(0)));
        kept.extend((0..MAX_SERIES).map(|number| series(&all, number)));
        let others = [series(&all, MAX_SERIES), series(&all, MAX_SERIES + 1)];
        assert!(Arc::ptr_eq(&others[0], &others[1]));
        others[0].count(&request(&Method::GET, 200, Duration::ZERO));
        assert!(text(&all).contains("ingress=\"_other\""));
        assert_eq!(all.lock().len(), 2 * MAX_SERIES + 1);
    }

    #[test]
    fn codes_are_sorted() {
        assert!(CODES.is_sorted());
    }
}
