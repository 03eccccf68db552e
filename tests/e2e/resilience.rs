//! Daemons die; connections, requests and acknowledged writes do not.

use anyhow::{Context, Result, ensure};
use harness::{Cluster, Connection, Loop, eventually, get, same};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Scenario;
use crate::services::{deploy, remove};

/// All scenarios of this file.
pub(crate) const ALL: &[Scenario] = &[
    (
        "killing_the_proxy_disturbs_no_connection_and_no_request",
        kill_proxy,
    ),
    ("killing_the_node_agent_disturbs_no_pod", kill_node_agent),
    (
        "killing_the_server_loses_no_acknowledged_write",
        kill_server,
    ),
    ("killing_the_gateway_brings_it_back", kill_gateway),
];

/// Kills a daemon as hard as can be, and waits until another runs in its place.
fn kill_daemon(cluster: &Cluster, name: &str) -> Result<()> {
    let before = cluster.daemon(name)?;
    kill(Pid::from_raw(before.pid), Signal::SIGKILL).with_context(|| format!("killing {name}"))?;
    eventually(&format!("{name} runs again"), || {
        ensure!(
            cluster.daemon(name)? != before,
            "the pid file still names the killed process"
        );
        Ok(())
    })
}

/// Kills a daemon under an open connection and a request loop; neither may notice.
fn kill_unnoticed(
    cluster: &Cluster,
    deployment: &str,
    daemon: &str,
    settled: impl Fn() -> Result<()>,
) -> Result<()> {
    let (host, node_port) = (
        cluster.host().name(),
        cluster.node_port(deployment, "node-1")?,
    );
    eventually("the node port answers", || get(host, node_port))?;
    let mut kept = Connection::open_in(host, node_port)?;
    let answer = kept.get("/")?;
    let requests = Loop::start(host, node_port);
    kill_daemon(cluster, daemon)?;
    settled()?;
    same("who answers on the open connection", kept.get("/")?, answer)?;
    eventually("requests go on", || {
        let answered = requests.answered();
        ensure!(answered > 50, "only {answered} requests were answered");
        Ok(())
    })?;
    let (good, failures) = requests.stop()?;
    ensure!(
        failures.is_empty(),
        "{} of {} failed: {failures:?}",
        failures.len(),
        good + failures.len()
    );
    Ok(())
}

fn kill_proxy(cluster: &Cluster) -> Result<()> {
    deploy(cluster, "steady", 2)?;
    kill_unnoticed(cluster, "steady", "proxy-node-1", || Ok(()))?;
    // The new daemon has adopted the maps when a change reaches them.
    cluster.kubectl(&["scale", "deployment/steady", "--replicas=0"])?;
    cluster.endpoints("steady", 0)?;
    let node_port = cluster.node_port("steady", "node-1")?;
    eventually("the new daemon takes the endpoints away", || {
        ensure!(
            get(cluster.host().name(), node_port).is_err(),
            "still answered"
        );
        Ok(())
    })?;
    remove(cluster, "steady")
}

fn kill_node_agent(cluster: &Cluster) -> Result<()> {
    deploy(cluster, "survivor", 2)?;
    let before = container_ids(cluster, "survivor")?;
    kill_unnoticed(cluster, "survivor", "node-1", || {
        cluster
            .kubectl(&[
                "wait",
                "--for=condition=Ready",
                "--timeout=60s",
                "node/node-1",
            ])
            .map(drop)
    })?;
    eventually("logs come from the new agent", || {
        cluster.kubectl(&["logs", "deployment/survivor"])
    })?;
    same("containers", container_ids(cluster, "survivor")?, before)?;
    remove(cluster, "survivor")
}

/// Which containers run, and how often each was restarted.
fn container_ids(cluster: &Cluster, app: &str) -> Result<Vec<String>> {
    let list = cluster.object(&["pods", "-l", &format!("app={app}")])?;
    let statuses = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pod| &pod["status"]["containerStatuses"][0]);
    let mut ids: Vec<String> = statuses
        .map(|status| {
            format!(
                "{} restarted {}",
                status["containerID"], status["restartCount"]
            )
        })
        .collect();
    ids.sort();
    Ok(ids)
}

fn kill_server(cluster: &Cluster) -> Result<()> {
    deploy(cluster, "written", 2)?;
    let mut acknowledged = Vec::new();
    kill_unnoticed(cluster, "written", "server", || {
        eventually("the API answers again", || {
            cluster.kubectl(&["get", "namespace", "default"])
        })
        .map(drop)
    })?;
    for round in 0..3 {
        for number in 0..10 {
            let name = format!("kept-{round}-{number}");
            cluster.kubectl(&["create", "configmap", &name])?;
            acknowledged.push(name);
        }
        kill_daemon(cluster, "server")?;
        eventually("the API answers again", || {
            cluster.kubectl(&["get", "namespace", "default"])
        })?;
    }
    let list = cluster.kubectl(&["get", "configmaps", "-o", "name"])?;
    let lost: Vec<&String> = acknowledged
        .iter()
        .filter(|name| !list.contains(&format!("configmap/{name}\n")))
        .collect();
    ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let mut delete = vec!["delete", "configmap"];
    delete.extend(acknowledged.iter().map(String::as_str));
    cluster.kubectl(&delete)?;
    remove(cluster, "written")
}

/// A gateway that is killed takes its connections with it; it must be back and serve as before.
fn kill_gateway(cluster: &Cluster) -> Result<()> {
    kill_daemon(cluster, "ingress")?;
    let gateway = cluster.node_ip("node-1")?.to_string();
    eventually("the sample answers again", || {
        harness::https(
            cluster.host(),
            &cluster.ca(),
            "hello.portolan.test",
            &gateway,
            "/",
        )
    })
    .map(drop)
}
