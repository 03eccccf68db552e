//! The objects of the API as they were last seen, reduced to what matters here.
//!
//! Whatever is decided is computed from here; a change only says what has to be computed again. A list replaces
//! everything of its kind, so what was missed between two watches is found.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use model::kube::object_name;
use model::{Event, Node, ObjectName, ServiceName, World};

use crate::annotations::{Reference, Referenced, Seen};
use crate::routes::class::Classes;
use crate::tls::Secrets;
use crate::tls::certificate::{CERTIFICATE_KEY, Certificate, PRIVATE_KEY_KEY};
use crate::upstream::Sources;
use crate::upstream::external::{Names, Resolution, Targets, api_service};

/// Something that was seen in the API.
#[derive(Debug, Clone)]
pub enum Change {
    /// Of Ingresses.
    Ingress(Delta<Ingress>),
    /// Of IngressClasses.
    Class(Delta<IngressClass>),
    /// Of the Namespaces whose Ingresses can be ours, where that is for their labels to say.
    Namespace(Delta<Namespace>),
    /// Of Services.
    Service(Delta<Service>),
    /// Of EndpointSlices.
    Slice(Delta<EndpointSlice>),
    /// Of an object that an Ingress names.
    Referenced(Reference, Seen),
    /// Of where a name outside the cluster leads.
    Resolved(Box<str>, Resolution),
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
    /// The Ingresses that changed, or may be ours now, or may not be any more.
    pub ingresses: BTreeSet<ObjectName>,
    /// The objects named by Ingresses that changed.
    pub references: BTreeSet<Reference>,
    /// Certificates.
    pub certificates: bool,
    /// The statuses of Ingresses.
    pub statuses: bool,
    /// The Services that changed.
    pub services: BTreeSet<ServiceName>,
    /// The Services whose endpoints changed.
    pub endpoints: BTreeSet<ServiceName>,
    /// Where names outside the cluster lead.
    pub names: bool,
}

/// All objects.
#[derive(Debug)]
pub struct Objects {
    ingresses: BTreeMap<ObjectName, Arc<Ingress>>,
    classes: Classes,
    /// The certificates in what is referenced.
    secrets: Secrets,
    referenced: Referenced,
    names: Names,
    world: World,
    listed: Listed,
}

#[derive(Debug, Default)]
struct Listed {
    ingresses: bool,
    classes: bool,
    namespaces: bool,
}

impl Objects {
    /// No objects and `names` yet, seen from that node.
    pub fn new(mut classes: Classes, names: Names, node: Option<Node>) -> Self {
        let is_everywhere = classes.chosen().is_none();
        // Where the gateway does not know on which node it is, no topology binds it.
        let name = node.as_ref().map(|node| node.name.clone());
        let mut world = World::new(name.unwrap_or_default());
        world.apply(Event::Node(node));
        Self {
            ingresses: BTreeMap::new(),
            classes,
            secrets: Secrets::new(),
            referenced: Referenced::default(),
            names,
            world,
            listed: Listed {
                // They are listed only where they choose.
                namespaces: is_everywhere,
                ..Listed::default()
            },
        }
    }

    /// Whether every kind has been listed, so that what is missing here is known not to exist. Secrets and
    /// ConfigMaps are not listed but looked for by name.
    pub fn is_complete(&self) -> bool {
        let Listed {
            ingresses,
            classes,
            namespaces,
        } = self.listed;
        ingresses && classes && namespaces && self.world.is_complete()
    }

    /// The Ingresses that are ours.
    pub fn ingresses(&self) -> impl Iterator<Item = &Ingress> {
        let all = self.ingresses.values().map(AsRef::as_ref);
        all.filter(|ingress| self.classes.own(ingress))
    }

    /// The Ingress called `name`, if it is there and ours.
    pub fn ingress(&self, name: &ObjectName) -> Option<&Ingress> {
        let ingress = self.ingresses.get(name).map(AsRef::as_ref);
        ingress.filter(|ingress| self.classes.own(ingress))
    }

