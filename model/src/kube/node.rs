//! The fields of a Node.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use super::report::{Report, boxed};
use super::{AUTOSCALER_TAINT, ZONE_LABEL};
use crate::node::Node;

impl Report<'_> {
    pub(super) fn read_node(&mut self, object: &core::Node) -> Option<Node> {
        let name = self.name(&object.metadata)?;
        let labels = object.metadata.labels.as_ref();
        let zone = labels.and_then(|labels| labels.get(ZONE_LABEL));
        let taints = object.spec.as_ref().and_then(|spec| spec.taints.as_deref());
        let mut taints = taints.unwrap_or_default().iter();
        Some(Node {
            name: name.name.as_ref().into(),
            zone: boxed(zone.map(String::as_str)),
            internal_ips: self.internal_ips(object),
            leaving: object.metadata.deletion_timestamp.is_some()
                || taints.any(|taint| taint.key == AUTOSCALER_TAINT),
        })
    }

    fn internal_ips(&mut self, object: &core::Node) -> Vec<IpAddr> {
        let status = object.status.as_ref();
        let addresses = status.and_then(|status| status.addresses.as_deref());
        let addresses = addresses.unwrap_or_default().iter().enumerate();
        addresses
            .filter(|(_, address)| address.type_ == "InternalIP")
            .filter_map(|(i, address)| {
                self.address(
                    format_args!("status.addresses[{i}].address"),
                    &address.address,
                )
            })
            .collect()
    }
}
