//! From objects of the Kubernetes API to ours.
//!
//! An API object is foreign input even when its server has checked it: a newer server may know values that we do not.
//! So parsing is lenient by field. What makes no sense is left out and reported as a [`Problem`] that names object and
//! field; the rest of the object, and every other object, is unaffected.

mod node;
mod report;
mod service;
mod slice;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::backend::Slice;
use crate::names::Names;
use crate::node::Node;
use crate::service::{ObjectName, Service, ServiceCidr};
use report::Report;

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