    /// The classes there are.
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// What Ingresses name, as far as anybody has looked.
    pub fn referenced(&self) -> &Referenced {
        &self.referenced
    }

    /// Names outside the cluster, as far as anybody has looked them up.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Where the endpoints of backends come from.
    pub fn sources(&self) -> Sources<'_> {
        Sources {
            world: &self.world,
            names: &self.names,
        }
    }

    /// Whether anybody has looked for what `reference` names.
    pub fn have_seen(&self, reference: &Reference) -> bool {
        match reference {
            Reference::ExternalName(name) => self.names.knows(name),
            of_object => self.referenced.get(of_object).is_some(),
        }
    }

    /// The certificates of Secrets that Ingresses name.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
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
            Change::Namespace(delta) => self.apply_namespace(delta, stale),
            Change::Service(delta) => {
                let mut changed = self.apply_targets(&delta);
                changed.extend(self.world.apply(service_event(delta)));
                self.outdate_names(&changed, stale);
                stale.endpoints.extend(changed.iter().cloned());
                stale.services.extend(changed);
            }
            Change::Slice(delta) => {
                let changed = self.apply_slice(delta);
                self.outdate_names(&changed, stale);
                stale.endpoints.extend(changed);
            }
            Change::Referenced(reference, seen) => self.apply_referenced(reference, seen, stale),
            Change::Resolved(name, resolution) => self.apply_resolved(name, resolution, stale),
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
                let mut gone = std::mem::take(&mut self.ingresses);
                for ingress in all {
                    let Some(name) = object_name(&ingress.metadata) else {
                        continue;
                    };
                    let old = gone.remove(&name);
                    self.put_ingress(name, ingress, old, stale);
                }
                stale.ingresses.extend(gone.into_keys());
            }
            Delta::Applied(ingress) => {
                if let Some(name) = object_name(&ingress.metadata) {
                    let old = self.ingresses.remove(&name);
                    self.put_ingress(name, *ingress, old, stale);
                }
            }
            Delta::Deleted(ingress) => {
                let gone = object_name(&ingress.metadata);
                let gone = gone.filter(|name| self.ingresses.remove(name).is_some());
                stale.ingresses.extend(gone);
            }
        }
    }

    fn put_ingress(
        &mut self,
        name: ObjectName,
        ingress: Ingress,
        old: Option<Arc<Ingress>>,
        stale: &mut Stale,
    ) {
        let ingress = without_noise(ingress);
        if !old.is_some_and(|old| means_the_same(&old, &ingress)) {
            stale.ingresses.insert(name.clone());
        }
        self.ingresses.insert(name, Arc::new(ingress));
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
        if changed {
            stale.ingresses.extend(self.ingresses.keys().cloned());
            stale.statuses = true;
        }
    }
}

// Namespaces.

