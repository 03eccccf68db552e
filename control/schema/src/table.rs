//! Tables: the columns `kubectl get` prints, computed by the server.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Resource;

mod age;
mod cluster;
mod network;
mod pod;
mod workload;

pub use age::human_duration;

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// `string` or `integer`.
    pub kind: &'static str,
    /// `name` for the name column, otherwise empty.
    pub format: &'static str,
    /// One sentence.
    pub description: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: u8,
}

/// What an empty cell shows.
const NONE: &str = "<none>";

/// The columns of a kind.
pub fn columns(res: &Resource) -> &'static [Column] {
    match res.kind {
        "Pod" => POD,
        "Deployment" => DEPLOYMENT,
        "ReplicaSet" => REPLICA_SET,
        "Service" => SERVICE,
        "Endpoints" => ENDPOINTS,
        "EndpointSlice" => ENDPOINT_SLICE,
        "Ingress" => INGRESS,
        "IngressClass" => INGRESS_CLASS,
        "ServiceCIDR" => SERVICE_CIDR,
        "Node" => NODE,
        "Event" => EVENT,
        "Namespace" => NAMESPACE,
        "Secret" => SECRET,
        "ConfigMap" => CONFIG_MAP,
        "Lease" => LEASE,
        _ => NAME_AND_AGE,
    }
}

/// The `columnDefinitions` of a table of that kind.
pub fn column_definitions(res: &Resource) -> Value {
    let definition = |c: &Column| {
        json!({
            "name": c.name,
            "type": c.kind,
            "format": c.format,
            "description": c.description,
            "priority": c.priority,
        })
    };
    columns(res).iter().map(definition).collect()
}

/// The cells of one row, as many as there are columns.
pub fn cells(res: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    match res.kind {
        "Pod" => pod::cells(object, now),
        "Deployment" => workload::deployment(object, now),
        "ReplicaSet" => workload::replica_set(object, now),
        "Service" => network::service(object, now),
        "Endpoints" => network::endpoints(object, now),
        "EndpointSlice" => network::endpoint_slice(object, now),
        "Ingress" => network::ingress(object, now),
        "IngressClass" => network::ingress_class(object, now),
        "ServiceCIDR" => network::service_cidr(object, now),
        "Node" => cluster::node(object, now),
        "Event" => cluster::event(object, now),
        "Namespace" => cluster::namespace(object, now),
        "Secret" => cluster::secret(object, now),
        "ConfigMap" => cluster::config_map(object, now),
        "Lease" => cluster::lease(object, now),
        _ => vec![name(object), age(object, now)],
    }
}

// ---- Columns ----

const fn column(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        kind: "string",
        format: "",
        description,
        priority: 0,
    }
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    Column {
        priority: 1,
        ..column(name, description)
    }
}

const fn number(name: &'static str, description: &'static str) -> Column {
    Column {
        kind: "integer",
        ..column(name, description)
    }
}

const NAME: Column = Column {
    format: "name",
    ..column("Name", "Name, unique within its namespace and kind.")
};
const AGE: Column = column("Age", "Time since the object was created.");
const CONTAINERS: Column = wide("Containers", "Names of the containers in the template.");
const IMAGES: Column = wide("Images", "Images of the containers in the template.");
const SELECTOR: Column = wide("Selector", "Labels that select its pods.");

