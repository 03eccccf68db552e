//! Services: every way to reach one, every pod behind it, and nobody behind it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Cluster, Connection, Loop, eventually, get, same};

use crate::Scenario;
use crate::objects::{PROBE, TARGET};

/// All scenarios of this file.
pub(crate) const ALL: &[Scenario] = &[
    (
        "a_deployment_is_reached_from_pod_node_and_host",
        reached_from_everywhere,
    ),
    ("three_hundred_requests_spread_over_all_pods", spread),
    (
        "scaling_to_zero_refuses_at_once_and_scaling_back_serves",
        scaling,
    ),
    (
        "deleting_a_pod_under_load_fails_no_request_once_its_endpoint_is_gone",
        pod_deletion_under_load,
    ),
    ("udp_is_answered_from_the_service_address", udp),
    ("ipv6_reaches_the_same_pods", ipv6),
    ("a_pod_finds_a_service_by_name", by_name),
];

/// A Deployment of our sample server and a NodePort Service in front of it, made the way people make them.
pub(crate) fn deploy(cluster: &Cluster, name: &str, replicas: usize) -> Result<()> {
    let replicas_flag = format!("--replicas={replicas}");
    let image = "--image=portolan.dev/serve-hostname:v1";
    cluster.kubectl(&[
        "create",
        "deployment",
        name,
        image,
        &replicas_flag,
        "--port=9376",
    ])?;
    cluster.kubectl(&[
        "expose",
        "deployment",
        name,
        "--port=80",
        "--target-port=9376",
        "--type=NodePort",
    ])?;
    cluster.rolled_out(name)?;
    cluster.endpoints(name, replicas)?;
    listening(cluster, name)
}

/// Waits until all pods of that name answer: one without a readiness probe is ready before its server listens.
fn listening(cluster: &Cluster, app: &str) -> Result<()> {
    let list = cluster.object(&["pods", "-l", &format!("app={app}")])?;
    for pod in list["items"].as_array().context("a list has items")? {
        let ip = pod["status"]["podIP"].as_str().context("no address")?;
        let address = SocketAddr::new(ip.parse()?, TARGET);
        eventually(&format!("{address} answers"), || {
            get(cluster.host().name(), address)
        })?;
    }
    Ok(())
}

/// [`deploy`] of pods that a probe asks whether they are ready, so that one that is added takes no request too early.
pub(crate) fn deploy_probed(cluster: &Cluster, name: &str, replicas: usize) -> Result<()> {
    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
         containers:\n      - name: server\n        image: portolan.dev/serve-hostname:v1\n        \
         readinessProbe: {PROBE}"
    ))?;
    cluster.kubectl(&[
        "expose",
        "deployment",
        name,
        "--port=80",
        "--target-port=9376",
    ])?;
    cluster.rolled_out(name)?;
    cluster.endpoints(name, replicas)
}

/// Removes what [`deploy`] made.
pub(crate) fn remove(cluster: &Cluster, name: &str) -> Result<()> {
    cluster
        .kubectl(&["delete", "deployment,service", name, "--wait=false"])
        .map(drop)
}

/// A pod with a shell, to ask from.
pub(crate) fn client_pod(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.kubectl(&[
        "run",
        name,
        "--image=busybox:v1",
        "--restart=Never",
        "--command",
        "--",
        "sleep",
        "3600",
    ])?;
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "--timeout=60s",
            &format!("pod/{name}"),
        ])
        .map(drop)
}

/// What a pod gets when it asks that address. By `nc`, because the `wget` of Debian 12's static busybox crashes.
pub(crate) fn get_from_pod(cluster: &Cluster, pod: &str, address: SocketAddr) -> Result<String> {
    let (ip, port) = (address.ip(), address.port());
    let script = format!(r"printf 'GET / HTTP/1.0\r\nHost: test\r\n\r\n' | nc -w 3 {ip} {port}");
    let answer = cluster.kubectl(&["exec", pod, "--", "sh", "-c", &script])?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("no answer: {answer:?}"))?;
    ensure!(head.contains(" 200 "), "answered {head:?}");
    Ok(body.trim().to_owned())
}

