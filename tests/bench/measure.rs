//! `make bench`: the figures that README.md and proxy/README.md promise.
//!
//! Every section prints tables in Markdown and can also write them as JSON. Figures of the dataplane are ratios: the
//! contestants take turns within one run, so that a machine whose speed drifts slows all of them alike.

mod api;
mod changes;
mod cluster;
mod clusterip;
mod cost;
mod daemon;
mod frames;
mod kernel;
mod l7;
mod nodeport;
mod objects;
mod programming;
mod report;
mod rules;
mod sandbox;
mod test_run;
mod traffic;
mod written;
mod xdp;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use crate::report::{Report, Table};
use crate::sandbox::Sandbox;

/// Measures Portolan and prints tables in Markdown.
///
/// Needs root. Everything happens in network namespaces, a cgroup and a BPF file system that vanish with the process,
/// however it ends. The programs are taken from PORTOLAN_BIN, or from target/release.
#[derive(Parser, Debug)]
#[command(name = "measure", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,

    /// Also write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
}

/// What is measured; without any, all of it.
#[derive(Subcommand, Debug)]
enum What {
    /// Start time and memory of a whole cluster.
    Cluster,
    /// The service dataplane against kube-proxy's rules, and the daemon that programs it. At most ten minutes.
    L4 {
        /// Which sections; without any, all of them.
        sections: Vec<Section>,

        /// Fewer and shorter rounds and smaller clusters: shows that everything runs, not how fast.
        #[arg(long)]
        quick: bool,
    },
    /// The gateway against nginx, HAProxy and Envoy. At most fifteen minutes.
    L7 {
        /// Which sections; without any, all that give figures.
        sections: Vec<l7::Section>,

        /// What requests cost over this protocol, and nothing else of the section `requests`. May be repeated.
        #[arg(long = "protocol", value_name = "PROTOCOL")]
        protocols: Vec<l7::Wire>,

        /// Fewer and shorter rounds and fewer routes: shows that everything runs, not how fast.
        #[arg(long)]
        quick: bool,
    },
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    /// Connections of pods to cluster IPs: rates and throughput against no service at all, nftables and iptables.
    Clusterip,
    /// Packets from outside to a node port whose backend is on another node, against nftables, iptables and a reflector.
    Nodeport,
    /// Nanoseconds a packet, for each way through the programs.
    Cost,
    /// The daemon: from a list or an event of the API to the maps; its memory, and that of the maps.
    Programming,
}

/// How long all sections of the dataplane may take.
const L4_LIMIT: Duration = Duration::from_secs(600);
/// The same for those of the gateway, which take nine minutes on a quiet machine.
const L7_LIMIT: Duration = Duration::from_secs(900);

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("measure: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.what {
        Some(What::L4 { sections, quick }) => {
            if let Some(sandbox) = Sandbox::inside()? {
                let report = measure_l4(&sandbox, sections, *quick)?;
                report.write(arguments.json.as_deref())?;
                return Ok(ExitCode::SUCCESS);
            }
            sandbox::supervise(L4_LIMIT)
        }
        Some(What::L7 {
            sections,
            protocols,
            quick,
        }) => {
            if let Some(sandbox) = Sandbox::inside()? {
                let report = measure_l7(&sandbox, sections, protocols, *quick)?;
                report.write(arguments.json.as_deref())?;
                return Ok(ExitCode::SUCCESS);
            }
            sandbox::supervise(L7_LIMIT)
        }
        Some(What::Cluster) => {
            let report = Report::of(cluster::measure()?);
            report.write(arguments.json.as_deref())?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            // Each by a command of its own: that one fails keeps no other from running.
            let mut code = ExitCode::SUCCESS;
            for part in ["cluster", "l4", "l7"] {
                let json = arguments.json.as_ref();
                let json = json.map(|path| path.with_extension(format!("{part}.json")));
                if sandbox::run_again(part, json.as_deref())? != ExitCode::SUCCESS {
                    code = ExitCode::FAILURE;
                }
            }
            Ok(code)
        }
    }
}

fn measure_l7(
    sandbox: &Sandbox,
    sections: &[l7::Section],
    protocols: &[l7::Wire],
    quick: bool,
) -> Result<Report> {
    let sections = if sections.is_empty() {
        l7::Section::ALL
    } else {
        sections
    };
    let machine = l7::machine(sandbox)?;
    let mut report = Report::new();
    for section in sections {
        let begun = Instant::now();
        eprintln!("measure: {section:?}");
        let tables = l7::measure(&machine, *section, protocols, quick)?;
        eprintln!(
            "measure: {section:?} took {:.0} s",
            begun.elapsed().as_secs_f64()
        );
        tables.iter().for_each(Table::print);
        report.extend(tables);
    }
    Ok(report)
}

fn measure_l4(sandbox: &Sandbox, sections: &[Section], quick: bool) -> Result<Report> {
    let all = [
        Section::Clusterip,
        Section::Nodeport,
        Section::Cost,
        Section::Programming,
    ];
    let sections = if sections.is_empty() { &all } else { sections };
    let mut report = Report::new();
    for section in sections {
        let begun = Instant::now();
        eprintln!("measure: {section:?}");
        let tables = match section {
            Section::Clusterip => clusterip::measure(sandbox, quick)?,
            Section::Nodeport => nodeport::measure(sandbox, quick)?,
            Section::Cost => cost::measure(sandbox, quick)?,
            Section::Programming => programming::measure(sandbox, quick)?,
        };
        eprintln!(
            "measure: {section:?} took {:.0} s",
            begun.elapsed().as_secs_f64()
        );
        tables.iter().for_each(Table::print);
        report.extend(tables);
    }
    Ok(report)
}
