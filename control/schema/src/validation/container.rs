//! Containers: names, images, ports, environment, mounts, resources.

use std::collections::BTreeSet;

use serde_json::Value;

use super::causes::{At, Causes};
use super::{names, probe};
use crate::quantity::Quantity;

/// Fields a `fieldRef` of the environment may name, besides single labels and annotations.
const ENV_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Checks a container; `volumes` are the names there are to mount.
pub(super) fn check(
    container: &At<'_>,
    volumes: &BTreeSet<String>,
    host_network: bool,
    causes: &mut Causes,
) {
    let at = |key: &str| container.child(key);
    causes.required_and(&at("name"), names::dns_label);
    image(&at("image"), causes);
    causes.one_of_if_set(&at("imagePullPolicy"), &["Always", "IfNotPresent", "Never"]);
    causes.one_of_if_set(
        &at("terminationMessagePolicy"),
        &["FallbackToLogsOnError", "File"],
    );
    ports(container, host_network, causes);
    environment(container, causes);
    mounts(container, volumes, causes);
    resources(&at("resources"), causes);
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        probe::probe(&at(name), name, causes);
    }
    let lifecycle = at("lifecycle");
    for name in ["postStart", "preStop"] {
        if lifecycle.child(name).is_set() {
            probe::handler(
                &lifecycle.child(name),
                &["exec", "httpGet", "tcpSocket", "sleep"],
                causes,
            );
        }
    }
    security_context(&at("securityContext"), causes);
}

/// What is said of init containers besides.
pub(super) fn init(container: &At<'_>, causes: &mut Causes) {
    let policy = container.child("restartPolicy");
    causes.one_of_if_set(&policy, &["Always", "Never", "OnFailure"]);
    if policy.text() == "Always" {
        return;
    }
    for name in [
        "lifecycle",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
    ] {
        if container.child(name).is_set() {
            causes.forbidden(
                &container.child(name),
                "may not be set for init containers without restartPolicy=Always",
            );
        }
    }
}

fn image(image: &At<'_>, causes: &mut Causes) {
    if image.is_empty() {
        causes.required(image, "");
    } else if image.text() != image.text().trim() {
        causes.invalid(image, "must not have leading or trailing whitespace");
    }
}

// ---- Ports ----

