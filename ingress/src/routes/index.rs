//! What a change outdates: readings by object, by host, by Service and by whatever else is named.
//!
//! An object that changes is read again, and only the hosts that it speaks of, now or before, are merged again. All
//! other hosts are shared with the table before. So a change costs what it touches, not what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::networking::v1::Ingress;
use model::{ObjectName, ServiceName};

use super::ingress::{self, Context, Reading, TlsClaim};
use super::merge::{Merged, merge};
use super::{Route, Table};
use crate::annotations::Reference;
use crate::message::host::HostPattern;
use crate::problem::{IngressRef, Problem};

/// The routes of all Ingresses, and what is known about where they come from.
#[derive(Debug, Default)]
pub struct Routes {
    table: Table,
    readings: BTreeMap<ObjectName, (Age, Reading)>,
    /// The objects that speak of a host, oldest first.
    speakers: BTreeMap<HostPattern, BTreeSet<Age>>,
    /// The objects that name a Service, there or not.
    users: BTreeMap<ServiceName, BTreeSet<ObjectName>>,
    /// The objects that name a Secret or the like, there or not.
    reference_users: BTreeMap<Reference, BTreeSet<ObjectName>>,
    /// The certificate of each host with a TLS section.
    claims: BTreeMap<HostPattern, TlsClaim>,
    /// What is wrong with an object by itself.
    faults: BTreeMap<ObjectName, Vec<Problem>>,
    /// What several objects want of one host.
    conflicts: BTreeMap<HostPattern, Vec<Problem>>,
    routes: usize,
}

/// What decides who comes first: the time of creation, then the name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Age(Option<jiff::Timestamp>, Arc<IngressRef>);

/// What readings that come or go speak of.
#[derive(Debug, Default)]
struct Touched {
    hosts: BTreeSet<HostPattern>,
    /// Whether anybody named it before.
    references: BTreeMap<Reference, bool>,
}

/// What a change came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Whether any host has other routes than before.
    pub routes: bool,
    /// Whether any host has another claim to a certificate than before.
    pub claims: bool,
    /// Whether other Secrets and the like are named than before.
    pub references: bool,
}

impl Routes {
    /// Takes in that each of `objects` is as it stands there now, or is gone or not ours.
    pub fn update<'i>(
        &mut self,
        objects: impl IntoIterator<Item = (&'i ObjectName, Option<&'i Ingress>)>,
        context: Context<'_>,
    ) -> Changed {
        let mut touched = Touched::default();
        for (name, object) in objects {
            // The new reading comes first, so that what both have in common is never let go.
            let new = object.map(|object| (age(object), ingress::read(object, context)));
            if let Some((age, reading)) = self.readings.remove(name) {
                touched.add(&reading, &self.reference_users);
                self.remove(name, &age, &reading);
            }
            if let Some((age, reading)) = new {
                touched.add(&reading, &self.reference_users);
                self.insert(name, age, reading);
            }
        }
        let Touched { hosts, references } = touched;
        let routes = !hosts.is_empty();
        let claims = hosts
            .into_iter()
            .fold(false, |changed, host| changed | self.merge(host));
        let references = references
            .into_iter()
            .any(|(named, before)| before != self.reference_users.contains_key(&named));
        Changed {
            routes,
            claims,
            references,
        }
    }

    fn remove(&mut self, name: &ObjectName, age: &Age, reading: &Reading) {
        self.faults.remove(name);
        self.routes -= reading.routes();
        for service in &reading.services {
            forget(&mut self.users, service, name);
        }
        for named in &reading.references {
            forget(&mut self.reference_users, named, name);
        }
        for host in reading.hosts() {
            forget(&mut self.speakers, host, age);
        }
    }

    fn insert(&mut self, name: &ObjectName, age: Age, mut reading: Reading) {
        let problems = std::mem::take(&mut reading.problems);
        if !problems.is_empty() {
            self.faults.insert(name.clone(), problems);
        }
        self.routes += reading.routes();
        for service in &reading.services {
            let users = self.users.entry(service.clone()).or_default();
            users.insert(name.clone());
        }
        for named in &reading.references {
            let users = self.reference_users.entry(named.clone()).or_default();
            users.insert(name.clone());
        }
        for host in reading.hosts() {
            let speakers = self.speakers.entry(host.clone()).or_default();
            speakers.insert(age.clone());
        }
        self.readings.insert(name.clone(), (age, reading));
    }

    /// Computes `pattern` anew. Says whether its claim to a certificate changed.
    fn merge(&mut self, pattern: HostPattern) -> bool {
        let speakers = self.speakers.get(&pattern).into_iter().flatten();
        let readings = speakers.filter_map(|Age(_, object)| self.readings.get(&object.name));
        let Merged {
            host,
            claim,
            problems,
        } = merge(&pattern, readings.map(|(_, reading)| reading));
        match host {
            Some(host) => self.table.hosts.insert(pattern.clone(), Arc::new(host)),
            None => self.table.hosts.remove(&pattern),
        }
        match claim {
            Some(_) => self.table.secure.insert(pattern.clone(), ()),
            None => self.table.secure.remove(&pattern),
        }
        match problems.is_empty() {
            true => drop(self.conflicts.remove(&pattern)),
            false => drop(self.conflicts.insert(pattern.clone(), problems)),
        }
        let has_changed = self.claims.get(&pattern) != claim.as_ref();
        match claim {
            Some(claim) => drop(self.claims.insert(pattern, claim)),
            None => drop(self.claims.remove(&pattern)),
        }
        has_changed
    }
}

