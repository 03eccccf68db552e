//! What the scenarios about Services are made of: servers and clients on chosen nodes, and ways to ask.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::{Cluster, Host, eventually, get, same};
use serde_json::Value;

/// The nodes of the cluster.
pub(crate) const NODES: [&str; 2] = ["node-1", "node-2"];

/// Where servers listen, for TCP and UDP.
pub(crate) const TARGET: u16 = 9376;

/// Whether a server wants requests. What it says counts at once, and not how long a busy machine takes to ask it.
pub(crate) const PROBE: &str = "{httpGet: {path: /ready, port: 9376}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 20}";

/// Objects that go when the scenario ends, however it does.
pub(crate) struct Objects<'a> {
    cluster: &'a Cluster,
    names: Vec<String>,
}

impl<'a> Objects<'a> {
    pub(crate) fn of(cluster: &'a Cluster) -> Self {
        Self {
            cluster,
            names: Vec::new(),
        }
    }

    /// A server called `name` on `node` with the label `app`, which answers its name. Its readiness can be flipped.
    pub(crate) fn server(&mut self, app: &str, name: &str, node: &str) -> Result<()> {
        let container = format!("image: portolan.dev/serve-hostname:v1, readinessProbe: {PROBE}");
        self.pod(app, name, node, &container)
    }

    /// A server like [`Self::server`], for TCP alone, which goes on serving after it was told to end, for as long as any
    /// scenario takes.
    pub(crate) fn stubborn_server(&mut self, app: &str, name: &str, node: &str) -> Result<()> {
        let script = "hostname >/tmp/index.html; exec httpd -f -p 9376 -h /tmp";
        let container = format!("image: 'busybox:v1', command: [sh, -c, {script:?}]");
        self.pod(app, name, node, &container)
    }

    /// A pod with a shell on `node`, to ask from.
    pub(crate) fn client(&mut self, name: &str, node: &str) -> Result<()> {
        self.pod(
            "client",
            name,
            node,
            "image: 'busybox:v1', command: [sleep, '3600']",
        )
    }

    fn pod(&mut self, app: &str, name: &str, node: &str, container: &str) -> Result<()> {
        self.names.push(format!("pod/{name}"));
        self.cluster.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\nspec: {{nodeName: {node}, \
             terminationGracePeriodSeconds: 600, containers: [{{name: main, {container}}}]}}"
        ))?;
        Ok(())
    }

    /// A Service called `name` with the rest of `spec`.
    pub(crate) fn service(&mut self, name: &str, spec: &str) -> Result<()> {
        self.names.push(format!("service/{name}"));
        self.cluster.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}"
        ))?;
        Ok(())
    }
}

impl Drop for Objects<'_> {
    fn drop(&mut self) {
        let force = [
            "--ignore-not-found",
            "--wait=false",
            "--grace-period=0",
            "--force",
        ];
        let names = self.names.iter().map(String::as_str);
        let arguments: Vec<&str> = ["delete"].into_iter().chain(names).chain(force).collect();
        if let Err(error) = self.cluster.kubectl(&arguments) {
            eprintln!("{error:#}");
        }
    }
}

/// Waits until all of these pods are ready.
pub(crate) fn ready(cluster: &Cluster, pods: &[&str]) -> Result<()> {
    let names: Vec<String> = pods.iter().map(|pod| format!("pod/{pod}")).collect();
    let mut arguments = vec!["wait", "--for=condition=Ready", "--timeout=60s"];
    arguments.extend(names.iter().map(String::as_str));
    cluster.kubectl(&arguments).map(drop)
}

/// Changes a Service by a merge patch.
pub(crate) fn patch(cluster: &Cluster, service: &str, patch: &str) -> Result<()> {
    let arguments = ["patch", "service", service, "--type=merge", "-p", patch];
    cluster.kubectl(&arguments).map(drop)
}

/// A pod's address.
pub(crate) fn pod_ip(cluster: &Cluster, pod: &str) -> Result<IpAddr> {
    let status = cluster.object(&["pod", pod])?["status"].clone();
    Ok(status["podIP"]
        .as_str()
        .context("the pod has no address")?
        .parse()?)
}

