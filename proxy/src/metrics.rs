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
use crate::reconcile::Round;
use crate::service_metrics::KernelCounters;
use crate::tables::Usage;

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of the daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    sync_duration: Histogram,
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
struct Table {
    table: &'static str,
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
            // From 50 us: most rounds change one Service.
            sync_duration: Histogram::new(exponential_buckets(0.000_05, 2.0, 18)),
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
            "Services that could not be installed at once",
            self.failures.clone(),
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
        self.last_queued.set(now());
        match event {
            Event::Services(all) => self.service_changes.inc_by(all.len() as u64),
            Event::Service(_) | Event::ServiceGone(_) => self.service_changes.inc(),
            Event::Slices(all) => self.endpoint_changes.inc_by(all.len() as u64),
            Event::Slice(_) | Event::SliceGone(_) => self.endpoint_changes.inc(),
            Event::Node(_) => 0,
        };
    }

    /// Notes what a round did and how full the tables are.
    pub fn round(&self, round: &Round, took: Duration, usage: &Usage) {
        if *round != Round::default() {
            self.sync_duration.observe(took.as_secs_f64());
            self.last_sync.set(now());
            self.failures.inc_by(round.failed as u64);
        }
        let tables = [
            ("services", usage.services),
            ("backends", usage.backends),
            ("slots", usage.slots),
            ("frontends", usage.entries),
        ];
        for (table, used) in tables {
            let gauge = self.usage.get_or_create(&Table { table });
            gauge.set(i64::try_from(used).unwrap_or(i64::MAX));
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
