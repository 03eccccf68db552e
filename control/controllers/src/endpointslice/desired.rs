//! The endpoints a service should have, by port set. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone,
};

use crate::object::{created, deleting, name, namespace, pod, uid};
use crate::service::{Family, protocol, publishes_not_ready, target_port, trigger_time};

/// Endpoints that share their ports. The key is the ports' text, so that it can be sorted and compared.
pub(crate) type ByPorts = BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)>;

/// The text by which port sets are told apart.
pub(crate) fn ports_key(ports: &[EndpointPort]) -> String {
    let mut texts: Vec<_> = ports
        .iter()
        .map(|port| {
            let name = port.name.as_deref().unwrap_or_default();
            let protocol = protocol(port.protocol.as_deref());
            let application = port.app_protocol.as_deref().unwrap_or_default();
            format!("{name}/{protocol}/{}/{application}", port.port.unwrap_or(0))
        })
        .collect();
    texts.sort();
    texts.join(",")
}

/// The endpoints of one family. `zone` tells a node's zone.
pub(crate) fn endpoints(
    service: &Service,
    family: Family,
    pods: &[Arc<Pod>],
    zone: impl Fn(&str) -> Option<String>,
) -> ByPorts {
    let mut by_ports = ByPorts::new();
    for pod in pods.iter().filter(|pod| !pod::finished(pod)) {
        let Some(address) = family.address_of(pod) else {
            continue;
        };
        let ports = ports(service, pod);
        let wants_ports = service
            .spec
            .iter()
            .any(|spec| spec.ports.as_ref().is_some_and(|ports| !ports.is_empty()));
        if ports.is_empty() && wants_ports {
            continue;
        }
        let entry = by_ports
            .entry(ports_key(&ports))
            .or_insert_with(|| (ports, Vec::new()));
        entry
            .1
            .push(endpoint(service, pod, address.to_string(), &zone));
    }
    by_ports
}

/// The service's ports at this pod; those it does not have are left out.
fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    let resolved = ports.filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target_port(pod, port)?),
            protocol: Some(protocol(port.protocol.as_deref()).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    address: String,
    zone: &impl Fn(&str) -> Option<String>,
) -> Endpoint {
    let serving = pod::ready(pod);
    let terminating = deleting(pod);
    let node = pod::node(pod);
    let zone = node.and_then(zone);
    let ready = publishes_not_ready(service) || (serving && !terminating);
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: node.map(str::to_owned),
        hints: hints(service, node, zone.as_deref()).filter(|_| ready),
        zone,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace(pod).to_owned()),
            name: Some(name(pod).to_owned()),
            uid: Some(uid(pod).to_owned()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// For whom an endpoint is meant when the service asks for traffic to stay close (KEP-4444, KEP-3015): its own zone, and
/// with `PreferSameNode` its own node first. Proxies read these hints, never the service's wish.
fn hints(service: &Service, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let distribution = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let for_zones = zone.map(|zone| {
        let name = zone.to_owned();
        vec![ForZone { name }]
    });
    let for_nodes = node
        .filter(|_| distribution == "PreferSameNode")
        .map(|node| {
            let name = node.to_owned();
            vec![ForNode { name }]
        });
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints {
        for_nodes,
        for_zones,
    })
}

/// A pod that names this service as its subdomain is to be found by its hostname.
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let here =
        spec.subdomain.as_deref() == Some(name(service)) && namespace(pod) == namespace(service);
    spec.hostname
        .clone()
        .filter(|hostname| here && !hostname.is_empty())
}

/// Remembers when things last changed, to tell how long a change took to reach the network.
#[derive(Debug, Default)]
pub(crate) struct Triggers {
    service: Option<Timestamp>,
    pods: HashMap<String, Timestamp>,
}

