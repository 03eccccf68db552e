//! Objects of the API without what nobody here reads. Most of an object's bytes are bookkeeping (`managedFields` above
//! all), and to skip a field costs a fraction of what it costs to parse, allocate and free it: at 50,000 Services that
//! is most of the start.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;

/// A Service.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "ServiceFields")]
pub(crate) struct Service(pub(crate) core::Service);

/// An EndpointSlice.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "SliceFields")]
pub(crate) struct EndpointSlice(pub(crate) discovery::EndpointSlice);

#[derive(Deserialize)]
struct ServiceFields {
    #[serde(default)]
    metadata: Metadata,
    spec: Option<core::ServiceSpec>,
    status: Option<core::ServiceStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceFields {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    address_type: String,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<discovery::EndpointPort>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

/// Without `targetRef` and what else says where an endpoint comes from.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    addresses: Option<Vec<String>>,
    conditions: Option<discovery::EndpointConditions>,
    hints: Option<discovery::EndpointHints>,
    node_name: Option<String>,
}

impl From<ServiceFields> for Service {
    fn from(fields: ServiceFields) -> Self {
        Self(core::Service {
            metadata: fields.metadata.into(),
            spec: fields.spec,
            status: fields.status,
        })
    }
}

impl From<SliceFields> for EndpointSlice {
    fn from(fields: SliceFields) -> Self {
        let endpoints = fields.endpoints.into_iter().flatten();
        let endpoints: Vec<_> = endpoints.map(discovery::Endpoint::from).collect();
        Self(discovery::EndpointSlice {
            metadata: fields.metadata.into(),
            address_type: fields.address_type,
            endpoints: Some(endpoints),
            ports: fields.ports,
        })
    }
}

impl From<Metadata> for ObjectMeta {
    fn from(metadata: Metadata) -> Self {
        Self {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            labels: metadata.labels,
            annotations: metadata.annotations,
            ..Self::default()
        }
    }
}

impl From<Endpoint> for discovery::Endpoint {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            addresses: endpoint.addresses.unwrap_or_default(),
            conditions: endpoint.conditions,
            hints: endpoint.hints,
            node_name: endpoint.node_name,
            ..Self::default()
        }
    }
}

macro_rules! resource {
    ($lean:ty, $whole:ty) => {
        impl Resource for $lean {
            type DynamicType = ();
            type Scope = <$whole as Resource>::Scope;

            fn kind((): &()) -> Cow<'_, str> {
                <$whole>::kind(&())
            }

            fn group((): &()) -> Cow<'_, str> {
                <$whole>::group(&())
            }

            fn version((): &()) -> Cow<'_, str> {
                <$whole>::version(&())
            }

            fn plural((): &()) -> Cow<'_, str> {
                <$whole>::plural(&())
            }

            fn meta(&self) -> &ObjectMeta {
                &self.0.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.0.metadata
            }
        }
    };
}

resource!(Service, core::Service);
resource!(EndpointSlice, discovery::EndpointSlice);
