//! portolan-proxy: keeps a node's eBPF service load balancer equal to the Kubernetes API.
//!
//! ```text
//! watch ── events ─▶ reconcile: World ─▶ desired ─▶ Tables ─▶ Maps ─▶ kernel
//! devices ─ state ──┘    │                                      ▲
//!                        └─ health, metrics        attach ──────┘ (loads, pins, adopts)
//! ```
//!
//! The kernel never waits for the daemon, and the daemon can die at any time: maps, programs and links are pinned. A new
//! daemon adopts them ([`attach`]), reads back what is installed ([`tables`]), lists everything ([`watch`](mod@watch)) and
//! writes only what differs. [`inspect`] has the operator's tools, which only read.
//! Pure: [`addresses`], [`desired`] and the id allocators. Only [`maps`] writes BPF maps, and
//! only the module `sys` has unsafe code.

pub mod addresses;
pub mod attach;
pub mod attacher;
pub mod capabilities;
pub mod cli;
pub mod config;
pub mod conntrack;
pub mod desired;
pub mod devices;
mod due;
pub mod events;
pub mod features;
pub mod handover;
pub mod health;
pub mod health_check;
pub mod inspect;
mod lean;
pub mod maps;
pub mod metrics;
pub mod news;
pub mod node;
pub mod pinned;
pub mod pins;
pub mod reconcile;
pub mod rounds;
pub mod service_metrics;
mod sock_diag;
mod sorted;
pub mod stale_sockets;
pub mod standing;
mod sys;
pub mod tables;
pub mod watch;
pub mod xdp;