/// Every address under which the Service should answer, each asked from everywhere.
fn reached_from_everywhere(cluster: &Cluster) -> Result<()> {
    deploy(cluster, "web", 3)?;
    client_pod(cluster, "asker")?;
    let pods: BTreeSet<String> = cluster.pods("app=web")?.into_iter().collect();
    let addresses = [
        cluster.cluster_ip("web")?,
        cluster.node_port("web", "node-1")?,
        cluster.node_port("web", "node-2")?,
    ];
    let places = [
        cluster.host().name().to_owned(),
        cluster.node_netns("node-1"),
        cluster.node_netns("node-2"),
    ];
    for address in addresses {
        for place in &places {
            let answer = eventually(&format!("{address} answers in {place}"), || {
                get_at(cluster, place, address)
            })?;
            ensure!(
                pods.contains(&answer),
                "{address} answered {answer:?} in {place}, not one of {pods:?}"
            );
        }
        let answer = eventually(&format!("{address} answers in a pod"), || {
            get_from_pod(cluster, "asker", address)
        })?;
        ensure!(
            pods.contains(&answer),
            "{address} answered {answer:?} in a pod, not one of {pods:?}"
        );
    }
    cluster.kubectl(&[
        "delete",
        "pod",
        "asker",
        "--wait=false",
        "--grace-period=0",
        "--force",
    ])?;
    remove(cluster, "web")
}

/// Asks from the machine itself, or from a node's namespace and cgroup.
fn get_at(cluster: &Cluster, netns: &str, address: SocketAddr) -> Result<String> {
    if netns == cluster.host().name() {
        return get(netns, address);
    }
    let output = cluster
        .portolan()
        .args([
            "enter",
            "--netns",
            netns,
            "--cgroup",
            &cluster.node_cgroup(netns)?,
            "--",
        ])
        .args([
            "curl",
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "3",
            &format!("http://{address}/"),
        ])
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Uniform choice: with 300 requests and 3 pods, fewer than 60 for one happens less than once in a million runs.
fn spread(cluster: &Cluster) -> Result<()> {
    deploy(cluster, "spread", 3)?;
    let address = cluster.cluster_ip("spread")?;
    let host = cluster.host().name();
    eventually("the ClusterIP answers", || get(host, address))?;
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..300 {
        *counts.entry(get(host, address)?).or_default() += 1;
    }
    same(
        "pods that answered",
        counts.keys().cloned().collect::<BTreeSet<_>>(),
        cluster.pods("app=spread")?.into_iter().collect(),
    )?;
    ensure!(
        counts.values().all(|&count| count >= 60),
        "uneven: {counts:?}"
    );
    remove(cluster, "spread")
}

fn scaling(cluster: &Cluster) -> Result<()> {
    deploy(cluster, "scaled", 3)?;
    client_pod(cluster, "scaler")?;
    let (host, address) = (
        cluster.host().name().to_owned(),
        cluster.cluster_ip("scaled")?,
    );
    cluster.kubectl(&["scale", "deployment/scaled", "--replicas=5"])?;
    cluster.endpoints("scaled", 5)?;
    eventually("all five pods answer", || {
        let answers: BTreeSet<String> = (0..60)
            .map(|_| get(&host, address))
            .collect::<Result<_>>()?;
        same("pods that answered", answers.len(), 5)
    })?;
    cluster.kubectl(&["scale", "deployment/scaled", "--replicas=0"])?;
    cluster.endpoints("scaled", 0)?;
    eventually("nobody answers", || refused_at_once(&host, address))?;
    eventually("nobody answers a pod", || {
        let error = match get_from_pod(cluster, "scaler", address) {
            Ok(answer) => anyhow::bail!("{answer} answered"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(
            error.contains("can't connect to remote host"),
            "not refused by the Service: {error}"
        );
        ensure!(error.contains("Connection refused"), "not refused: {error}");
        Ok(())
    })?;
    cluster.kubectl(&["scale", "deployment/scaled", "--replicas=2"])?;
    cluster.endpoints("scaled", 2)?;
    eventually("somebody answers again", || get(&host, address))?;
    cluster.kubectl(&[
        "delete",
        "pod",
        "scaler",
        "--wait=false",
        "--grace-period=0",
        "--force",
    ])?;
    remove(cluster, "scaled")
}

/// Refused means told so, not timed out.
fn refused_at_once(netns: &str, address: SocketAddr) -> Result<()> {
    let begun = Instant::now();
    let error = match get(netns, address) {
        Ok(answer) => anyhow::bail!("{answer} answered"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(error.contains("refused"), "not refused: {error}");
    ensure!(
        begun.elapsed() < Duration::from_secs(1),
        "refused only after {:?}",
        begun.elapsed()
    );
    Ok(())
}

fn pod_deletion_under_load(cluster: &Cluster) -> Result<()> {
    deploy_probed(cluster, "churn", 3)?;
    let address = cluster.cluster_ip("churn")?;
    eventually("the ClusterIP answers", || {
        get(cluster.host().name(), address)
    })?;
    let victim = cluster
        .pods("app=churn")?
        .first()
        .context("a pod to delete")?
        .clone();
    let requests = Loop::start(cluster.host().name(), address);
    cluster.kubectl(&["delete", "pod", &victim])?;
    cluster.endpoints("churn", 3)?;
    eventually("requests go on", || {
        let answered = requests.answered();
        ensure!(answered > 100, "only {answered} requests were answered");
        Ok(())
    })?;
    let (good, failures) = requests.stop()?;
    ensure!(
        failures.is_empty(),
        "{} of {} failed: {failures:?}",
        failures.len(),
        good + failures.len()
    );
    remove(cluster, "churn")
}

fn udp(cluster: &Cluster) -> Result<()> {
    deploy(cluster, "udp", 2)?;
    cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: udp-echo}\nspec: {type: NodePort, selector: {app: udp}, \
         ports: [{name: echo, protocol: UDP, port: 53, targetPort: 9376}]}",
    )?;
    cluster.endpoints("udp-echo", 2)?;
    let pods = cluster.pods("app=udp")?;
    for address in [
        cluster.cluster_ip("udp-echo")?,
        cluster.node_port("udp-echo", "node-2")?,
    ] {
        let answer = eventually(&format!("{address} answers by UDP"), || {
            harness::Host::inside(cluster.host().name(), move || ask_udp(address))
        })?;
        ensure!(pods.contains(&answer), "{address} answered {answer:?}");
    }
    cluster.kubectl(&["delete", "service", "udp-echo"])?;
    remove(cluster, "udp")
}

/// A connected socket takes an answer only from the address it asked.
fn ask_udp(address: SocketAddr) -> Result<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.send(b"who is there?")?;
    let mut buffer = [0; 512];
    let count = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..count]).trim().to_owned())
}

