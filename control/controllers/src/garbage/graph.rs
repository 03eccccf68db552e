//! Who owns whom, and what follows from it. Pure.
//!
//! The graph holds every object of every watched kind by uid, with its owners and dependents. An owner that is not in the
//! graph is not known to be gone: its kind's watch may be behind, or not be watched at all. So the graph asks for such
//! owners to be looked up, and only an owner that was looked for and not found counts as absent.

use std::collections::{BTreeSet, HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::runtime::store::Key;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// What the graph knows of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Object {
    /// The index of its kind.
    pub(super) kind: usize,
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) finalizers: Vec<String>,
    pub(super) deleting: bool,
}

impl Object {
    /// An object by its metadata; nothing without a uid.
    pub(super) fn of(kind: usize, meta: ObjectMeta) -> Option<Self> {
        Some(Self {
            kind,
            key: Key::new(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
            ),
            uid: meta.uid?,
            resource_version: meta.resource_version.unwrap_or_default(),
            owners: meta.owner_references.unwrap_or_default(),
            finalizers: meta.finalizers.unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
        })
    }

    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|known| known == finalizer)
    }

    /// Whether the object goes only after its dependents.
    fn waits_for_dependents(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }
}

/// All objects.
#[derive(Debug, Default)]
pub(super) struct Graph {
    objects: HashMap<String, Object>,
    /// Uids of dependents by the uid of the owner, which need not be known.
    dependents: HashMap<String, BTreeSet<String>>,
    /// Uids listed by a kind's running relist.
    relists: HashMap<usize, HashSet<String>>,
    /// Owners that were looked for and not found.
    absent: HashSet<String>,
}

/// How many absent owners are remembered; forgetting one costs another look.
const ABSENT_MEMORY: usize = 10_000;

/// What is to be done about an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    Nothing,
    /// Look these owners up, then decide again.
    LookUp(Vec<OwnerReference>),
    /// Delete it in this way.
    Delete(Propagation),
    /// Write the metadata with these owners only.
    SetOwners(Vec<OwnerReference>),
    /// Its dependents are gone: take the finalizer off.
    Release(&'static str),
    /// Take it out of its dependents' owners, then take the finalizer off.
    OrphanDependents(Vec<String>),
}

