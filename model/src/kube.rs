//! From objects of the Kubernetes API to ours.
//!
//! An API object is foreign input even when its server has checked it: a newer server may know values that we do not.
//! So parsing is lenient by field. What makes no sense is left out and reported as a [`Problem`] that names object and
//! field; the rest of the object, and every other object, is unaffected.

use std::fmt::Display;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use crate::backend::{Endpoint, Hints, Slice, SlicePort};
use crate::names::Names;
use crate::node::Node;
use crate::parse;
use crate::service::{
    Algorithm, Family, Forwarding, Kind, ObjectName, Protocol, Service, ServiceCidr, ServicePort,
    TrafficPolicy,
};

/// The label that ties an EndpointSlice to its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The label that names a node's zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The annotation of an EndpointSlice that tells when that happened for which it was changed.
pub const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The annotation of a Service that says by which algorithm backends are chosen: `random` or `maglev`.
pub const ALGORITHM_ANNOTATION: &str = "portolan.dev/load-balancing-algorithm";
/// The annotation of a Service that says how backends on other nodes are reached: `snat` or `dsr`.
pub const FORWARDING_ANNOTATION: &str = "portolan.dev/forwarding-mode";
/// The taint by which the cluster autoscaler announces that it removes a node.
pub const AUTOSCALER_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// How long a client sticks to its backend unless the Service says otherwise: three hours.
const DEFAULT_AFFINITY: i32 = 10_800;
const MAX_AFFINITY: i32 = 86_400;

/// Something in an object that could not be understood and was left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {field}: {reason}")]
pub struct Problem {
    /// Kind and name of the object, like `Service default/web`.
    pub object: String,
    /// The path of the field, like `spec.ports[1].port`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// An object, as far as it could be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed<T> {
    /// The object, or nothing if it is none of our business or too broken to use.
    pub value: Option<T>,
    /// What was left out of it.
    pub problems: Vec<Problem>,
}

/// Parses a Service.
pub fn service(object: &core::Service) -> Parsed<Service> {
    service_sharing(object, &mut Names::default())
}

/// Parses a Service, which shares `names` with others.
pub fn service_sharing(object: &core::Service, names: &mut Names) -> Parsed<Service> {
    let mut report = Report::new("Service", &object.metadata, names);
    let value = report.read_service(object);
    report.finish(value)
}

/// Parses an EndpointSlice. One whose addresses are names (`addressType: FQDN`) is none of our business.
pub fn slice(object: &discovery::EndpointSlice) -> Parsed<Slice> {
    slice_sharing(object, &mut Names::default())
}

/// Parses an EndpointSlice, which shares `names` with others.
pub fn slice_sharing(object: &discovery::EndpointSlice, names: &mut Names) -> Parsed<Slice> {
    let mut report = Report::new("EndpointSlice", &object.metadata, names);
    let value = report.read_slice(object);
    report.finish(value)
}

/// Parses a Node.
pub fn node(object: &core::Node) -> Parsed<Node> {
    let mut names = Names::default();
    let mut report = Report::new("Node", &object.metadata, &mut names);
    let value = report.read_node(object);
    report.finish(value)
}

/// The ranges of a ServiceCIDR.
pub fn service_cidr(object: &networking::ServiceCIDR) -> Parsed<ServiceCidr> {
    let mut names = Names::default();
    let mut report = Report::new("ServiceCIDR", &object.metadata, &mut names);
    let name = report.name(&object.metadata);
    let texts = object.spec.as_ref().and_then(|spec| spec.cidrs.as_deref());
    let ranges = report.ranges("spec.cidrs", texts);
    report.finish(name.map(|name| ServiceCidr { name, ranges }))
}

/// The name that `metadata` carries, if it has one.
pub fn object_name(metadata: &ObjectMeta) -> Option<ObjectName> {
    let name = metadata.name.as_deref().filter(|name| !name.is_empty())?;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    Some(ObjectName::new(namespace, name))
}

/// Gathers the problems of one object while its fields are read.
struct Report<'a> {
    kind: &'static str,
    metadata: &'a ObjectMeta,
    names: &'a mut Names,
    problems: Vec<Problem>,
}

impl<'a> Report<'a> {
    fn new(kind: &'static str, metadata: &'a ObjectMeta, names: &'a mut Names) -> Self {
        Self {
            kind,
            metadata,
            names,
            problems: Vec::new(),
        }
    }

    /// The object, for people.
    fn object(&self) -> String {
        let name = self.metadata.name.as_deref().unwrap_or("(no name)");
        match &self.metadata.namespace {
            Some(namespace) => format!("{} {namespace}/{name}", self.kind),
            None => format!("{} {name}", self.kind),
        }
    }

    fn shared(&mut self, text: Option<&str>) -> Option<Arc<str>> {
        let text = text.filter(|text| !text.is_empty())?;
        Some(self.names.share(text))
    }

