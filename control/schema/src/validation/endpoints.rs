//! Endpoints and EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::causes::{At, Causes};
use super::names;

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const INVALID_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

pub(super) fn endpoints(object: &At<'_>, causes: &mut Causes) {
    for subset in object.items("subsets") {
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|list| subset.child(list).is_empty()) {
            causes.required(&subset, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in lists.iter().flat_map(|list| subset.items(list)) {
            any_address(&address.child("ip"), is_servers_own(object), causes);
        }
        let ports = subset.items("ports");
        for port in &ports {
            let name = port.child("name");
            if name.is_empty() {
                if ports.len() > 1 {
                    causes.required(&name, "");
                }
            } else {
                causes.invalid_all(&name, names::dns_label(name.text()));
            }
            let number = port.child("port");
            causes.invalid_all(&number, names::port_number(number.number()));
            protocol(port, causes);
        }
    }
}

/// The endpoints of the Service `kubernetes`, which the server writes; it may listen on loopback only.
fn is_servers_own(object: &At<'_>) -> bool {
    let metadata = object.child("metadata");
    metadata.child("name").text() == "kubernetes" && metadata.child("namespace").text() == "default"
}

fn any_address(at: &At<'_>, may_be_loopback: bool, causes: &mut Causes) {
    let is_loopback = at.text().parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !(may_be_loopback && is_loopback) {
        pod_address(at, causes);
    }
}

fn protocol(port: &At<'_>, causes: &mut Causes) {
    let protocol = port.child("protocol");
    if protocol.is_empty() {
        causes.required(&protocol, "");
    } else {
        causes.one_of(&protocol, &["SCTP", "TCP", "UDP"]);
    }
}

/// An address a pod may have.
fn pod_address(at: &At<'_>, causes: &mut Causes) {
    match at.text().parse::<IpAddr>() {
        Err(_) => causes.invalid(at, INVALID_ADDRESS),
        Ok(ip) if ip.is_unspecified() => {
            causes.invalid(at, &format!("may not be unspecified ({ip})"))
        }
        Ok(ip) if ip.is_loopback() => causes.invalid(
            at,
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ),
        Ok(ip) if ip.is_multicast() => causes.invalid(
            at,
            "may not be in the multicast range (224.0.0.0/4, ff00::/8)",
        ),
        Ok(_) => {}
    }
}

pub(super) fn slice(slice: &At<'_>, causes: &mut Causes) {
    let family = slice.child("addressType");
    if family.is_empty() {
        causes.required(&family, "");
    } else {
        causes.one_of(&family, &["FQDN", "IPv4", "IPv6"]);
    }
    let endpoints = slice.child("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        causes.too_many(&endpoints, MAX_ENDPOINTS);
        return;
    }
    for endpoint in slice.items("endpoints") {
        addresses(&endpoint, family.text(), is_servers_own(slice), causes);
        let host = endpoint.child("hostname");
        if !host.is_empty() {
            causes.invalid_all(&host, names::dns_label(host.text()));
        }
        let node = endpoint.child("nodeName");
        if !node.is_empty() {
            causes.invalid_all(&node, names::dns_subdomain(node.text()));
        }
    }
    ports(slice, causes);
}

fn addresses(endpoint: &At<'_>, family: &str, may_be_loopback: bool, causes: &mut Causes) {
    let list = endpoint.child("addresses");
    if list.is_empty() {
        causes.required(&list, "must contain at least 1 address");
    }
    if list.len() > MAX_ADDRESSES {
        causes.too_many(&list, MAX_ADDRESSES);
    }
    for address in endpoint.items("addresses") {
        match (family, address.text().parse::<IpAddr>()) {
            ("IPv4", Ok(IpAddr::V6(_))) => causes.invalid(&address, "must be an IPv4 address"),
            ("IPv6", Ok(IpAddr::V4(_))) => causes.invalid(&address, "must be an IPv6 address"),
            ("FQDN", _) => causes.invalid_all(&address, names::dns_subdomain(address.text())),
            _ => any_address(&address, may_be_loopback, causes),
        }
    }
}

fn ports(slice: &At<'_>, causes: &mut Causes) {
    let list = slice.child("ports");
    if list.len() > MAX_PORTS {
        causes.too_many(&list, MAX_PORTS);
        return;
    }
    let mut seen = BTreeSet::new();
    for port in slice.items("ports") {
        let name = port.child("name");
        if !name.is_empty() {
            causes.invalid_all(&name, names::dns_label(name.text()));
        }
        if !seen.insert(name.text()) {
            causes.duplicate(&name, name.value);
        }
        let number = port.child("port");
        if number.is_set() {
            causes.invalid_all(&number, names::port_number(number.number()));
        }
        protocol(&port, causes);
    }
}

pub(super) fn slice_update(new: &At<'_>, old: &At<'_>, causes: &mut Causes) {
    causes.immutable(&new.child("addressType"), &old.child("addressType"));
}