fn ipv6(cluster: &Cluster) -> Result<()> {
    let labels = "app: six";
    cluster.kubectl(&[
        "create",
        "deployment",
        "six",
        "--image=portolan.dev/serve-hostname:v1",
        "--replicas=2",
    ])?;
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: six}}\nspec: {{type: NodePort, selector: {{{labels}}}, \
         ipFamilyPolicy: RequireDualStack, ports: [{{name: http, port: 80, targetPort: 9376}}]}}"
    ))?;
    cluster.rolled_out("six")?;
    cluster.endpoints("six", 2)?;
    listening(cluster, "six")?;
    let addresses = cluster.object(&["service", "six"])?["spec"]["clusterIPs"].clone();
    let v6 = addresses
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|address| address.as_str())
        .find(|address| address.contains(':'));
    let address: SocketAddr = format!("[{}]:80", v6.context("no IPv6 ClusterIP")?).parse()?;
    let pods = cluster.pods("app=six")?;
    let answer = eventually("the IPv6 ClusterIP answers", || {
        get(cluster.host().name(), address)
    })?;
    ensure!(pods.contains(&answer), "{address} answered {answer:?}");
    client_pod(cluster, "six-client")?;
    let answer = eventually("the IPv6 ClusterIP answers a pod", || {
        get_from_pod(cluster, "six-client", address)
    })?;
    ensure!(pods.contains(&answer), "{address} answered {answer:?}");
    let mut kept = Connection::open_in(cluster.host().name(), address)?;
    kept.get("/")?;
    kept.get("/")?;
    cluster.kubectl(&[
        "delete",
        "pod",
        "six-client",
        "--wait=false",
        "--grace-period=0",
        "--force",
    ])?;
    remove(cluster, "six")
}

/// The sample's Service, by its full name and by the short one that the search list completes. Busybox's `nslookup` asks
/// for every completion and fails if one of them does not exist, so only what it prints counts.
fn by_name(cluster: &Cluster) -> Result<()> {
    client_pod(cluster, "namer")?;
    let address = cluster.cluster_ip("hello")?.ip().to_string();
    for name in ["hello.default.svc.cluster.local", "hello"] {
        let script = format!("nslookup -type=a {name}; true");
        eventually(&format!("{name} is known"), || {
            let answer = cluster.kubectl(&["exec", "namer", "--", "sh", "-c", &script])?;
            ensure!(answer.contains(&format!("Address: {address}")), "{answer}");
            Ok(())
        })?;
    }
    let force = ["--wait=false", "--grace-period=0", "--force"];
    cluster
        .kubectl(&[&["delete", "pod", "namer"], &force[..]].concat())
        .map(drop)
}
