//! Reading one Ingress object: what it asks for, host by host.
//!
//! A reading knows no other object of its kind; [`merge`](super::merge) settles what two of them both want. A field that
//! cannot be carried out becomes a problem; if it names a backend, its path stays and is answered with an error, so that
//! no other rule takes over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressRule, IngressSpec, IngressTLS,
};
use model::{ObjectName, ServiceName, World};

use super::backend::{Found, cluster_name, outside_name};
use super::class::{class_annotation, class_field};
use super::default_backend::first_port;
use super::validate;
use super::{PathMatch, Route, Target, further};
use crate::annotations::{Defaults, Pattern, Policy, Reference, Referenced, known};
use crate::forward::protocol::Security;
use crate::message::host::HostPattern;
use crate::observe::metrics::Metrics;
use crate::problem::{Fault, IngressRef, Problem};
use crate::upstream::external::Names;
use crate::upstream::registry::Upstreams;
use crate::upstream::{Reach, Sources, Upstream};

/// What one Ingress asks for.
#[derive(Debug)]
pub struct Reading {
    /// The object.
    pub ingress: Arc<IngressRef>,
    /// What it says about each host.
    pub parts: BTreeMap<HostPattern, Part>,
    /// Which certificates it wants.
    pub claims: Vec<TlsClaim>,
    /// The Services that it names, there or not.
    pub services: BTreeSet<ServiceName>,
    /// The Secrets and other objects that it names, there or not.
    pub references: BTreeSet<Reference>,
    /// What cannot be carried out, whatever other objects say.
    pub problems: Vec<Problem>,
    /// Whether its paths are not its own, but hang under those of others.
    pub is_canary: bool,
}

/// What one Ingress says about one host.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Its paths, in the order of the object.
    pub paths: Vec<PathRule>,
    /// Where everything else goes.
    pub default: Option<Arc<Route>>,
    /// Paths that are sent to the same path with a slash, unless somebody asks for them.
    pub slashless: Vec<Arc<Route>>,
    /// Whether the host is an alias, which yields to everybody who names it in a rule.
    pub is_alias: bool,
    /// The host that stands in for this one, unless somebody asks for it.
    pub moved: Option<Box<str>>,
}

/// A path of a rule.
#[derive(Debug, Clone)]
pub struct PathRule {
    /// How the path matches.
    pub kind: PathMatch,
    /// The field that it stands in, like `spec.rules[0].http.paths[1]`.
    pub field: String,
    /// Where its requests go.
    pub route: Arc<Route>,
}

/// A host's claim to a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsClaim {
    /// The object that makes it.
    pub ingress: Arc<IngressRef>,
    /// The field that makes it.
    pub field: String,
    /// The host.
    pub host: HostPattern,
    /// The Secret with the certificate; without one the default certificate is meant.
    pub secret: Option<ObjectName>,
}

/// What a reading refers to.
#[derive(Debug, Clone, Copy)]
pub struct Context<'c> {
    /// Where Services are looked up.
    pub world: &'c World,
    /// Where names outside the cluster are looked up. One that nobody has looked up yet will be.
    pub names: &'c Names,
    /// Where the backends of routes come from.
    pub upstreams: &'c Upstreams,
    /// Where Secrets are looked up. One that nobody has looked for yet will be, and then the object is read again.
    pub referenced: &'c Referenced,
    /// What holds for Ingresses that say nothing else.
    pub defaults: &'c Defaults,
    /// Where the series of routes come from.
    pub metrics: &'c Metrics,
}

impl<'c> Context<'c> {
    /// Where the endpoints of backends come from.
    pub(super) fn sources(self) -> Sources<'c> {
        let Self { world, names, .. } = self;
        Sources { world, names }
    }
}

/// Reads `ingress`, which is ours.
pub fn read(ingress: &Ingress, context: Context<'_>) -> Reading {
    let mut reader = Reader::new(ingress, context);
    reader.read(ingress);
    reader.reading
}

/// The identity of `ingress`.
pub fn reference(ingress: &Ingress) -> IngressRef {
    let metadata = &ingress.metadata;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    IngressRef {
        name: ObjectName::new(text(&metadata.namespace), text(&metadata.name)),
        uid: text(&metadata.uid).into(),
    }
}

/// What takes up an object, field by field.
pub(super) struct Reader<'c> {
    pub(super) context: Context<'c>,
    pub(super) reading: Reading,
    policy: Option<Arc<Policy>>,
    /// The backend that an annotation names.
    fallback: Option<Arc<Upstream>>,
}

impl<'c> Reader<'c> {
    fn new(ingress: &Ingress, context: Context<'c>) -> Self {
        Self {
            context,
            reading: Reading {
                ingress: Arc::new(reference(ingress)),
                parts: BTreeMap::new(),
                claims: Vec::new(),
                services: BTreeSet::new(),
                references: BTreeSet::new(),
                problems: Vec::new(),
                is_canary: false,
            },
            policy: None,
            fallback: None,
        }
    }