    fn finish<T>(self, value: Option<T>) -> Parsed<T> {
        let problems = self.problems;
        Parsed { value, problems }
    }

    fn add(&mut self, field: impl Display, reason: impl Into<String>) {
        self.problems.push(Problem {
            object: self.object(),
            field: field.to_string(),
            reason: reason.into(),
        });
    }

    fn name(&mut self, metadata: &ObjectMeta) -> Option<ObjectName> {
        let Some(name) = metadata.name.as_deref().filter(|name| !name.is_empty()) else {
            self.add("metadata.name", "is missing");
            return None;
        };
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        Some(ObjectName::new(self.names.share(namespace), name))
    }
}

// Services.

impl Report<'_> {
    fn read_service(&mut self, object: &core::Service) -> Option<Service> {
        let name = self.name(&object.metadata)?;
        let Some(spec) = &object.spec else {
            self.add("spec", "is missing");
            return None;
        };
        let kind = kind(spec);
        let cluster_ips = match kind {
            Kind::Virtual => self.cluster_ips(spec),
            Kind::Headless | Kind::ExternalName(_) => Vec::new(),
        };
        let external_policy = self.policy(
            "spec.externalTrafficPolicy",
            spec.external_traffic_policy.as_deref(),
        );
        Some(Service {
            name,
            uid: boxed(object.metadata.uid.as_deref()),
            kind,
            cluster_ips,
            external_ips: self.addresses("spec.externalIPs", spec.external_ips.as_deref()),
            load_balancer_ips: self.load_balancer_ips(object),
            source_ranges: self.source_ranges(spec),
            internal_policy: self.policy(
                "spec.internalTrafficPolicy",
                spec.internal_traffic_policy.as_deref(),
            ),
            external_policy,
            affinity: self.affinity(spec),
            algorithm: self.annotation(
                object,
                ALGORITHM_ANNOTATION,
                &[("random", Algorithm::Random), ("maglev", Algorithm::Maglev)],
            ),
            forwarding: self.annotation(
                object,
                FORWARDING_ANNOTATION,
                &[("snat", Forwarding::Snat), ("dsr", Forwarding::Dsr)],
            ),
            health_check_node_port: self.health_check_node_port(spec, external_policy),
            ports: self.service_ports(spec),
        })
    }

    fn cluster_ips(&mut self, spec: &core::ServiceSpec) -> Vec<IpAddr> {
        let all = spec.cluster_ips.as_deref().unwrap_or_default();
        if !all.is_empty() {
            return self.addresses("spec.clusterIPs", Some(all));
        }
        let only = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty());
        let only = only.and_then(|ip| self.address("spec.clusterIP", ip));
        tight(only.into_iter())
    }

    fn load_balancer_ips(&mut self, object: &core::Service) -> Vec<IpAddr> {
        let status = object.status.as_ref();
        let balancer = status.and_then(|status| status.load_balancer.as_ref());
        let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref());
        let captured = ingress.unwrap_or_default().iter().enumerate();
        tight(
            captured
                .filter(|(_, ingress)| matches!(ingress.ip_mode.as_deref(), None | Some("VIP")))
                .filter_map(|(i, ingress)| {
                    let ip = ingress.ip.as_deref().filter(|ip| !ip.is_empty())?;
                    self.address(format_args!("status.loadBalancer.ingress[{i}].ip"), ip)
                }),
        )
    }

    fn source_ranges(&mut self, spec: &core::ServiceSpec) -> Vec<IpNetwork> {
        self.ranges(
            "spec.loadBalancerSourceRanges",
            spec.load_balancer_source_ranges.as_deref(),
        )
    }

    fn policy(&mut self, field: &str, text: Option<&str>) -> TrafficPolicy {
        match text {
            None | Some("" | "Cluster") => TrafficPolicy::Cluster,
            Some("Local") => TrafficPolicy::Local,
            Some(other) => {
                self.add(field, format!("{other:?} is not known, taken as Cluster"));
                TrafficPolicy::Cluster
            }
        }
    }

    fn affinity(&mut self, spec: &core::ServiceSpec) -> Option<Duration> {
        match spec.session_affinity.as_deref() {
            None | Some("" | "None") => return None,
            Some("ClientIP") => {}
            Some(other) => {
                let reason = format!("{other:?} is not known, taken as None");
                self.add("spec.sessionAffinity", reason);
                return None;
            }
        }
        let config = spec.session_affinity_config.as_ref();
        let client_ip = config.and_then(|config| config.client_ip.as_ref());
        let seconds = client_ip.and_then(|client_ip| client_ip.timeout_seconds);
        let seconds = seconds.unwrap_or(DEFAULT_AFFINITY);
        let legal = seconds.clamp(1, MAX_AFFINITY);
        if seconds != legal {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            self.add(
                field,
                format!("{seconds} is out of range, taken as {legal}"),
            );
        }
        Some(Duration::from_secs(u64::from(legal.unsigned_abs())))
    }

    fn annotation<T: Copy>(
        &mut self,
        object: &core::Service,
        key: &str,
        values: &[(&str, T)],
    ) -> Option<T> {
        let text = object.metadata.annotations.as_ref()?.get(key)?;
        let known = values.iter().find(|(value, _)| value == text);
        if known.is_none() {
            let field = format_args!("metadata.annotations[{key}]");
            self.add(field, format!("{text:?} is not known, the default holds"));
        }
        known.map(|(_, value)| *value)
    }

    fn health_check_node_port(
        &mut self,
        spec: &core::ServiceSpec,
        external_policy: TrafficPolicy,
    ) -> Option<NonZeroU16> {
        let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
        if !is_balanced || external_policy != TrafficPolicy::Local {
            return None;
        }
        let number = spec.health_check_node_port.filter(|port| *port != 0)?;
        self.port("spec.healthCheckNodePort", number)
    }

    fn service_ports(&mut self, spec: &core::ServiceSpec) -> Vec<ServicePort> {
        let ports = spec.ports.as_deref().unwrap_or_default().iter().enumerate();
        tight(
            ports.filter_map(|(i, port)| self.service_port(format_args!("spec.ports[{i}]"), port)),
        )
    }

    fn service_port(
        &mut self,
        field: impl Display + Copy,
        port: &core::ServicePort,
    ) -> Option<ServicePort> {
        let protocol = self.protocol(field, port.protocol.as_deref())?;
        let number = self.port(format_args!("{field}.port"), port.port)?;
        let node_port = port.node_port.filter(|port| *port != 0);
        Some(ServicePort {
            name: self.names.share(port.name.as_deref().unwrap_or_default()),
            protocol,
            port: number,
            node_port: node_port.and_then(|port| self.port(format_args!("{field}.nodePort"), port)),
            app_protocol: port
                .app_protocol
                .as_deref()
                .map(|name| self.names.share(name)),
        })
    }
}

