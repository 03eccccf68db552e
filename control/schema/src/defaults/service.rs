//! Defaults of Services.

use serde_json::{Value, json};

use super::{Object, default, each, with};

pub(super) fn service(object: &mut Object) {
    with(object, "spec", |spec| {
        default(spec, "sessionAffinity", json!("None"));
        session_affinity(spec);
        default(spec, "type", json!("ClusterIP"));
        each(spec, "ports", |port| {
            default(port, "protocol", json!("TCP"));
            let unset = matches!(port.get("targetPort"), None | Some(Value::Null))
                || port["targetPort"] == 0
                || port["targetPort"] == "";
            if unset && let Some(number) = port.get("port").cloned() {
                port.insert("targetPort".to_owned(), number);
            }
        });
        if is_external(spec) {
            default(spec, "externalTrafficPolicy", json!("Cluster"));
        }
        if spec["type"] != "ExternalName" {
            default(spec, "internalTrafficPolicy", json!("Cluster"));
        }
        if spec["type"] == "LoadBalancer" {
            default(spec, "allocateLoadBalancerNodePorts", json!(true));
        }
    });
    with(object, "status", |status| {
        with(status, "loadBalancer", |balancer| {
            each(balancer, "ingress", |ingress| {
                if ingress.contains_key("ip") {
                    default(ingress, "ipMode", json!("VIP"));
                }
            });
        });
    });
}

fn session_affinity(spec: &mut Object) {
    if spec["sessionAffinity"] == "None" {
        spec.remove("sessionAffinityConfig");
    }
    if spec["sessionAffinity"] == "ClientIP" {
        with(spec, "sessionAffinityConfig", |config| {
            with(config, "clientIP", |client| {
                default(client, "timeoutSeconds", json!(10800))
            });
        });
    }
}

/// Whether it is reached from outside the cluster.
fn is_external(spec: &Object) -> bool {
    let has_addresses = spec
        .get("externalIPs")
        .and_then(Value::as_array)
        .is_some_and(|a| !a.is_empty());
    match spec.get("type").and_then(Value::as_str) {
        Some("NodePort" | "LoadBalancer") => true,
        Some("ClusterIP") | None => has_addresses,
        Some(_) => false,
    }
}

fn has_type(spec: &Object, kind: &str) -> bool {
    spec.get("type").is_some_and(|t| t == kind)
}

/// Drops what the old type called for and the new one does not, where the change left it as it was.
pub(super) fn drop_dependent(spec: &mut Object, old: &Value) {
    let Some(old) = old.as_object() else { return };
    let keeps_node_ports = |s: &Object| has_type(s, "NodePort") || has_type(s, "LoadBalancer");
    if keeps_node_ports(old) && !keeps_node_ports(spec) && node_ports(spec) == node_ports(old) {
        each(spec, "ports", |port| drop(port.remove("nodePort")));
    }
    if is_external(old) && !is_external(spec) {
        drop_same(spec, old, &["externalTrafficPolicy", "healthCheckNodePort"]);
    }
    if has_type(old, "LoadBalancer") && !has_type(spec, "LoadBalancer") {
        drop_same(
            spec,
            old,
            &["allocateLoadBalancerNodePorts", "loadBalancerClass"],
        );
    }
    if !has_type(old, "ExternalName") && has_type(spec, "ExternalName") {
        drop_same(
            spec,
            old,
            &[
                "clusterIP",
                "clusterIPs",
                "ipFamilies",
                "ipFamilyPolicy",
                "internalTrafficPolicy",
            ],
        );
    }
    if has_type(old, "ExternalName") && !has_type(spec, "ExternalName") {
        drop_same(spec, old, &["externalName"]);
    }
}

fn drop_same(spec: &mut Object, old: &Object, keys: &[&str]) {
    for key in keys.iter().filter(|key| old.contains_key(**key)) {
        if spec.get(*key) == old.get(*key) {
            spec.remove(*key);
        }
    }
}

fn node_ports(spec: &Object) -> Vec<&Value> {
    let ports = spec
        .get("ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    ports.map(|port| &port["nodePort"]).collect()
}