impl Objects {
    /// Takes in which namespaces count. All of their Ingresses are stale then.
    fn apply_namespace(&mut self, delta: Delta<Namespace>, stale: &mut Stale) {
        let Some(chosen) = self.classes.chosen() else {
            return;
        };
        let name = |namespace: &Namespace| namespace.metadata.name.clone().unwrap_or_default();
        let changed: BTreeSet<String> = match delta {
            Delta::All(all) => {
                self.listed.namespaces = true;
                let new = all.iter().map(name).collect();
                let old = std::mem::replace(chosen, new);
                old.symmetric_difference(chosen).cloned().collect()
            }
            Delta::Applied(namespace) => {
                let name = name(&namespace);
                let is_new = chosen.insert(name.clone());
                is_new.then_some(name).into_iter().collect()
            }
            Delta::Deleted(namespace) => chosen.take(&name(&namespace)).into_iter().collect(),
        };
        let is_in = |ingress: &&ObjectName| changed.contains(&*ingress.namespace);
        let concerned = self.ingresses.keys().filter(is_in);
        stale.ingresses.extend(concerned.cloned());
        stale.statuses |= !changed.is_empty();
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

// What Ingresses name.

impl Objects {
    fn apply_referenced(&mut self, reference: Reference, seen: Seen, stale: &mut Stale) {
        let certificate = match (&reference, &seen) {
            (Reference::Secret(_), Seen::Present(data)) => {
                let entry = |key| data.get(key).map(Vec::as_slice).unwrap_or_default();
                Some(Certificate::from_pem(
                    entry(CERTIFICATE_KEY),
                    entry(PRIVATE_KEY_KEY),
                ))
            }
            _ => None,
        };
        if !self.referenced.put(reference.clone(), seen) {
            return;
        }
        if let Reference::Secret(name) = &reference {
            stale.certificates = true;
            match certificate {
                Some(read) => drop(self.secrets.insert(name.clone(), read.map(Arc::new))),
                None => drop(self.secrets.remove(name)),
            }
        }
        stale.references.insert(reference);
    }

    /// Forgets what no Ingress names.
    pub fn keep_referenced(&mut self, wanted: &BTreeSet<Reference>) {
        self.referenced.keep(wanted);
        self.names.keep(wanted);
        let is_wanted = |name: &ObjectName| wanted.contains(&Reference::Secret(name.clone()));
        self.secrets.retain(|name, _| is_wanted(name));
    }
}

// Names outside the cluster.

/// The ports of `service` that lead to another one, if it stands for a name.
fn targets(service: &Service) -> Targets {
    let spec = service.spec.as_ref();
    let spec = spec.filter(|spec| spec.type_.as_deref() == Some("ExternalName"));
    let ports = spec.and_then(|spec| spec.ports.as_deref());
    let number = |number: i32| NonZeroU16::new(u16::try_from(number).ok()?);
    let target = |port: &ServicePort| match &port.target_port {
        Some(IntOrString::Int(target)) => Some((number(port.port)?, number(*target)?)),
        _ => None,
    };
    let targets = ports.unwrap_or_default().iter().filter_map(target);
    targets.filter(|(port, target)| port != target).collect()
}

impl Objects {
    /// Takes in where ports lead of Services that stand for names, and says which of them changed.
    fn apply_targets(&mut self, delta: &Delta<Service>) -> BTreeSet<ServiceName> {
        let mut changed = BTreeSet::new();
        let mut put = |service: &Service, targets| {
            let name = name_or_empty(&service.metadata);
            if self.names.put_targets(name.clone(), targets) {
                changed.insert(name);
            }
        };
        match delta {
            Delta::All(all) => {
                all.iter()
                    .for_each(|service| put(service, targets(service)));
                let listed = all.iter().map(|service| name_or_empty(&service.metadata));
                self.names.keep_targets(&listed.collect());
            }
            Delta::Applied(service) => put(service, targets(service)),
            Delta::Deleted(service) => put(service, Targets::new()),
        }
        changed
    }

    /// Those who name it are read again only if there is something else to say about it.
    fn apply_resolved(&mut self, name: Box<str>, resolution: Resolution, stale: &mut Stale) {
        let said =
            |names: &Names, world: &World| names.knows(&name).then(|| names.doubt(world, &name));
        let before = said(&self.names, &self.world);
        self.names.put(name.clone(), resolution);
        stale.names = true;
        if said(&self.names, &self.world) != before {
            stale.references.insert(Reference::ExternalName(name));
        }
    }

    /// Names may not lead to the API server, so where they lead is judged again if that is somewhere else now.
    fn outdate_names(&self, changed: &BTreeSet<ServiceName>, stale: &mut Stale) {
        if changed.contains(&api_service()) {
            stale.names = true;
            let names = self.names.known().map(Box::from);
            stale.references.extend(names.map(Reference::ExternalName));
        }
    }
}