impl Triggers {
    /// The earliest change since the last call, if any.
    pub(crate) fn earliest_change(
        &mut self,
        service: &Service,
        pods: &[Arc<Pod>],
    ) -> Option<Timestamp> {
        let seen: HashMap<_, _> = pods
            .iter()
            .filter_map(|pod| Some((name(&**pod).to_owned(), trigger_time(pod)?)))
            .collect();
        let changed = seen
            .iter()
            .filter(|(name, at)| self.pods.get(*name).is_none_or(|known| known < *at));
        let of_service =
            Some(created(service)).filter(|at| self.service.is_none_or(|known| known < *at));
        let earliest = changed.map(|(_, at)| *at).chain(of_service).min();
        self.service = Some(created(service));
        self.pods = seen;
        earliest
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::object::parse;

    fn service(spec: Value) -> Service {
        let mut whole = json!({"ports": [{"name": "http", "port": 80, "targetPort": "web"}], "selector": {"app": "x"}});
        json_patch::merge(&mut whole, &spec);
        parse(
            json!({"metadata": {"name": "svc", "namespace": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": whole}),
        )
    }

    fn pod(name: &str, port: i32, extra: Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "a", "uid": name},
            "spec": {"nodeName": "n1", "containers": [
                {"name": "c", "ports": [{"name": "web", "containerPort": port}]}
            ]},
            "status": {
                "phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"}]
            }
        });
        json_patch::merge(&mut pod, &extra);
        Arc::new(parse(pod))
    }

    fn conditions(spec: Value, extra: Value) -> Option<(bool, bool, bool)> {
        let got = endpoints(&service(spec), Family::V4, &[pod("p", 8080, extra)], |_| {
            None
        });
        let conditions = got.values().next()?.1.first()?.conditions.clone()?;
        Some((
            conditions.ready?,
            conditions.serving?,
            conditions.terminating?,
        ))
    }

    #[test]
    fn hints_keep_traffic_as_close_as_the_service_asks() {
        let hints = |distribution: Value, zone: Option<&str>, extra: Value| {
            let service = service(json!({"trafficDistribution": distribution}));
            let got = endpoints(&service, Family::V4, &[pod("p", 8080, extra)], |_| {
                zone.map(str::to_owned)
            });
            let hints = got.values().next()?.1.first()?.hints.clone()?;
            let nodes = hints.for_nodes.unwrap_or_default().into_iter();
            let zones = hints.for_zones.unwrap_or_default().into_iter();
            Some((
                nodes.map(|node| node.name).collect::<Vec<_>>(),
                zones.map(|zone| zone.name).collect::<Vec<_>>(),
            ))
        };
        let (node, zone) = (vec!["n1".to_owned()], vec!["z1".to_owned()]);
        let unready = json!({"status": {"conditions": []}});
        assert_eq!(hints(Value::Null, Some("z1"), json!({})), None);
        for distribution in ["PreferClose", "PreferSameZone"] {
            assert_eq!(
                hints(json!(distribution), Some("z1"), json!({})),
                Some((vec![], zone.clone()))
            );
            assert_eq!(hints(json!(distribution), None, json!({})), None);
        }
        let same_node = json!("PreferSameNode");
        assert_eq!(
            hints(same_node.clone(), Some("z1"), json!({})),
            Some((node.clone(), zone))
        );
        assert_eq!(
            hints(same_node.clone(), None, json!({})),
            Some((node, vec![]))
        );
        assert_eq!(hints(same_node, Some("z1"), unready), None);
    }

    #[test]
    fn conditions_follow_readiness_and_deletion() {
        let unready = json!({"status": {"conditions": []}});
        let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let publish = json!({"publishNotReadyAddresses": true});
        assert_eq!(conditions(json!({}), json!({})), Some((true, true, false)));
        assert_eq!(
            conditions(json!({}), unready.clone()),
            Some((false, false, false))
        );
        assert_eq!(
            conditions(json!({}), leaving.clone()),
            Some((false, true, true))
        );
        assert_eq!(
            conditions(publish.clone(), unready),
            Some((true, false, false))
        );
        assert_eq!(conditions(publish, leaving), Some((true, true, true)));
        assert_eq!(
            conditions(json!({}), json!({"status": {"phase": "Failed"}})),
            None
        );
        assert_eq!(
            conditions(json!({}), json!({"status": {"podIPs": null}})),
            None
        );
    }

    #[test]
    fn pods_are_grouped_by_what_a_named_port_means_to_them() {
        let pods = [
            pod("a", 8080, json!({})),
            pod("b", 9090, json!({})),
            pod("c", 8080, json!({})),
        ];
        let got = endpoints(&service(json!({})), Family::V4, &pods, |_| None);
        assert_eq!(
            got.keys().collect::<Vec<_>>(),
            ["http/TCP/8080/", "http/TCP/9090/"]
        );
        assert_eq!(got["http/TCP/8080/"].1.len(), 2);
        let nowhere = service(json!({"ports": [{"port": 80, "targetPort": "none"}]}));
        assert!(endpoints(&nowhere, Family::V4, &pods, |_| None).is_empty());
        let portless = service(json!({"ports": null, "clusterIP": "None"}));
        assert_eq!(
            endpoints(&portless, Family::V4, &pods, |_| None)[""]
                .1
                .len(),
            3
        );
    }

    #[test]
    fn an_endpoint_names_its_pod_node_zone_and_hostname() {
        let named = json!({"spec": {"hostname": "db-0", "subdomain": "svc"}});
        let zone = |node: &str| (node == "n1").then(|| "z".to_owned());
        let got = endpoints(&service(json!({})), Family::V6, &[pod("p", 1, named)], zone);
        let endpoint = &got.values().next().expect("one group").1[0];
        assert_eq!(endpoint.addresses, ["fd00::1"]);
        assert_eq!(endpoint.node_name.as_deref(), Some("n1"));
        assert_eq!(endpoint.zone.as_deref(), Some("z"));
        assert_eq!(endpoint.hostname.as_deref(), Some("db-0"));
        assert_eq!(
            endpoint
                .target_ref
                .as_ref()
                .and_then(|target| target.name.as_deref()),
            Some("p")
        );
    }

    #[test]
    fn the_earliest_change_is_told_once() {
        let mut triggers = Triggers::default();
        let service = service(json!({}));
        let at = |second: i64| Some(created(&service) + jiff::SignedDuration::from_secs(second));
        let early = pod("a", 1, json!({}));
        assert_eq!(
            triggers.earliest_change(&service, std::slice::from_ref(&early)),
            at(0)
        );
        assert_eq!(
            triggers.earliest_change(&service, std::slice::from_ref(&early)),
            None
        );
        let later = json!({"status": {"conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:09Z"}
        ]}});
        assert_eq!(
            triggers.earliest_change(&service, &[pod("a", 1, later)]),
            at(9)
        );
    }
}