/// The address and node port of the Service's port number `index`.
pub(crate) fn node_port(
    cluster: &Cluster,
    service: &str,
    node: &str,
    index: usize,
) -> Result<SocketAddr> {
    let port = &cluster.object(&["service", service])?["spec"]["ports"][index]["nodePort"];
    let port = u16::try_from(port.as_u64().context("the port has no node port")?)?;
    Ok((cluster.node_ip(node)?, port).into())
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From<'a> {
    /// A machine that is no node.
    Outside,
    /// A process of a node.
    Node(&'a str),
    /// A pod with a shell.
    Pod(&'a str),
}

/// Who answers there by HTTP.
pub(crate) fn ask(cluster: &Cluster, from: From<'_>, address: SocketAddr) -> Result<String> {
    match from {
        From::Outside => get(cluster.host().name(), address),
        From::Node(node) => {
            let url = format!("http://{address}/");
            on_node(
                cluster,
                node,
                &[
                    "curl",
                    "--silent",
                    "--show-error",
                    "--fail",
                    "--max-time",
                    "3",
                    &url,
                ],
            )
        }
        From::Pod(pod) => {
            let (ip, port) = (address.ip(), address.port());
            let script =
                format!(r"printf 'GET / HTTP/1.0\r\nHost: test\r\n\r\n' | nc -w 3 {ip} {port}");
            let answer = cluster.kubectl(&["exec", pod, "--", "sh", "-c", &script])?;
            let (head, body) = answer
                .split_once("\r\n\r\n")
                .with_context(|| format!("no answer: {answer:?}"))?;
            ensure!(head.contains(" 200 "), "answered {head:?}");
            Ok(body.trim().to_owned())
        }
    }
}

/// A program that will run as a process of a node does.
pub(crate) fn node_command(cluster: &Cluster, node: &str, command: &[&str]) -> Result<Command> {
    let netns = cluster.node_netns(node);
    let cgroup = cluster.node_cgroup(&netns)?;
    let mut enter = cluster.portolan();
    enter.args(["enter", "--netns", &netns, "--cgroup", &cgroup, "--"]);
    enter.args(command);
    Ok(enter)
}

/// What it prints.
pub(crate) fn on_node(cluster: &Cluster, node: &str, command: &[&str]) -> Result<String> {
    let output = node_command(cluster, node, command)?.output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", error.trim());
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Waits until somebody answers, and says who.
pub(crate) fn answered(cluster: &Cluster, from: From<'_>, address: SocketAddr) -> Result<String> {
    eventually(&format!("{address} answers {from:?}"), || {
        ask(cluster, from, address)
    })
}

/// Waits until exactly these answer.
pub(crate) fn answered_by(
    cluster: &Cluster,
    from: From<'_>,
    address: SocketAddr,
    names: &[&str],
) -> Result<()> {
    let expected: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
    // With two to choose from, fourteen never see one of them once in 8,000 times; then it is tried again.
    let attempts = if names.len() > 1 { 14 } else { 3 };
    eventually(&format!("{names:?} answer {from:?} at {address}"), || {
        let found = (0..attempts)
            .map(|_| ask(cluster, from, address))
            .collect::<Result<_>>()?;
        same("who answered", found, expected.clone())
    })
}

/// Waits until the Service refuses, and does so at once.
pub(crate) fn refused(cluster: &Cluster, from: From<'_>, address: SocketAddr) -> Result<()> {
    eventually(&format!("{address} refuses {from:?}"), || {
        let begun = Instant::now();
        let error = match ask(cluster, from, address) {
            Ok(answer) => bail!("{answer} answered"),
            Err(error) => format!("{error:#}").to_lowercase(),
        };
        ensure!(
            error.contains("refused") || error.contains("couldn't connect"),
            "not refused: {error}"
        );
        ensure!(
            begun.elapsed() < Duration::from_secs(2),
            "refused only after {:?}",
            begun.elapsed()
        );
        Ok(())
    })
}

/// Waits until the Service says nothing.
pub(crate) fn silent(cluster: &Cluster, from: From<'_>, address: SocketAddr) -> Result<()> {
    eventually(&format!("{address} is silent to {from:?}"), || {
        let error = match ask(cluster, from, address) {
            Ok(answer) => bail!("{answer} answered"),
            Err(error) => format!("{error:#}").to_lowercase(),
        };
        let is_silent = ["timed out", "no route to host", "unreachable", "timeout"];
        ensure!(
            is_silent.iter().any(|word| error.contains(word)),
            "not silent: {error}"
        );
        Ok(())
    })
}

/// A UDP socket in the machine outside, whose answers have some time to come.
pub(crate) fn outside_socket(cluster: &Cluster, port: u16) -> Result<UdpSocket> {
    Host::inside(cluster.host().name(), move || {
        let socket = UdpSocket::bind(("0.0.0.0", port))?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        Ok(socket)
    })
}

/// Who answers a datagram from `socket`.
pub(crate) fn ask_datagram(socket: &UdpSocket, address: SocketAddr) -> Result<String> {
    socket.send_to(b"who is there?", address)?;
    let mut buffer = [0; 512];
    let (count, from) = socket.recv_from(&mut buffer)?;
    same("who answered", from, address)?;
    Ok(String::from_utf8_lossy(&buffer[..count]).trim().to_owned())
}

/// The endpoints of a Service, as the slices for IPv4 list them.
pub(crate) fn endpoints(cluster: &Cluster, service: &str) -> Result<Vec<Value>> {
    let label = format!("kubernetes.io/service-name={service}");
    let list = cluster.object(&["endpointslices", "-l", &label])?;
    let slices = list["items"].as_array().context("a list has items")?;
    let v4 = slices.iter().filter(|slice| slice["addressType"] == "IPv4");
    Ok(v4
        .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default())
        .collect())
}
