//! What the API knows of its kinds: pure functions over JSON objects, no I/O, no clock.
//!
//! A write passes through here in this order: [`protobuf::decode`] (or plain JSON with [`strict::duplicate_fields`]),
//! [`strict::check_types`] and [`strict::unknown_fields`], [`strict::prune`], for patches [`patch`] or [`apply`],
//! then [`defaults::apply`], [`validation`] and [`apply::track`]. A read uses [`selector`] and [`table`].
//! Everything is driven by two tables: the resources served ([`resource`]) and the types they are made of (`types`, read
//! once from a generated file).

pub mod apply;
pub mod defaults;
pub mod discovery;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod resource;
pub mod selector;
pub mod strict;
pub mod table;
mod types;
pub mod validation;

pub use resource::{Resource, Subresource, by_kind, by_plural, resources};

#[cfg(test)]
mod arbitrary;
#[cfg(test)]
mod tests;