const NAME_AND_AGE: &[Column] = &[NAME, AGE];
const POD: &[Column] = &[
    NAME,
    column("Ready", "Containers that are ready, of all."),
    column("Status", "What the pod as a whole is doing."),
    column(
        "Restarts",
        "Restarts of its containers, and when the last one was.",
    ),
    AGE,
    wide("IP", "Address of the pod."),
    wide("Node", "Node it is bound to."),
    wide(
        "Nominated Node",
        "Node it may be bound to once others have left.",
    ),
    wide(
        "Readiness Gates",
        "Extra conditions of readiness that are true, of all.",
    ),
];
const DEPLOYMENT: &[Column] = &[
    NAME,
    column("Ready", "Pods that are ready, of those wanted."),
    column("Up-to-date", "Pods of the newest template."),
    column("Available", "Pods that have been ready for long enough."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const REPLICA_SET: &[Column] = &[
    NAME,
    number("Desired", "Pods wanted."),
    number("Current", "Pods there are."),
    number("Ready", "Pods that are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const SERVICE: &[Column] = &[
    NAME,
    column("Type", "How the service is exposed."),
    column("Cluster-IP", "Address inside the cluster."),
    column("External-IP", "Addresses outside the cluster."),
    column("Port(s)", "Ports, with the node port if there is one."),
    AGE,
    SELECTOR,
];
const ENDPOINTS: &[Column] = &[
    NAME,
    column("Endpoints", "Addresses that are ready, with their ports."),
    AGE,
];
const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    column("AddressType", "Family of the addresses."),
    column("Ports", "Ports of every endpoint."),
    column("Endpoints", "Addresses of the endpoints."),
    AGE,
];
const INGRESS: &[Column] = &[
    NAME,
    column("Class", "Class of controller that serves it."),
    column("Hosts", "Hosts it has rules for."),
    column("Address", "Where it can be reached."),
    column("Ports", "Ports it is served on."),
    AGE,
];
const INGRESS_CLASS: &[Column] = &[
    NAME,
    column("Controller", "Controller that serves the class."),
    column(
        "Parameters",
        "Object with further settings of the controller.",
    ),
    AGE,
];
const SERVICE_CIDR: &[Column] = &[
    NAME,
    column("CIDRs", "Ranges that cluster addresses are taken from."),
    AGE,
];
const NODE: &[Column] = &[
    NAME,
    column(
        "Status",
        "Whether the node is ready, and whether it takes pods.",
    ),
    column("Roles", "Roles given by its labels."),
    AGE,
    column("Version", "Version its agent reports."),
    wide("Internal-IP", "Address inside the cluster."),
    wide("External-IP", "Address outside the cluster."),
    wide("OS-Image", "Operating system its agent reports."),
    wide("Kernel-Version", "Kernel its agent reports."),
    wide("Container-Runtime", "Container runtime its agent reports."),
];
const EVENT: &[Column] = &[
    column("Last Seen", "Time since it last happened."),
    column("Type", "Normal or Warning."),
    column("Reason", "What happened, in one word."),
    column("Object", "What it is about."),
    wide("Subobject", "Part of the object it is about."),
    wide("Source", "Who reports it."),
    column("Message", "What happened, for people."),
    wide("First Seen", "Time since it first happened."),
    Column {
        kind: "integer",
        ..wide("Count", "How often it happened.")
    },
    Column {
        priority: 1,
        ..NAME
    },
];
const NAMESPACE: &[Column] = &[
    NAME,
    column("Status", "Active, or Terminating once it is being deleted."),
    AGE,
];
const SECRET: &[Column] = &[
    NAME,
    column("Type", "What kind of secret it is."),
    number("Data", "Number of entries."),
    AGE,
];
const CONFIG_MAP: &[Column] = &[NAME, number("Data", "Number of entries."), AGE];
const LEASE: &[Column] = &[NAME, column("Holder", "Who holds the lease."), AGE];

// ---- Cells that many kinds share ----

fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

fn age(object: &Value, now: Timestamp) -> Value {
    Value::String(since(&object["metadata"]["creationTimestamp"], now))
}

/// Time since a timestamp, or `<unknown>`.
fn since(time: &Value, now: Timestamp) -> String {
    match time.as_str().and_then(|t| t.parse::<Timestamp>().ok()) {
        Some(time) => human_duration(now.duration_since(time)),
        None => "<unknown>".to_owned(),
    }
}

/// A text, or `<none>` if there is none.
fn text(value: &Value) -> Value {
    Value::from(value.as_str().filter(|t| !t.is_empty()).unwrap_or(NONE))
}

/// A text, or `<unknown>` if there is none.
fn text_or_unknown(value: &Value) -> Value {
    Value::from(
        value
            .as_str()
            .filter(|t| !t.is_empty())
            .unwrap_or("<unknown>"),
    )
}

/// A number, 0 if there is none.
fn count(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Joins texts with commas, or `<none>` if there are none.
fn joined<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<&str> = texts.into_iter().filter(|t| !t.is_empty()).collect();
    if texts.is_empty() {
        NONE.to_owned()
    } else {
        texts.join(",")
    }
}

/// Joins at most three texts and says how many more there are.
fn first_three(texts: &[String]) -> String {
    match texts.len() {
        0..=3 => texts.join(","),
        n => format!("{} + {} more...", texts[..3].join(","), n - 3),
    }
}

/// A service's selector.
fn label_pairs(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let pairs: Vec<String> = pairs
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    joined(pairs.iter().map(String::as_str))
}

#[cfg(test)]
mod tests;
