//! The service model: data and rules, no I/O and no clock.
//!
//! What a Kubernetes Service means, apart from how anybody carries it out. Objects of the API come in through [`kube`],
//! which parses them once into types that cannot be wrong ([`service`], [`backend`], [`node`]) and names the field of
//! whatever it had to leave out. [`world`] keeps them and says which services an event changed. [`select`] decides which
//! backends a connection may reach. Every rule here is a function of its arguments, so two daemons that saw the same
//! objects agree, in whatever order they saw them.

pub mod backend;
pub mod kube;
pub mod names;
pub mod node;
pub mod parse;
pub mod select;
pub mod service;
pub mod world;

pub use backend::{Backend, Endpoint, Hints, Slice, SlicePort};
pub use names::Names;
pub use node::{Node, Place};
pub use select::{Outcome, Selection, select};
pub use service::{
    Algorithm, Family, Forwarding, Kind, ObjectName, Protocol, Service, ServiceCidr, ServiceName,
    ServicePort, ServicePortName, SliceName, TrafficPolicy,
};
pub use world::{Event, Unserved, World};
