//! Services: cluster addresses and node ports, taken when the Service is written and given back when it goes or no longer
//! needs them.
//!
//! A write first [inherits](inherit) what the client left out, then settles [`addresses`] and [`ports`]; what the old object
//! held and the new one does not is given up once the write has succeeded.

mod addresses;
mod inherit;
mod ports;

use std::net::IpAddr;

use control_schema::Resource;
use serde_json::Value;

use crate::allocate::{Allocators, Claim, Item};
use crate::error::ApiError;
use crate::object::{self, child, items, text};

/// The name of the ServiceCIDR that tells what this server takes cluster addresses from.
pub(crate) const SERVICE_CIDR: &str = "kubernetes";

/// More ranges would never be used.
pub(super) fn admit_cidr(res: &Resource, object: &Value) -> Result<(), ApiError> {
    let name = text(object, "/metadata/name");
    if name == SERVICE_CIDR {
        return Ok(());
    }
    Err(ApiError::forbidden(
        res,
        name,
        "this server takes cluster addresses from the ranges of its flag --service-cidr alone",
    ))
}

/// Settles families, addresses and ports of a Service to be written.
pub(super) fn allocate<'a>(
    pools: &'a Allocators,
    res: &Resource,
    new: &mut Value,
    old: Option<&Value>,
) -> Result<Claim<'a>, ApiError> {
    if let Some(old) = old {
        inherit::inherit(new, old);
    }
    let mut claim = Claim::on(pools);
    addresses::settle(pools, res, new, old, &mut claim)?;
    ports::settle(pools, res, new, old, &mut claim)?;
    ports::settle_health_check(pools, res, new, old, &mut claim)?;
    if let Some(old) = old {
        let kept = held(new);
        held(old)
            .into_iter()
            .filter(|item| !kept.contains(item))
            .for_each(|item| claim.give_up(item));
    }
    Ok(claim)
}

/// Gives back what a removed Service held.
pub(super) fn release(pools: &Allocators, service: &Value) {
    held(service)
        .into_iter()
        .for_each(|item| pools.release(item));
}

/// Takes what a stored Service holds.
pub(super) fn recover(pools: &Allocators, service: &Value) {
    for item in held(service) {
        let taken = match item {
            Item::Address(address) => pools
                .addresses()
                .take_this(address)
                .map_err(|error| error.to_string()),
            Item::Port(port) => pools
                .ports()
                .take_this(port)
                .map_err(|error| error.to_string()),
        };
        if let Err(error) = taken {
            tracing::warn!(
                service = object::name(service),
                ?item,
                error,
                "a stored service holds what it may not"
            );
        }
    }
}

/// The addresses and ports in a Service; a node port shared by two protocols once.
fn held(service: &Value) -> Vec<Item> {
    let mut held: Vec<Item> = cluster_addresses(service)
        .into_iter()
        .map(Item::Address)
        .collect();
    let ports = items(service, "/spec/ports")
        .iter()
        .filter_map(|port| port.get("nodePort"));
    for port in ports.chain(service.pointer("/spec/healthCheckNodePort")) {
        if let Some(port) = port
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0)
        {
            let item = Item::Port(port);
            if !held.contains(&item) {
                held.push(item);
            }
        }
    }
    held
}

fn cluster_addresses(service: &Value) -> Vec<IpAddr> {
    items(service, "/spec/clusterIPs")
        .iter()
        .filter_map(|ip| ip.as_str()?.parse().ok())
        .collect()
}

fn kind(service: &Value) -> &str {
    match text(service, "/spec/type") {
        "" => "ClusterIP",
        kind => kind,
    }
}

fn has_address(service: &Value) -> bool {
    kind(service) != "ExternalName"
}

fn has_ports(service: &Value) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => service
            .pointer("/spec/allocateLoadBalancerNodePorts")
            .and_then(Value::as_bool)
            .unwrap_or(true),
        _ => false,
    }
}

fn is_headless(service: &Value) -> bool {
    text(service, "/spec/clusterIP") == "None"
        || items(service, "/spec/clusterIPs").first() == Some(&"None".into())
}

fn node_ports(service: &Value) -> Vec<Value> {
    items(service, "/spec/ports")
        .iter()
        .filter_map(|port| port.get("nodePort").cloned())
        .collect()
}

fn ports_mut(service: &mut Value) -> impl Iterator<Item = &mut Value> {
    child(service, "spec")
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

fn wants_health_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && text(service, "/spec/externalTrafficPolicy") == "Local"
}
