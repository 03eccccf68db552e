//! What is counted about requests, apart for each route and outcome as far as the budget goes.
//!
//! Names and labels are ingress-nginx's. Each path of a host has a set of series; beyond [`MAX_SERIES`] sets an Ingress
//! and Service share one, and beyond as many of these all the rest does. A set has histograms for each method and status
//! that was seen. There are [`MAX_OUTCOMES`] of these in all sets together; beyond, a set goes by class of status alone,
//! and beyond [`MAX_CLASSED`] all sets share what they add. What has never been counted is not written. So the size of a
//! scrape and the memory behind it are bounded, whatever users create and clients send.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use model::ObjectName;

use super::histogram::{Reading, Sizes, Times};
use super::outcome::{CLASSES, Outcome};
use super::settings::MetricsArgs;
use crate::observe::metrics::{Counter, Escaped, family, sample};

/// Most sets of series of each kind.
pub const MAX_SERIES: usize = 2_000;
/// Most outcomes of all sets that are told apart by method and status.
pub const MAX_OUTCOMES: u64 = 4_000;
/// Most outcomes of all sets.
pub const MAX_CLASSED: u64 = 6_000;

/// Most outcomes of one set that are told apart by method and status. Few routes see more.
const OUTCOMES: usize = 16;

/// All sets of series, by what they are about.
#[derive(Debug)]
pub struct AllSeries {
    sets: Mutex<BTreeMap<Labels, Arc<Series>>>,
    /// What has no set of its own.
    other: Arc<Series>,
    settings: MetricsArgs,
}

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
#[derive(Debug)]
pub struct Series {
    /// By outcome, in the order in which they were first seen: the usual ones come first. The last few are left for classes
    /// of status.
    slots: Box<[Slot]>,
    shared: Arc<Shared>,
}

type Slot = OnceLock<(Outcome, Box<Counts>)>;

/// What all sets share.
#[derive(Debug, Default)]
struct Shared {
    /// How many slots of all sets are in use.
    used: Counter,
    /// What is beyond the budget, by class of status.
    beyond: [Counts; CLASSES],
    /// Whether the status itself is of no interest.
    is_by_class: bool,
}

/// The requests of one outcome.
#[derive(Debug, Default)]
struct Counts {
    duration: Times,
    /// Only what was more than nothing: a request over an open connection takes no time to connect.
    backend_connect: Times,
    backend_head: Times,
    backend_duration: Times,
    received: Sizes,
    sent: Sizes,
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
    /// Bytes of its body that came.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
}

/// How long a backend took.
#[derive(Debug, Clone, Copy)]
pub struct BackendTimes {
    /// Until the connection was there, if it had to be opened.
    pub connect: Option<Duration>,
    /// To the head of its response, if that came.
    pub head: Option<Duration>,
    /// To the end of its response.
    pub total: Duration,
}

// Counting.

impl Series {
    fn new(slots: usize, shared: Arc<Shared>) -> Self {
        let slots = (0..slots).map(|_| Slot::new()).collect();
        Self { slots, shared }
    }

    /// Counts a request.
    pub fn count(&self, request: &Observed<'_>) {
        let mut outcome = Outcome::of(request.method, request.status);
        if self.shared.is_by_class {
            outcome = outcome.by_class();
        }
        let counts = self
            .slot(outcome, OUTCOMES, MAX_OUTCOMES)
            .or_else(|| self.slot(outcome.classed(), self.slots.len(), MAX_CLASSED))
            .unwrap_or_else(|| &self.shared.beyond[outcome.class()]);
        counts.count(request);
    }

    /// The counts of `outcome`, if they are among the first `slots` or a slot there may be taken as long as fewer than `most`
    /// are in use everywhere.
    fn slot(&self, outcome: Outcome, slots: usize, most: u64) -> Option<&Counts> {
        for slot in self.slots.iter().take(slots) {
            let (owner, counts) = match slot.get() {
                Some(taken) => taken,
                None if self.shared.used.get() >= most => return None,
                // Another thread may be ahead, with an outcome of its own.
                None => slot.get_or_init(|| {
                    self.shared.used.count();
                    (outcome, Box::default())
                }),
            };
            if *owner == outcome {
                return Some(counts);
            }
        }
        None
    }