impl Routes {
    /// The table as it is now. It costs next to nothing: all hosts are shared.
    pub fn table(&self) -> Table {
        self.table.clone()
    }

    /// The number of routes, those that lose a conflict included.
    pub fn len(&self) -> usize {
        self.routes
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.routes == 0
    }

    /// Looks for a path that a host does not have under less specific ones, if `falls` says so.
    pub fn fall_through(&mut self, falls: bool) {
        self.table.falls_through = falls;
    }

    /// Sets where requests go that nobody has a route for.
    pub fn set_otherwise(&mut self, route: Option<Arc<Route>>) {
        self.table.otherwise = route;
    }

    /// The certificates that are wanted, one claim a host.
    pub fn claims(&self) -> impl Iterator<Item = &TlsClaim> {
        self.claims.values()
    }

    /// The objects that name `service`.
    pub fn users(&self, service: &ServiceName) -> impl Iterator<Item = &ObjectName> {
        self.users.get(service).into_iter().flatten()
    }

    /// The objects that name `reference`.
    pub fn reference_users(&self, reference: &Reference) -> impl Iterator<Item = &ObjectName> {
        self.reference_users.get(reference).into_iter().flatten()
    }

    /// The Secrets and the like that are named.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.reference_users.keys()
    }

    /// What cannot be carried out.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        let faults = self.faults.values().flatten();
        faults.chain(self.conflicts.values().flatten())
    }
}

impl Touched {
    fn add(&mut self, reading: &Reading, users: &BTreeMap<Reference, BTreeSet<ObjectName>>) {
        self.hosts.extend(reading.hosts().cloned());
        for named in &reading.references {
            let before = || users.contains_key(named);
            self.references.entry(named.clone()).or_insert_with(before);
        }
    }
}

impl Reading {
    /// The hosts that it speaks of, perhaps twice.
    fn hosts(&self) -> impl Iterator<Item = &HostPattern> {
        let claimed = self.claims.iter().map(|claim| &claim.host);
        self.parts.keys().chain(claimed)
    }

    fn routes(&self) -> usize {
        let parts = self.parts.values();
        parts
            .map(|part| part.paths.len() + usize::from(part.default.is_some()))
            .sum()
    }
}

fn age(ingress: &Ingress) -> Age {
    let created = ingress.metadata.creation_timestamp.as_ref();
    let created = created.map(|time| time.0);
    Age(created, Arc::new(ingress::reference(ingress)))
}

/// Takes `value` out of the set at `key`, and the set with it if that was the last.
fn forget<K: Ord, V: Ord>(sets: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}
