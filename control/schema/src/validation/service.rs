//! Services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::causes::{At, Causes};
use super::{meta, names, probe};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
/// One of each family.
const MAX_CIDRS: usize = 2;
/// A day.
const MAX_AFFINITY_SECONDS: i64 = 86400;

pub(super) fn spec(spec: &At<'_>, causes: &mut Causes) {
    let kind = spec.child("type");
    causes.one_of(&kind, TYPES);
    ports(spec, causes);
    affinity(spec, causes);
    meta::labels(&spec.child("selector"), causes);
    addresses(spec, causes);
    policies(spec, causes);
    match kind.text() {
        "ExternalName" => external_name(spec, causes),
        "LoadBalancer" if is_headless(spec) => {
            causes.invalid(
                &spec.child("clusterIPs"),
                "may not be set to 'None' for LoadBalancer services",
            );
        }
        "NodePort" if is_headless(spec) => {
            causes.invalid(
                &spec.child("clusterIPs"),
                "may not be set to 'None' for NodePort services",
            );
        }
        _ => {}
    }
}

fn is_headless(spec: &At<'_>) -> bool {
    spec.child("clusterIP").text() == "None"
}

// ---- Ports ----

fn ports(spec: &At<'_>, causes: &mut Causes) {
    let ports = spec.items("ports");
    let kind = spec.child("type");
    if ports.is_empty() && !is_headless(spec) && kind.text() != "ExternalName" {
        causes.required(&spec.child("ports"), "");
    }
    let mut seen = BTreeSet::new();
    for port in &ports {
        name(port, ports.len() > 1, &mut seen, causes);
        numbers(port, causes);
        let node_port = port.child("nodePort");
        if kind.text() == "ClusterIP" && node_port.number() != 0 {
            causes.forbidden(&node_port, "may not be used when `type` is 'ClusterIP'");
        }
    }
    unique(&ports, causes);
}

fn name(port: &At<'_>, needed: bool, seen: &mut BTreeSet<String>, causes: &mut Causes) {
    let name = port.child("name");
    if name.is_empty() {
        if needed {
            causes.required(&name, "");
        }
        return;
    }
    causes.invalid_all(&name, names::dns_label(name.text()));
    if !seen.insert(name.text().to_owned()) {
        causes.duplicate(&name, name.value);
    }
}

fn numbers(port: &At<'_>, causes: &mut Causes) {
    let number = port.child("port");
    for problem in names::port_number(number.number()) {
        causes.invalid_value(&number, &json!(number.number()), &problem);
    }
    if port.child("protocol").is_empty() {
        causes.required(&port.child("protocol"), "");
    } else {
        causes.one_of(&port.child("protocol"), &["SCTP", "TCP", "UDP"]);
    }
    probe::port_or_name(&port.child("targetPort"), causes);
}

