//! The control half: sees the objects of the Kubernetes API, puts into effect what they ask for, and writes back.
//!
//! [`watch`] follows the API, [`objects`] keeps what was seen, [`configuration`] what of it are settings, and [`controller`] computes from it
//! what the data half has in effect. [`events`] say what is wrong; the gateway that leads ([`leader`]) writes its addresses ([`published`])
//! where they belong ([`status`]).

pub mod configuration;
pub mod controller;
pub mod events;
pub mod leader;
pub mod names;
pub mod objects;
pub mod published;
pub mod status;
pub mod watch;
