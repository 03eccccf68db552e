//! What an update keeps from the old Service: clients that leave out what was allocated do not mean to give it up.

use serde_json::{Value, json};

use super::{has_address, has_ports, node_ports, ports_mut, wants_health_port};
use crate::object::{self, child, items, text};

/// Keeps what was allocated when an update leaves it out, drops what the new type does not have.
pub(super) fn inherit(new: &mut Value, old: &Value) {
    if has_address(new) && has_address(old) {
        inherit_addresses(new, old);
    }
    if has_ports(new) && has_ports(old) {
        inherit_ports(new, old);
    }
    let health = |service: &Value| service.pointer("/spec/healthCheckNodePort").cloned();
    if wants_health_port(new) && health(new).is_none_or(|port| port == 0) {
        object::copy_member(child(new, "spec"), old.get("spec"), "healthCheckNodePort");
    }
}

fn inherit_addresses(new: &mut Value, old: &Value) {
    let kept = old.get("spec");
    if text(new, "/spec/clusterIP").is_empty() && items(new, "/spec/clusterIPs").is_empty() {
        for key in ["clusterIP", "clusterIPs"] {
            object::copy_member(child(new, "spec"), kept, key);
        }
    }
    for key in ["ipFamilies", "ipFamilyPolicy"] {
        if new.pointer(&format!("/spec/{key}")).is_none() {
            object::copy_member(child(new, "spec"), kept, key);
        }
    }
    // Clients that know one address only changed that one.
    let (first, stated) = (
        text(new, "/spec/clusterIP").to_owned(),
        items(new, "/spec/clusterIPs"),
    );
    let stale = stated.first().is_some_and(|ip| *ip != first.as_str())
        && stated == items(old, "/spec/clusterIPs");
    if stale {
        child(new, "spec").insert("clusterIPs".into(), json!([first]));
    }
    // From two families to one: the second goes.
    if text(new, "/spec/ipFamilyPolicy") == "SingleStack"
        && text(old, "/spec/ipFamilyPolicy") != "SingleStack"
    {
        for key in ["clusterIPs", "ipFamilies"] {
            if let Some(list) = child(new, "spec")
                .get_mut(key)
                .and_then(Value::as_array_mut)
            {
                list.truncate(1);
            }
        }
    }
}

fn inherit_ports(new: &mut Value, old: &Value) {
    let identity = |port: &Value| (port.get("port").cloned(), port.get("protocol").cloned());
    let old_ports = items(old, "/spec/ports");
    let mut used: Vec<Value> = node_ports(new);
    for port in ports_mut(new).filter(|port| port.get("nodePort").is_none_or(|port| *port == 0)) {
        let same = old_ports
            .iter()
            .find(|old| identity(old) == identity(port))
            .and_then(|old| old.get("nodePort"));
        if let Some(node_port) = same.filter(|node_port| !used.contains(node_port)) {
            used.push(node_port.clone());
            object::members(port).insert("nodePort".into(), node_port.clone());
        }
    }
}
