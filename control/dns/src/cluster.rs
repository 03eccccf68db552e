//! Services and EndpointSlices, cut down to what DNS needs of them.
//!
//! Every watch event returns the names of the Services whose records it may change. A list that starts anew replaces what
//! is known only when it is complete, so a broken watch takes nothing away.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::Event;

/// The label that ties an EndpointSlice to its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Namespace and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ObjectName {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
}

/// How a Service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Service {
    /// By addresses of its own.
    Virtual {
        addresses: Vec<IpAddr>,
        ports: Vec<Port>,
    },
    /// By the addresses of its endpoints.
    Headless,
    /// By another name.
    External(String),
}

/// A named port. Ports without a name have no records.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) name: Box<str>,
    pub(crate) protocol: &'static str,
    pub(crate) number: u16,
}

/// The ready endpoints of a slice and the ports they share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) ports: Vec<Port>,
    service: ObjectName,
}

/// A ready endpoint: one address, and its host name if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) hostname: Option<Box<str>>,
}

/// Everything watched.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    services: Table<Service>,
    slices: Table<Slice>,
    slices_of: HashMap<ObjectName, BTreeSet<ObjectName>>,
}

impl Cluster {
    /// Takes a watch event of a Service; returns the Services whose records may have changed.
    pub(crate) fn service(&mut self, event: Event<core::Service>) -> Vec<ObjectName> {
        let changes = self.services.apply(event, |object| {
            Some((object_name(&object.metadata)?, parse_service(object)))
        });
        changes.into_iter().map(|change| change.name).collect()
    }

    /// Takes a watch event of an EndpointSlice; returns the Services whose records may have changed.
    pub(crate) fn slice(&mut self, event: Event<discovery::EndpointSlice>) -> Vec<ObjectName> {
        let changes = self.slices.apply(event, |object| {
            Some((object_name(&object.metadata)?, parse_slice(object)))
        });
        changes
            .into_iter()
            .flat_map(|change| self.index(change))
            .collect()
    }

    /// A Service, if it exists.
    pub(crate) fn get(&self, name: &ObjectName) -> Option<&Service> {
        self.services.objects.get(name)
    }

    /// The slices of a Service, in a fixed order.
    pub(crate) fn slices(&self, service: &ObjectName) -> impl Iterator<Item = &Slice> {
        let names = self.slices_of.get(service).into_iter().flatten();
        names.filter_map(|name| self.slices.objects.get(name))
    }

    /// True once both kinds have been listed.
    pub(crate) fn is_complete(&self) -> bool {
        self.services.complete && self.slices.complete
    }

    /// Keeps `slices_of` in step with a changed slice; returns the Services it belonged and belongs to.
    fn index(&mut self, change: Change<Slice>) -> BTreeSet<ObjectName> {
        let old = change.old.map(|slice| slice.service);
        let new = self
            .slices
            .objects
            .get(&change.name)
            .map(|slice| slice.service.clone());
        if old != new
            && let Some(service) = &old
            && let Some(slices) = self.slices_of.get_mut(service)
        {
            slices.remove(&change.name);
            if slices.is_empty() {
                self.slices_of.remove(service);
            }
        }
        if let Some(service) = &new {
            let slices = self.slices_of.entry(service.clone()).or_default();
            slices.insert(change.name);
        }
        old.into_iter().chain(new).collect()
    }
}

/// The objects of one kind, and where a list of them stands.
#[derive(Debug)]
struct Table<T> {
    objects: HashMap<ObjectName, T>,
    /// The objects that the list in progress has named so far.
    listing: Option<HashSet<ObjectName>>,
    complete: bool,
}

/// An object that changed, and what was known of it before.
struct Change<T> {
    name: ObjectName,
    old: Option<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            listing: None,
            complete: false,
        }
    }
}

