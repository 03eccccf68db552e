//! Defaults of pod specs, in pods and in templates.

use serde_json::{Value, json};

use super::{Object, default, default_zero, each, with, within};

/// Mode of the files of projected volumes: 0644.
const FILE_MODE: u32 = 0o644;

/// What every pod spec gets.
pub(super) fn spec(spec: &mut Object) {
    default(spec, "dnsPolicy", json!("ClusterFirst"));
    default(spec, "restartPolicy", json!("Always"));
    default(spec, "terminationGracePeriodSeconds", json!(30));
    default(spec, "schedulerName", json!("default-scheduler"));
    with(spec, "securityContext", |_| {});
    service_account(spec);
    each(spec, "volumes", volume);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        each(spec, list, container);
    }
    if spec.get("hostNetwork") == Some(&json!(true)) {
        each(spec, "initContainers", host_ports);
        each(spec, "containers", host_ports);
    }
    within(spec, "resources", quantities);
    within(spec, "overhead", canonical);
}

/// What only pods get, not templates.
pub(super) fn bare(spec: &mut Object) {
    default(spec, "enableServiceLinks", json!(true));
    for list in ["initContainers", "containers"] {
        each(spec, list, |container| {
            within(container, "resources", requests)
        });
    }
}

/// The old name of the field follows the new one, and sets it.
fn service_account(spec: &mut Object) {
    if let Some(old) = spec.get("serviceAccount").cloned() {
        default(spec, "serviceAccountName", old);
    }
    if let Some(name) = spec.get("serviceAccountName").filter(|n| *n != "").cloned() {
        spec.insert("serviceAccount".to_owned(), name);
    }
}

fn container(container: &mut Object) {
    let image = container
        .get("image")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let policy = if is_latest(image) {
        "Always"
    } else {
        "IfNotPresent"
    };
    default(container, "imagePullPolicy", json!(policy));
    default(
        container,
        "terminationMessagePath",
        json!("/dev/termination-log"),
    );
    default(container, "terminationMessagePolicy", json!("File"));
    with(container, "resources", quantities);
    each(container, "ports", |port| {
        default(port, "protocol", json!("TCP"))
    });
    each(container, "env", |env| {
        within(env, "valueFrom", field_reference)
    });
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        within(container, name, probe);
    }
    within(container, "lifecycle", |lifecycle| {
        within(lifecycle, "postStart", http_get);
        within(lifecycle, "preStop", http_get);
    });
}

/// Whether the image has the tag `latest`, or neither a tag nor a digest.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe(probe: &mut Object) {
    default_zero(probe, "timeoutSeconds", 1);
    default_zero(probe, "periodSeconds", 10);
    default_zero(probe, "successThreshold", 1);
    default_zero(probe, "failureThreshold", 3);
    http_get(probe);
    within(probe, "grpc", |grpc| {
        if matches!(grpc.get("service"), None | Some(Value::Null)) {
            grpc.insert("service".to_owned(), json!(""));
        }
    });
}

fn http_get(handler: &mut Object) {
    within(handler, "httpGet", |get| {
        default(get, "path", json!("/"));
        default(get, "scheme", json!("HTTP"));
    });
}

fn field_reference(source: &mut Object) {
    within(source, "fieldRef", |field| {
        default(field, "apiVersion", json!("v1"))
    });
    within(source, "resourceFieldRef", |field| {
        default(field, "divisor", json!("0"))
    });
}

fn host_ports(container: &mut Object) {
    each(container, "ports", |port| {
        if let Some(number) = port.get("containerPort").and_then(Value::as_i64) {
            default_zero(port, "hostPort", number);
        }
    });
}

fn volume(volume: &mut Object) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        within(volume, source, |source| {
            default(source, "defaultMode", json!(FILE_MODE))
        });
    }
    within(volume, "downwardAPI", |source| {
        each(source, "items", field_reference)
    });
    within(volume, "projected", |projected| {
        each(projected, "sources", projection)
    });
    within(volume, "hostPath", |source| {
        if matches!(source.get("type"), None | Some(Value::Null)) {
            source.insert("type".to_owned(), json!(""));
        }
    });
    within(volume, "emptyDir", |source| {
        if let Some(limit) = source.get_mut("sizeLimit") {
            canonical_value(limit);
        }
    });
}

fn projection(source: &mut Object) {
    within(source, "serviceAccountToken", |token| {
        default(token, "expirationSeconds", json!(3600))
    });
    within(source, "downwardAPI", |source| {
        each(source, "items", field_reference)
    });
}

/// Quantities are kept in their canonical form.
fn quantities(resources: &mut Object) {
    within(resources, "limits", canonical);
    within(resources, "requests", canonical);
}

fn canonical(amounts: &mut Object) {
    amounts.values_mut().for_each(canonical_value);
}

fn canonical_value(amount: &mut Value) {
    let text = match amount {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    if let Ok(quantity) = text.parse::<crate::quantity::Quantity>() {
        *amount = Value::String(quantity.to_string());
    }
}

/// Requests default to limits.
fn requests(resources: &mut Object) {
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else {
        return;
    };
    with(resources, "requests", |requests| {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    });
}

/// Guaranteed: every container has equal requests and limits of CPU and memory; `BestEffort`: none has any of them.
pub(super) fn qos_class(spec: &Object) -> &'static str {
    let lists = ["initContainers", "containers"];
    let containers: Vec<&Value> = lists
        .iter()
        .filter_map(|list| spec.get(*list)?.as_array())
        .flatten()
        .map(|c| &c["resources"])
        .collect();
    let amount = |resources: &Value, kind: &str, name: &str| {
        resources[kind][name]
            .as_str()?
            .parse::<crate::quantity::Quantity>()
            .ok()
            .filter(|q| q.milli() != 0)
    };
    let names = ["cpu", "memory"];
    let any = containers.iter().any(|r| {
        names.iter().any(|n| {
            amount(r, "requests", n)
                .or_else(|| amount(r, "limits", n))
                .is_some()
        })
    });
    let is_guaranteed = |r: &&&Value| {
        names.iter().all(|n| {
            let limit = amount(r, "limits", n);
            limit.is_some() && amount(r, "requests", n).is_none_or(|request| Some(request) == limit)
        })
    };
    match (
        any,
        containers.iter().filter(is_guaranteed).count() == containers.len(),
    ) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
