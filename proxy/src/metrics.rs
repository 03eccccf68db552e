//! What is counted, under kube-proxy's names where the meaning is the same.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::Event;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::maps::Swept;
use crate::service_metrics::KernelCounters;
use crate::standing::{Round, WithoutLocal};
use crate::tables::Usage;

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of the daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    sync_duration: Histogram,
    full_sync_duration: Histogram,
    partial_sync_duration: Histogram,
    programming_duration: Histogram,
    without_local: Family<Policy, Gauge>,
    service_changes_pending: Gauge,
    endpoint_changes_pending: Gauge,
    waiting: Gauge,
    last_sync: Gauge<f64, AtomicU64>,
    last_queued: Gauge<f64, AtomicU64>,
    service_changes: Counter,
    endpoint_changes: Counter,
    failures: Counter,
    healthz: Family<Code, Counter>,
    livez: Family<Code, Counter>,
    usage: Family<Table, Gauge>,
    connections: Gauge,
    swept: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Policy {
    traffic_policy: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Table {
    table: &'static str,
}

/// How things stand after a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// How full the tables are.
    pub usage: Usage,
    /// How many Services are not installed as they should be.
    pub waiting: usize,
    /// Where a policy allows no endpoint.
    pub without_local: WithoutLocal,
}

/// kube-proxy's buckets, from 1 ms to 16 s.
fn sync_duration() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// kube-proxy's buckets: 0.25 and 0.5 s, then every second, every five from a minute on, and every thirty from two.
fn programming_buckets() -> impl Iterator<Item = f64> {
    let seconds = (1..60)
        .chain((60..120).step_by(5))
        .chain((120..=300).step_by(30));
    [0.25, 0.5].into_iter().chain(seconds.map(f64::from))
}

impl Metrics {
    /// Metrics that all stand at zero.
    pub fn new() -> Self {
        Self::in_registry(Registry::default())
    }

