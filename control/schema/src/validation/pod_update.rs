//! What may change in the spec of a pod that exists: next to nothing.

use serde_json::Value;

use super::causes::{At, Causes};

const REFUSAL: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
                       `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                       existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                       previously negative)";

/// Compares the specs of a pod.
pub(super) fn check(new: &At<'_>, old: &At<'_>, causes: &mut Causes) {
    let (spec, before) = (new.child("spec"), old.child("spec"));
    for list in ["containers", "initContainers"] {
        if spec.child(list).len() != before.child(list).len() {
            let what = if list == "containers" {
                "containers"
            } else {
                "init containers"
            };
            causes.forbidden(
                &spec.child(list),
                &format!("pod updates may not add or remove {what}"),
            );
            return;
        }
    }
    deadline(&spec, &before, causes);
    tolerations(&spec, &before, causes);
    if with_allowed_changes(before.value, spec.value) != *spec.value {
        causes.forbidden(&spec, REFUSAL);
    }
}

/// A deadline may be set or brought forward.
fn deadline(spec: &At<'_>, before: &At<'_>, causes: &mut Causes) {
    let (new, old) = (
        spec.child("activeDeadlineSeconds"),
        before.child("activeDeadlineSeconds"),
    );
    if old.is_set() && (!new.is_set() || new.number() > old.number()) {
        let detail = format!(
            "must be less than or equal to previous value {}",
            old.number()
        );
        causes.invalid(&new, &detail);
    }
}

fn tolerations(spec: &At<'_>, before: &At<'_>, causes: &mut Causes) {
    let now = spec.items("tolerations");
    let kept = |old: &At<'_>| {
        now.iter()
            .any(|n| without_seconds(n.value) == without_seconds(old.value))
    };
    if !before.items("tolerations").iter().all(kept) {
        let list = spec.child("tolerations");
        causes.forbidden(
            &list,
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
}

fn without_seconds(toleration: &Value) -> Value {
    let mut plain = toleration.clone();
    if let Value::Object(map) = &mut plain {
        map.remove("tolerationSeconds");
    }
    plain
}

/// The old spec with all changes of the new one that are allowed.
fn with_allowed_changes(old: &Value, new: &Value) -> Value {
    let mut allowed = old.clone();
    for list in ["containers", "initContainers"] {
        for (i, container) in new[list].as_array().into_iter().flatten().enumerate() {
            if let Some(image) = container.get("image") {
                allowed[list][i]["image"] = image.clone();
            }
        }
    }
    let is_negative = old["terminationGracePeriodSeconds"]
        .as_i64()
        .is_some_and(|s| s < 0);
    let grace = (is_negative && new["terminationGracePeriodSeconds"] == 1)
        .then_some("terminationGracePeriodSeconds");
    // A binding sets the node, once; lifted gates only ever become fewer.
    let node = old["nodeName"]
        .as_str()
        .unwrap_or_default()
        .is_empty()
        .then_some("nodeName");
    let fields = [
        "activeDeadlineSeconds",
        "tolerations",
        "ephemeralContainers",
        "schedulingGates",
    ];
    for field in fields.into_iter().chain(grace).chain(node) {
        if let Value::Object(allowed) = &mut allowed {
            match new.get(field) {
                Some(value) => drop(allowed.insert(field.to_owned(), value.clone())),
                None => drop(allowed.remove(field)),
            }
        }
    }
    allowed
}
