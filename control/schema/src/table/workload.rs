//! Rows of Deployments and ReplicaSets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{NONE, age, count, items, joined, name};
use crate::selector::LabelSelector;

pub(super) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let mut cells = vec![
        name(object),
        json!(format!(
            "{}/{}",
            count(&status["readyReplicas"]),
            count(&spec["replicas"])
        )),
        json!(count(&status["updatedReplicas"])),
        json!(count(&status["availableReplicas"])),
        age(object, now),
    ];
    cells.extend(template(spec));
    cells
}

pub(super) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let mut cells = vec![
        name(object),
        json!(count(&spec["replicas"])),
        json!(count(&status["replicas"])),
        json!(count(&status["readyReplicas"])),
        age(object, now),
    ];
    cells.extend(template(spec));
    cells
}

/// Containers, images and selector.
fn template(spec: &Value) -> [Value; 3] {
    let containers = items(&spec["template"]["spec"]["containers"]);
    let all = |key: &str| json!(joined(containers.iter().filter_map(|c| c[key].as_str())));
    let selector = LabelSelector::from_object(&spec["selector"]);
    let selector = match selector.map(|s| s.to_string()) {
        Ok(text) if text.is_empty() => NONE.to_owned(),
        Ok(text) => text,
        Err(_) => "<error>".to_owned(),
    };
    [all("name"), all("image"), json!(selector)]
}
