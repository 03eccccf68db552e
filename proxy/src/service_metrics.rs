//! What the programs count, as metrics: read from the pinned maps whenever somebody asks for metrics, and kept nowhere.
//!
//! A cluster may have more Services than anybody wants series, so only the busiest have series of their own.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use dataplane_ebpf::abi::Stats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use tracing::warn;

use crate::pinned::{Error, Pinned, Usage, add};

/// Stands for all Services without series of their own. No Service can have the name.
const OTHERS: &str = "_other";

/// The counters of the programs under one pin directory.
#[derive(Debug, Clone)]
pub struct KernelCounters {
    root: PathBuf,
    limit: usize,
}

/// What is counted for a Service port, in both families.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
struct ServicePort {
    namespace: String,
    service: String,
    port: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Map {
    map: &'static str,
}

impl KernelCounters {
    /// Those under `root`, where the `limit` busiest Service ports have series of their own and all others have one
    /// together.
    pub fn new(root: PathBuf, limit: usize) -> Self {
        Self { root, limit }
    }

    fn read(&self) -> Result<Counted, Error> {
        let maps = Pinned::open(&self.root)?;
        Ok(Counted {
            services: busiest(services(&maps)?, self.limit),
            drops: maps.drop_counts()?,
            usage: maps.usage_by_daemon()?,
        })
    }
}

/// What the maps held at one time.
struct Counted {
    services: Vec<(ServicePort, Stats)>,
    drops: Vec<(dataplane_ebpf::drop::Drop, u64)>,
    usage: Vec<Usage>,
}

/// What every Service port has counted, its families and all CPUs together. An id without a name is nobody's any more.
fn services(maps: &Pinned) -> Result<HashMap<String, Stats>, Error> {
    let mut names = maps.all_names()?;
    let mut services: HashMap<String, Stats> = HashMap::with_capacity(names.len());
    maps.stats.each(|id, counts| {
        if let Some(name) = names.remove(&id) {
            add(services.entry(name).or_default(), counts);
        }
    })?;
    Ok(services)
}

/// The `limit` services with the most connections, and then all others in one, if there are more. A name that is none
/// counts among the others.
fn busiest(services: HashMap<String, Stats>, limit: usize) -> Vec<(ServicePort, Stats)> {
    let mut others = Stats::default();
    let mut ranked = Vec::with_capacity(services.len());
    let all = services.len();
    for (name, stats) in services {
        match labels(&name) {
            Some(labels) => ranked.push((labels, stats)),
            None => add(&mut others, &[stats]),
        }
    }
    ranked.sort_unstable_by(|(a, a_stats), (b, b_stats)| {
        let by_connections = b_stats.connections.cmp(&a_stats.connections);
        by_connections.then_with(|| a.cmp(b))
    });
    for (_, stats) in ranked.iter().skip(limit) {
        add(&mut others, &[*stats]);
    }
    ranked.truncate(limit);
    if ranked.len() < all {
        let labels = ServicePort {
            namespace: String::new(),
            service: OTHERS.to_owned(),
            port: String::new(),
        };
        ranked.push((labels, others));
    }
    ranked
}

/// The parts of `namespace/name:port`, whose port may be missing.
fn labels(name: &str) -> Option<ServicePort> {
    let (namespace, rest) = name.split_once('/')?;
    let (service, port) = rest.split_once(':').unwrap_or((rest, ""));
    Some(ServicePort {
        namespace: namespace.to_owned(),
        service: service.to_owned(),
        port: port.to_owned(),
    })
}

impl Collector for KernelCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counted = match self.read() {
            Ok(counted) => counted,
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "the counters of the programs cannot be read"
                );
                return Ok(());
            }
        };
        counted.encode(&mut encoder)
    }
}

/// A counter of [`Stats`]: its name, its help and its field.
type Counter = (&'static str, &'static str, fn(&Stats) -> u64);

const COUNTERS: [Counter; 4] = [
    (
        "portolan_service_connections",
        "Connections and UDP flows that got a backend",
        |stats| stats.connections,
    ),
    (
        "portolan_service_packets",
        "Packets translated, in both directions; none for connections translated at the socket",
        |stats| stats.packets,
    ),
    (
        "portolan_service_bytes",
        "Bytes of those packets, from the link layer's header on",
        |stats| stats.bytes,
    ),
    (
        "portolan_service_drops",
        "Packets and calls refused or dropped after the Service was known",
        |stats| stats.drops,
    ),
];

impl Counted {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in COUNTERS {
            let series = self.services.iter();
            let series = series.map(|(labels, stats)| (labels.clone(), value(stats)));
            counters(encoder, name, help, series)?;
        }
        let drops = self.drops.iter().map(|(reason, count)| {
            let reason = reason.name();
            (Reason { reason }, *count)
        });
        let help = "Packets and calls that went no further, by reason";
        counters(encoder, "portolan_drops", help, drops)?;
        let of_map = |usage: &Usage| Map { map: usage.map };
        let entries = self.usage.iter();
        let entries = entries.map(|usage| (of_map(usage), usage.entries));
        let help = "Entries in use, of maps that the daemon writes";
        gauges(encoder, "portolan_map_entries", help, entries)?;
        let sizes = self.usage.iter();
        let sizes = sizes.map(|usage| (of_map(usage), usage.size.into()));
        let help = "Entries that fit, of maps that the daemon writes";
        gauges(encoder, "portolan_map_size", help, sizes)
    }
}

fn counters<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl Iterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in series {
        let mut series = metric.encode_family(&labels)?;
        series.encode_counter::<[(&str, &str); 0], u64, u64>(&value, None)?;
    }
    Ok(())
}

fn gauges<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl Iterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in series {
        metric.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(connections: u64) -> Stats {
        Stats {
            connections,
            packets: 1,
            bytes: 1,
            drops: 0,
        }
    }

    #[track_caller]
    fn check(services: &[(&str, u64)], limit: usize, expected: &[(&str, u64)]) {
        let services = services.iter();
        let services = services.map(|(name, count)| ((*name).to_owned(), stats(*count)));
        let found = busiest(services.collect(), limit);
        let text = |labels: &ServicePort| {
            let ServicePort {
                namespace,
                service,
                port,
            } = labels;
            format!("{namespace}|{service}|{port}")
        };
        let found = found.iter();
        let found: Vec<(String, u64)> = found.map(|(l, s)| (text(l), s.connections)).collect();
        let expected = expected.iter();
        let expected: Vec<(String, u64)> = expected.map(|(l, n)| ((*l).to_owned(), *n)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_busiest_have_series_and_all_others_one_together() {
        let services = [("a/x", 1), ("a/y:dns", 5), ("b/x:dns", 5), ("b/z", 2)];
        let all = [("a|y|dns", 5), ("b|x|dns", 5), ("b|z|", 2), ("a|x|", 1)];
        check(&services, 4, &all);
        check(
            &services,
            2,
            &[("a|y|dns", 5), ("b|x|dns", 5), ("|_other|", 3)],
        );
        check(&services, 0, &[("|_other|", 13)]);
        check(&[], 0, &[]);
    }

    #[test]
    fn a_bad_name_counts_among_the_others() {
        let services = [("a/x", 1), ("nonsense", 5), ("a/b:c:d/e", 2)];
        check(
            &services,
            9,
            &[("a|b|c:d/e", 2), ("a|x|", 1), ("|_other|", 5)],
        );
    }
}
