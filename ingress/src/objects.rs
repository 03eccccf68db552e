//! The objects of the API as they were last seen, reduced to what matters here.
//!
//! Whatever is decided is computed from here; a change only says what has to be computed again. A list replaces
//! everything of its kind, so what was missed between two watches is found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use model::kube::object_name;
use model::{Event, ObjectName, ServiceName, World};

use crate::annotations::{Reference, Referenced, Seen};
use crate::certificate::{CERTIFICATE_KEY, Certificate, PRIVATE_KEY_KEY};
use crate::routes::class::Classes;
use crate::tls::Secrets;

/// Something that was seen in the API.
#[derive(Debug, Clone)]
pub enum Change {
    /// Of Ingresses.
    Ingress(Delta<Ingress>),
    /// Of IngressClasses.
    Class(Delta<IngressClass>),
    /// Of Services.
    Service(Delta<Service>),
    /// Of EndpointSlices.
    Slice(Delta<EndpointSlice>),
    /// Of Secrets of type `kubernetes.io/tls`.
    Secret(Delta<Secret>),
    /// Of an object that annotations name.
    Referenced(Reference, Seen),
}

/// A change of objects of one kind.
#[derive(Debug, Clone)]
pub enum Delta<K> {
    /// These are all there are.
    All(Vec<K>),
    /// This one is new or changed.
    Applied(Box<K>),
    /// This one is gone.
    Deleted(Box<K>),
}

/// What has to be computed again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stale {
    /// Routes, and with them everything else.
    pub routes: bool,
    /// Certificates.
    pub certificates: bool,
    /// The statuses of Ingresses.
    pub statuses: bool,
    /// The Services that changed.
    pub services: BTreeSet<ServiceName>,
    /// The Services whose endpoints changed.
    pub endpoints: BTreeSet<ServiceName>,
}

/// All objects.
#[derive(Debug)]
pub struct Objects {
    ingresses: BTreeMap<ObjectName, Arc<Ingress>>,
    classes: Classes,
    secrets: Secrets,
    referenced: Referenced,
    world: World,
    listed: Listed,
}

#[derive(Debug, Default)]
struct Listed {
    ingresses: bool,
    classes: bool,
    secrets: bool,
}

impl Objects {
    /// No objects yet.
    pub fn new(classes: Classes) -> Self {
        let mut world = World::new("");
        // A gateway is a place like any other: it stands on no node, and no topology binds it.
        world.apply(Event::Node(None));
        Self {
            ingresses: BTreeMap::new(),
            classes,
            secrets: Secrets::new(),
            referenced: Referenced::default(),
            world,
            listed: Listed::default(),
        }
    }

    /// Whether every kind has been listed, so that what is missing here is known not to exist.
    pub fn is_complete(&self) -> bool {
        let Listed {
            ingresses,
            classes,
            secrets,
        } = self.listed;
        ingresses && classes && secrets && self.world.is_complete()
    }

    /// The Ingresses that are ours.
    pub fn ingresses(&self) -> impl Iterator<Item = &Ingress> {
        let all = self.ingresses.values().map(AsRef::as_ref);
        all.filter(|ingress| self.classes.own(ingress))
    }

    /// The certificates of Secrets.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// What annotations name.
    pub fn referenced(&self) -> &Referenced {
        &self.referenced
    }

    /// Whether anybody has looked for all of `wanted`.
    pub fn has_looked_for(&self, wanted: &BTreeSet<Reference>) -> bool {
        wanted
            .iter()
            .all(|reference| self.referenced.get(reference).is_some())
    }

    /// Forgets what annotations no longer name.
    pub fn keep_referenced(&mut self, wanted: &BTreeSet<Reference>) {
        self.referenced.keep(wanted);
    }

    /// Services and their endpoints.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Takes in `change` and adds what it outdates to `stale`.
    pub fn apply(&mut self, change: Change, stale: &mut Stale) {
        match change {
            Change::Ingress(delta) => self.apply_ingress(delta, stale),
            Change::Class(delta) => self.apply_class(delta, stale),
            Change::Service(delta) => {
                let changed = self.world.apply(service_event(delta));
                stale.endpoints.extend(changed.iter().cloned());
                stale.services.extend(changed);
            }
            Change::Slice(delta) => stale.endpoints.extend(self.apply_slice(delta)),
            Change::Secret(delta) => self.apply_secret(delta, stale),
            Change::Referenced(reference, seen) => {
                stale.routes |= self.referenced.put(reference, seen);
            }
        }
    }
}

// Ingresses and classes.

