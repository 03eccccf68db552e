//! The cluster that is measured: Services and EndpointSlices as an API server writes them, with all that a real one adds.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// A cluster of Services that are all alike, but that some, in the middle of all lists, are real: their endpoints answer.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// How many Services there are.
    pub(crate) services: u32,
    /// How many endpoints each has.
    pub(crate) endpoints: u32,
    /// The real ones.
    pub(crate) real: Vec<Real>,
    /// The protocol, in lower case.
    pub(crate) protocol: &'static str,
    /// Whether each Service also has a node port.
    pub(crate) node_ports: bool,
}

/// What is known of a real Service: its endpoints, as many as all have.
#[derive(Clone, Debug)]
pub(crate) struct Real {
    pub(crate) endpoints: Vec<Ipv4Addr>,
    /// Whether they are on the node that is measured.
    pub(crate) are_here: bool,
}

/// The port of every cluster IP.
pub(crate) const PORT: u16 = 80;
/// The port of every endpoint.
pub(crate) const TARGET: u16 = 8080;
/// The name of the node that is measured.
pub(crate) const NODE: &str = "node-0";
/// Where pods are.
pub(crate) const POD_RANGE: &str = "10.244.0.0/16";

const NODES: u32 = 100;
const FIRST_NODE_PORT: u32 = 30_000;

impl Cluster {
    /// The number of the first real Service; the others follow.
    pub(crate) fn real(&self) -> u32 {
        self.services / 2
    }

    fn find_real(&self, service: u32) -> Option<&Real> {
        let index = service.checked_sub(self.real())?;
        self.real.get(index as usize)
    }

    pub(crate) fn namespace(&self, service: u32) -> String {
        format!("team-{}", service % 50)
    }

    pub(crate) fn name(&self, service: u32) -> String {
        format!("service-{service}")
    }

