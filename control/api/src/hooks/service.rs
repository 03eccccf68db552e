//! Services: cluster addresses and node ports, taken when the Service is written and given back when it goes or no longer
//! needs them.

use std::net::IpAddr;

use control_schema::Resource;
use serde_json::{Value, json};

use crate::allocate::{Allocators, Claim, Family, Item};
use crate::error::ApiError;
use crate::object::{self, child, items, text};

/// Settles families, addresses and ports of a Service to be written.
pub(super) fn allocate<'a>(
    pools: &'a Allocators,
    res: &Resource,
    new: &mut Value,
    old: Option<&Value>,
) -> Result<Claim<'a>, ApiError> {
    if let Some(old) = old {
        inherit(new, old);
    }
    let mut claim = Claim::on(pools);
    settle_addresses(pools, res, new, old, &mut claim)?;
    settle_ports(pools, res, new, old, &mut claim)?;
    settle_health_port(pools, res, new, old, &mut claim)?;
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
    let mut held: Vec<Item> = addresses(service).into_iter().map(Item::Address).collect();
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

fn addresses(service: &Value) -> Vec<IpAddr> {
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

/// Keeps what was allocated when an update leaves it out, drops what the new type does not have.
fn inherit(new: &mut Value, old: &Value) {
    if has_address(new) && has_address(old) {
        inherit_addresses(new, old);
    }
    if !has_address(new) && has_address(old) {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if new.pointer(&format!("/spec/{key}")) == old.pointer(&format!("/spec/{key}")) {
                child(new, "spec").remove(key);
            }
        }
    }
    if has_ports(new) && has_ports(old) {
        inherit_ports(new, old);
    }
    if !matches!(kind(new), "NodePort" | "LoadBalancer")
        && has_ports(old)
        && node_ports(new) == node_ports(old)
    {
        ports_mut(new).for_each(|port| drop(object::members(port).remove("nodePort")));
    }
    let health = |service: &Value| service.pointer("/spec/healthCheckNodePort").cloned();
    if wants_health_port(new) && health(new).is_none_or(|port| port == 0) {
        object::copy_member(child(new, "spec"), old.get("spec"), "healthCheckNodePort");
    }
    drop_unfitting(new, old);
}