impl<T: PartialEq> Table<T> {
    /// Takes a watch event. `parse` returns an object's name, and nothing beside it if DNS has no use for the object.
    fn apply<K>(
        &mut self,
        event: Event<K>,
        parse: impl Fn(&K) -> Option<(ObjectName, Option<T>)>,
    ) -> Vec<Change<T>> {
        match event {
            Event::Init => {
                self.listing = Some(HashSet::new());
                Vec::new()
            }
            Event::InitApply(object) | Event::Apply(object) => parse(&object)
                .and_then(|(name, value)| self.put(name, value))
                .into_iter()
                .collect(),
            Event::Delete(object) => parse(&object)
                .and_then(|(name, _)| self.put(name, None))
                .into_iter()
                .collect(),
            Event::InitDone => self.finish_listing(),
        }
    }

    fn put(&mut self, name: ObjectName, value: Option<T>) -> Option<Change<T>> {
        if let Some(listing) = &mut self.listing {
            listing.insert(name.clone());
        }
        if self.objects.get(&name) == value.as_ref() {
            return None;
        }
        let old = match value {
            Some(value) => self.objects.insert(name.clone(), value),
            None => self.objects.remove(&name),
        };
        Some(Change { name, old })
    }

    /// Forgets what the list did not name.
    fn finish_listing(&mut self) -> Vec<Change<T>> {
        self.complete = true;
        let Some(listed) = self.listing.take() else {
            return Vec::new();
        };
        let gone = self.objects.extract_if(|name, _| !listed.contains(name));
        gone.map(|(name, old)| Change {
            name,
            old: Some(old),
        })
        .collect()
    }
}

fn object_name(metadata: &ObjectMeta) -> Option<ObjectName> {
    Some(ObjectName {
        namespace: metadata.namespace.as_deref()?.into(),
        name: metadata.name.as_deref()?.into(),
    })
}

fn parse_service(object: &core::Service) -> Option<Service> {
    let spec = object.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return spec.external_name.clone().map(Service::External);
    }
    let texts = spec.cluster_ips.as_ref().filter(|ips| !ips.is_empty());
    let texts: Vec<&str> = match texts {
        Some(ips) => ips.iter().map(String::as_str).collect(),
        None => spec.cluster_ip.as_deref().into_iter().collect(),
    };
    if texts.contains(&"None") {
        return Some(Service::Headless);
    }
    let ports = spec.ports.iter().flatten();
    Some(Service::Virtual {
        addresses: texts.iter().filter_map(|ip| ip.parse().ok()).collect(),
        ports: ports
            .filter_map(|port| parse_port(&port.name, &port.protocol, Some(port.port)))
            .collect(),
    })
}

fn parse_slice(object: &discovery::EndpointSlice) -> Option<Slice> {
    let labels = object.metadata.labels.as_ref()?;
    let service = ObjectName {
        namespace: object.metadata.namespace.as_deref()?.into(),
        name: labels.get(SERVICE_NAME_LABEL)?.as_str().into(),
    };
    let endpoints = object.endpoints.iter().flatten();
    let ports = object.ports.iter().flatten();
    Some(Slice {
        endpoints: endpoints.flat_map(parse_endpoint).collect(),
        ports: ports
            .filter_map(|port| parse_port(&port.name, &port.protocol, port.port))
            .collect(),
        service,
    })
}

/// A ready endpoint's addresses. The API says to take an unknown readiness for ready; publishNotReadyAddresses has
/// already been worked into the condition by whoever made the slice.
fn parse_endpoint(endpoint: &discovery::Endpoint) -> Vec<Endpoint> {
    let conditions = endpoint.conditions.as_ref();
    if conditions.and_then(|conditions| conditions.ready) == Some(false) {
        return Vec::new();
    }
    let hostname = endpoint.hostname.as_deref().filter(|name| !name.is_empty());
    let addresses = endpoint.addresses.iter();
    addresses
        .filter_map(|text| text.parse().ok())
        .map(|address| Endpoint {
            address,
            hostname: hostname.map(Into::into),
        })
        .collect()
}

fn parse_port(
    name: &Option<String>,
    protocol: &Option<String>,
    number: Option<i32>,
) -> Option<Port> {
    let protocol = match protocol.as_deref() {
        None | Some("TCP") => "_tcp",
        Some("UDP") => "_udp",
        Some("SCTP") => "_sctp",
        Some(_) => return None,
    };
    Some(Port {
        name: name.as_deref().filter(|name| !name.is_empty())?.into(),
        protocol,
        number: u16::try_from(number?).ok()?,
    })
}
