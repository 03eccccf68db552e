//! Pods: commands in them, what they print, their probes, and where their images come from.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use harness::{Cluster, Connection, eventually, get, same};

use crate::Scenario;
use crate::services::{client_pod, deploy, deploy_probed, remove};

/// All scenarios of this file.
pub(crate) const ALL: &[Scenario] = &[
    ("exec_runs_a_command_and_hands_back_its_exit_code", exec),
    ("logs_show_what_a_container_printed", logs),
    (
        "a_failing_readiness_probe_takes_a_pod_out_of_rotation_until_it_recovers",
        readiness,
    ),
    (
        "a_crashing_container_is_restarted_with_back_off",
        crash_loop,
    ),
    (
        "configuration_reaches_a_container_as_environment_and_files",
        configuration,
    ),
    ("pods_on_different_nodes_reach_each_other", across_nodes),
    (
        "a_current_kubectl_creates_waits_runs_and_deletes",
        current_kubectl,
    ),
];

fn exec(cluster: &Cluster) -> Result<()> {
    client_pod(cluster, "shell")?;
    let greeting = cluster.kubectl(&[
        "exec",
        "shell",
        "--",
        "sh",
        "-c",
        "echo hello from $(hostname)",
    ])?;
    same("output", greeting.trim(), "hello from shell")?;
    let output = cluster.kubectl_output(&["exec", "shell", "--", "sh", "-c", "exit 7"])?;
    same("exit code", output.status.code(), Some(7))?;
    cluster
        .kubectl(&["delete", "pod", "shell", "--grace-period=1"])
        .map(drop)
}

fn logs(cluster: &Cluster) -> Result<()> {
    let script =
        "echo first; until [ -e /tmp/go ]; do sleep 0.1; done; echo second >&2; sleep 3600";
    cluster.kubectl(&[
        "run",
        "talker",
        "--image=busybox:v1",
        "--command",
        "--",
        "sh",
        "-c",
        script,
    ])?;
    // Lines of different streams come in the order in which they are read.
    eventually("the first line is in the log", || {
        same(
            "log",
            cluster.kubectl(&["logs", "talker"])?.as_str(),
            "first\n",
        )
    })?;
    cluster.kubectl(&["exec", "talker", "--", "touch", "/tmp/go"])?;
    eventually("both lines are in the log", || {
        same(
            "log",
            cluster.kubectl(&["logs", "talker"])?.as_str(),
            "first\nsecond\n",
        )
    })?;
    same(
        "last line",
        cluster.kubectl(&["logs", "talker", "--tail=1"])?.as_str(),
        "second\n",
    )?;
    cluster
        .kubectl(&["delete", "pod", "talker", "--grace-period=1"])
        .map(drop)
}

fn readiness(cluster: &Cluster) -> Result<()> {
    deploy_probed(cluster, "moody", 2)?;
    let (host, service) = (cluster.host().name(), cluster.cluster_ip("moody")?);
    let pod = cluster.object(&["pods", "-l", "app=moody"])?["items"][0].clone();
    let name = pod["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let address = format!(
        "{}:9376",
        pod["status"]["podIP"].as_str().unwrap_or_default()
    )
    .parse()?;
    Connection::open_in(host, address)?.request("POST", "/ready/false")?;
    cluster.endpoints("moody", 1)?;
    eventually("only the other pod answers", || {
        let answers: BTreeSet<String> =
            (0..30).map(|_| get(host, service)).collect::<Result<_>>()?;
        ensure!(!answers.contains(&name), "{answers:?}");
        Ok(())
    })?;
    Connection::open_in(host, address)?.request("POST", "/ready/true")?;
    cluster.endpoints("moody", 2)?;
    eventually("both pods answer", || {
        let answers: BTreeSet<String> =
            (0..30).map(|_| get(host, service)).collect::<Result<_>>()?;
        same("pods that answered", answers.len(), 2)
    })?;
    remove(cluster, "moody")
}

fn crash_loop(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&[
        "run",
        "crasher",
        "--image=busybox:v1",
        "--command",
        "--",
        "sh",
        "-c",
        "exit 3",
    ])?;
    eventually("kubectl shows the back-off", || {
        let table = cluster.kubectl(&["get", "pod", "crasher"])?;
        ensure!(table.contains("CrashLoopBackOff"), "{table}");
        Ok(())
    })?;
    let pod = cluster.object(&["pod", "crasher"])?;
    same(
        "exit code",
        pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"].as_i64(),
        Some(3),
    )?;
    cluster
        .kubectl(&["delete", "pod", "crasher", "--grace-period=1"])
        .map(drop)
}

