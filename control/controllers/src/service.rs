//! What services select: pods, their ports and addresses, and which services a change concerns. Used by both kinds of
//! endpoint lists.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::object::{deleting, has_labels, namespace, pod};
use crate::runtime::Context;
use crate::runtime::informers::Informers;
use crate::runtime::queue::Queue;
use crate::runtime::store::{Change, Key};

pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
pub(crate) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Whether endpoints are ours to list: the service has a selector and is more than a name.
pub(crate) fn is_managed(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let selector = spec.and_then(|spec| spec.selector.as_ref());
    let external = spec.is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName"));
    selector.is_some_and(|selector| !selector.is_empty()) && !external && !deleting(service)
}

/// Whether the service selects the pod.
pub(crate) fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| {
        !selector.is_empty() && has_labels(pod.metadata.labels.as_ref(), selector)
    })
}

/// Whether the service has no virtual address.
pub(crate) fn is_headless(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

/// Whether the service wants its pods listed as ready whatever they say.
pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses)
        .unwrap_or(false)
}

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// The name both of the family and of its address type.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The pod's address of this family.
    pub(crate) fn address_of(self, pod: &Pod) -> Option<IpAddr> {
        pod::addresses(pod)
            .into_iter()
            .find(|address| address.is_ipv4() == (self == Self::V4))
    }
}

/// The service's families, the primary first; IPv4 if it does not say.
pub(crate) fn families(service: &Service) -> Vec<Family> {
    let named = service
        .spec
        .iter()
        .flat_map(|spec| spec.ip_families.iter().flatten());
    let families: Vec<_> = named
        .map(|name| {
            if name == "IPv6" {
                Family::V6
            } else {
                Family::V4
            }
        })
        .collect();
    if families.is_empty() {
        vec![Family::V4]
    } else {
        families
    }
}

/// The pod's port behind a service port: a number, or the name of a container port of that protocol.
pub(crate) fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let mut ports =
                pod::long_running(pod).flat_map(|container| container.ports.iter().flatten());
            let protocol = protocol(port.protocol.as_deref());
            ports
                .find(|candidate| {
                    candidate.name.as_ref() == Some(name)
                        && self::protocol(candidate.protocol.as_deref()) == protocol
                })
                .map(|candidate| candidate.container_port)
        }
    }
}

/// The protocol, TCP unless said otherwise.
pub(crate) fn protocol(named: Option<&str>) -> &str {
    named.unwrap_or("TCP")
}

/// When the pod's readiness last changed: the start of the time it takes to program the network.
pub(crate) fn trigger_time(pod: &Pod) -> Option<Timestamp> {
    pod::ready_condition(pod)?
        .last_transition_time
        .as_ref()
        .map(|time| time.0)
}

/// Wakes a queue of services at every change of a service or of a pod it selects, and at changes of a node's zone.
pub(crate) fn wake_on_changes(context: &Context, queue: &Queue<Key>) {
    context.informers.services.on_change({
        let queue = queue.clone();
        move |change| queue.add(Key::of(&**change.object()))
    });
    context.informers.pods.on_change({
        let (queue, services) = (queue.clone(), context.informers.services.clone());
        move |change| {
            if matters(change) {
                let pod = change.object();
                let concerned = services.find(namespace(&**pod), |service| {
                    change.sides().any(|pod| selects(service, pod))
                });
                concerned
                    .iter()
                    .for_each(|service| queue.add(Key::of(&**service)));
            }
        }
    });
    context.informers.nodes.on_change({
        let (queue, informers) = (queue.clone(), context.informers.clone());
        move |change| wake_on_zone_change(change, &informers, &queue)
    });
}

/// Whether a pod's change can alter an endpoint.
fn matters(change: &Change<Pod>) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else {
        return true;
    };
    let place = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        spec.map(|spec| {
            (
                spec.node_name.clone(),
                spec.hostname.clone(),
                spec.subdomain.clone(),
            )
        })
    };
    let state = |pod: &Pod| (pod::ready(pod), deleting(pod), pod::finished(pod));
    old.metadata.uid != new.metadata.uid
        || old.metadata.labels != new.metadata.labels
        || state(old) != state(new)
        || pod::addresses(old) != pod::addresses(new)
        || place(old) != place(new)
}

fn wake_on_zone_change(change: &Change<Node>, informers: &Informers, queue: &Queue<Key>) {
    let zone = |node: &Node| {
        node.metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(ZONE_LABEL).cloned())
    };
    let old = change.old.as_ref().and_then(|node| zone(node));
    let new = change.new.as_ref().and_then(|node| zone(node));
    if old != new {
        informers
            .services
            .all()
            .iter()
            .for_each(|service| queue.add(Key::of(&**service)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::object::parse;

    #[test]
    fn target_ports() {
        let pod: Pod = parse(json!({"spec": {
            "containers": [{"name": "c", "ports": [
                {"name": "web", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}
            ]}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "ports": [{"name": "mesh", "containerPort": 15001}]},
                {"name": "i", "ports": [{"name": "never", "containerPort": 1}]}
            ]
        }}));
        for (port, expected) in [
            (json!({"port": 80}), Some(80)),
            (json!({"port": 80, "targetPort": 8081}), Some(8081)),
            (json!({"port": 80, "targetPort": "web"}), Some(8080)),
            (
                json!({"port": 80, "targetPort": "web", "protocol": "UDP"}),
                None,
            ),
            (
                json!({"port": 53, "targetPort": "dns", "protocol": "UDP"}),
                Some(53),
            ),
            (json!({"port": 80, "targetPort": "mesh"}), Some(15001)),
            (json!({"port": 80, "targetPort": "never"}), None),
            (json!({"port": 80, "targetPort": "none"}), None),
        ] {
            assert_eq!(target_port(&pod, &parse(port.clone())), expected, "{port}");
        }
    }

    #[test]
    fn which_services_are_ours() {
        let check = |spec: Value, expected: bool| {
            assert_eq!(
                is_managed(&parse(json!({"spec": spec}))),
                expected,
                "{spec}"
            );
        };
        check(json!({"selector": {"app": "x"}}), true);
        check(json!({"selector": {}}), false);
        check(json!({}), false);
        check(
            json!({"selector": {"app": "x"}, "type": "ExternalName"}),
            false,
        );
    }

    #[test]
    fn a_pods_change_matters_only_if_an_endpoint_could_change() {
        let pod = |extra: Value| {
            let mut pod =
                json!({"metadata": {"labels": {"a": "b"}}, "status": {"podIP": "10.0.0.1"}});
            json_patch::merge(&mut pod, &extra);
            Some(std::sync::Arc::new(parse(pod)))
        };
        let check = |new: Value, expected: bool| {
            assert_eq!(
                matters(&Change {
                    old: pod(json!({})),
                    new: pod(new.clone())
                }),
                expected,
                "{new}"
            );
        };
        check(json!({"metadata": {"annotations": {"x": "y"}}}), false);
        check(json!({"metadata": {"labels": {"a": "c"}}}), true);
        check(json!({"status": {"podIP": "10.0.0.2"}}), true);
        check(
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
            true,
        );
        check(
            json!({"status": {"conditions": [{"type": "Initialized", "status": "True"}]}}),
            false,
        );
        check(json!({"spec": {"containers": [], "nodeName": "n"}}), true);
        assert!(matters(&Change {
            old: pod(json!({})),
            new: None
        }));
    }
}
