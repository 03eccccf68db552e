//! Node ports of a Service, the one for health checks included.

use control_schema::Resource;
use serde_json::Value;

use super::{has_ports, held, ports_mut, wants_health_port};
use crate::allocate::{Allocators, Claim, Item};
use crate::error::ApiError;
use crate::object::{self, child};

/// Gives each port a node port, if the type has them.
pub(super) fn settle(
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

/// Gives a balanced Service that keeps to local endpoints a port on which nodes say whether they have any.
pub(super) fn settle_health_check(
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
