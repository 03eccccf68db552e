//! Which route a request takes: pure data, built from objects, searched without a lock or an allocation.
//!
//! [`ingress`] reads one object, [`merge`] brings together what several say about one host, and [`index`] knows which of
//! that a change outdates. A [`Table`] never changes: a new one replaces it, and shares with it every host that is as it
//! was. The host is chosen first (exact, wildcard, any) and, unless the operator wants it, never left again: a path that
//! the chosen host does not have is not looked for under a less specific one.

use std::sync::Arc;

use rustls_pki_types::ServerName;

use crate::annotations::{Pattern, Policy};
use crate::forward::protocol::{Expected, Protocol, Security, Spoken};
use crate::message::host::{HostMap, HostPattern};
use crate::observe::series::Series;
use crate::problem::IngressRef;
use crate::tls::backend::BackendTls;
use crate::tls::client_certificate::Authority;
use crate::upstream::Upstream;

mod backend;
pub mod class;
pub mod default_backend;
mod further;
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
    /// Whether a path that a host does not have is looked for under less specific ones.
    falls_through: bool,
    /// Where requests go that nobody has a route for.
    otherwise: Option<Arc<Route>>,
}

/// The routes of one host.
#[derive(Debug, Default)]
pub struct Host {
    paths: PathTrie<Arc<Route>>,
    /// Those that are regular expressions, longest first.
    patterns: Vec<Arc<Route>>,
    /// The host that stands in for this one, of which no rule speaks.
    moved: Option<Box<str>>,
    default: Option<Arc<Route>>,
    /// Who signs the certificates that clients are asked for when they connect; which of them to let in is each route's
    /// to say.
    authority: Option<Arc<Authority>>,
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
    /// The path as an expression, where it is one.
    pub pattern: Option<Pattern>,
    /// The name of the backend's Service, empty if it has none.
    pub service: Arc<str>,
    /// Where requests go.
    pub target: Target,
    /// Who answers where the target has no endpoint, and in place of errors.
    pub fallback: Option<Arc<Upstream>>,
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

    /// Whether its backend ends TLS itself.
    pub fn ends_tls(&self) -> bool {
        let asked = self.asks(|policy| &policy.passthrough);
        asked.is_some_and(|asked| asked.is_on)
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
    /// The same path with a slash at the end.
    WithSlash,
}

impl Table {
    /// The route for `path`, in normal form, at `host`.
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        if self.falls_through {
            return self.find_falling(host, path);
        }
        let host = self.hosts.get(host);
        let found = host.and_then(|host| host.find(path));
        let is_moved = || host.is_some_and(|host| host.moved.is_some());
        found.or_else(|| self.otherwise.as_ref().filter(|_| !is_moved()))
    }

    /// The same where hosts are left that lack the path.
    fn find_falling(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        let mut covering = self.hosts.covering(host);
        let found = covering.find_map(|(_, host)| host.find(path));
        found.or_else(|| {
            self.otherwise
                .as_ref()
                .filter(|_| self.moved(host).is_none())
        })
    }

    /// The host whose rules decide about `path` at `host`: the one that is left for no other.
    pub fn deciding(&self, host: &str, path: &str) -> Option<HostPattern> {
        let chosen = self.hosts.covering(host).next().map(|(pattern, _)| pattern);
        let has_it = |(pattern, host): (HostPattern, &Arc<Host>)| host.find(path).map(|_| pattern);
        match self.falls_through {
            true => self.hosts.covering(host).find_map(has_it).or(chosen),
            false => chosen,
        }
    }

    /// Who answers in place of errors where the Ingress names nobody.
    pub fn fallback(&self) -> Option<&Arc<Upstream>> {
        match &self.otherwise.as_ref()?.target {
            Target::Backend(upstream) => Some(upstream),
            Target::Nowhere | Target::WithSlash => None,
        }
    }

    /// The host that stands in for `host`, of which no rule speaks, if there is one.
    pub fn moved(&self, host: &str) -> Option<&str> {
        self.hosts.get(host)?.moved.as_deref()
    }

    /// The host of a connection that was opened for `server_name`.
    pub fn host(&self, server_name: Option<&str>) -> Option<&Arc<Host>> {
        self.hosts.get(server_name.unwrap_or_default())
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
        let found = self.paths.find(path);
        let found = match self.patterns.is_empty() {
            true => found,
            false => self.find_pattern(found, path).or(found),
        };
        found.or(self.default.as_ref())
    }

    /// The route whose backend ends TLS itself. A connection has no path, so it is the one that the root takes.
    pub fn passthrough(&self) -> Option<&Arc<Route>> {
        self.find("/").filter(|route| route.ends_tls())
    }

    /// Who signs the certificates that clients are asked for when they connect.
    pub fn authority(&self) -> Option<&Arc<Authority>> {
        self.authority.as_ref()
    }

    /// Takes in what `route` asks of clients that connect. Who comes first is heard.
    fn ask(&mut self, route: &Route) {
        let asked = route.asks(|policy| &policy.client_certificates);
        let authority = asked.and_then(|asked| asked.authority.clone());
        self.authority = self.authority.take().or(authority);
    }

    /// The longest expression that matches `path`, unless there is a better match in `found`: an exact one, or a prefix
    /// that is at least as long a text.
    fn find_pattern(&self, found: Option<&Arc<Route>>, path: &str) -> Option<&Arc<Route>> {
        let (is_exact, length) = found.map_or((false, 0), |route| {
            (route.kind == Some(PathMatch::Exact), route.path.len())
        });
        let is_better = |route: &&Arc<Route>| !is_exact && route.path.len() > length;
        let mut better = self.patterns.iter().take_while(is_better);
        better.find(|route| {
            let pattern = route.pattern.as_ref();
            pattern.is_some_and(|pattern| pattern.is_match(path))
        })
    }

    /// All routes, by path, expressions after the others; the default backend comes last.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        let paths = self.paths.values().into_iter().chain(&self.patterns);
        paths.chain(&self.default)
    }
}