    fn read(&mut self, ingress: &Ingress) {
        self.read_annotations(ingress);
        self.check_class(ingress);
        match &ingress.spec {
            Some(spec) => self.read_spec(spec),
            None => self.invalid("spec", "is required"),
        }
    }

    fn read_spec(&mut self, spec: &IngressSpec) {
        let rules = spec.rules.as_deref().unwrap_or_default();
        if rules.is_empty() && spec.default_backend.is_none() {
            self.invalid("spec", "must have rules or a defaultBackend");
        }
        for (number, rule) in rules.iter().enumerate() {
            self.read_rule(&format!("spec.rules[{number}]"), rule);
        }
        let hosts: Vec<HostPattern> = self.reading.parts.keys().cloned().collect();
        if let Some(backend) = &spec.default_backend {
            self.read_default(backend, &hosts);
        }
        for (number, tls) in spec.tls.iter().flatten().enumerate() {
            self.read_tls(&format!("spec.tls[{number}]"), tls, &hosts);
        }
        if let Some(asked) = self.asks(|policy| &policy.hosts) {
            further::add(&mut self.reading, &asked);
        }
    }

    /// What the annotations ask of one feature.
    pub(super) fn asks<T: Clone>(
        &self,
        feature: impl FnOnce(&Policy) -> &Option<Box<T>>,
    ) -> Option<T> {
        feature(self.policy.as_ref()?).as_deref().cloned()
    }

    fn invalid(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.problem(field, Fault::Invalid(message.into()));
    }

    pub(super) fn problem(&mut self, field: impl Into<String>, fault: Fault) {
        self.reading.problems.push(Problem {
            ingress: self.reading.ingress.clone(),
            field: field.into(),
            fault,
        });
    }
}

/// Where a backend serves. A default backend has no path.
#[derive(Default)]
struct Place<'p> {
    host: Option<&'p HostPattern>,
    kind: Option<PathMatch>,
    path: &'p str,
    pattern: Option<Pattern>,
}

// What concerns the whole object.

impl Reader<'_> {
    fn check_class(&mut self, ingress: &Ingress) {
        let both = class_annotation(ingress).zip(class_field(ingress));
        if let Some((annotation, field)) = both.filter(|(annotation, field)| annotation != field) {
            let (annotation, field) = (annotation.to_owned(), field.to_owned());
            let fault = Fault::ClassMismatch { annotation, field };
            self.problem("spec.ingressClassName", fault);
        }
    }

    /// What the annotations ask for. What is wrong with them is reported.
    fn read_annotations(&mut self, ingress: &Ingress) {
        let Context {
            referenced,
            defaults,
            ..
        } = self.context;
        let read = Policy::read_over(defaults, ingress, Some(referenced));
        let problems = read.findings.iter();
        let problems = problems.filter_map(|finding| finding.problem(&self.reading.ingress));
        self.reading.problems.extend(problems);
        self.reading.references.extend(read.references);
        self.reading.is_canary = read
            .policy
            .as_ref()
            .is_some_and(|policy| policy.canary.is_some());
        self.policy = read.policy;
        let errors = self.asks(|policy| &policy.errors);
        if let Some(backend) = errors.and_then(|errors| errors.backend) {
            self.fallback = self.first_port(backend);
        }
    }

    /// The first port of the Service that an annotation names.
    fn first_port(&mut self, name: ObjectName) -> Option<Arc<Upstream>> {
        self.reading.services.insert(name.clone());
        let Context {
            world, upstreams, ..
        } = self.context;
        let port = first_port(world, &name);
        let port = port.map(|(service, port)| service.port_name(port));
        if port.is_none() {
            let field = format!("metadata.annotations[{}]", known::key("default-backend"));
            self.invalid(field, format!("there is no Service {name} with a TCP port"));
        }
        port.map(|port| upstreams.get(self.context.sources(), port, Reach::Endpoints))
    }

    /// A default backend serves what its own hosts do not route. Without a rule it serves all hosts nobody names.
    fn read_default(&mut self, backend: &IngressBackend, hosts: &[HostPattern]) {
        let route = self.route("spec.defaultBackend", Place::default(), backend);
        let everywhere = [HostPattern::Any];
        for host in if hosts.is_empty() { &everywhere } else { hosts } {
            self.part(host).default = Some(route.clone());
        }
    }
}

// Rules and paths.

