//! `make bench`: how long a cluster takes to be ready, and how much memory each daemon holds then.
//!
//! Prints a table for README.md. Times are those of `portolan up` as its user sees them, on a machine where all is built.

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::Cluster;

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

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut times = Vec::new();
    let mut memory = Vec::new();
    for round in 1..=ROUNDS {
        let begun = Instant::now();
        let cluster = Cluster::up("bench")?;
        times.push(begun.elapsed());
        if round == ROUNDS {
            memory = DAEMONS
                .iter()
                .map(|name| resident(&cluster, name))
                .collect::<Result<_>>()?;
        }
    }
    times.sort();
    print(&times, &memory);
    Ok(())
}

/// Resident memory in KiB: all of it, and the part that is not a file's page.
fn resident(cluster: &Cluster, name: &str) -> Result<(u64, u64)> {
    let pid = cluster.daemon(name)?.pid;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("reading {name}'s status"))?;
    let field = |key: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap_or_default();
        line.trim_matches([':', ' ', '\t', 'k', 'B'])
            .trim()
            .parse()
            .unwrap_or(0)
    };
    Ok((field("VmRSS"), field("RssAnon")))
}

fn print(times: &[Duration], memory: &[(u64, u64)]) {
    let seconds = |time: Option<&Duration>| time.map_or(0.0, Duration::as_secs_f64);
    println!("| figure | median | min | max |\n|---|---|---|---|");
    println!(
        "| `portolan up`, 2 nodes, to the sample's first HTTPS answer | {:.2} s | {:.2} s | {:.2} s |",
        seconds(times.get(times.len() / 2)),
        seconds(times.first()),
        seconds(times.last())
    );
    println!("\n| daemon | resident | of it anonymous |\n|---|---|---|");
    for (name, (all, anonymous)) in DAEMONS.iter().zip(memory) {
        println!(
            "| {name} | {:.1} MiB | {:.1} MiB |",
            mebibytes(*all),
            mebibytes(*anonymous)
        );
    }
}

fn mebibytes(kibibytes: u64) -> f64 {
    f64::from(u32::try_from(kibibytes).unwrap_or(u32::MAX)) / 1024.0
}
