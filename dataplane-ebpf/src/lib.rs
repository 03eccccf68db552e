//! What runs in the kernel, and what kernel and daemon agree on.
//!
//! The library part (this crate, `no_std`) holds everything that needs no kernel: the layouts of the maps ([`abi`]),
//! addresses ([`addr`]), flows ([`flow`]), checksums ([`checksum`]), Maglev tables ([`maglev`]), what nodes tell each other
//! ([`dsr`]) and the reasons to drop a packet ([`mod@drop`]). The program part (`src/main.rs` and `src/bpf`) is compiled for BPF by `build.rs`; user space
//! finds it here as [`OBJECT`].
//!
//! # The hooks
//!
//! | program | attached to | does |
//! |---|---|---|
//! | `connect4/6` | the node's cgroup | gives a connecting socket a backend; nothing is left to do per packet |
//! | `sendmsg4/6`, `recvmsg4/6` | the node's cgroup | the same for datagrams of unconnected UDP sockets, both ways |
//! | `getpeername4/6` | the node's cgroup | shows a program the service it connected to, not the backend |
//! | `post_bind4/6` | the node's cgroup | keeps the node's processes from listening on a node port |
//! | `ingress` | uplinks, tcx or clsact | translates requests of clients outside, and replies of backends on other nodes |
//! | `pod_ingress` | devices towards pods, ingress | translates what the socket hooks did not: requests of guests with a kernel of their own, raw packets; and replies of the node's pods to clients outside |
//! | `egress` | uplinks and devices towards pods, egress | translates replies that come from the node's stack |
//! | `driver` | uplinks, native XDP where there is | does for plain packets from and to other nodes what `ingress` does |
//!
//! `ingress`, `pod_ingress` and `egress` also translate ICMP errors about the packets they translate, and packets that were
//! cut to pieces, piece by piece. The first two answer what is to be refused with a TCP reset or a port unreachable, and
//! tell the sender of a packet that is too big for the next link or whose time to live ran out. They translate SCTP as
//! they do UDP, between one address of each side; there are no socket hooks for it, so processes in the node's own network
//! namespace do not reach SCTP services.
//!
//! # One packet's way
//!
//! A client outside sends to a node port. `ingress` parses the packet and finds no connection in `CONNTRACK`, so it
//! looks the destination up in `FRONTENDS` and `NODEPORTS`, reads the service's run from `SERVICES`, a backend id from
//! `SLOTS` and the backend from `BACKENDS`, and records both directions in `CONNTRACK`. A backend on this node gets
//! the packet with the client's address kept, straight to its pod's device or, if it is a process of the node, by the
//! stack; `pod_ingress` or `egress` translates its reply. A backend on another node gets it with this node's address as
//! source, and the reply comes back through `ingress`; or, if its service wants that ([`abi::Service::DSR`]), with the
//! client's address and the service's in an option ([`dsr`]), and answers the client from its own node. A pod's request is translated by `pod_ingress` and then goes the
//! way of all its packets, through the node's stack; its reply is translated by `egress` where it reaches the pod's
//! device. The next packet finds its connection at the first look-up. A packet that nothing matches is none of our
//! business and goes on as if we were not there.
//!
//! # One choice of a backend
//!
//! Sockets and packets choose alike, once for each connection: the client must be in the service's `SOURCE_RANGES` if it
//! has any and a load balancer's address was used; the traffic policy says which of the service's runs is open to it; a
//! backend that `AFFINITY` holds the client to comes first, if it is in that run; else a hash of the packet's flow, or
//! chance at a socket, takes a slot of the run. A run may be a Maglev table, and then all nodes hash alike. What finds no
//! backend is dropped or refused for a [reason](mod@drop) that is counted in `DROPS`, remembered in `RECENT_DROPS` and, as
//! far as the service is known, in `STATS`.

#![cfg_attr(not(test), no_std)]

#[cfg(not(target_arch = "bpf"))]
extern crate alloc;

pub mod abi;
pub mod addr;
pub mod checksum;
pub mod crc32c;
pub mod drop;
pub mod dsr;
pub mod flow;
pub mod maglev;

#[cfg(not(target_arch = "bpf"))]
mod object;
#[cfg(not(target_arch = "bpf"))]
pub use object::{Hook, OBJECT, PROGRAMS, Program};