/// No two ports share protocol and number, or protocol and node port.
fn unique(ports: &[At<'_>], causes: &mut Causes) {
    let (mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new());
    for port in ports {
        let protocol = port.child("protocol");
        let (number, node_port) = (port.child("port").number(), port.child("nodePort").number());
        if node_port != 0 && !node_ports.insert((protocol.text(), node_port)) {
            causes.duplicate(
                &port.child("nodePort"),
                &shown(protocol.text(), 0, node_port),
            );
        }
        if !numbers.insert((protocol.text(), number)) {
            causes.duplicate(port, &shown(protocol.text(), number, 0));
        }
    }
}

/// A port as upstream shows a duplicate: its own type, with Go's names.
fn shown(protocol: &str, number: i64, node_port: i64) -> Value {
    let (name, app) = ("", Value::Null);
    json!({"Name": name, "Protocol": protocol, "AppProtocol": app, "Port": number, "TargetPort": 0, "NodePort": node_port})
}

// ---- The rest ----

fn affinity(spec: &At<'_>, causes: &mut Causes) {
    let affinity = spec.child("sessionAffinity");
    if affinity.is_empty() {
        causes.required(&affinity, "");
    } else {
        causes.one_of(&affinity, &["ClientIP", "None"]);
    }
    let timeout = spec
        .child("sessionAffinityConfig")
        .child("clientIP")
        .child("timeoutSeconds");
    if affinity.text() == "ClientIP" && !(1..=MAX_AFFINITY_SECONDS).contains(&timeout.number()) {
        causes.invalid(
            &timeout,
            &format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"),
        );
    }
}

fn addresses(spec: &At<'_>, causes: &mut Causes) {
    for address in spec.items("externalIPs") {
        match address.text().parse::<IpAddr>() {
            Err(_) => causes.invalid(
                &address,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            Ok(ip) if ip.is_unspecified() => {
                causes.invalid(&address, &format!("may not be unspecified ({ip})"))
            }
            Ok(ip) if ip.is_loopback() => {
                causes.invalid(
                    &address,
                    "may not be in the loopback range (127.0.0.0/8, ::1/128)",
                );
            }
            Ok(_) => {}
        }
    }
    for address in spec.items("clusterIPs") {
        if address.text() != "None" && address.text().parse::<IpAddr>().is_err() {
            causes.invalid(
                &address,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            );
        }
    }
    let ranges = spec.child("loadBalancerSourceRanges");
    if !ranges.is_empty() && spec.child("type").text() != "LoadBalancer" {
        causes.forbidden(&ranges, "may only be used when `type` is 'LoadBalancer'");
    }
    for range in spec.items("loadBalancerSourceRanges") {
        if range.text().trim().parse::<ipnetwork::IpNetwork>().is_err()
            || !range.text().contains('/')
        {
            causes.invalid(
                &range,
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            );
        }
    }
}

fn policies(spec: &At<'_>, causes: &mut Causes) {
    causes.one_of_if_set(&spec.child("externalTrafficPolicy"), &["Cluster", "Local"]);
    causes.one_of_if_set(&spec.child("internalTrafficPolicy"), &["Cluster", "Local"]);
    causes.one_of_if_set(
        &spec.child("ipFamilyPolicy"),
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
    );
    for family in spec.items("ipFamilies") {
        causes.one_of(&family, &["IPv4", "IPv6"]);
    }
    let distributions = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    causes.one_of_if_set(&spec.child("trafficDistribution"), &distributions);
}

/// Checks what a new Service may not ask for; one that changes its type may have it left over.
pub(super) fn create(spec: &At<'_>, causes: &mut Causes) {
    let policy = spec.child("externalTrafficPolicy");
    if !policy.is_empty() && !is_external(spec) {
        causes.invalid(
            &policy,
            "may only be set for externally-accessible services",
        );
    }
}

fn is_external(spec: &At<'_>) -> bool {
    matches!(spec.child("type").text(), "NodePort" | "LoadBalancer")
        || !spec.child("externalIPs").is_empty()
}

fn external_name(spec: &At<'_>, causes: &mut Causes) {
    for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if !spec.child(key).is_empty() {
            causes.forbidden(&spec.child(key), "may not be set for ExternalName services");
        }
    }
    let name = spec.child("externalName");
    let problems = names::dns_subdomain(&name.text().trim_end_matches('.').to_lowercase());
    if name.is_empty() {
        causes.required(&name, "");
    } else {
        causes.invalid_all(&name, problems);
    }
}

/// Addresses, once given, stay; only a change from or to `ExternalName` gives or takes them.
pub(super) fn update(new: &At<'_>, old: &At<'_>, causes: &mut Causes) {
    let (spec, before) = (new.child("spec"), old.child("spec"));
    let is_external_name = |s: &At<'_>| s.child("type").text() == "ExternalName";
    if is_external_name(&spec) || is_external_name(&before) {
        return;
    }
    let (ips, old_ips) = (spec.child("clusterIPs"), before.child("clusterIPs"));
    for (i, (ip, old_ip)) in spec
        .items("clusterIPs")
        .iter()
        .zip(before.items("clusterIPs"))
        .enumerate()
    {
        if ip.value != old_ip.value {
            let at = At {
                path: format!("{}[{i}]", ips.path),
                value: ips.value,
            };
            causes.invalid(&at, "may not change once set");
        }
    }
    if ips.is_empty() && !old_ips.is_empty() {
        let first = At {
            path: format!("{}[0]", ips.path),
            value: ips.value,
        };
        causes.invalid_value(&first, &json!([]), "primary clusterIP can not be unset");
    }
}

/// Checks what a load balancer reports, for Services and Ingresses.
pub(super) fn load_balancer(status: &At<'_>, causes: &mut Causes) {
    for point in status.items("ingress") {
        let (ip, host) = (point.child("ip"), point.child("hostname"));
        if !ip.is_empty() && ip.text().parse::<IpAddr>().is_err() {
            causes.invalid(
                &ip,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            );
        }
        if !host.is_empty() {
            causes.invalid_all(&host, names::dns_subdomain(host.text()));
            if host.text().parse::<IpAddr>().is_ok() {
                causes.invalid(&host, "must be a DNS name, not an IP address");
            }
        }
    }
}

/// A ServiceCIDR's ranges: one, or one of each family (KEP-1880).
pub(super) fn cidrs(spec: &At<'_>, causes: &mut Causes) {
    let field = spec.child("cidrs");
    match field.len() {
        0 => causes.required(&field, "at least one CIDR required"),
        1..=MAX_CIDRS => {}
        _ => causes.too_many(&field, MAX_CIDRS),
    }
    let mut families = BTreeSet::new();
    for cidr in spec.items("cidrs") {
        match cidr.text().parse::<ipnetwork::IpNetwork>() {
            Ok(range) if cidr.text() == format!("{}/{}", range.network(), range.prefix()) => {
                if !families.insert(range.is_ipv4()) {
                    causes.invalid(&cidr, "must be of another IP family than the first");
                }
            }
            _ => causes.invalid(
                &cidr,
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
        }
    }
}

pub(super) fn cidr_update(new: &At<'_>, old: &At<'_>, causes: &mut Causes) {
    causes.immutable(
        &new.child("spec").child("cidrs"),
        &old.child("spec").child("cidrs"),
    );
}