impl Objects {
    fn apply_ingress(&mut self, delta: Delta<Ingress>, stale: &mut Stale) {
        stale.statuses = true;
        match delta {
            Delta::All(all) => {
                self.listed.ingresses = true;
                let named = all.into_iter().filter_map(|ingress| {
                    Some((
                        object_name(&ingress.metadata)?,
                        Arc::new(without_noise(ingress)),
                    ))
                });
                self.ingresses = named.collect();
                stale.routes = true;
            }
            Delta::Applied(ingress) => {
                let Some(name) = object_name(&ingress.metadata) else {
                    return;
                };
                let new = Arc::new(without_noise(*ingress));
                let old = self.ingresses.insert(name, new.clone());
                stale.routes |= !old.is_some_and(|old| means_the_same(&old, &new));
            }
            Delta::Deleted(ingress) => {
                let name = object_name(&ingress.metadata);
                let gone = name.and_then(|name| self.ingresses.remove(&name));
                stale.routes |= gone.is_some();
            }
        }
    }

    fn apply_class(&mut self, delta: Delta<IngressClass>, stale: &mut Stale) {
        let changed = match delta {
            Delta::All(all) => {
                self.listed.classes = true;
                self.classes.clear();
                for class in &all {
                    self.classes.put(class);
                }
                true
            }
            Delta::Applied(class) => self.classes.put(&class),
            Delta::Deleted(class) => {
                let name = class.metadata.name.as_deref();
                name.is_some_and(|name| self.classes.remove(name))
            }
        };
        stale.routes |= changed;
        stale.statuses |= changed;
    }
}

/// `ingress` without what only its editors need; it can be most of the object.
fn without_noise(mut ingress: Ingress) -> Ingress {
    const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
    ingress.metadata.managed_fields = None;
    if let Some(annotations) = &mut ingress.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    ingress
}

/// Whether nothing but bookkeeping differs: our own writes to the status come back as changes.
fn means_the_same(old: &Ingress, new: &Ingress) -> bool {
    let key = |metadata: &ObjectMeta| (metadata.uid.clone(), metadata.annotations.clone());
    old.spec == new.spec && key(&old.metadata) == key(&new.metadata)
}

// Services and EndpointSlices.

fn service_event(delta: Delta<Service>) -> Event {
    match delta {
        Delta::All(all) => Event::Services(all.iter().filter_map(parse_service).collect()),
        Delta::Applied(service) => match parse_service(&service) {
            Some(service) => Event::Service(service),
            None => Event::ServiceGone(name_or_empty(&service.metadata)),
        },
        Delta::Deleted(service) => Event::ServiceGone(name_or_empty(&service.metadata)),
    }
}

fn parse_service(service: &Service) -> Option<model::Service> {
    let parsed = model::kube::service(service);
    log_problems(&parsed.problems);
    parsed.value
}

fn parse_slice(slice: &EndpointSlice) -> Option<model::Slice> {
    let parsed = model::kube::slice(slice);
    log_problems(&parsed.problems);
    parsed.value
}

/// What is wrong with a Service is its owner's business more than ours.
fn log_problems(problems: &[model::kube::Problem]) {
    for problem in problems {
        tracing::debug!(%problem, "left out");
    }
}

fn name_or_empty(metadata: &ObjectMeta) -> ObjectName {
    object_name(metadata).unwrap_or_else(|| ObjectName::new("", ""))
}

impl Objects {
    fn apply_slice(&mut self, delta: Delta<EndpointSlice>) -> BTreeSet<ServiceName> {
        let event = match delta {
            Delta::All(all) => Event::Slices(all.iter().filter_map(parse_slice).collect()),
            Delta::Applied(slice) => match parse_slice(&slice) {
                Some(slice) => Event::Slice(slice),
                None => Event::SliceGone(name_or_empty(&slice.metadata)),
            },
            Delta::Deleted(slice) => Event::SliceGone(name_or_empty(&slice.metadata)),
        };
        self.world.apply(event)
    }
}

// Secrets.

impl Objects {
    fn apply_secret(&mut self, delta: Delta<Secret>, stale: &mut Stale) {
        stale.certificates = true;
        match delta {
            Delta::All(all) => {
                self.listed.secrets = true;
                self.secrets.clear();
                all.iter().for_each(|secret| self.put_secret(secret));
            }
            Delta::Applied(secret) => self.put_secret(&secret),
            Delta::Deleted(secret) => {
                self.secrets.remove(&name_or_empty(&secret.metadata));
            }
        }
    }

    /// Keeps the certificate and forgets the Secret.
    fn put_secret(&mut self, secret: &Secret) {
        let Some(name) = object_name(&secret.metadata) else {
            return;
        };
        let data = secret.data.as_ref();
        let entry = |key| {
            data.and_then(|data| data.get(key))
                .map(|ByteString(bytes)| &bytes[..])
        };
        let chain = entry(CERTIFICATE_KEY).unwrap_or_default();
        let key = entry(PRIVATE_KEY_KEY).unwrap_or_default();
        let certificate = Certificate::from_pem(chain, key).map(Arc::new);
        self.secrets.insert(name, certificate);
    }
}
