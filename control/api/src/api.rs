//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use control_store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::allocate::Allocators;
use crate::identity::Authenticator;
use crate::metrics::Metrics;
use crate::proxy::Agents;

/// How many reading and writing requests may be under way; long-running ones (watch, log, exec) are not counted.
pub(crate) const READERS: usize = 400;
/// See [`READERS`].
pub(crate) const WRITERS: usize = 200;

/// The server's state.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) authenticator: Authenticator,
    pub(crate) allocators: Allocators,
    pub(crate) agents: Agents,
    pub(crate) metrics: Metrics,
    pub(crate) ready: AtomicBool,
    pub(crate) readers: Arc<Semaphore>,
    pub(crate) writers: Arc<Semaphore>,
    pub(crate) shutdown: CancellationToken,
    /// `host:port` as clients reach us.
    pub(crate) address: String,
}