impl Reader<'_> {
    fn read_rule(&mut self, field: &str, rule: &IngressRule) {
        let text = rule.host.as_deref().unwrap_or_default();
        let host = match HostPattern::parse(text) {
            Ok(host) => host,
            Err(error) => {
                let message = format!("{text:?} {error}");
                return self.invalid(format!("{field}.host"), message);
            }
        };
        // A rule without paths still makes the host known, for its default backend.
        self.part(&host);
        let paths = rule.http.iter().flat_map(|http| &http.paths);
        for (number, path) in paths.enumerate() {
            self.read_path(format!("{field}.http.paths[{number}]"), &host, path);
        }
    }

    fn read_path(&mut self, field: String, host: &HostPattern, rule: &HTTPIngressPath) {
        let paths = self.asks(|policy| &policy.paths).unwrap_or_default();
        let path = match paths.are_patterns {
            true => validate::pattern(rule, paths)
                .map(|(pattern, path)| (PathMatch::Pattern, path, Some(pattern))),
            false => validate::path(rule).map(|(kind, path)| (kind, path, None)),
        };
        let (kind, path, pattern) = match path {
            Ok(valid) => valid,
            Err((name, message)) => return self.invalid(format!("{field}.{name}"), message),
        };
        let place = Place {
            host: Some(host),
            kind: Some(kind),
            path: &path,
            pattern,
        };
        let route = self.route(&format!("{field}.backend"), place, &rule.backend);
        if paths.like_nginx && kind != PathMatch::Pattern {
            self.add_slashless(host, &route);
        }
        let rule = PathRule { kind, field, route };
        self.part(host).paths.push(rule);
    }

    /// What `route` would serve without the slash at its end is sent to it, as ingress-nginx does it.
    fn add_slashless(&mut self, host: &HostPattern, route: &Route) {
        let slashless = route.path.strip_suffix('/').filter(|path| !path.is_empty());
        let Some(path) = slashless else { return };
        let route = Route {
            kind: Some(PathMatch::Exact),
            path: path.into(),
            target: Target::WithSlash,
            ..route.clone()
        };
        self.part(host).slashless.push(Arc::new(route));
    }

    fn part(&mut self, host: &HostPattern) -> &mut Part {
        self.reading.parts.entry(host.clone()).or_default()
    }

    fn route(&mut self, field: &str, place: Place<'_>, backend: &IngressBackend) -> Arc<Route> {
        let Found {
            target,
            protocol,
            external,
        } = self
            .backend(field, backend)
            .unwrap_or_else(|(name, fault)| {
                self.problem(format!("{field}.{name}"), fault);
                Found::nothing()
            });
        let asked = self
            .policy
            .as_ref()
            .and_then(|policy| policy.backend.as_deref());
        let protocol = asked.and_then(|asked| asked.protocol).unwrap_or(protocol);
        let name = asked.and_then(|asked| asked.name.clone());
        let service = backend.service.as_ref().map_or("", |service| &service.name);
        let service: Arc<str> = service.into();
        let metrics = self.context.metrics;
        let host = place
            .host
            .map_or_else(String::new, HostPattern::server_name);
        let ingress = self.reading.ingress.clone();
        let backend_name = match protocol.security {
            Security::Clear => None,
            _ => name.or_else(|| match &external {
                Some(external) => outside_name(external),
                None => cluster_name(&service, &ingress.name.namespace),
            }),
        };
        Arc::new(Route {
            series: metrics
                .series
                .get(&ingress.name, &service, &host, place.path),
            ingress,
            kind: place.kind,
            path: place.path.into(),
            pattern: place.pattern,
            service,
            target,
            protocol,
            backend_name,
            canary: None,
            fallback: self.fallback.clone(),
            policy: self.policy.clone(),
        })
    }
}

// TLS.

impl Reader<'_> {
    /// A TLS section without hosts speaks of those of the rules.
    fn read_tls(&mut self, field: &str, tls: &IngressTLS, rules: &[HostPattern]) {
        let namespace = &self.reading.ingress.name.namespace;
        let secret = tls.secret_name.as_deref().filter(|name| !name.is_empty());
        let secret = secret.map(|name| ObjectName::new(namespace.clone(), name));
        let named = secret.clone().map(Reference::Secret);
        self.reading.references.extend(named);
        let listed = tls.hosts.as_deref().unwrap_or_default();
        for (number, text) in listed.iter().enumerate() {
            let field = format!("{field}.hosts[{number}]");
            match HostPattern::parse(text) {
                Ok(host) => self.claim(field, host, secret.clone()),
                Err(error) => self.invalid(field, format!("{text:?} {error}")),
            }
        }
        if listed.is_empty() {
            let everywhere = [HostPattern::Any];
            for host in if rules.is_empty() { &everywhere } else { rules } {
                self.claim(field.to_owned(), host.clone(), secret.clone());
            }
        }
    }

    fn claim(&mut self, field: String, host: HostPattern, secret: Option<ObjectName>) {
        let ingress = self.reading.ingress.clone();
        self.reading.claims.push(TlsClaim {
            ingress,
            field,
            host,
            secret,
        });
    }
}
