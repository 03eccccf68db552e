//! The Node object and its Lease: what the cluster knows of this node, kept up to date.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use nix::sys::utsname::uname;
use tokio_util::sync::CancellationToken;

use crate::agent::Capacity;
use crate::args::NodeArgs;
use crate::image::architecture;

/// How often the status is computed, and the lease renewed.
const PERIOD: Duration = Duration::from_secs(10);
/// How often the status is written even if nothing has changed.
const REPORT: Duration = Duration::from_secs(300);
const LEASE_SECONDS: i32 = 40;
const LEASES: &str = "kube-node-lease";
/// The Kubernetes version whose behaviour the agent follows.
const VERSION: &str = "v1.36.2";
/// Tells an API server that exec reaches this node's pods by WebSocket; without it, it asks by SPDY (KEP-4006).
const WEBSOCKETS: &str = "ExtendWebSocketsToKubelet";

/// This machine's CPUs and memory.
pub(crate) fn capacity() -> Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix(" kB")?
            .parse::<u64>()
            .ok()
    });
    Capacity {
        cpu: cpus as u64 * 1000,
        memory: total.unwrap_or(0) << 10,
    }
}

/// Creates the Node, or brings the labels of an existing one up to date, until that succeeds.
pub(crate) async fn register(client: &Client, args: &NodeArgs) -> kube::Result<Node> {
    let api: Api<Node> = Api::all(client.clone());
    let node = Node {
        metadata: ObjectMeta {
            name: Some(args.name.clone()),
            labels: Some(labels(args)),
            ..ObjectMeta::default()
        },
        ..Node::default()
    };
    match api.create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(answer)) if answer.is_already_exists() => {
            let patch = serde_json::json!({"metadata": {"labels": labels(args)}});
            api.patch(&args.name, &PatchParams::default(), &Patch::Merge(patch))
                .await
        }
        other => other,
    }
}

fn labels(args: &NodeArgs) -> BTreeMap<String, String> {
    let own = [
        ("kubernetes.io/hostname", args.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
    ];
    let own = own
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    own.chain(args.node_labels.iter().cloned()).collect()
}

/// The node's pod ranges, if it was given any.
pub(crate) fn pod_ranges(node: &Node) -> Vec<IpNetwork> {
    let spec = node.spec.clone().unwrap_or_default();
    let texts = spec
        .pod_cidrs
        .filter(|cidrs| !cidrs.is_empty())
        .unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// The node's addresses of one kind that other nodes reach it by.
pub(crate) fn internal_ips(node: &Node) -> Vec<IpAddr> {
    let addresses = node
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten());
    addresses
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

/// Keeps status and lease up to date until `shutdown`; errors are logged and tried again.
pub(crate) async fn report(
    client: Client,
    args: NodeArgs,
    capacity: Capacity,
    shutdown: CancellationToken,
) {
    let mut ticks = tokio::time::interval(PERIOD);
    let mut written: Option<(NodeStatus, tokio::time::Instant)> = None;
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = renew(&client, &args.name).await {
            tracing::warn!(%error, "cannot renew the node's lease");
        }
        let api: Api<Node> = Api::all(client.clone());
        let old = match api.get(&args.name).await {
            Ok(node) => node,
            Err(error) => {
                tracing::warn!(%error, "cannot read the node");
                if let kube::Error::Api(answer) = &error
                    && answer.is_not_found()
                    && let Err(error) = register(&client, &args).await
                {
                    tracing::warn!(%error, "cannot register the node again");
                }
                written = None;
                continue;
            }
        };
        let status = status(&args, capacity, &old, Timestamp::now());
        let due = written
            .as_ref()
            .is_none_or(|(before, at)| at.elapsed() >= REPORT || !same(before, &status));
        // A status that somebody else has changed (the node lifecycle controller says Unknown) is put right.
        if due || !is_ready(&old) {
            match write(&api, &args.name, &status).await {
                Ok(()) => written = Some((status, tokio::time::Instant::now())),
                Err(error) => tracing::warn!(%error, "cannot write the node's status"),
            }
        }
    }
}

/// Writes the status at once, so that the node is Ready as soon as its agent is.
pub(crate) async fn report_now(
    client: &Client,
    args: &NodeArgs,
    capacity: Capacity,
    node: &Node,
) -> kube::Result<()> {
    let status = status(args, capacity, node, Timestamp::now());
    write(&Api::all(client.clone()), &args.name, &status).await?;
    renew(client, &args.name).await
}

async fn write(api: &Api<Node>, name: &str, status: &NodeStatus) -> kube::Result<()> {
    let mut patch = serde_json::json!({"status": status});
    // A strategic merge takes addresses of one type for the same, and a dual-stack node has two InternalIPs.
    if let Some(addresses) = patch["status"]["addresses"].as_array_mut() {
        addresses.insert(0, serde_json::json!({"$patch": "replace"}));
    }
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map(drop)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// True if two statuses differ in nothing but the times of their heartbeats.
fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let plain = |status: &NodeStatus| {
        let mut status = status.clone();
        status
            .conditions
            .iter_mut()
            .flatten()
            .for_each(|condition| condition.last_heartbeat_time = None);
        status
    };
    plain(a) == plain(b)
}

fn status(args: &NodeArgs, capacity: Capacity, old: &Node, now: Timestamp) -> NodeStatus {
    let quantity = |text: String| Quantity(text);
    let resources: BTreeMap<String, Quantity> = [
        (
            "cpu".to_owned(),
            quantity((capacity.cpu / 1000).to_string()),
        ),
        (
            "memory".to_owned(),
            quantity(format!("{}Ki", capacity.memory >> 10)),
        ),
        ("pods".to_owned(), quantity(args.max_pods.to_string())),
        (
            "ephemeral-storage".to_owned(),
            quantity(format!("{}Ki", storage(args) >> 10)),
        ),
    ]
    .into();
    let ips = args.node_ip.iter().map(|ip| NodeAddress {
        type_: "InternalIP".into(),
        address: ip.to_string(),
    });
    let hostname = NodeAddress {
        type_: "Hostname".into(),
        address: args.name.clone(),
    };
    NodeStatus {
        addresses: Some(ips.chain([hostname]).collect()),
        capacity: Some(resources.clone()),
        allocatable: Some(resources),
        conditions: Some(conditions(old, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: args.bind.port().into(),
            }),
        }),
        node_info: Some(system_info(args)),
        declared_features: Some(vec![WEBSOCKETS.to_owned()]),
        ..NodeStatus::default()
    }
}