/// Drops fields that only other types have, if the client has merely carried them along.
fn drop_unfitting(new: &mut Value, old: &Value) {
    let balanced = kind(new) == "LoadBalancer";
    let external = balanced || kind(new) == "NodePort";
    for (fits, key) in [
        (external, "externalTrafficPolicy"),
        (balanced, "allocateLoadBalancerNodePorts"),
        (balanced, "loadBalancerClass"),
        (wants_health_port(new), "healthCheckNodePort"),
    ] {
        let pointer = format!("/spec/{key}");
        if !fits && new.pointer(&pointer) == old.pointer(&pointer) {
            child(new, "spec").remove(key);
        }
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

fn settle_addresses(
    pools: &Allocators,
    res: &Resource,
    new: &mut Value,
    old: Option<&Value>,
    claim: &mut Claim<'_>,
) -> Result<(), ApiError> {
    if !has_address(new) {
        return Ok(());
    }
    let families = settle_families(pools, res, new)?;
    if is_headless(new) {
        let spec = child(new, "spec");
        spec.insert("clusterIP".into(), "None".into());
        spec.insert("clusterIPs".into(), json!(["None"]));
        return Ok(());
    }
    let owned = old.map(addresses).unwrap_or_default();
    let asked = asked_addresses(new);
    let mut settled: Vec<String> = Vec::new();
    for (position, family) in families.iter().enumerate() {
        let address = match asked
            .get(position)
            .map(String::as_str)
            .filter(|ip| !ip.is_empty())
        {
            Some(ip) => take_asked(pools, res, new, ip, *family, &owned, claim)?,
            None => {
                let address = pools.addresses().take(*family).map_err(|error| {
                    ApiError::internal(format!("failed to allocate a serviceIP: {error}"))
                })?;
                claim.took(Item::Address(address));
                address
            }
        };
        settled.push(address.to_string());
    }
    let spec = child(new, "spec");
    spec.insert(
        "clusterIP".into(),
        settled.first().cloned().unwrap_or_default().into(),
    );
    spec.insert("clusterIPs".into(), settled.into());
    Ok(())
}

fn asked_addresses(service: &Value) -> Vec<String> {
    let listed = items(service, "/spec/clusterIPs");
    if listed.is_empty() {
        return vec![text(service, "/spec/clusterIP").to_owned()];
    }
    listed
        .iter()
        .map(|ip| ip.as_str().unwrap_or_default().to_owned())
        .collect()
}

fn take_asked(
    pools: &Allocators,
    res: &Resource,
    service: &Value,
    ip: &str,
    family: Family,
    owned: &[IpAddr],
    claim: &mut Claim<'_>,
) -> Result<IpAddr, ApiError> {
    let refuse = |field: &str, what: String| {
        let asked = Value::from(asked_addresses(service));
        let message = format!("Invalid value: {asked}: {what}");
        ApiError::invalid_field(
            res,
            object::name(service),
            "FieldValueInvalid",
            field,
            message,
        )
    };
    let address: IpAddr = ip.parse().map_err(|_| {
        refuse(
            "spec.clusterIPs[0]",
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into(),
        )
    })?;
    if owned.contains(&address) {
        return Ok(address);
    }
    if Family::of(address) != family {
        return Err(refuse(
            "spec.clusterIPs",
            format!(
                "expected an {} value as indicated by `ipFamilies`",
                family.name()
            ),
        ));
    }
    pools.addresses().take_this(address).map_err(|error| {
        refuse(
            "spec.clusterIPs",
            format!("failed to allocate IP {ip}: {error}"),
        )
    })?;
    claim.took(Item::Address(address));
    Ok(address)
}

/// The families of a Service, in order; writes them and the policy into it.
fn settle_families(
    pools: &Allocators,
    res: &Resource,
    service: &mut Value,
) -> Result<Vec<Family>, ApiError> {
    let available = pools.addresses().families();
    let stated = |pointer: &str, parse: fn(&str) -> Option<Family>| -> Vec<Family> {
        items(service, pointer)
            .iter()
            .filter_map(|item| parse(item.as_str()?))
            .collect()
    };
    let by_address = |ip: &str| ip.parse().ok().map(Family::of);
    let mut families = stated("/spec/ipFamilies", Family::parse);
    if families.is_empty() {
        families = stated("/spec/clusterIPs", by_address);
    }
    if families.is_empty() {
        families.extend(by_address(text(service, "/spec/clusterIP")));
    }
    let unselected = service.pointer("/spec/selector").is_none() && is_headless(service);
    let policy = match text(service, "/spec/ipFamilyPolicy") {
        "" if families.len() > 1 => "RequireDualStack",
        "" if unselected && families.is_empty() => "RequireDualStack",
        "" => "SingleStack",
        policy => policy,
    }
    .to_owned();
    refuse_unavailable(res, service, &families, &available)?;
    if families.is_empty() {
        families.extend(available.first());
    }
    if policy != "SingleStack" && families.len() == 1 {
        families.extend(
            available
                .iter()
                .filter(|family| !families.contains(family))
                .copied()
                .collect::<Vec<_>>(),
        );
    }
    let headless_without_selector = unselected;
    if policy == "RequireDualStack" && families.len() < 2 {
        if !headless_without_selector {
            return Err(ApiError::invalid_field(
                res,
                object::name(service),
                "FieldValueInvalid",
                "spec.ipFamilyPolicy",
                format!(
                    "Invalid value: {policy:?}: this cluster is not configured for dual-stack services"
                ),
            ));
        }
        families = vec![Family::V4, Family::V6];
    }
    let names: Vec<&str> = families.iter().map(|family| family.name()).collect();
    let spec = child(service, "spec");
    spec.insert("ipFamilies".into(), names.into());
    spec.insert("ipFamilyPolicy".into(), policy.into());
    Ok(families)
}

fn refuse_unavailable(
    res: &Resource,
    service: &Value,
    families: &[Family],
    available: &[Family],
) -> Result<(), ApiError> {
    let headless_without_selector =
        is_headless(service) && service.pointer("/spec/selector").is_none();
    let missing = families
        .iter()
        .enumerate()
        .find(|(_, family)| !available.contains(family));
    match missing {
        Some((position, family)) if !headless_without_selector => Err(ApiError::invalid_field(
            res,
            object::name(service),
            "FieldValueInvalid",
            &format!("spec.ipFamilies[{position}]"),
            format!(
                "Invalid value: {:?}: not configured on this cluster",
                family.name()
            ),
        )),
        _ => Ok(()),
    }
}

fn settle_ports(
    pools: &Allocators,
    res: &Resource,
    new: &mut Value,
    old: Option<&Value>,
    claim: &mut Claim<'_>,
) -> Result<(), ApiError> {
    if !has_ports(new) {
        return Ok(());
    }
    let owned = old.map(held).unwrap_or_default();
    let name = object::name(new).to_owned();
    // Ports of this Service already settled: its two protocols may share one number.
    let mut own: Vec<(u64, u16)> = Vec::new();
    for (position, port) in ports_mut(new).enumerate() {
        let number = port.get("port").and_then(Value::as_u64).unwrap_or(0);
        let asked = port
            .get("nodePort")
            .and_then(Value::as_u64)
            .and_then(|port| u16::try_from(port).ok());
        let settled = match asked.filter(|port| *port != 0) {
            Some(asked) => {
                if !owned.contains(&Item::Port(asked))
                    && !own.iter().any(|(_, taken)| *taken == asked)
                {
                    let field = format!("spec.ports[{position}].nodePort");
                    take_port(pools, res, &name, &field, asked, claim)?;
                }
                asked
            }
            None => match own.iter().find(|(other, _)| *other == number) {
                Some((_, shared)) => *shared,
                None => any_port(pools, claim)?,
            },
        };
        own.push((number, settled));
        object::members(port).insert("nodePort".into(), settled.into());
    }
    Ok(())
}

fn any_port(pools: &Allocators, claim: &mut Claim<'_>) -> Result<u16, ApiError> {
    let port = pools.ports().take();
    let port = port
        .map_err(|error| ApiError::internal(format!("failed to allocate a nodePort: {error}")))?;
    claim.took(Item::Port(port));
    Ok(port)
}

fn take_port(
    pools: &Allocators,
    res: &Resource,
    name: &str,
    field: &str,
    port: u16,
    claim: &mut Claim<'_>,
) -> Result<(), ApiError> {
    pools.ports().take_this(port).map_err(|error| {
        let message = format!("Invalid value: {port}: {error}");
        ApiError::invalid_field(res, name, "FieldValueInvalid", field, message)
    })?;
    claim.took(Item::Port(port));
    Ok(())
}

fn wants_health_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && text(service, "/spec/externalTrafficPolicy") == "Local"
}

fn settle_health_port(
    pools: &Allocators,
    res: &Resource,
    new: &mut Value,
    old: Option<&Value>,
    claim: &mut Claim<'_>,
) -> Result<(), ApiError> {
    if !wants_health_port(new) {
        return Ok(());
    }
    let asked = new
        .pointer("/spec/healthCheckNodePort")
        .and_then(Value::as_u64);
    let settled = match asked
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
    {
        Some(asked)
            if old
                .map(held)
                .unwrap_or_default()
                .contains(&Item::Port(asked)) =>
        {
            asked
        }
        Some(asked) => {
            take_port(
                pools,
                res,
                object::name(new),
                "spec.healthCheckNodePort",
                asked,
                claim,
            )?;
            asked
        }
        None => any_port(pools, claim)?,
    };
    child(new, "spec").insert("healthCheckNodePort".into(), settled.into());
    Ok(())
}
