//! Makes what a pod's containers share: volumes, namespaces, network and `/etc` files; and takes it away again.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde::{Deserialize, Serialize};

use super::kinds::spec;
pub(crate) use super::volumes::unmount_all;
use super::volumes::{self, VolumeError, mount_tmpfs};
use crate::agent::Agent;
use crate::fs::{at, write_at_once};
use crate::net::{Exhausted, NetError, PodLink, PodNamespaces};
use crate::runtime::cgroup::CgroupDirs;
use crate::runtime::read_json;

const RECORD: &str = "sandbox.json";
/// How long the kernel may take to let go of killed processes.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is written down about a prepared pod, to be found by a later agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) uid: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) namespaces: PodNamespaces,
    pub(crate) cgroup: CgroupDirs,
}

/// Why a pod could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    /// A volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// No address is left.
    #[error("Failed to create pod sandbox: {0}")]
    Address(#[from] Exhausted),
    /// The network.
    #[error("Failed to create pod sandbox: {0}")]
    Network(#[from] NetError),
    /// The machine refused something.
    #[error("Failed to create pod sandbox: {0}")]
    Io(#[from] io::Error),
}

/// The record of the pod in `dir`, if it was prepared.
pub(crate) fn find(dir: &Path) -> io::Result<Option<Record>> {
    read_json(&dir.join(RECORD))
}

/// Prepares a pod; gives its addresses. What a failed try leaves, the next one or [`tear_down`] finds.
pub(crate) async fn prepare(agent: &Arc<Agent>, pod: &Pod) -> Result<Vec<IpAddr>, PrepareError> {
    let dir = agent.pod_dir(pod);
    fs::create_dir_all(&dir).map_err(at(&dir))?;
    volumes::prepare(agent, pod, &dir).await?;
    let host_network = spec(pod).host_network == Some(true);
    let addresses = if host_network {
        vec![]
    } else {
        agent.pools().take()?
    };
    match make_sandbox(agent, pod, &dir, &addresses).await {
        Ok(()) => Ok(addresses),
        Err(error) => {
            agent.pools().give_back(&addresses);
            Err(error)
        }
    }
}

async fn make_sandbox(
    agent: &Arc<Agent>,
    pod: &Pod,
    dir: &Path,
    addresses: &[IpAddr],
) -> Result<(), PrepareError> {
    let pod_spec = spec(pod);
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let host_network = pod_spec.host_network == Some(true);
    let namespaces = PodNamespaces::of(dir, &uid, host_network, pod_spec.host_ipc == Some(true));
    let hostname = if host_network {
        agent.args.name.clone()
    } else {
        hostname(pod)
    };
    let record = Record {
        uid,
        addresses: addresses.to_vec(),
        namespaces: namespaces.clone(),
        cgroup: agent.pod_cgroup(pod),
    };
    // First the record: what is made from here on can be found and removed.
    write_at_once(
        &dir.join(RECORD),
        &serde_json::to_vec(&record).map_err(io::Error::from)?,
    )?;

    record.cgroup.create()?;
    record.cgroup.delegate();
    let runtime = tokio::runtime::Handle::current();
    let made = {
        let (namespaces, hostname) = (namespaces, hostname.clone());
        tokio::task::spawn_blocking(move || {
            // A try that failed half-way may have left some.
            namespaces.remove()?;
            namespaces.create(&hostname, runtime)
        })
    };
    let handle = made.await.map_err(io::Error::other)??;
    if let Some(handle) = handle {
        PodLink::new(&record.uid, addresses)
            .create(&agent.net, &handle)
            .await?;
    }
    write_etc(agent, pod, dir, &hostname, addresses)?;
    let shm = dir.join("shm");
    fs::create_dir_all(&shm)?;
    volumes::unmount(&shm)?;
    mount_tmpfs(&shm, "mode=1777,size=64m")?;
    Ok(fs::set_permissions(
        &shm,
        fs::Permissions::from_mode(0o1777),
    )?)
}

/// Removes everything of a pod but its directory's logs: processes, cgroups, mounts, namespaces (and with them the
/// network) and addresses. Can be called again.
pub(crate) async fn tear_down(agent: &Arc<Agent>, dir: &Path) -> io::Result<()> {
    let Some(record) = find(dir)? else {
        return unmount_all(dir);
    };
    let addresses = record.addresses.clone();
    let dir = dir.to_owned();
    let removed = tokio::task::spawn_blocking(move || remove(&dir, &record));
    removed.await.map_err(io::Error::other)??;
    agent.pools().give_back(&addresses);
    Ok(())
}

/// The blocking part of [`tear_down`], for `cleanup` too.
pub(crate) fn remove(dir: &Path, record: &Record) -> io::Result<()> {
    record.cgroup.destroy(PATIENCE)?;
    record.namespaces.remove()?;
    unmount_all(dir)?;
    crate::fs::ignore_missing(fs::remove_file(dir.join(RECORD)))
}

/// The pod's host name: what it asks for, or its name, cut to what the kernel takes.
pub(crate) fn hostname(pod: &Pod) -> String {
    let asked = spec(pod).hostname.clone().filter(|name| !name.is_empty());
    let name = asked
        .or_else(|| pod.metadata.name.clone())
        .unwrap_or_default();
    name.chars()
        .take(63)
        .collect::<String>()
        .trim_end_matches(['-', '.'])
        .to_owned()
}

fn write_etc(
    agent: &Agent,
    pod: &Pod,
    dir: &Path,
    hostname: &str,
    addresses: &[IpAddr],
) -> io::Result<()> {
    let host_network = spec(pod).host_network == Some(true);
    let hosts = if host_network {
        fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        hosts(
            spec(pod),
            hostname,
            addresses,
            pod.metadata.namespace.as_deref().unwrap_or_default(),
            &agent.args.cluster_domain,
        )
    };
    // An agent's machine without resolv.conf resolves nothing, and neither do its pods.
    let own = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let resolv = resolv_conf(
        spec(pod),
        namespace,
        &agent.args.cluster_dns,
        &agent.args.cluster_domain,
        &own,
    );
    fs::write(dir.join("hosts"), hosts)?;
    fs::write(dir.join("hostname"), format!("{hostname}\n"))?;
    fs::write(dir.join("resolv.conf"), resolv)
}

fn hosts(
    spec: &PodSpec,
    hostname: &str,
    addresses: &[IpAddr],
    namespace: &str,
    domain: &str,
) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let names = match spec.subdomain.as_deref().filter(|name| !name.is_empty()) {
        Some(subdomain) => format!("{hostname}.{subdomain}.{namespace}.svc.{domain}\t{hostname}"),
        None => hostname.to_owned(),
    };
    for address in addresses {
        text.push_str(&format!("{address}\t{names}\n"));
    }
    for alias in spec.host_aliases.iter().flatten() {
        let names = alias
            .hostnames
            .iter()
            .flatten()
            .map(String::as_str)
            .collect::<Vec<_>>();
        text.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
    }
    text
}

fn resolv_conf(spec: &PodSpec, namespace: &str, dns: &[IpAddr], domain: &str, own: &str) -> String {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let host_network = spec.host_network == Some(true);
    let cluster =
        policy == "ClusterFirstWithHostNet" || (policy == "ClusterFirst" && !host_network);
    let words = |key: &str| -> Vec<String> {
        let lines = own
            .lines()
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix([' ', '\t']));
        lines
            .flat_map(str::split_whitespace)
            .map(str::to_owned)
            .collect()
    };
    let (mut servers, mut search, mut options) = match policy {
        "None" => (vec![], vec![], vec![]),
        _ if cluster && !dns.is_empty() => {
            let mut search = vec![
                format!("{namespace}.svc.{domain}"),
                format!("svc.{domain}"),
                domain.to_owned(),
            ];
            search.extend(words("search"));
            (
                dns.iter().map(ToString::to_string).collect(),
                search,
                vec!["ndots:5".to_owned()],
            )
        }
        _ => (words("nameserver"), words("search"), words("options")),
    };
    if let Some(config) = &spec.dns_config {
        servers.extend(config.nameservers.iter().flatten().cloned());
        search.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            options.retain(|other| other.split(':').next() != Some(name.as_str()));
            options.push(
                option
                    .value
                    .as_ref()
                    .map_or(name.clone(), |value| format!("{name}:{value}")),
            );
        }
    }
    let mut seen = Vec::new();
    search.retain(|domain| {
        !seen.contains(domain) && {
            seen.push(domain.clone());
            true
        }
    });
    let mut text: String = servers
        .iter()
        .take(3)
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    if !search.is_empty() {
        text.push_str(&format!(
            "search {}\n",
            search
                .iter()
                .take(32)
                .cloned()
                .collect::<Vec<_>>()
                .join(" ")
        ));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing step fails the test")]

    use serde_json::{Value, json};

    use super::*;

    fn check(spec: Value, dns: &[&str], expected: &str) {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let dns: Vec<IpAddr> = dns.iter().map(|address| address.parse().unwrap()).collect();
        let own = "# x\nnameserver 10.0.0.2\nsearch corp.example\noptions edns0\n";
        assert_eq!(
            resolv_conf(&spec, "ns", &dns, "cluster.local", own),
            expected
        );
    }

    #[test]
    fn names_are_resolved_by_the_cluster_or_as_the_pod_says() {
        check(
            json!({"containers": []}),
            &["10.96.0.10"],
            "nameserver 10.96.0.10\nsearch ns.svc.cluster.local svc.cluster.local cluster.local corp.example\noptions ndots:5\n",
        );
        let own = "nameserver 10.0.0.2\nsearch corp.example\noptions edns0\n";
        check(json!({"containers": []}), &[], own);
        check(
            json!({"containers": [], "dnsPolicy": "Default"}),
            &["10.96.0.10"],
            own,
        );
        check(
            json!({"containers": [], "hostNetwork": true}),
            &["10.96.0.10"],
            own,
        );
        check(
            json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
                "nameservers": ["1.1.1.1"], "searches": ["a", "a"], "options": [{"name": "ndots", "value": "2"}, {"name": "x"}],
            }}),
            &["10.96.0.10"],
            "nameserver 1.1.1.1\nsearch a\noptions ndots:2 x\n",
        );
    }

    #[test]
    fn pods_know_their_own_name() {
        let spec: PodSpec = serde_json::from_value(json!({
            "containers": [], "subdomain": "sub", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["x", "y"]}],
        }))
        .unwrap();
        let text = hosts(
            &spec,
            "web-0",
            &["10.244.0.2".parse().unwrap()],
            "ns",
            "cluster.local",
        );
        assert!(text.contains("10.244.0.2\tweb-0.sub.ns.svc.cluster.local\tweb-0\n"));
        assert!(text.ends_with("1.2.3.4\tx\ty\n"));
    }
}
