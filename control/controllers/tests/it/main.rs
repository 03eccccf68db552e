//! The controllers against a real API server in this process, with nodes that only pretend to run pods. No privilege
//! and no kernel feature is needed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod cluster;
mod kubectl;
mod kubelet;
mod latency;
mod namespaces;
mod nodes;
mod services;
mod workloads;
