//! Rows of nodes, namespaces, events and the small kinds.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, count, items, joined, name, since, text, text_or_unknown};

pub(super) fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let info = &object["status"]["nodeInfo"];
    vec![
        name(object),
        json!(node_status(object)),
        json!(roles(object)),
        age(object, now),
        info["kubeletVersion"].clone(),
        address(object, "InternalIP"),
        address(object, "ExternalIP"),
        text_or_unknown(&info["osImage"]),
        text_or_unknown(&info["kernelVersion"]),
        text_or_unknown(&info["containerRuntimeVersion"]),
    ]
}

fn node_status(node: &Value) -> String {
    let ready = items(&node["status"]["conditions"])
        .iter()
        .find(|c| c["type"] == "Ready");
    let status = match ready.map(|c| c["status"] == "True") {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    };
    if node["spec"]["unschedulable"] == true {
        format!("{status},SchedulingDisabled")
    } else {
        status.to_owned()
    }
}

fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None if key == "kubernetes.io/role" => value.as_str(),
                None => None,
            },
        )
        .collect();
    roles.sort_unstable();
    roles.dedup();
    joined(roles)
}

fn address(node: &Value, kind: &str) -> Value {
    let addresses = items(&node["status"]["addresses"]);
    text(
        addresses
            .iter()
            .find(|a| a["type"] == kind)
            .map_or(&Value::Null, |a| &a["address"]),
    )
}

pub(super) fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let about = &object["involvedObject"];
    vec![
        json!(last_seen(object, now)),
        object["type"].clone(),
        object["reason"].clone(),
        json!(format!(
            "{}/{}",
            part(&about["kind"]).to_lowercase(),
            part(&about["name"])
        )),
        json!(part(&about["fieldPath"])),
        json!(event_source(object)),
        json!(part(&object["message"]).trim()),
        json!(first_seen(object, now)),
        json!(occurrences(object)),
        name(object),
    ]
}

fn part(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn first_seen(event: &Value, now: Timestamp) -> String {
    since(
        first_set([&event["firstTimestamp"], &event["eventTime"]]),
        now,
    )
}

fn last_seen(event: &Value, now: Timestamp) -> String {
    match first_set([
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
    ]) {
        Value::Null => first_seen(event, now),
        time => since(time, now),
    }
}

fn first_set(values: [&Value; 2]) -> &Value {
    values
        .into_iter()
        .find(|v| !v.is_null())
        .unwrap_or(&Value::Null)
}

fn occurrences(event: &Value) -> i64 {
    match (count(&event["series"]["count"]), count(&event["count"])) {
        (0, 0) => 1,
        (0, count) => count,
        (series, _) => series,
    }
}

fn event_source(event: &Value) -> String {
    let component = match part(&event["source"]["component"]) {
        "" => part(&event["reportingComponent"]),
        component => component,
    };
    match part(&event["source"]["host"]) {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    }
}

pub(super) fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        object["status"]["phase"].clone(),
        age(object, now),
    ]
}

pub(super) fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        object["type"].clone(),
        json!(entries(&object["data"])),
        age(object, now),
    ]
}

pub(super) fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    let data = entries(&object["data"]) + entries(&object["binaryData"]);
    vec![name(object), json!(data), age(object, now)]
}

fn entries(map: &Value) -> usize {
    map.as_object().map_or(0, serde_json::Map::len)
}

pub(super) fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        json!(part(&object["spec"]["holderIdentity"])),
        age(object, now),
    ]
}
