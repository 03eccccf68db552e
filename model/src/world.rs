//! All objects as they were last seen, and which services an event changes.
//!
//! The world is level-triggered: an event names what changed, and whoever acts on it reads the state from here. A full
//! list replaces everything of its kind, so whatever was missed between two watches is found by comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use ipnetwork::IpNetwork;

use crate::backend::{Backend, Slice};
use crate::node::{Node, Place};
use crate::service::{
    Family, ObjectName, Service, ServiceCidr, ServiceName, ServicePort, SliceName,
};

/// Something that was seen in the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// All Services there are.
    Services(Vec<Service>),
    /// A Service that is new or changed.
    Service(Service),
    /// A Service is gone, or no longer ours.
    ServiceGone(ServiceName),
    /// All EndpointSlices there are.
    Slices(Vec<Slice>),
    /// An EndpointSlice that is new or changed.
    Slice(Slice),
    /// An EndpointSlice is gone, or no longer ours.
    SliceGone(SliceName),
    /// All ServiceCIDRs there are. None if the API does not have that kind.
    ServiceCidrs(Vec<ServiceCidr>),
    /// A ServiceCIDR that is new or changed.
    ServiceCidr(ServiceCidr),
    /// A ServiceCIDR is gone.
    ServiceCidrGone(ObjectName),
    /// All Services with a cluster address that are `Unserved` by us, for one reason.
    UnservedAll(Unserved, Vec<ServiceName>),
    /// A Service has a cluster address and is not ours.
    Unserved(Unserved, ServiceName),
    /// A Service is gone, has no cluster address, or is ours.
    UnservedGone(Unserved, ServiceName),
    /// This node as it is, or nothing when it has no object. Also what a list of it says.
    Node(Option<Node>),
}

/// Why a Service is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unserved {
    /// Its label names another proxy.
    OtherProxy,
    /// Its label says that it is headless.
    Headless,
}

/// The last known state of all objects.
#[derive(Debug)]
pub struct World {
    node_name: Box<str>,
    node: Option<Node>,
    /// Nothing as long as nobody can tell.
    service_cidrs: Option<BTreeMap<ObjectName, Vec<IpNetwork>>>,
    /// The Services with a cluster address that are not ours, by the reason; nothing until they are listed.
    unserved: [Option<BTreeSet<ServiceName>>; 2],
    /// Boxed, for a tree's nodes are half empty when it grows in order.
    services: BTreeMap<ServiceName, Box<Service>>,
    /// By Service, in order of names. Nearly every Service has one or two.
    slices: BTreeMap<ServiceName, Vec<Slice>>,
    owners: BTreeMap<SliceName, ServiceName>,
    listed: Listed,
}

/// Which sources have delivered a full list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Listed {
    services: bool,
    slices: bool,
    node: bool,
}

impl World {
    /// An empty world, seen from the node `node_name`.
    pub fn new(node_name: impl Into<Box<str>>) -> Self {
        Self {
            node_name: node_name.into(),
            node: None,
            service_cidrs: None,
            unserved: [None, None],
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            owners: BTreeMap::new(),
            listed: Listed::default(),
        }
    }

    /// Takes in `event` and names the services that it changed. An event that says nothing new changes none.
    pub fn apply(&mut self, event: Event) -> BTreeSet<ServiceName> {
        match event {
            Event::Services(all) => self.replace_services(all),
            Event::Service(service) => self.put_service(service).into_iter().collect(),
            Event::ServiceGone(name) => self.remove_service(&name).into_iter().collect(),
            Event::Slices(all) => self.replace_slices(all),
            Event::Slice(slice) => self.put_slice(slice).collect(),
            Event::SliceGone(name) => self.remove_slice(&name).into_iter().collect(),
            Event::ServiceCidrs(all) => {
                let all = all.into_iter().map(|cidr| (cidr.name, cidr.ranges));
                self.service_cidrs = Some(all.collect());
                BTreeSet::new()
            }
            Event::ServiceCidr(cidr) => {
                let known = self.service_cidrs.get_or_insert_default();
                known.insert(cidr.name, cidr.ranges);
                BTreeSet::new()
            }
            Event::ServiceCidrGone(name) => {
                if let Some(known) = &mut self.service_cidrs {
                    known.remove(&name);
                }
                BTreeSet::new()
            }
            Event::UnservedAll(reason, names) => {
                *self.unserved(reason) = Some(names.into_iter().collect());
                BTreeSet::new()
            }
            Event::Unserved(reason, name) => {
                self.unserved(reason).get_or_insert_default().insert(name);
                BTreeSet::new()
            }
            Event::UnservedGone(reason, name) => {
                if let Some(known) = self.unserved(reason) {
                    known.remove(&name);
                }
                BTreeSet::new()
            }
            Event::Node(node) => self.set_node(node),
        }
    }

    fn unserved(&mut self, reason: Unserved) -> &mut Option<BTreeSet<ServiceName>> {
        match reason {
            Unserved::OtherProxy => &mut self.unserved[0],
            Unserved::Headless => &mut self.unserved[1],
        }
    }

    /// Whether every source has delivered a full list, so that what is missing here is known not to exist.
    pub fn is_complete(&self) -> bool {
        self.listed.services && self.listed.slices && self.listed.node
    }

