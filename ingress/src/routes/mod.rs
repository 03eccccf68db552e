//! Which route a request takes: pure data, built from objects, searched without a lock or an allocation.
//!
//! [`ingress`] reads one object, [`merge`] brings together what several say about one host, and [`index`] knows which of
//! that a change outdates. A [`Table`] never changes: a new one replaces it, and shares with it every host that is as it
//! was. The host is chosen first (exact, wildcard, any) and never left again: a path that the chosen host does not have
//! is not looked for under a less specific one.

use std::sync::Arc;

use rustls_pki_types::ServerName;

use crate::annotations::Policy;
use crate::backend_tls::BackendTls;
use crate::host::HostMap;
use crate::problem::IngressRef;
use crate::protocol::{Expected, Protocol, Security, Spoken};
use crate::series::Series;
use crate::upstream::Upstream;

pub mod class;
pub mod index;
pub mod ingress;
pub mod matcher;
pub mod merge;
#[cfg(test)]
mod tests;
mod validate;

pub use index::Routes;
pub use ingress::TlsClaim;
pub use matcher::{PathMatch, PathTrie};

/// All routes.
#[derive(Debug, Clone, Default)]
pub struct Table {
    hosts: HostMap<Arc<Host>>,
    /// Hosts with a TLS section.
    secure: HostMap<()>,
}

/// The routes of one host.
#[derive(Debug, Default)]
pub struct Host {
    paths: PathTrie<Arc<Route>>,
    default: Option<Arc<Route>>,
}

/// Where requests for one path go.
#[derive(Debug, Clone)]
pub struct Route {
    /// The object that it comes from.
    pub ingress: Arc<IngressRef>,
    /// How its path matches; nothing for a default backend.
    pub kind: Option<PathMatch>,
    /// The path in normal form, empty for a default backend.
    pub path: Box<str>,
    /// The name of the backend's Service, empty if it has none.
    pub service: Arc<str>,
    /// Where requests go.
    pub target: Target,
    /// How its backend is spoken to.
    pub protocol: Protocol,
    /// The name that its backend must prove to have where that is spoken over TLS.
    pub backend_name: Option<ServerName<'static>>,
    /// What takes over some of its requests: the route of a canary.
    pub canary: Option<Arc<Route>>,
    /// What its requests count for.
    pub series: Arc<Series>,
    /// What its Ingress asks for by annotations, if that is anything.
    pub policy: Option<Arc<Policy>>,
}

impl Route {
    /// What the Ingress asks of one feature, if that is anything.
    pub fn asks<T>(&self, feature: impl FnOnce(&Policy) -> &Option<Box<T>>) -> Option<&T> {
        feature(self.policy.as_ref()?).as_deref()
    }

    /// How its backend is spoken to for a client whose connection `is_secure`; nothing if nobody can say who that backend
    /// should be. TLS is as in `default` unless its Ingress says otherwise.
    pub fn spoken(&self, is_secure: bool, default: &Arc<BackendTls>) -> Option<Spoken> {
        let is_tls = match self.protocol.security {
            Security::Clear => false,
            Security::Tls => true,
            Security::LikeClient => is_secure,
        };
        let expected = || {
            let asked = self.asks(|policy| &policy.backend);
            Some(Expected {
                name: self.backend_name.clone()?,
                tls: asked
                    .and_then(|asked| asked.tls.as_ref())
                    .unwrap_or(default)
                    .clone(),
            })
        };
        let http = self.protocol.http;
        let tls = if is_tls { Some(expected()?) } else { None };
        Some(Spoken { http, tls })
    }

    /// Whether its Ingress asks to keep requests out in a way that cannot be carried out, so that none may pass.
    pub fn is_closed(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.is_closed)
    }
}

/// What a route leads to.
#[derive(Debug, Clone)]
pub enum Target {
    /// A backend. Its endpoints change without the route.
    Backend(Arc<Upstream>),
    /// Nothing: the object names something that is not there.
    Nowhere,
}

impl Table {
    /// The route for `path`, in normal form, at `host`.
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        self.hosts.get(host)?.find(path)
    }

    /// Whether a TLS section speaks of `host`. One that speaks of all hosts counts for those that no rule names: an
    /// Ingress for everything else must not change how a named host behaves.
    pub fn is_secure(&self, host: &str) -> bool {
        let is_any = || self.hosts.named(host).is_none() && self.secure.get(host).is_some();
        self.secure.named(host).is_some() || is_any()
    }

    /// The routes by host, in no order.
    pub fn hosts(&self) -> &HostMap<Arc<Host>> {
        &self.hosts
    }
}

impl Host {
    /// The route for `path`, in normal form.
    pub fn find(&self, path: &str) -> Option<&Arc<Route>> {
        self.paths.find(path).or(self.default.as_ref())
    }

    /// All routes, by path; the default backend comes last.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.paths.values().into_iter().chain(&self.default)
    }
}
