//! Pods: service account and token volume, default tolerations, grace periods.

use control_schema::{Resource, by_plural};
use serde_json::{Value, json};

use crate::api::Api;
use crate::error::ApiError;
use crate::identity::User;
use crate::object::{self, child, items, members, text};
use crate::rest::random_suffix;

/// How long a token asked for by admission is valid; the odd seconds mark it as asked for by nobody in particular.
const TOKEN_SECONDS: i64 = 3607;
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long pods stay on a node that is gone, unless they say otherwise.
const TOLERATION_SECONDS: i64 = 300;

pub(super) fn admit(
    api: &Api,
    res: &Resource,
    pod: &mut Value,
    _user: &User,
) -> Result<(), ApiError> {
    admit_account(api, res, pod)?;
    tolerate_lost_nodes(pod);
    settle_priority(pod);
    Ok(())
}

/// The default account, which must exist, and a volume with its token in every container.
fn admit_account(api: &Api, res: &Resource, pod: &mut Value) -> Result<(), ApiError> {
    let spec = child(pod, "spec");
    let named = spec
        .get("serviceAccountName")
        .or_else(|| spec.get("serviceAccount"))
        .and_then(Value::as_str);
    let name = named
        .filter(|name| !name.is_empty())
        .unwrap_or("default")
        .to_owned();
    spec.insert("serviceAccountName".into(), name.clone().into());
    spec.insert("serviceAccount".into(), name.clone().into());

    let namespace = text(pod, "/metadata/namespace").to_owned();
    let accounts = by_plural("", "v1", "serviceaccounts").expect("the schema has service accounts");
    let Some(entry) = api.store.get(&object::key(accounts, &namespace, &name)) else {
        let what = format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        );
        return Err(ApiError::forbidden(res, object::name(pod), what));
    };
    let account = object::decode(&entry.value);
    if wants_token(pod, &account) {
        mount_token(pod);
    }
    let secrets = items(&account, "/imagePullSecrets");
    if items(pod, "/spec/imagePullSecrets").is_empty() && !secrets.is_empty() {
        let secrets = secrets.to_vec();
        child(pod, "spec").insert("imagePullSecrets".into(), secrets.into());
    }
    Ok(())
}

fn wants_token(pod: &Value, account: &Value) -> bool {
    let stated = pod
        .pointer("/spec/automountServiceAccountToken")
        .and_then(Value::as_bool);
    let stated = stated.or_else(|| {
        account
            .get("automountServiceAccountToken")
            .and_then(Value::as_bool)
    });
    stated.unwrap_or(true)
}

fn mount_token(pod: &mut Value) {
    let existing = items(pod, "/spec/volumes")
        .iter()
        .filter_map(|volume| volume.get("name").and_then(Value::as_str))
        .find(|name| name.starts_with("kube-api-access-"))
        .map(str::to_owned);
    let name = existing
        .clone()
        .unwrap_or_else(|| format!("kube-api-access-{}", random_suffix()));
    let spec = child(pod, "spec");
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        let containers = spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten();
        for container in containers {
            mounted |= mount(container, &name);
        }
    }
    if mounted && existing.is_none() {
        let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
        if let Some(volumes) = volumes.as_array_mut() {
            volumes.push(token_volume(&name));
        }
    }
}

/// Mounts the token, unless something else is mounted there.
fn mount(container: &mut Value, volume: &str) -> bool {
    if items(container, "/volumeMounts")
        .iter()
        .any(|mount| mount.get("mountPath") == Some(&TOKEN_PATH.into()))
    {
        return false;
    }
    let mounts = members(container)
        .entry("volumeMounts")
        .or_insert_with(|| json!([]));
    let Some(mounts) = mounts.as_array_mut() else {
        return false;
    };
    mounts.push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH}));
    true
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}})
}

fn tolerate_lost_nodes(pod: &mut Value) {
    let tolerations = child(pod, "spec")
        .entry("tolerations")
        .or_insert_with(|| json!([]));
    let Some(tolerations) = tolerations.as_array_mut() else {
        return;
    };
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        if !tolerations
            .iter()
            .any(|toleration| tolerates(toleration, key))
        {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
}

fn tolerates(toleration: &Value, key: &str) -> bool {
    let named = text(toleration, "/key");
    let effect = text(toleration, "/effect");
    (named == key || named.is_empty()) && (effect == "NoExecute" || effect.is_empty())
}

/// Without priority classes every pod has the same.
fn settle_priority(pod: &mut Value) {
    let spec = child(pod, "spec");
    spec.entry("priority").or_insert_with(|| 0.into());
    spec.entry("preemptionPolicy")
        .or_insert_with(|| "PreemptLowerPriority".into());
}

/// As asked, or as the pod says; none for pods that run nowhere or are done.
pub(super) fn grace_period(pod: &Value, asked: Option<i64>) -> i64 {
    let unscheduled = text(pod, "/spec/nodeName").is_empty();
    let done = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    if unscheduled || done {
        return 0;
    }
    let own = pod
        .pointer("/spec/terminationGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(30);
    match asked.unwrap_or(own) {
        negative if negative < 0 => 1,
        seconds => seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_runs_nowhere_has_no_grace() {
        let mut pod = json!({"spec": {"terminationGracePeriodSeconds": 5}});
        assert_eq!(grace_period(&pod, Some(9)), 0);
        pod["spec"]["nodeName"] = "node-1".into();
        assert_eq!(grace_period(&pod, None), 5);
        assert_eq!(grace_period(&pod, Some(9)), 9);
        assert_eq!(grace_period(&pod, Some(0)), 0);
    }
}
