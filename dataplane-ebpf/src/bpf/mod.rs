//! The programs' steps, one topic a file.
//!
//! `device`, `xdp` and `socket` order the steps of their hooks; the rest are the steps.

mod affinity;
mod client;
mod conntrack;
mod context;
mod dsr;
mod exit;
mod filter;
mod forward;
mod fragment;
mod icmp;
mod limit;
mod maps;
mod nat;
mod parse;
mod reject;
mod rewrite;
mod sctp;
mod service;
mod stats;
mod work;

pub(crate) mod call;
pub(crate) mod device;
pub(crate) mod frame;
pub(crate) mod socket;
pub(crate) mod xdp;
