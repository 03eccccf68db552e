//! Families and cluster addresses of a Service.

use std::net::IpAddr;

use control_schema::Resource;
use serde_json::{Value, json};

use super::{cluster_addresses, has_address, is_headless};
use crate::allocate::{Allocators, Claim, Family, Item};
use crate::error::ApiError;
use crate::object::{self, child, items, text};

/// Gives the Service an address of each family it wants.
pub(super) fn settle(
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
    let owned = old.map(cluster_addresses).unwrap_or_default();
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
    if policy == "RequireDualStack" && families.len() < 2 {
        if !unselected {
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
