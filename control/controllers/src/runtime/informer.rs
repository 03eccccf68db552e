//! One watch of one kind, shared by every controller: a cache to read and callbacks to be woken by.
//!
//! Callbacks run on the watch's task after the cache holds the new state; they only note keys and never wait. They are
//! registered before the watch starts, so none misses an object.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::store::{Change, Key, Store};
use super::{lock, read, write};

type Callback<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

/// A shared, watched cache of one kind.
pub(crate) struct Informer<K> {
    store: RwLock<Store<K>>,
    callbacks: Mutex<Vec<Arc<Callback<K>>>>,
    synced: watch::Sender<bool>,
    trim: fn(&mut K),
}

impl<K> Informer<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// An empty cache; `trim` drops from every object what no reader of this cache needs.
    pub(crate) fn new(trim: fn(&mut K)) -> Self {
        Self {
            store: RwLock::default(),
            callbacks: Mutex::default(),
            synced: watch::Sender::new(false),
            trim,
        }
    }

    /// Calls back for every later change.
    pub(crate) fn on_change(&self, callback: impl Fn(&Change<K>) + Send + Sync + 'static) {
        lock(&self.callbacks).push(Arc::new(Box::new(callback)));
    }

    /// Watches what `config` selects until `shutdown`. A broken watch is taken up again, with a growing pause between failures.
    pub(crate) async fn run(
        &self,
        api: Api<K>,
        config: watcher::Config,
        shutdown: CancellationToken,
    ) {
        let mut events = pin!(watcher(api, config).backoff(Pause::default()));
        while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
            match event {
                Ok(event) => self.apply(event),
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "watch broken, taking it up again")
                }
            }
        }
    }

    /// Takes one watch event: first the cache, then the callbacks.
    fn apply(&self, event: watcher::Event<K>) {
        let complete = matches!(event, watcher::Event::InitDone);
        let changes = write(&self.store).apply(event.modify(|object| self.strip(object)));
        self.call_back(&changes);
        if complete {
            self.synced.send_replace(true);
        }
    }

    /// Takes the answer to a write of ours before the watch brings it; see [`Store::absorb`].
    pub(crate) fn absorb(&self, mut object: K) {
        self.strip(&mut object);
        let change = write(&self.store).absorb(object);
        self.call_back(change.as_slice());
    }

    fn strip(&self, object: &mut K) {
        object.meta_mut().managed_fields = None;
        (self.trim)(object);
    }

    fn call_back(&self, changes: &[Change<K>]) {
        let callbacks = lock(&self.callbacks).clone();
        for change in changes {
            callbacks.iter().for_each(|callback| callback(change));
        }
    }

    /// Waits for the first complete list.
    pub(crate) async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        synced
            .wait_for(|synced| *synced)
            .await
            .expect("the sender lives as long as self");
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        read(&self.store).get(key)
    }

    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        read(&self.store).all()
    }

    /// The objects of a namespace that satisfy the condition.
    pub(crate) fn find(&self, namespace: &str, condition: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        read(&self.store)
            .namespace(namespace)
            .filter(|object| condition(object))
            .cloned()
            .collect()
    }

    /// The objects controlled by the owner with this uid.
    pub(crate) fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        read(&self.store).owned_by(uid)
    }

    /// The objects of a namespace that nobody controls.
    pub(crate) fn orphans(&self, namespace: &str) -> Vec<Arc<K>> {
        let mut orphans = read(&self.store).owned_by("");
        orphans.retain(|object| object.meta().namespace.as_deref() == Some(namespace));
        orphans
    }
}

/// 50 ms after the first failure of a watch, doubling to 10 s.
#[derive(Debug)]
pub(crate) struct Pause(Duration);

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Default for Pause {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        Some(pause)
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {
        *self = Self::default();
    }
}
