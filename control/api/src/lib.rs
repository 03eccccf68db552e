//! The Kubernetes API server: one generic REST engine over the schema and the store.
//!
//! A request's way: [`listener`] (TLS, client certificate) → [`request`] (who, what, may they: [`identity`], [`route`],
//! [`authorize`]) → [`rest`] for objects, [`sub`] for what hangs below them, [`reviews`] for what is only answered,
//! [`meta_paths`] for discovery and health → [`respond`]. The engine knows no kind by name: what is common is in
//! `control_schema`'s tables, what is special in [`hooks`]. It does not run controllers, and reaches nodes only to pass on
//! logs and exec ([`proxy`]).

mod accept;
mod allocate;
mod api;
mod args;
mod authorize;
mod body;
mod bootstrap;
mod error;
mod hooks;
mod identity;
mod listener;
mod meta_paths;
mod metrics;
mod object;
pub mod pki;
mod proxy;
mod query;
mod request;
mod respond;
mod rest;
mod reviews;
mod route;
mod server;
mod sub;
mod token;
mod yaml;

pub use args::ServerArgs;
pub use pki::Pki;
pub use server::{Error, run};