fn storage(args: &NodeArgs) -> u64 {
    nix::sys::statvfs::statvfs(&args.data_dir).map_or(0, |fs| fs.blocks() * fs.fragment_size())
}

fn conditions(old: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let old = old
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    [
        (
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        (
            "DiskPressure",
            "False",
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        (
            "PIDPressure",
            "False",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        (
            "Ready",
            "True",
            "KubeletReady",
            "kubelet is posting ready status",
        ),
    ]
    .into_iter()
    .map(|(type_, status, reason, message)| {
        let before = old
            .iter()
            .find(|condition| condition.type_ == type_ && condition.status == status);
        NodeCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: before
                .and_then(|condition| condition.last_transition_time.clone())
                .or(Some(Time(now))),
        }
    })
    .collect()
}

fn system_info(args: &NodeArgs) -> NodeSystemInfo {
    let read = |path: &str| {
        fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    let os = read("/etc/os-release");
    let os = os
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| name.trim_matches('"').to_owned());
    let kernel = uname()
        .map(|uname| uname.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    NodeSystemInfo {
        machine_id: read("/etc/machine-id"),
        // Nodes of one machine share it; a name beside it keeps them apart.
        system_uuid: format!("{}-{}", read("/etc/machine-id"), args.name),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        kernel_version: kernel,
        os_image: os.unwrap_or_else(|| "Linux".into()),
        container_runtime_version: format!("portolan://{}", env!("CARGO_PKG_VERSION")),
        kubelet_version: VERSION.into(),
        kube_proxy_version: String::new(),
        operating_system: "linux".into(),
        architecture: architecture().into(),
        ..NodeSystemInfo::default()
    }
}

/// Renews the node's lease, making it if it is missing.
async fn renew(client: &Client, name: &str) -> kube::Result<()> {
    let api: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let now = MicroTime(Timestamp::now());
    let patch = serde_json::json!({"spec": {
        "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now,
    }});
    match api
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Err(kube::Error::Api(answer)) if answer.is_not_found() => {}
        other => return other.map(drop),
    }
    let owner = Api::<Node>::all(client.clone()).get(name).await?;
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.to_owned(),
                uid: owner.metadata.uid.unwrap_or_default(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await.map(drop)
}
