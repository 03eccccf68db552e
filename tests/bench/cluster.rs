//! How long a whole cluster takes to be ready, and how much memory each daemon holds then.
//!
//! Times are those of `portolan up` as its user sees them, on a machine where all is built.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result};
use harness::Cluster;

use crate::report::{Cell, Figure, Table};
use crate::written;

/// How many clusters are built; the median is the figure.
const ROUNDS: usize = 5;
const DAEMONS: [&str; 7] = [
    "server",
    "node-1",
    "node-2",
    "proxy-node-1",
    "proxy-node-2",
    "ingress",
    "supervisor",
];

pub(crate) fn measure() -> Result<Vec<Table>> {
    let mut times = Vec::new();
    let mut written = None;
    let mut memory = Table::new(
        "Memory of the daemons",
        "Of the last of these clusters.",
        &["daemon", "resident, MiB", "of it anonymous, MiB"],
    );
    for round in 1..=ROUNDS {
        let begun = Instant::now();
        let cluster = Cluster::up("bench")?;
        times.push(begun.elapsed().as_secs_f64());
        if round == ROUNDS {
            written = Some(written::measure(&cluster)?);
            for name in DAEMONS {
                let [all, anonymous] = resident(&cluster, name)?;
                memory.add(vec![
                    name.into(),
                    Cell::Number(all, 1),
                    Cell::Number(anonymous, 1),
                ]);
            }
        }
    }
    let mut ready = Table::new(
        "A cluster's start",
        format!("`measure cluster`: median of {ROUNDS} clusters (minimum and maximum)."),
        &["figure", "seconds"],
    );
    ready.add(vec![
        "`portolan up`, 2 nodes, to the sample's first HTTPS answer".into(),
        Cell::Figure(Figure::of(times), 2),
    ]);
    let mut api = Table::new(
        "From the API to a node",
        "A change of an EndpointSlice, written to the API server, until the node's map shows it; a few Services.",
        &["figure", "milliseconds"],
    );
    if let Some(times) = written {
        for (name, share) in [("median", 0.5), ("p99", 0.99), ("longest", 1.0)] {
            api.add(vec![name.into(), Cell::Number(times.quantile(share), 2)]);
        }
    }
    Ok(vec![ready, memory, api])
}

/// Resident memory in MiB: all of it, and the part that is not a file's page.
fn resident(cluster: &Cluster, name: &str) -> Result<[f64; 2]> {
    let pid = cluster.daemon(name)?.pid;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("reading {name}'s status"))?;
    let field = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.unwrap_or_default().trim().trim_end_matches(" kB");
        number.parse::<f64>().unwrap_or(0.0) / 1024.0
    };
    Ok([field("VmRSS:"), field("RssAnon:")])
}