    /// The same, and what the programs count.
    pub fn with_counters(counters: KernelCounters) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(counters));
        Self::in_registry(registry)
    }

    fn in_registry(registry: Registry) -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            sync_duration: sync_duration(),
            full_sync_duration: sync_duration(),
            partial_sync_duration: sync_duration(),
            programming_duration: Histogram::new(programming_buckets()),
            without_local: Family::default(),
            service_changes_pending: Gauge::default(),
            endpoint_changes_pending: Gauge::default(),
            waiting: Gauge::default(),
            last_sync: Gauge::default(),
            last_queued: Gauge::default(),
            service_changes: Counter::default(),
            endpoint_changes: Counter::default(),
            failures: Counter::default(),
            healthz: Family::default(),
            livez: Family::default(),
            usage: Family::default(),
            connections: Gauge::default(),
            swept: Counter::default(),
        };
        metrics.registry = Arc::new(metrics.register(registry));
        metrics
    }

    fn register(&self, mut all: Registry) -> Registry {
        let proxy = all.sub_registry_with_prefix("kubeproxy");
        proxy.register_with_unit(
            "sync_proxy_rules_duration",
            "Time a round of writes took",
            Unit::Seconds,
            self.sync_duration.clone(),
        );
        proxy.register_with_unit(
            "sync_full_proxy_rules_duration",
            "Time a round of writes took in which every Service was due",
            Unit::Seconds,
            self.full_sync_duration.clone(),
        );
        proxy.register_with_unit(
            "sync_partial_proxy_rules_duration",
            "Time a round of writes took in which only those Services were due that had changed",
            Unit::Seconds,
            self.partial_sync_duration.clone(),
        );
        proxy.register_with_unit(
            "network_programming_duration",
            "Time from a change of a Service's pods until it was in the kernel",
            Unit::Seconds,
            self.programming_duration.clone(),
        );
        proxy.register(
            "sync_proxy_rules_no_local_endpoints_total",
            "Service ports whose policy allows only endpoints on this node, where there is none",
            self.without_local.clone(),
        );
        proxy.register(
            "sync_proxy_rules_service_changes_pending",
            "Changes of Services seen since the last round of writes",
            self.service_changes_pending.clone(),
        );
        proxy.register(
            "sync_proxy_rules_endpoint_changes_pending",
            "Changes of EndpointSlices seen since the last round of writes",
            self.endpoint_changes_pending.clone(),
        );
        proxy.register_with_unit(
            "sync_proxy_rules_last_timestamp",
            "When the last round of writes was done",
            Unit::Seconds,
            self.last_sync.clone(),
        );
        proxy.register_with_unit(
            "sync_proxy_rules_last_queued_timestamp",
            "When the last change was seen",
            Unit::Seconds,
            self.last_queued.clone(),
        );
        proxy.register(
            "sync_proxy_rules_service_changes",
            "Changes of Services seen",
            self.service_changes.clone(),
        );
        proxy.register(
            "sync_proxy_rules_endpoint_changes",
            "Changes of EndpointSlices seen",
            self.endpoint_changes.clone(),
        );
        all.register(
            "proxy_healthz",
            "Answers of /healthz by code",
            self.healthz.clone(),
        );
        all.register(
            "proxy_livez",
            "Answers of /livez by code",
            self.livez.clone(),
        );
        let own = all.sub_registry_with_prefix("portolan");
        own.register(
            "service_failures",
            "Services that could not be installed, each counted once until it is",
            self.failures.clone(),
        );
        own.register(
            "services_waiting",
            "Services that are not installed as they should be",
            self.waiting.clone(),
        );
        own.register(
            "table_entries",
            "Entries in use by table",
            self.usage.clone(),
        );
        own.register(
            "conntrack_entries",
            "Tracked connections, both directions, at the last sweep",
            self.connections.clone(),
        );
        own.register(
            "conntrack_swept",
            "Tracked connections removed by sweeps",
            self.swept.clone(),
        );
        all
    }

    /// The metrics as text. With the programs' counters this takes some tens of milliseconds for many Services, so it is
    /// nothing for the thread that everything else runs on.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "metrics cannot be written"
            );
        }
        text
    }

    /// Counts what was seen in the API.
    pub fn count_event(&self, event: &Event) {
        let (changes, pending, count) = match event {
            Event::Services(all) => self.service(all.len()),
            Event::Service(_) | Event::ServiceGone(_) => self.service(1),
            Event::Slices(all) => self.endpoint(all.len()),
            Event::Slice(_) | Event::SliceGone(_) => self.endpoint(1),
            Event::ServiceCidrs(_)
            | Event::ServiceCidr(_)
            | Event::ServiceCidrGone(_)
            | Event::UnservedAll(..)
            | Event::Unserved(..)
            | Event::UnservedGone(..)
            | Event::Node(_) => return,
        };
        self.last_queued.set(now());
        changes.inc_by(count as u64);
        pending.inc_by(i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn service(&self, count: usize) -> (&Counter, &Gauge, usize) {
        (&self.service_changes, &self.service_changes_pending, count)
    }

    fn endpoint(&self, count: usize) -> (&Counter, &Gauge, usize) {
        (
            &self.endpoint_changes,
            &self.endpoint_changes_pending,
            count,
        )
    }

    /// Notes what a round did that took so long, and when that happened which it put into the kernel.
    pub fn round(&self, round: &Round, took: Duration, programmed: &[SystemTime]) {
        if round.may_write {
            self.service_changes_pending.set(0);
            self.endpoint_changes_pending.set(0);
        }
        if round.applied + round.failed > 0 {
            let took = took.as_secs_f64();
            self.sync_duration.observe(took);
            match round.full {
                true => self.full_sync_duration.observe(took),
                false => self.partial_sync_duration.observe(took),
            }
            self.last_sync.set(now());
            self.failures.inc_by(round.newly_failed as u64);
        }
        for at in programmed {
            // A clock that was set back says nothing.
            if let Ok(took) = at.elapsed() {
                self.programming_duration.observe(took.as_secs_f64());
            }
        }
    }

    /// Notes how things stand.
    pub fn state(&self, state: &State) {
        let set = |gauge: &Gauge, value: u64| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.waiting, state.waiting as u64);
        for (traffic_policy, count) in [
            ("internal", state.without_local.internal),
            ("external", state.without_local.external),
        ] {
            let policy = Policy { traffic_policy };
            set(&self.without_local.get_or_create(&policy), count.into());
        }
        for (table, used) in [
            ("services", state.usage.services),
            ("backends", state.usage.backends),
            ("slots", state.usage.slots),
            ("frontends", state.usage.entries),
        ] {
            set(&self.usage.get_or_create(&Table { table }), used);
        }
    }

    /// Counts an answer to a probe of `path`.
    pub fn count_probe(&self, path: &str, code: u16) {
        let family = if path == "/healthz" {
            &self.healthz
        } else {
            &self.livez
        };
        family.get_or_create(&Code { code }).inc();
    }

    /// Notes what a sweep of the connections found.
    pub fn sweep(&self, swept: Swept) {
        self.connections
            .set(i64::try_from(swept.kept).unwrap_or(i64::MAX));
        self.swept.inc_by(swept.removed);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