/// A Service that was turned into an ExternalName may still show the address it had before.
fn kind(spec: &core::ServiceSpec) -> Kind {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Kind::ExternalName(spec.external_name.as_deref().unwrap_or_default().into());
    }
    let first = spec.cluster_ips.as_ref().and_then(|ips| ips.first());
    match spec.cluster_ip.as_ref().or(first).map(String::as_str) {
        Some("None") => Kind::Headless,
        _ => Kind::Virtual,
    }
}

// EndpointSlices.

impl Report<'_> {
    fn read_slice(&mut self, object: &discovery::EndpointSlice) -> Option<Slice> {
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

// Nodes.

impl Report<'_> {
    fn read_node(&mut self, object: &core::Node) -> Option<Node> {
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
}

impl Report<'_> {
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

// Fields.

impl Report<'_> {
    fn addresses(&mut self, field: &str, texts: Option<&[String]>) -> Vec<IpAddr> {
        let texts = texts.unwrap_or_default().iter().enumerate();
        tight(texts.filter_map(|(i, text)| self.address(format_args!("{field}[{i}]"), text)))
    }

    fn ranges(&mut self, field: &str, texts: Option<&[String]>) -> Vec<IpNetwork> {
        let texts = texts.unwrap_or_default().iter().enumerate();
        texts
            .filter_map(|(i, text)| {
                let range = parse::range(text);
                if range.is_none() {
                    self.add(
                        format_args!("{field}[{i}]"),
                        format!("{text:?} is not an address range"),
                    );
                }
                range
            })
            .collect()
    }

    fn address(&mut self, field: impl Display, text: &str) -> Option<IpAddr> {
        let address = parse::address(text);
        if address.is_none() {
            self.add(field, format!("{text:?} is not an IP address"));
        }
        address
    }

    fn port(&mut self, field: impl Display, number: i32) -> Option<NonZeroU16> {
        let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
        if port.is_none() {
            self.add(field, format!("{number} is not a port number"));
        }
        port
    }

    fn protocol(&mut self, port: impl Display, text: Option<&str>) -> Option<Protocol> {
        match text {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(other) => {
                let field = format_args!("{port}.protocol");
                self.add(field, format!("{other:?} is not a protocol"));
                None
            }
        }
    }
}

/// The values of an iterator that leaves out few or none, in no more memory than all of them take: to grow by steps would
/// leave room for three more in each of the many lists of one.
fn tight<T>(values: impl Iterator<Item = T>) -> Vec<T> {
    let most = values.size_hint().1.unwrap_or_default();
    let mut all = Vec::with_capacity(most);
    all.extend(values);
    all
}

fn boxed(text: Option<&str>) -> Option<Box<str>> {
    text.filter(|text| !text.is_empty()).map(Box::from)
}
