//! `up` and `down` themselves; these run last, because the cluster is gone afterwards.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use harness::{Cluster, same};

use crate::Scenario;

/// All scenarios of this file.
pub(crate) const ALL: &[Scenario] = &[
    ("up_prints_addresses_that_it_has_tried", up_prints),
    ("up_twice_is_harmless", up_twice),
    ("down_removes_every_trace", down),
];

fn up_prints(cluster: &Cluster) -> Result<()> {
    for part in [
        "API",
        "KUBECONFIG",
        "node-1",
        "node-2",
        "ClusterIP",
        "NodePort",
        "Ingress",
        "answered hello-",
    ] {
        ensure!(
            cluster.up_output.contains(part),
            "{part:?} is not in:\n{}",
            cluster.up_output
        );
    }
    Ok(())
}

fn up_twice(cluster: &Cluster) -> Result<()> {
    let before = (
        cluster.daemon("server")?,
        cluster.daemon("node-1")?,
        cluster.pods("app=hello")?,
    );
    let output = cluster.up_again()?;
    ensure!(output.contains("is ready"), "{output}");
    same(
        "daemons and pods",
        (
            cluster.daemon("server")?,
            cluster.daemon("node-1")?,
            cluster.pods("app=hello")?,
        ),
        before,
    )
}

fn down(cluster: &Cluster) -> Result<()> {
    let processes = [
        cluster.daemon("server")?,
        cluster.daemon("node-1")?,
        cluster.daemon("proxy-node-2")?,
        cluster.daemon("supervisor")?,
    ];
    cluster.down()?;
    for daemon in processes {
        ensure!(
            !Path::new(&format!("/proc/{}/exe", daemon.pid)).exists(),
            "process {} is left",
            daemon.pid
        );
    }
    ensure!(
        !cluster.state_dir().exists(),
        "{} is left",
        cluster.state_dir().display()
    );
    ensure!(
        !Path::new("/sys/fs/bpf/portolan/e2e").exists(),
        "BPF pins are left"
    );
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let left: Vec<&str> = mounts
        .lines()
        .filter(|line| line.contains("portolan/e2e") || line.contains("portolan-e2e-"))
        .collect();
    ensure!(left.is_empty(), "mounts are left: {left:?}");
    let namespaces = Command::new("ip").args(["netns", "list"]).output()?;
    let namespaces = String::from_utf8(namespaces.stdout)?;
    ensure!(
        !namespaces.contains("portolan-e2e-"),
        "namespaces are left: {namespaces}"
    );
    for root in [
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup/memory",
        "/sys/fs/cgroup/pids",
    ] {
        ensure!(
            !Path::new(root).join("portolan/e2e").exists(),
            "cgroup {root}/portolan/e2e is left"
        );
    }
    let links = cluster.host().command("ip").args(["-o", "link"]).output()?;
    let links = String::from_utf8(links.stdout)?;
    ensure!(!links.contains("pt-e2e"), "links are left: {links}");
    Ok(())
}
