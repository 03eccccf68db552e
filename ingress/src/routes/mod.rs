//! Which route a request takes: pure data, built from objects by [`ingress`], searched without a lock or an allocation.
//!
//! A [`Table`] never changes: a new one replaces it whole. It names backends by number; their endpoints live elsewhere
//! and change without it. The host is chosen first (exact, wildcard, any) and never left again: a path that the chosen
//! host does not have is not looked for under a less specific one.

use std::sync::Arc;

use model::ServicePortName;

use crate::annotations::Policy;
use crate::host::HostMap;
use crate::problem::IngressRef;

pub mod class;
pub mod ingress;
pub mod matcher;
#[cfg(test)]
mod tests;
mod validate;

pub use ingress::{Built, TlsClaim, build};
pub use matcher::{PathMatch, PathTrie};

/// All routes.
#[derive(Debug, Default)]
pub struct Table {
    hosts: HostMap<Host>,
    /// Hosts with a TLS section.
    secure: HostMap<()>,
    /// The backends that routes name by number.
    backends: Vec<ServicePortName>,
    routes: Vec<Arc<Route>>,
}

/// The routes of one host.
#[derive(Debug, Default)]
pub struct Host {
    paths: PathTrie<Arc<Route>>,
    default: Option<Arc<Route>>,
}

/// Where requests for one path go.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// Its number in [`Table::routes`].
    pub number: usize,
    /// The object that it comes from.
    pub ingress: Arc<IngressRef>,
    /// The path as the object has it, empty for a default backend.
    pub path: Box<str>,
    /// The name of the backend's Service, empty if it has none.
    pub service: Arc<str>,
    /// Where requests go.
    pub target: Target,
    /// What its Ingress asks for by annotations, if that is anything.
    pub policy: Option<Arc<Policy>>,
}

impl Route {
    /// What the Ingress asks of one feature, if that is anything.
    pub fn asks<T>(&self, feature: impl FnOnce(&Policy) -> &Option<Box<T>>) -> Option<&T> {
        feature(self.policy.as_ref()?).as_deref()
    }

    /// Whether its Ingress asks to keep requests out in a way that cannot be carried out, so that none may pass.
    pub fn is_closed(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.is_closed)
    }
}

/// What a route leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A backend, by its number in [`Table::backends`].
    Backend(usize),
    /// Nothing: the object names something that is not there.
    Nowhere,
}

impl Table {
    /// The route for `path`, in normal form, at `host`.
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        let host = self.hosts.get(host)?;
        host.paths.find(path).or(host.default.as_ref())
    }

    /// Whether a TLS section speaks of `host`. One that speaks of all hosts counts for those that no rule names: an
    /// Ingress for everything else must not change how a named host behaves.
    pub fn is_secure(&self, host: &str) -> bool {
        let is_any = || self.hosts.named(host).is_none() && self.secure.get(host).is_some();
        self.secure.named(host).is_some() || is_any()
    }

    /// The backends that [`Target::Backend`] counts.
    pub fn backends(&self) -> &[ServicePortName] {
        &self.backends
    }

    /// All routes, default backends included.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }
}