/// The way to delete an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl Graph {
    /// An object is there. Answers the uids about which to decide.
    pub(super) fn set(&mut self, object: Object) -> Vec<String> {
        if let Some(listed) = self.relists.get_mut(&object.kind) {
            listed.insert(object.uid.clone());
        }
        self.absent.remove(&object.uid);
        let uid = object.uid.clone();
        if let Some(old) = self.objects.get(&uid) {
            let gone: Vec<_> = old.owners.iter().map(|owner| owner.uid.clone()).collect();
            gone.iter().for_each(|owner| self.unlink(owner, &uid));
        }
        for owner in &object.owners {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.clone());
        }
        let mut concerned = self.waiting_owners(&object);
        if object.waits_for_dependents() {
            concerned.extend(self.dependents_of(&uid).map(str::to_owned));
        }
        let suspicious = |owner: &OwnerReference| {
            self.objects
                .get(&owner.uid)
                .is_none_or(|owner| owner.waits_for_dependents())
        };
        if object.deleting || object.owners.iter().any(suspicious) {
            concerned.push(uid.clone());
        }
        self.objects.insert(uid, object);
        concerned
    }

    /// An object is gone.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(object) = self.objects.remove(uid) else {
            return Vec::new();
        };
        for owner in &object.owners {
            self.unlink(&owner.uid, uid);
        }
        self.note_absent(uid);
        let mut concerned = self.waiting_owners(&object);
        concerned.extend(self.dependents_of(uid).map(str::to_owned));
        concerned
    }

    /// A kind is being listed anew.
    pub(super) fn start_relist(&mut self, kind: usize) {
        self.relists.insert(kind, HashSet::new());
    }

    /// The list is complete: what it does not hold is gone.
    pub(super) fn finish_relist(&mut self, kind: usize) -> Vec<String> {
        let listed = self.relists.remove(&kind).unwrap_or_default();
        let gone = self
            .objects
            .values()
            .filter(|object| object.kind == kind && !listed.contains(&object.uid));
        let gone: Vec<_> = gone.map(|object| object.uid.clone()).collect();
        gone.iter().flat_map(|uid| self.remove(uid)).collect()
    }

    /// The objects with owners that are not in the graph.
    pub(super) fn unexplained(&self) -> Vec<String> {
        let known = |owner: &OwnerReference| self.objects.contains_key(&owner.uid);
        let unexplained = self
            .objects
            .values()
            .filter(|object| !object.owners.iter().all(known));
        unexplained.map(|object| object.uid.clone()).collect()
    }

    /// The owner was looked for and does not exist.
    pub(super) fn note_absent(&mut self, uid: &str) {
        if self.absent.len() >= ABSENT_MEMORY {
            self.absent.clear();
        }
        self.absent.insert(uid.to_owned());
    }

    pub(super) fn get(&self, uid: &str) -> Option<&Object> {
        self.objects.get(uid)
    }

    fn dependents_of(&self, uid: &str) -> impl Iterator<Item = &str> {
        self.dependents
            .get(uid)
            .into_iter()
            .flatten()
            .map(String::as_str)
    }

    /// The owners that cannot go before this object does.
    fn waiting_owners(&self, object: &Object) -> Vec<String> {
        let owners = object
            .owners
            .iter()
            .filter_map(|owner| self.objects.get(&owner.uid));
        owners
            .filter(|owner| owner.waits_for_dependents())
            .map(|owner| owner.uid.clone())
            .collect()
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    /// Decides about an object. `found` are owners that were looked up just now and exist.
    pub(super) fn decide(&self, uid: &str, found: &HashSet<String>) -> Verdict {
        let Some(object) = self.objects.get(uid) else {
            return Verdict::Nothing;
        };
        if object.deleting && object.has(ORPHAN) {
            return Verdict::OrphanDependents(self.dependents_of(uid).map(str::to_owned).collect());
        }
        if object.waits_for_dependents() {
            return if self.is_blocked(uid) {
                Verdict::Nothing
            } else {
                Verdict::Release(FOREGROUND)
            };
        }
        if object.deleting || object.owners.is_empty() {
            return Verdict::Nothing;
        }
        self.decide_by_owners(object, found)
    }

    /// Whether a dependent that is still there keeps its owner from going.
    fn is_blocked(&self, uid: &str) -> bool {
        let blocks = |dependent: &Object| {
            let mut references = dependent.owners.iter().filter(|owner| owner.uid == uid);
            references.any(|owner| owner.block_owner_deletion == Some(true))
        };
        self.dependents_of(uid)
            .filter_map(|dependent| self.objects.get(dependent))
            .any(blocks)
    }

    fn decide_by_owners(&self, object: &Object, found: &HashSet<String>) -> Verdict {
        let mut solid = Vec::new();
        let (mut waiting, mut unknown) = (false, Vec::new());
        for owner in &object.owners {
            match self.objects.get(&owner.uid) {
                Some(known) if !reachable(object, known) => {}
                Some(known) if known.waits_for_dependents() => waiting = true,
                Some(_) => solid.push(owner.clone()),
                None if found.contains(&owner.uid) => solid.push(owner.clone()),
                None if self.absent.contains(&owner.uid) => {}
                None => unknown.push(owner.clone()),
            }
        }
        if !unknown.is_empty() {
            return Verdict::LookUp(unknown);
        }
        if !solid.is_empty() {
            let all = solid.len() == object.owners.len();
            return if all {
                Verdict::Nothing
            } else {
                Verdict::SetOwners(solid)
            };
        }
        let has_dependents = self.dependents_of(&object.uid).next().is_some();
        if waiting && has_dependents {
            return self.delete_below_waiting_owner(object);
        }
        Verdict::Delete(match () {
            () if object.has(ORPHAN) => Propagation::Orphan,
            () if object.has(FOREGROUND) => Propagation::Foreground,
            () => Propagation::Background,
        })
    }

    /// The owner waits for this object, which has dependents of its own, so they go first. In a circle of owners everyone
    /// would wait for ever: whoever sees one of its dependents waiting stops blocking its own owner.
    fn delete_below_waiting_owner(&self, object: &Object) -> Verdict {
        let mut dependents = self
            .dependents_of(&object.uid)
            .filter_map(|uid| self.objects.get(uid));
        let blocking = object
            .owners
            .iter()
            .any(|owner| owner.block_owner_deletion == Some(true));
        if blocking && dependents.any(Object::waits_for_dependents) {
            let unblocked = object.owners.iter().map(|owner| OwnerReference {
                block_owner_deletion: Some(false),
                ..owner.clone()
            });
            return Verdict::SetOwners(unblocked.collect());
        }
        Verdict::Delete(Propagation::Foreground)
    }
}

/// Owners are of the same namespace or of none; any other reference counts as one to nothing.
fn reachable(object: &Object, owner: &Object) -> bool {
    owner.key.namespace.is_empty() || owner.key.namespace == object.key.namespace
}

#[cfg(test)]
mod tests;