fn configuration(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&[
        "create",
        "configmap",
        "settings",
        "--from-literal=colour=blue",
    ])?;
    cluster.kubectl(&[
        "create",
        "secret",
        "generic",
        "password",
        "--from-literal=word=sesame",
    ])?;
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: configured}\nspec:\n  \
         volumes: [{name: settings, configMap: {name: settings}}, {name: scratch, emptyDir: {}}]\n  \
         initContainers:\n  - {name: first, image: 'busybox:v1', command: [sh, -c, 'echo prepared > /scratch/note'], \
         volumeMounts: [{name: scratch, mountPath: /scratch}]}\n  containers:\n  - name: main\n    image: busybox:v1\n    \
         command: [sleep, '3600']\n    env: [{name: WORD, valueFrom: {secretKeyRef: {name: password, key: word}}}]\n    \
         volumeMounts: [{name: settings, mountPath: /settings}, {name: scratch, mountPath: /scratch}]",
    )?;
    cluster.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "--timeout=60s",
        "pod/configured",
    ])?;
    let script = "echo $(cat /settings/colour) $WORD $(cat /scratch/note)";
    let output =
        cluster.kubectl(&["exec", "configured", "-c", "main", "--", "sh", "-c", script])?;
    same(
        "what the container sees",
        output.trim(),
        "blue sesame prepared",
    )?;
    cluster
        .kubectl(&[
            "delete",
            "pod/configured",
            "configmap/settings",
            "secret/password",
            "--grace-period=1",
        ])
        .map(drop)
}

fn across_nodes(cluster: &Cluster) -> Result<()> {
    for (name, node) in [("east", "node-1"), ("west", "node-2")] {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  containers:\n  \
             - {{name: main, image: 'busybox:v1', command: [sh, -c, 'mkdir /www; hostname > /www/index.html; httpd -f -h /www']}}"
        ))?;
    }
    cluster.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "--timeout=60s",
        "pod/east",
        "pod/west",
    ])?;
    for (from, to) in [("east", "west"), ("west", "east")] {
        for address in cluster.object(&["pod", to])?["status"]["podIPs"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let ip: std::net::IpAddr = address["ip"].as_str().unwrap_or_default().parse()?;
            let address = std::net::SocketAddr::new(ip, 80);
            let answer = eventually(&format!("{from} reaches {to}"), || {
                crate::services::get_from_pod(cluster, from, address)
            })?;
            same("answer", answer.as_str(), to)?;
        }
    }
    deploy(cluster, "far", 1)?;
    remove(cluster, "far")?;
    cluster
        .kubectl(&["delete", "pod", "east", "west", "--grace-period=1"])
        .map(drop)
}

/// The newest kubectl talks another dialect than the machine's: watch-list, protobuf, WebSockets all the way.
fn current_kubectl(cluster: &Cluster) -> Result<()> {
    let image = "--image=busybox:v1";
    let run = [
        "create",
        "deployment",
        "modern",
        image,
        "--",
        "sh",
        "-c",
        "echo up; exec sleep 3600",
    ];
    cluster.current_kubectl(&run)?;
    cluster.current_kubectl(&["rollout", "status", "--timeout=60s", "deployment/modern"])?;
    let wait = [
        "wait",
        "--for=condition=Available",
        "--timeout=60s",
        "deployment/modern",
    ];
    cluster.current_kubectl(&wait)?;
    eventually("it says that it is up", || {
        same(
            "log",
            cluster
                .current_kubectl(&["logs", "deployment/modern"])?
                .as_str(),
            "up\n",
        )
    })?;
    let echo = cluster.current_kubectl(&["exec", "deployment/modern", "--", "echo", "heard"])?;
    same("output", echo.as_str(), "heard\n")?;
    let table = cluster.current_kubectl(&["get", "pods", "-l", "app=modern", "-o", "wide"])?;
    ensure!(
        table.contains("Running") && table.contains("NOMINATED NODE"),
        "{table}"
    );
    cluster
        .current_kubectl(&["delete", "deployment", "modern", "--timeout=60s"])
        .map(drop)
}
