//! Pod specs, in pods and in templates.

use std::collections::BTreeSet;

use serde_json::Value;

use super::causes::{At, Causes};
use super::{container, meta, names, volume};

const MAX_INT32: i64 = i32::MAX as i64;

/// Checks a pod spec.
pub(super) fn spec(spec: &At<'_>, causes: &mut Causes) {
    let volumes = volume::all(spec, causes);
    containers(spec, &volumes, causes);
    causes.one_of_if_set(
        &spec.child("restartPolicy"),
        &["Always", "OnFailure", "Never"],
    );
    dns(spec, causes);
    times(spec, causes);
    places(spec, causes);
    meta::labels(&spec.child("nodeSelector"), causes);
    tolerations(spec, causes);
    security_context(&spec.child("securityContext"), causes);
    for reference in spec.items("imagePullSecrets") {
        let name = reference.child("name");
        if name.is_empty() {
            causes.required(&name, "");
        }
    }
    topology_spread(spec, causes);
}

fn containers(spec: &At<'_>, volumes: &BTreeSet<String>, causes: &mut Causes) {
    let mut seen = BTreeSet::new();
    let host_network = spec.child("hostNetwork").is_true();
    if spec.child("containers").is_empty() {
        causes.required(&spec.child("containers"), "");
    }
    for list in ["containers", "initContainers"] {
        for one in spec.items(list) {
            container::check(&one, volumes, host_network, causes);
            unique_name(&one, &mut seen, causes);
        }
        host_ports(spec, list, causes);
    }
    for one in spec.items("initContainers") {
        container::init(&one, causes);
    }
}

fn unique_name(container: &At<'_>, seen: &mut BTreeSet<String>, causes: &mut Causes) {
    let name = container.child("name");
    if !name.is_empty() && !seen.insert(name.text().to_owned()) {
        causes.duplicate(&name, name.value);
    }
}

/// No two containers of a list take the same port of the host.
fn host_ports(spec: &At<'_>, list: &str, causes: &mut Causes) {
    let mut seen = BTreeSet::new();
    for port in spec.items(list).iter().flat_map(|c| c.items("ports")) {
        let host_port = port.child("hostPort");
        if host_port.number() == 0 {
            continue;
        }
        let taken = format!(
            "{}/{}/{}",
            port.child("protocol").text(),
            port.child("hostIP").text(),
            host_port.number()
        );
        if !seen.insert(taken.clone()) {
            causes.duplicate(&host_port, &Value::from(taken));
        }
    }
}

fn dns(spec: &At<'_>, causes: &mut Causes) {
    let policy = spec.child("dnsPolicy");
    causes.one_of_if_set(
        &policy,
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
    );
    let config = spec.child("dnsConfig");
    let servers = config.child("nameservers");
    if policy.text() == "None" && servers.is_empty() {
        causes.required(
            &servers,
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        );
    }
    if servers.len() > 3 {
        causes.invalid(&servers, "must not have more than 3 nameservers");
    }
    for server in config.items("nameservers") {
        address(&server, causes);
    }
    if config.child("searches").len() > 32 {
        causes.invalid(
            &config.child("searches"),
            "must not have more than 32 search paths",
        );
    }
}

fn address(at: &At<'_>, causes: &mut Causes) {
    if at.text().parse::<std::net::IpAddr>().is_err() {
        causes.invalid(
            at,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
    }
}

fn times(spec: &At<'_>, causes: &mut Causes) {
    let deadline = spec.child("activeDeadlineSeconds");
    if deadline.is_set() {
        causes.invalid_all(&deadline, names::in_range(deadline.number(), 1, MAX_INT32));
    }
    causes.not_negative(&spec.child("terminationGracePeriodSeconds"));
}

fn places(spec: &At<'_>, causes: &mut Causes) {
    for key in ["hostname", "subdomain"] {
        let name = spec.child(key);
        if !name.is_empty() {
            causes.invalid_all(&name, names::dns_label(name.text()));
        }
    }
    for key in [
        "nodeName",
        "serviceAccountName",
        "priorityClassName",
        "runtimeClassName",
    ] {
        let name = spec.child(key);
        if !name.is_empty() {
            causes.invalid_all(&name, names::dns_subdomain(name.text()));
        }
    }
    for alias in spec.items("hostAliases") {
        address(&alias.child("ip"), causes);
        for host in alias.items("hostnames") {
            causes.invalid_all(&host, names::dns_subdomain(host.text()));
        }
    }
}

fn tolerations(spec: &At<'_>, causes: &mut Causes) {
    for toleration in spec.items("tolerations") {
        let at = |key: &str| toleration.child(key);
        if !at("key").is_empty() {
            causes.invalid_all(&at("key"), names::qualified_name(at("key").text()));
        } else if at("operator").text() != "Exists" {
            causes.invalid(
                &at("operator"),
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if at("tolerationSeconds").is_set() && at("effect").text() != "NoExecute" {
            causes.invalid(
                &at("effect"),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match at("operator").text() {
            "Equal" | "" => {
                causes.invalid_all(&at("value"), names::label_value(at("value").text()))
            }
            "Exists" if !at("value").is_empty() => {
                causes.invalid(
                    &toleration,
                    "value must be empty when `operator` is 'Exists'",
                );
            }
            "Exists" => {}
            _ => causes.one_of(&at("operator"), &["Equal", "Exists"]),
        }
        causes.one_of_if_set(
            &at("effect"),
            &["NoExecute", "NoSchedule", "PreferNoSchedule"],
        );
    }
}

fn security_context(context: &At<'_>, causes: &mut Causes) {
    for key in ["runAsUser", "runAsGroup", "fsGroup"] {
        let id = context.child(key);
        causes.invalid_all(&id, names::in_range(id.number(), 0, MAX_INT32));
    }
    for group in context.items("supplementalGroups") {
        causes.invalid_all(&group, names::in_range(group.number(), 0, MAX_INT32));
    }
}

fn topology_spread(spec: &At<'_>, causes: &mut Causes) {
    for constraint in spec.items("topologySpreadConstraints") {
        let skew = constraint.child("maxSkew");
        if skew.number() <= 0 {
            causes.invalid(&skew, "must be greater than zero");
        }
        let key = constraint.child("topologyKey");
        if key.is_empty() {
            causes.required(&key, "can not be empty");
        }
        causes.one_of(
            &constraint.child("whenUnsatisfiable"),
            &["DoNotSchedule", "ScheduleAnyway"],
        );
        meta::selector(&constraint.child("labelSelector"), causes);
    }
}

/// Checks the pod of a template: its labels and its spec.
pub(super) fn template(template: &At<'_>, causes: &mut Causes) {
    meta::labels(&template.child("metadata").child("labels"), causes);
    spec(&template.child("spec"), causes);
}

/// Checks the status of a pod.
pub(super) fn status(pod: &At<'_>, causes: &mut Causes) {
    let status = pod.child("status");
    causes.one_of_if_set(
        &status.child("phase"),
        &["Failed", "Pending", "Running", "Succeeded", "Unknown"],
    );
    for ip in status.items("podIPs") {
        address(&ip.child("ip"), causes);
    }
}
