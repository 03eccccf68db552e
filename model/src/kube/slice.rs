//! The fields of an EndpointSlice.

use std::fmt::Display;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::jiff::Timestamp;

use super::report::{Report, tight};
use super::{SERVICE_NAME_LABEL, TRIGGER_ANNOTATION};
use crate::backend::{Endpoint, Hints, Slice, SlicePort};
use crate::service::{Family, ObjectName};

impl Report<'_> {
    pub(super) fn read_slice(&mut self, object: &discovery::EndpointSlice) -> Option<Slice> {
        let name = self.name(&object.metadata)?;
        let family = self.family(&object.address_type)?;
        let labels = object.metadata.labels.as_ref();
        let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)) else {
            let field = format_args!("metadata.labels[{SERVICE_NAME_LABEL}]");
            self.add(field, "is missing, so the slice belongs to no Service");
            return None;
        };
        Some(Slice {
            service: ObjectName::new(name.namespace.clone(), service.as_str()),
            name,
            family,
            ports: self.slice_ports(object),
            endpoints: self.endpoints(family, object),
            triggered: triggered(object),
        })
    }

    fn family(&mut self, address_type: &str) -> Option<Family> {
        match address_type {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            "FQDN" => None,
            other => {
                self.add("addressType", format!("{other:?} is not known"));
                None
            }
        }
    }

    fn slice_ports(&mut self, object: &discovery::EndpointSlice) -> Vec<SlicePort> {
        let ports = object.ports.as_deref().unwrap_or_default();
        let ports = ports.iter().enumerate();
        tight(ports.filter_map(|(i, port)| self.slice_port(format_args!("ports[{i}]"), port)))
    }

    /// A port without a name or number stands for "any", which no Service port can mean.
    fn slice_port(
        &mut self,
        field: impl Display + Copy,
        port: &discovery::EndpointPort,
    ) -> Option<SlicePort> {
        let name = port.name.as_deref()?;
        let number = port.port.filter(|number| *number != 0)?;
        Some(SlicePort {
            name: self.names.share(name),
            protocol: self.protocol(field, port.protocol.as_deref())?,
            port: self.port(format_args!("{field}.port"), number)?,
        })
    }

    fn endpoints(&mut self, family: Family, object: &discovery::EndpointSlice) -> Vec<Endpoint> {
        let endpoints = object.endpoints.as_deref().unwrap_or_default();
        let endpoints = endpoints.iter().enumerate();
        tight(endpoints.filter_map(|(i, endpoint)| self.endpoint(family, i, endpoint)))
    }

    fn endpoint(
        &mut self,
        family: Family,
        index: usize,
        endpoint: &discovery::Endpoint,
    ) -> Option<Endpoint> {
        let field = format_args!("endpoints[{index}].addresses[0]");
        let Some(text) = endpoint.addresses.first() else {
            self.add(field, "is missing");
            return None;
        };
        let ip = self.address(field, text)?;
        if !family.has(ip) {
            self.add(field, format!("{text} is not of the slice's address type"));
            return None;
        }
        let conditions = endpoint.conditions.as_ref();
        Some(Endpoint {
            ip,
            ready: conditions.and_then(|c| c.ready).unwrap_or(true),
            serving: conditions.and_then(|c| c.serving).unwrap_or(true),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
            node: self.shared(endpoint.node_name.as_deref()),
            hints: endpoint.hints.as_ref().and_then(hints),
        })
    }
}

/// Only measured by: one that cannot be read is nobody's problem.
fn triggered(object: &discovery::EndpointSlice) -> Option<SystemTime> {
    let annotations = object.metadata.annotations.as_ref()?;
    let text = annotations.get(TRIGGER_ANNOTATION)?;
    let since_1970 = text.parse::<Timestamp>().ok()?.as_nanosecond();
    let since_1970 = Duration::from_nanos(u64::try_from(since_1970).ok()?);
    UNIX_EPOCH.checked_add(since_1970)
}

fn hints(hints: &discovery::EndpointHints) -> Option<Box<Hints>> {
    let nodes = hints.for_nodes.as_deref().unwrap_or_default().iter();
    let zones = hints.for_zones.as_deref().unwrap_or_default().iter();
    let hints = Hints {
        nodes: nodes.map(|node| node.name.as_str().into()).collect(),
        zones: zones.map(|zone| zone.name.as_str().into()).collect(),
    };
    let any = !hints.nodes.is_empty() || !hints.zones.is_empty();
    any.then(|| Box::new(hints))
}
