//! The cached objects of one kind, found by name, by namespace and by controlling owner.
//!
//! Pure: a watch event goes in, the list of what really changed comes out. A relist is compared with what was known, so
//! deletions missed while the watch was broken come out like any other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

use crate::object::controller_of;

/// Namespace and name of an object; the namespace is empty for cluster-scoped kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    /// The key of a namespaced object.
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The key of a cluster-scoped object.
    pub(crate) fn cluster(name: &str) -> Self {
        Self::new("", name)
    }

    /// The key of this object.
    pub(crate) fn of(object: &impl Resource) -> Self {
        Self::new(
            object.meta().namespace.as_deref().unwrap_or_default(),
            &object.name_any(),
        )
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// An object's step from one cached state to the next. At least one side is present.
#[derive(Debug)]
pub(crate) struct Change<K> {
    pub(crate) old: Option<Arc<K>>,
    pub(crate) new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// The object as it is now, or as it last was.
    pub(crate) fn object(&self) -> &Arc<K> {
        self.new
            .as_ref()
            .or(self.old.as_ref())
            .expect("a change has at least one side")
    }

    /// Every known state of the object, the newer first.
    pub(crate) fn sides(&self) -> impl Iterator<Item = &Arc<K>> {
        self.new.iter().chain(self.old.iter())
    }

    /// Whether the object is gone.
    pub(crate) fn deleted(&self) -> bool {
        self.new.is_none()
    }
}

/// The cached objects of one kind.
#[derive(Debug)]
pub(crate) struct Store<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// Keys by the uid of the controlling owner; those that nobody controls are under the empty uid.
    owned: HashMap<String, BTreeSet<Key>>,
    /// What a running relist has brought so far.
    relist: Option<HashMap<Key, K>>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            owned: HashMap::new(),
            relist: None,
        }
    }
}

/// The uid of the owner that controls this object, or nothing.
fn controller_uid(object: &impl Resource) -> &str {
    controller_of(object)
        .map(|owner| owner.uid.as_str())
        .unwrap_or_default()
}

/// The object's version as a number. Versions of one kind can be compared; a server whose versions are no numbers only
/// costs us some conflicts.
fn version(object: &impl Resource) -> Option<u64> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

impl<K: Resource<DynamicType = ()>> Store<K> {
    /// Takes one watch event and answers what changed by it.
    pub(crate) fn apply(&mut self, event: Event<K>) -> Vec<Change<K>> {
        match event {
            Event::Apply(object) => self.advance(object).into_iter().collect(),
            Event::Delete(object) => self.remove(&Key::of(&object)).into_iter().collect(),
            Event::Init => {
                self.relist = Some(HashMap::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                self.relist
                    .get_or_insert_default()
                    .insert(Key::of(&object), object);
                Vec::new()
            }
            Event::InitDone => {
                let listed = self.relist.take().unwrap_or_default();
                self.replace(listed)
            }
        }
    }

    fn replace(&mut self, listed: HashMap<Key, K>) -> Vec<Change<K>> {
        let gone: Vec<Key> = self
            .objects
            .keys()
            .filter(|key| !listed.contains_key(key))
            .cloned()
            .collect();
        let mut changes: Vec<_> = gone.iter().filter_map(|key| self.remove(key)).collect();
        changes.extend(
            listed
                .into_iter()
                .filter_map(|(key, object)| self.set(key, object)),
        );
        changes
    }

    /// Takes the answer to our own write, so that the next decision does not rest on what that write has changed. Only
    /// what is cached is replaced: a new object may have been deleted since, and its end must not be undone.
    pub(crate) fn absorb(&mut self, object: K) -> Option<Change<K>> {
        let known = self.objects.get(&Key::of(&object))?;
        (known.meta().uid == object.meta().uid && version(&**known)? < version(&object)?)
            .then_some(())?;
        self.set(Key::of(&object), object)
    }

    /// Takes what the watch brings, unless an answer to a later write was here before.
    fn advance(&mut self, object: K) -> Option<Change<K>> {
        let key = Key::of(&object);
        let behind = self.objects.get(&key).is_some_and(|known| {
            known.meta().uid == object.meta().uid
                && version(&object).is_some()
                && version(&object) < version(&**known)
        });
        if behind { None } else { self.set(key, object) }
    }

    /// Keeps the object. Nothing changes if this version is known already; a reborn object (same name, other uid) counts
    /// as an update whose sides have different uids.
    fn set(&mut self, key: Key, object: K) -> Option<Change<K>> {
        let old = self.objects.get(&key).cloned();
        if let Some(old) = &old {
            if old.meta().resource_version.is_some()
                && old.meta().resource_version == object.meta().resource_version
            {
                return None;
            }
            self.forget_owner(&key, old);
        }
        self.owned
            .entry(controller_uid(&object).to_owned())
            .or_default()
            .insert(key.clone());
        let new = Arc::new(object);
        self.objects.insert(key, new.clone());
        Some(Change {
            old,
            new: Some(new),
        })
    }

    fn remove(&mut self, key: &Key) -> Option<Change<K>> {
        let old = self.objects.remove(key)?;
        self.forget_owner(key, &old);
        Some(Change {
            old: Some(old),
            new: None,
        })
    }

    fn forget_owner(&mut self, key: &Key, object: &K) {
        let uid = controller_uid(object);
        if let Some(keys) = self.owned.get_mut(uid) {
            keys.remove(key);
            if keys.is_empty() {
                self.owned.remove(uid);
            }
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.objects.get(key).cloned()
    }

    /// All objects, by namespace and name.
    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.objects.values().cloned().collect()
    }

    /// The objects of a namespace, by name.
    pub(crate) fn namespace(&self, namespace: &str) -> impl Iterator<Item = &Arc<K>> {
        let namespace = namespace.to_owned();
        self.objects
            .range(Key::new(&namespace, "")..)
            .take_while(move |(key, _)| key.namespace == namespace)
            .map(|(_, object)| object)
    }

    /// The objects controlled by the owner with this uid, or with an empty uid by nobody, by namespace and name.
    pub(crate) fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.owned
            .get(uid)
            .into_iter()
            .flatten()
            .filter_map(|key| self.get(key))
            .collect()
    }
}

#[cfg(test)]
mod tests;
