//! The maps: their names, sizes, keys and values, and the rules by which the daemon writes what the kernel reads.
//!
//! A reader in the kernel takes three steps: `FRONTENDS` (or `NODEPORTS`) names a service, the service's [`Run`] names a
//! stretch of `SLOTS`, a slot names a backend. Each step reads only what the step before it published, so the daemon
//! keeps to this order:
//!
//! 1. write the [`Backend`] of every new id, `generation` last;
//! 2. write the backend ids of a new run into `SLOTS` where no published run lies;
//! 3. publish the run by **one aligned 8-byte store** into the [`Service`] (release ordering);
//! 4. insert the frontends.
//!
//! Taking away goes the other way: delete the frontends, publish an empty run, and give slots, backend ids and service
//! ids back to use only after [`QUARANTINE_SECONDS`]. A backend that is gone gets a `generation` it never had before
//! (ids are reused, generations are not: count up, skip zero), which is what tells connections that still name it.

pub mod maps;

mod affinity;
mod backend;
mod connection;
mod filter;
mod fragment;
mod frontend;
mod layout;
mod moment;
mod node;
mod record;
mod service;
mod socket;

pub use affinity::{Affinity, AffinityKey};
pub use backend::{Backend, BackendKey};
pub use connection::{Connection, HALF_OPEN_IDLE, ORPHAN_PATIENCE, SCTP_IDLE, TCP_IDLE, UDP_IDLE};
pub use filter::FilterPlace;
pub use fragment::{FragmentKey, FragmentPorts};
pub use frontend::{Frontend, FrontendKey, Kind, NodePortKey};
pub use moment::{age, moment};
pub use node::{Mac, Node, NodeAddress, Prefix};
pub use record::{DropRecord, Stats};
pub use service::{Name, Origin, Run, Service, SourceRange};
pub use socket::{Peer, SocketKey};

/// Changes whenever a map's meaning or layout does; part of the name of the directory the maps are pinned in.
pub const LAYOUT_VERSION: u32 = 3;

/// How long a slot, backend id or service id stays unused after nothing names it any more. Programs that read the old
/// name ended microseconds ago; a second is what the design promises.
pub const QUARANTINE_SECONDS: u64 = 1;
