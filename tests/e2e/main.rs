//! The whole way through: real kubectl, real pods, real packets, on a cluster that `portolan up` builds.
//!
//! Scenarios run one after the other on one cluster; each uses objects of its own. A name given as an argument selects
//! scenarios, as with every Rust test.

mod affinity;
mod errors;
mod exposure;
mod flows;
mod gateway;
mod images;
mod ingress;
mod lifecycle;
mod objects;
mod pods;
mod policies;
mod resilience;
mod services;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use harness::Cluster;
use libtest_mimic::{Arguments, Failed, Trial};

/// A scenario: a sentence, and what shows it.
type Scenario = (&'static str, fn(&Cluster) -> Result<()>);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let scenarios: Vec<Scenario> = [
        services::ALL,
        affinity::ALL,
        policies::ALL,
        exposure::ALL,
        flows::ALL,
        ingress::ALL,
        gateway::ALL,
        pods::ALL,
        images::ALL,
        errors::ALL,
        resilience::ALL,
        lifecycle::ALL,
    ]
    .concat();
    if arguments.list {
        let trials = scenarios
            .into_iter()
            .map(|(name, _)| Trial::test(name, || Ok(())))
            .collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let cluster = match Cluster::up("e2e") {
        Ok(cluster) => Arc::new(cluster),
        Err(error) => {
            eprintln!("the cluster for the end-to-end tests did not come up: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let trials = scenarios
        .into_iter()
        .map(|scenario| trial(&cluster, scenario))
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Dropping the cluster removes it.
    drop(cluster);
    conclusion.exit_code()
}

fn trial(cluster: &Arc<Cluster>, (name, scenario): Scenario) -> Trial {
    let cluster = cluster.clone();
    Trial::test(name, move || {
        scenario(&cluster).map_err(|error| Failed::from(format!("{error:#}")))
    })
}