    /// What was counted, by outcome.
    fn outcomes(&self) -> impl Iterator<Item = (Outcome, &Counts)> {
        let taken = self.slots.iter().filter_map(Slot::get);
        taken.map(|(outcome, counts)| (*outcome, &**counts))
    }
}

impl Drop for Series {
    fn drop(&mut self) {
        self.shared.used.subtract(self.outcomes().count() as u64);
    }
}

impl Counts {
    fn count(&self, request: &Observed<'_>) {
        self.duration.observe(request.elapsed);
        if let Some(backend) = request.backend {
            if let Some(head) = backend.head {
                self.backend_head.observe(head);
                if let Some(connect) = backend.connect {
                    self.backend_connect.observe(connect);
                }
            }
            self.backend_duration.observe(backend.total);
        }
        self.received.observe(request.received);
        self.sent.observe(request.sent);
    }
}

// Keeping.

impl AllSeries {
    /// No series yet.
    pub fn new(settings: MetricsArgs) -> Self {
        let shared = Shared {
            is_by_class: settings.report_status_classes,
            ..Shared::default()
        };
        Self {
            sets: Mutex::default(),
            other: Arc::new(Series::new(0, Arc::new(shared))),
            settings,
        }
    }

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
        let host = if self.settings.metrics_per_host {
            host
        } else {
            ""
        };
        let of_route = Labels {
            host: host.into(),
            path: path.into(),
            ..of_ingress.clone()
        };
        let choices = [(of_route, MAX_SERIES), (of_ingress, 2 * MAX_SERIES)];
        let fits =
            |(labels, limit): &(Labels, usize)| all.contains_key(labels) || all.len() < *limit;
        let Some((labels, _)) = choices.into_iter().find(fits) else {
            return self.other.clone();
        };
        let new = || Arc::new(Series::new(OUTCOMES + CLASSES, self.other.shared.clone()));
        all.entry(labels).or_insert_with(new).clone()
    }

    /// Drops the series that no route has any more.
    pub fn drop_unused(&self) {
        self.lock()
            .retain(|_, series| Arc::strong_count(series) > 1);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Labels, Arc<Series>>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for AllSeries {
    fn default() -> Self {
        Self::new(MetricsArgs::default())
    }
}

impl Labels {
    /// What is beyond the budget. No object can have these names.
    fn other() -> Self {
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

const REQUESTS: &str = "nginx_ingress_controller_requests";

/// A histogram's name, what it is, and where it is.
type Family = (&'static str, &'static str, fn(&Counts) -> Reading);

const HISTOGRAMS: [Family; 6] = [
    (
        "nginx_ingress_controller_request_duration_seconds",
        "Time from the head of a request to the end of its response",
        |counts| counts.duration.read(),
    ),
    (
        "nginx_ingress_controller_connect_duration_seconds",
        "Time to connect to the backend that answered, 0 where a connection was open",
        |counts| {
            let answered = counts.backend_head.read().count();
            counts.backend_connect.read().with_zeros_up_to(answered)
        },
    ),
    (
        "nginx_ingress_controller_header_duration_seconds",
        "Time until a backend began its response",
        |counts| counts.backend_head.read(),
    ),
    (
        "nginx_ingress_controller_response_duration_seconds",
        "Time until a backend ended its response",
        |counts| counts.backend_duration.read(),
    ),
    (
        "nginx_ingress_controller_request_size",
        "Bytes of the bodies of requests",
        |counts| counts.received.read(),
    ),
    (
        "nginx_ingress_controller_response_size",
        "Bytes of the bodies of responses",
        |counts| counts.sent.read(),
    ),
];

impl AllSeries {
    /// Writes all series in Prometheus' text format, each with the labels `common`.
    pub fn write(&self, out: &mut String, common: &str) -> fmt::Result {
        let all = self.lock().clone();
        let own = all.iter().flat_map(|(labels, series)| {
            let outcomes = series.outcomes();
            outcomes.map(move |(outcome, counts)| (labels.clone(), outcome, counts))
        });
        let beyond = Outcome::all_classed().into_iter();
        let beyond = beyond.zip(&self.other.shared.beyond);
        let beyond = beyond.map(|(outcome, counts)| (Labels::other(), outcome, counts));
        let all: Vec<(String, &Counts)> = own
            .chain(beyond)
            .map(|(labels, outcome, counts)| (format!("{common},{labels},{outcome}"), counts))
            .collect();
        if !self.settings.leaves_out(REQUESTS) {
            write_requests(out, &all)?;
        }
        let histograms = HISTOGRAMS.into_iter();
        for (name, help, read) in histograms.filter(|(name, ..)| !self.settings.leaves_out(name)) {
            family(out, name, "histogram", help)?;
            for (labels, counts) in &all {
                read(counts).write(out, name, labels)?;
            }
        }
        Ok(())
    }
}

fn write_requests(out: &mut String, all: &[(String, &Counts)]) -> fmt::Result {
    family(out, REQUESTS, "counter", "Client requests")?;
    for (labels, counts) in all {
        let count = counts.duration.read().count();
        if count > 0 {
            sample(out, REQUESTS, labels, count)?;
        }
    }
    Ok(())
}

/// The names of what is counted.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let histograms = HISTOGRAMS.iter().map(|(name, ..)| *name);
    histograms.chain([REQUESTS])
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
        let path = Escaped(path);
        write!(
            f,
            "canary=\"\",namespace=\"{namespace}\",ingress=\"{ingress}\",service=\"{service}\",\
             host=\"{host}\",path=\"{path}\""
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
            received: 7,
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
                connect: Some(Duration::from_millis(20)),
                head: Some(Duration::from_millis(30)),
                total: Duration::from_millis(40),
            }),
            ..request(&odd, 799, Duration::from_millis(50))
        });
        series.count(&Observed {
            backend: Some(BackendTimes {
                connect: None,
                head: Some(Duration::from_millis(30)),
                total: Duration::from_millis(40),
            }),
            ..request(&odd, 799, Duration::from_secs(11))
        });
        let text = text(&all);
        let labels = "controller_pod=\"p\",canary=\"\",namespace=\"ns\",ingress=\"i0\",service=\"s\",\
                      host=\"a.org\",path=\"/x\"";
        let prefix = "nginx_ingress_controller";
        let get = format!("{labels},method=\"GET\",status=\"200\"");
        let post = format!("{labels},method=\"POST\",status=\"4xx\"");
        let odd = format!("{labels},method=\"other\",status=\"other\"");
        for line in [
            format!("{prefix}_requests{{{get}}} 1"),
            format!("{prefix}_requests{{{post}}} 1"),
            format!("{prefix}_requests{{{odd}}} 2"),
            format!("{prefix}_request_duration_seconds_bucket{{{get},le=\"0.005\"}} 1"),
            format!("{prefix}_request_duration_seconds_sum{{{post}}} 60"),
            format!("{prefix}_request_duration_seconds_bucket{{{odd},le=\"0.025\"}} 0"),
            format!("{prefix}_request_duration_seconds_bucket{{{odd},le=\"10\"}} 1"),
            format!("{prefix}_request_duration_seconds_bucket{{{odd},le=\"+Inf\"}} 2"),
            format!("{prefix}_request_duration_seconds_count{{{odd}}} 2"),
            format!("{prefix}_connect_duration_seconds_bucket{{{odd},le=\"0.005\"}} 1"),
            format!("{prefix}_connect_duration_seconds_bucket{{{odd},le=\"0.025\"}} 2"),
            format!("{prefix}_connect_duration_seconds_sum{{{odd}}} 0.02"),
            format!("{prefix}_header_duration_seconds_bucket{{{odd},le=\"0.05\"}} 2"),
            format!("{prefix}_response_duration_seconds_sum{{{odd}}} 0.08"),
            format!("{prefix}_request_size_sum{{{odd}}} 14"),
            format!("{prefix}_response_size_bucket{{{get},le=\"10\"}} 1"),
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
        assert_eq!(all.lock().len(), 2 * MAX_SERIES);
    }

    /// The lines of text that count requests, without names of objects.
    fn counted(all: &AllSeries) -> Vec<String> {
        let text = text(all);
        let lines = text.lines().filter_map(|line| {
            let labels = line.strip_prefix("nginx_ingress_controller_requests{")?;
            Some(labels.rsplit_once(",method=")?.1.to_owned())
        });
        lines.collect()
    }

    #[test]
    fn hosts_statuses_and_whole_metrics_can_be_left_out() {
        let all = AllSeries::new(MetricsArgs {
            metrics_per_host: false,
            report_status_classes: true,
            exclude_socket_metrics: vec!["response_size".to_owned()],
        });
        let name = ObjectName::new("ns", "i");
        let of_host = |host| all.get(&name, "s", host, "/x");
        let (one, other) = (of_host("a.org"), of_host("b.org"));
        assert!(Arc::ptr_eq(&one, &other));
        one.count(&request(&Method::GET, 200, Duration::ZERO));
        one.count(&request(&Method::GET, 204, Duration::ZERO));
        assert_eq!(counted(&all), ["\"GET\",status=\"2xx\"} 2"]);
        let text = text(&all);
        assert!(text.contains("request_size") && text.contains("host=\"\""));
        assert!(!text.contains("response_size"), "{text}");
    }

    #[test]
    fn a_set_with_too_many_outcomes_goes_by_class_of_status() {
        let all = AllSeries::default();
        let series = series(&all, 0);
        for status in 400..400 + OUTCOMES as u16 + 30 {
            series.count(&request(&Method::GET, status, Duration::ZERO));
        }
        let counted = counted(&all);
        assert_eq!(counted.len(), OUTCOMES + 1, "{counted:?}");
        let classed = counted.iter().find(|line| line.contains("\"other\""));
        assert_eq!(
            classed.map(String::as_str),
            Some("\"other\",status=\"4xx\"} 7")
        );
    }

    #[test]
    fn outcomes_beyond_the_budget_go_by_class_of_status_and_then_are_shared() {
        let all = AllSeries::default();
        let sets: Vec<_> = (0..MAX_SERIES).map(|number| series(&all, number)).collect();
        for method in [Method::GET, Method::POST, Method::PUT, Method::HEAD] {
            for status in [200, 404] {
                for series in &sets {
                    series.count(&request(&method, status, Duration::ZERO));
                }
            }
        }
        let lines = counted(&all);
        // Two methods fit, then one class for each, and the other class is shared.
        assert!(lines.len() as u64 <= MAX_CLASSED + 1, "{}", lines.len());
        let total = |what: &str| -> u64 {
            let fitting = lines.iter().filter_map(|line| line.strip_prefix(what));
            fitting
                .map(|count| count.parse::<u64>().expect("a number"))
                .sum()
        };
        assert_eq!(total("\"GET\",status=\"200\"} "), MAX_SERIES as u64);
        assert_eq!(total("\"other\",status=\"2xx\"} "), 3 * MAX_SERIES as u64);
        assert_eq!(total("\"other\",status=\"4xx\"} "), 3 * MAX_SERIES as u64);
        assert!(text(&all).contains("ingress=\"_other\""));
        // Room comes back with those who go.
        drop(sets);
        all.drop_unused();
        assert_eq!(all.other.shared.used.get(), 0);
    }
}
