//! What every controller stands on: shared informers, keyed queues, expectations and events.
//!
//! Nothing here knows a kind's meaning. A controller registers callbacks on informers, the callbacks put keys into the
//! controller's queue, and [`worker::run`] hands each key to the reconciler, one at a time per key.

pub(crate) mod correlate;
pub(crate) mod discovery;
pub(crate) mod events;
pub(crate) mod expectations;
pub(crate) mod informer;
pub(crate) mod informers;
pub(crate) mod queue;
pub(crate) mod store;
pub(crate) mod worker;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kube::api::PostParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};

use self::events::Recorder;
use self::informers::Informers;
use crate::args::ControllersArgs;

/// What every controller is made from.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) informers: Arc<Informers>,
    pub(crate) recorder: Recorder,
    pub(crate) args: Arc<ControllersArgs>,
}

impl Context {
    /// The API of a namespaced kind.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// Writes are attributed to this field manager.
pub(crate) fn writing() -> PostParams {
    PostParams {
        field_manager: Some("portolan-controllers".to_owned()),
        ..PostParams::default()
    }
}

/// Locks, also when a panicking task held the lock before: every critical section here leaves its state valid.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for reading; see [`lock`].
pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for writing; see [`lock`].
pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