    /// The place of this node.
    pub fn place(&self) -> Place<'_> {
        Place {
            node: &self.node_name,
            zone: self.node().and_then(|node| node.zone.as_deref()),
        }
    }

    /// This node, if it has an object.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// The ranges that only addresses of our Services are from, each once, if that is known. None while any Service with a
    /// cluster address is not ours: packets to it are for another proxy to take.
    pub fn own_service_cidrs(&self) -> Option<BTreeSet<IpNetwork>> {
        let all = self.service_cidrs.as_ref()?;
        let [other_proxy, headless] = &self.unserved;
        let (other_proxy, headless) = (other_proxy.as_ref()?, headless.as_ref()?);
        if !other_proxy.is_empty() || !headless.is_empty() {
            return Some(BTreeSet::new());
        }
        Some(all.values().flatten().copied().collect())
    }

    /// The Service called `name`.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name).map(Box::as_ref)
    }

    /// All Services, in order of names.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(Box::as_ref)
    }

    /// The slices of the Service called `name`, in order of names.
    pub fn slices<'a>(&'a self, name: &ServiceName) -> impl Iterator<Item = &'a Slice> + use<'a> {
        self.slices.get(name).into_iter().flatten()
    }

    /// The backends of `port` of the Service called `name` in `family`, unfiltered and perhaps with duplicates: what
    /// [`select`](crate::select::select) takes.
    pub fn backends<'a>(
        &'a self,
        name: &ServiceName,
        port: &'a ServicePort,
        family: Family,
    ) -> impl Iterator<Item = Backend<'a>> + use<'a> {
        let slices = self
            .slices(name)
            .filter(move |slice| slice.family == family);
        slices.flat_map(|slice| slice.backends(port))
    }

    /// Made of the whole list at once, a tree takes half the memory of one that grows in order.
    fn replace_services(&mut self, all: Vec<Service>) -> BTreeSet<ServiceName> {
        self.listed.services = true;
        let mut old = mem::take(&mut self.services);
        // Collected at last: a set that is made of many at once costs less than one that they are put into.
        let mut changed = Vec::new();
        let all = all.into_iter().map(|service| {
            let name = service.name.clone();
            match old.remove(&name) {
                Some(known) if *known == service => (name, known),
                _ => {
                    changed.push(name.clone());
                    (name, Box::new(service))
                }
            }
        });
        self.services = all.collect();
        changed.into_iter().chain(old.into_keys()).collect()
    }

    fn put_service(&mut self, service: Service) -> Option<ServiceName> {
        if self.service(&service.name) == Some(&service) {
            return None;
        }
        let name = service.name.clone();
        self.services.insert(name.clone(), Box::new(service));
        Some(name)
    }

    fn remove_service(&mut self, name: &ServiceName) -> Option<ServiceName> {
        self.services.remove_entry(name).map(|(name, _)| name)
    }

    fn replace_slices(&mut self, mut all: Vec<Slice>) -> BTreeSet<ServiceName> {
        self.listed.slices = true;
        let owners = all.iter();
        self.owners = owners
            .map(|slice| (slice.name.clone(), slice.service.clone()))
            .collect();
        all.sort_by(|a, b| (&a.service, &a.name).cmp(&(&b.service, &b.name)));
        let mut by_service: Vec<(ServiceName, Vec<Slice>)> = Vec::new();
        for slice in all {
            match by_service.last_mut() {
                Some((owner, slices)) if *owner == slice.service => {
                    slices.reserve_exact(1);
                    slices.push(slice);
                }
                _ => by_service.push((slice.service.clone(), vec![slice])),
            }
        }
        let mut old = mem::replace(&mut self.slices, by_service.into_iter().collect());
        let listed = self.slices.iter();
        let changed = listed.filter(|(owner, slices)| old.remove(*owner).as_ref() != Some(*slices));
        let changed: Vec<ServiceName> = changed.map(|(owner, _)| owner.clone()).collect();
        changed.into_iter().chain(old.into_keys()).collect()
    }

    fn put_slice(&mut self, slice: Slice) -> impl Iterator<Item = ServiceName> + use<> {
        let owner = slice.service.clone();
        if self.slices(&owner).any(|known| *known == slice) {
            return [None, None].into_iter().flatten();
        }
        // The label that names the Service may be changed in place.
        let old = self.remove_slice(&slice.name);
        let changed = [Some(owner.clone()), old];
        self.owners.insert(slice.name.clone(), owner.clone());
        let slices = self.slices.entry(owner).or_default();
        let place = slices.partition_point(|known| known.name < slice.name);
        slices.reserve_exact(1);
        slices.insert(place, slice);
        changed.into_iter().flatten()
    }

    fn remove_slice(&mut self, name: &SliceName) -> Option<ServiceName> {
        let owner = self.owners.remove(name)?;
        if let Some(slices) = self.slices.get_mut(&owner) {
            slices.retain(|slice| slice.name != *name);
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
        }
        Some(owner)
    }

    /// A node's zone decides for every service with hints, and changes about never: all services then count as changed.
    fn set_node(&mut self, node: Option<Node>) -> BTreeSet<ServiceName> {
        self.listed.node = true;
        let zone = |node: &Option<Node>| node.as_ref().and_then(|n| n.zone.clone());
        let same_place = zone(&self.node) == zone(&node);
        self.node = node;
        if same_place {
            return BTreeSet::new();
        }
        self.services.keys().cloned().collect()
    }
}