    pub(crate) fn cluster_ip(&self, service: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 10)) + service)
    }

    pub(crate) fn node_port(&self, service: u32) -> Option<u16> {
        let port = FIRST_NODE_PORT + service;
        self.node_ports.then_some(port as u16)
    }

    /// The addresses of a Service's endpoints.
    pub(crate) fn endpoints(&self, service: u32) -> Vec<Ipv4Addr> {
        if let Some(real) = self.find_real(service) {
            return real.endpoints.clone();
        }
        let first =
            u32::from(Ipv4Addr::new(10, 128, 0, 1)) + service * self.endpoints.next_power_of_two();
        (first..)
            .take(self.endpoints as usize)
            .map(Ipv4Addr::from)
            .collect()
    }

    /// A Service in JSON, as it is in a list.
    pub(crate) fn service(&self, service: u32) -> String {
        let (name, namespace, ip) = (
            self.name(service),
            self.namespace(service),
            self.cluster_ip(service),
        );
        let protocol = self.protocol.to_uppercase();
        let (kind, node_port) = match self.node_port(service) {
            None => ("ClusterIP", String::new()),
            Some(port) => ("NodePort", format!(r#","nodePort":{port}"#)),
        };
        let metadata = metadata(
            &name,
            &namespace,
            service,
            &format!(r#""app":"{name}""#),
            "",
        );
        let fields = managed(
            "kubectl-client-side-apply",
            r#"{"f:metadata":{"f:annotations":{".":{},"f:kubectl.kubernetes.io/last-applied-configuration":{}},"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:internalTrafficPolicy":{},"f:ports":{".":{},"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{},"f:protocol":{},"f:targetPort":{}}},"f:selector":{},"f:sessionAffinity":{},"f:type":{}}}"#,
        );
        format!(
            r#"{{"metadata":{{{metadata},{fields}}},"spec":{{"ports":[{{"name":"http","protocol":"{protocol}","port":{PORT},"targetPort":{TARGET}{node_port}}}],"selector":{{"app":"{name}"}},"clusterIP":"{ip}","clusterIPs":["{ip}"],"type":"{kind}","sessionAffinity":"None","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","internalTrafficPolicy":"Cluster"}},"status":{{"loadBalancer":{{}}}}}}"#
        )
    }

    /// The EndpointSlice of a Service in JSON, with the first `ready` endpoints ready.
    pub(crate) fn slice(&self, service: u32, ready: u32) -> String {
        let (name, namespace) = (self.name(service), self.namespace(service));
        let protocol = self.protocol.to_uppercase();
        let labels = format!(
            r#""app":"{name}","endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"{name}""#
        );
        let owner_uid = uid(service, 1);
        let owner = format!(
            r#","generateName":"{name}-","ownerReferences":[{{"apiVersion":"v1","kind":"Service","name":"{name}","uid":"{owner_uid}","controller":true,"blockOwnerDeletion":true}}]"#
        );
        let metadata = metadata(
            &format!("{name}-x7k2p"),
            &namespace,
            service,
            &labels,
            &owner,
        );
        let fields = managed(
            "kube-controller-manager",
            r#"{"f:addressType":{},"f:endpoints":{},"f:metadata":{"f:annotations":{".":{},"f:endpoints.kubernetes.io/last-change-trigger-time":{}},"f:generateName":{},"f:labels":{".":{},"f:app":{},"f:endpointslice.kubernetes.io/managed-by":{},"f:kubernetes.io/service-name":{}},"f:ownerReferences":{".":{},"k:{\"uid\":\"0\"}":{}}},"f:ports":{}}"#,
        );
        let mut endpoints = String::new();
        for (number, ip) in (0..).zip(self.endpoints(service)) {
            let comma = if number == 0 { "" } else { "," };
            let node = match self.find_real(service) {
                Some(real) if real.are_here => 0,
                _ => 1 + (service * self.endpoints + number) % (NODES - 1),
            };
            let (pod, is_ready) = (uid(service, number + 2), number < ready);
            // Writing to a string cannot fail.
            write!(
                endpoints,
                r#"{comma}{{"addresses":["{ip}"],"conditions":{{"ready":{is_ready},"serving":{is_ready},"terminating":false}},"targetRef":{{"kind":"Pod","namespace":"{namespace}","name":"{name}-5d4c8f7b9-{number}","uid":"{pod}"}},"nodeName":"node-{node}","zone":"zone-{}"}}"#,
                node % 3
            )
            .expect("a string takes everything");
        }
        format!(
            r#"{{"metadata":{{{metadata},{fields}}},"addressType":"IPv4","endpoints":[{endpoints}],"ports":[{{"name":"http","protocol":"{protocol}","port":{TARGET}}}]}}"#
        )
    }

    /// The node that is measured.
    pub(crate) fn node(&self, address: Ipv4Addr) -> String {
        format!(
            r#"{{"metadata":{{"name":"{NODE}","resourceVersion":"1","labels":{{"topology.kubernetes.io/zone":"zone-0"}}}},"status":{{"addresses":[{{"type":"InternalIP","address":"{address}"}}]}}}}"#
        )
    }
}

fn uid(service: u32, part: u32) -> String {
    format!("{service:08x}-0000-4000-8000-{part:012x}")
}

fn metadata(name: &str, namespace: &str, service: u32, labels: &str, more: &str) -> String {
    let uid = uid(service, 0);
    let version = 1_000 + service;
    format!(
        r#""name":"{name}","namespace":"{namespace}","uid":"{uid}","resourceVersion":"{version}","creationTimestamp":"2026-11-01T08:00:00Z","labels":{{{labels}}}{more}"#
    )
}

fn managed(manager: &str, fields: &str) -> String {
    format!(
        r#""managedFields":[{{"manager":"{manager}","operation":"Update","apiVersion":"v1","time":"2026-11-01T08:00:00Z","fieldsType":"FieldsV1","fieldsV1":{fields}}}]"#
    )
}