fn ports(container: &At<'_>, host_network: bool, causes: &mut Causes) {
    let mut seen = BTreeSet::new();
    for port in container.items("ports") {
        let at = |key: &str| port.child(key);
        let (name, number, host) = (at("name"), at("containerPort"), at("hostPort"));
        if !name.is_empty() {
            causes.invalid_all(&name, names::port_name(name.text()));
            if !seen.insert(name.text()) {
                causes.duplicate(&name, name.value);
            }
        }
        if number.number() == 0 {
            causes.required(&number, "");
        } else {
            causes.invalid_all(&number, names::port_number(number.number()));
        }
        if host.number() != 0 {
            causes.invalid_all(&host, names::port_number(host.number()));
            if host_network && host.number() != number.number() {
                causes.invalid(
                    &host,
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
        if at("protocol").is_empty() {
            causes.required(&at("protocol"), "");
        } else {
            causes.one_of(&at("protocol"), &["SCTP", "TCP", "UDP"]);
        }
    }
}

// ---- Environment ----

fn environment(container: &At<'_>, causes: &mut Causes) {
    for variable in container.items("env") {
        let name = variable.child("name");
        causes.required_and(&name, names::env_name);
        let source = variable.child("valueFrom");
        if source.is_set() {
            env_source(&variable, &source, causes);
        }
    }
    for source in container.items("envFrom") {
        let named: Vec<At<'_>> = ["configMapRef", "secretRef"]
            .iter()
            .map(|key| source.child(key))
            .filter(At::is_set)
            .collect();
        for reference in &named {
            causes.required_and(&reference.child("name"), names::dns_subdomain);
        }
        match named.len() {
            0 => causes.invalid_value(
                &source,
                &Value::from(""),
                "must specify one of: `configMapRef` or `secretRef`",
            ),
            1 => {}
            _ => causes.invalid_value(
                &source,
                &Value::from(""),
                "may not have more than one field specified at a time",
            ),
        }
    }
}

fn env_source(variable: &At<'_>, source: &At<'_>, causes: &mut Causes) {
    let nothing = Value::from("");
    if !variable.child("value").is_empty() {
        causes.invalid_value(
            source,
            &nothing,
            "may not be specified when `value` is not empty",
        );
    }
    let kinds = [
        "fieldRef",
        "resourceFieldRef",
        "configMapKeyRef",
        "secretKeyRef",
        "fileKeyRef",
    ];
    match kinds.iter().filter(|key| source.child(key).is_set()).count() {
        0 => causes.invalid_value(
            source,
            &nothing,
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        ),
        1 => {}
        _ => causes.invalid_value(source, &nothing, "may not have more than one field specified at a time"),
    }
    let field = source.child("fieldRef");
    if field.is_set() {
        field_path(&field.child("fieldPath"), ENV_FIELDS, causes);
    }
    let resource = source.child("resourceFieldRef");
    if resource.is_set() && resource.child("resource").is_empty() {
        causes.required(&resource.child("resource"), "");
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        let reference = source.child(key);
        if reference.is_set() {
            causes.required_and(&reference.child("name"), names::dns_subdomain);
            causes.required_and(&reference.child("key"), names::config_key);
        }
    }
}

/// Checks the path of a field of the pod: one of a list, or a single label or annotation.
pub(super) fn field_path(path: &At<'_>, known: &[&str], causes: &mut Causes) {
    let text = path.text();
    let subscript = |prefix: &str| {
        text.strip_prefix(prefix)
            .and_then(|rest| rest.strip_prefix("['")?.strip_suffix("']"))
    };
    let key = subscript("metadata.labels").or_else(|| subscript("metadata.annotations"));
    match key {
        _ if text.is_empty() => causes.required(path, ""),
        Some(key) => causes.invalid_all(path, names::qualified_name(&key.to_lowercase())),
        None => causes.one_of(path, known),
    }
}

// ---- Mounts ----

fn mounts(container: &At<'_>, volumes: &BTreeSet<String>, causes: &mut Causes) {
    let mut seen = BTreeSet::new();
    for mount in container.items("volumeMounts") {
        let (name, path) = (mount.child("name"), mount.child("mountPath"));
        if name.is_empty() {
            causes.required(&name, "");
        } else if !volumes.contains(name.text()) {
            causes.not_found(&name);
        }
        if path.is_empty() {
            causes.required(&path, "");
        } else if !seen.insert(path.text()) {
            causes.invalid(&path, "must be unique");
        }
        for key in ["subPath", "subPathExpr"] {
            inner_path(&mount.child(key), causes);
        }
    }
}

/// A relative path that stays inside.
pub(super) fn inner_path(path: &At<'_>, causes: &mut Causes) {
    if path.text().starts_with('/') {
        causes.invalid(path, "must be a relative path");
    }
    if path.text().split('/').any(|part| part == "..") {
        causes.invalid(path, "must not contain '..'");
    }
}

// ---- Resources ----

fn resources(resources: &At<'_>, causes: &mut Causes) {
    let (limits, requests) = (resources.child("limits"), resources.child("requests"));
    for list in [&limits, &requests] {
        for (name, amount) in list.entries() {
            amount_of(name, &amount, causes);
        }
    }
    for (name, request) in requests.entries() {
        let limit = &limits.value[name];
        if let (Some(wanted), Some(most)) = (quantity(request.value), quantity(limit))
            && wanted > most
        {
            let detail = format!("must be less than or equal to {name} limit of {most}");
            causes.invalid_value(&requests, request.value, &detail);
        }
    }
}

fn amount_of(name: &str, amount: &At<'_>, causes: &mut Causes) {
    for problem in names::qualified_name(name) {
        causes.invalid_value(amount, &Value::from(name), &problem);
    }
    let is_standard =
        matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !is_standard {
        causes.invalid_value(
            amount,
            &Value::from(name),
            "must be a standard resource for containers",
        );
    }
    if let Some(quantity) = quantity(amount.value) {
        if quantity.is_negative() {
            causes.invalid(amount, "must be greater than or equal to 0");
        }
        if name.contains('/') && !quantity.is_whole() {
            causes.invalid(amount, "must be an integer");
        }
    }
}

fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

fn security_context(context: &At<'_>, causes: &mut Causes) {
    for key in ["runAsUser", "runAsGroup"] {
        let id = context.child(key);
        causes.invalid_all(&id, names::in_range(id.number(), 0, i64::from(i32::MAX)));
    }
    let escalation = context.child("allowPrivilegeEscalation");
    if escalation.is_set() && !escalation.is_true() && context.child("privileged").is_true() {
        causes.invalid(
            context,
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        );
    }
}
