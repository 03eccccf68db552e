//! From Ingress objects to a table of routes.
//!
//! Objects are taken from the oldest to the youngest, so of two that want the same host and path, or a certificate for
//! the same host, the older one keeps it, whatever order they were seen in. A field that cannot be carried out becomes a
//! problem; if it names a backend, its path stays and is answered with an error, so that no other rule takes over.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressRule, IngressServiceBackend, IngressSpec,
    IngressTLS,
};
use model::service::Kind;
use model::{ObjectName, Protocol, Service, ServiceName, ServicePort, ServicePortName, World};

use super::class::{class_annotation, class_field};
use super::validate::{self, PortRef};
use super::{Host, PathMatch, Route, Table, Target};
use crate::annotations::{Policy, Reference, Referenced};
use crate::host::HostPattern;
use crate::problem::{Fault, IngressRef, Problem};

/// What a set of Ingress objects amounts to.
#[derive(Debug, Default)]
pub struct Built {
    /// The routes.
    pub table: Table,
    /// Which certificates are wanted, at most one claim a host.
    pub tls: Vec<TlsClaim>,
    /// The Services that are named, there or not.
    pub services: BTreeSet<ServiceName>,
    /// The objects that annotations name, there or not.
    pub references: BTreeSet<Reference>,
    /// What could not be carried out.
    pub problems: Vec<Problem>,
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

/// Builds the routes of `ingresses`, all of which are ours. Services are looked up in `world`, what annotations name in
/// `referenced`.
pub fn build<'a>(
    ingresses: impl IntoIterator<Item = &'a Ingress>,
    world: &World,
    referenced: &Referenced,
) -> Built {
    let mut oldest_first: Vec<&Ingress> = ingresses.into_iter().collect();
    oldest_first.sort_by_key(|ingress| age_key(ingress));
    let mut builder = Builder::new(world, referenced);
    for ingress in oldest_first {
        builder.add(ingress);
    }
    builder.finish()
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

fn age_key(ingress: &Ingress) -> impl Ord + use<> {
    let created = ingress.metadata.creation_timestamp.as_ref();
    (created.map(|time| time.0), reference(ingress))
}

/// What takes up the objects one by one.
struct Builder<'w> {
    world: &'w World,
    referenced: &'w Referenced,
    built: Built,
    hosts: BTreeMap<HostPattern, Host>,
    numbers: HashMap<ServicePortName, usize>,
    /// Who has which path of which host.
    paths: HashMap<(HostPattern, PathMatch, String), ObjectName>,
    /// The claim of each host.
    claims: BTreeMap<HostPattern, TlsClaim>,
}

/// The object that is being taken up.
struct Current {
    ingress: Arc<IngressRef>,
    policy: Option<Arc<Policy>>,
}

impl<'w> Builder<'w> {
    fn new(world: &'w World, referenced: &'w Referenced) -> Self {
        Self {
            world,
            referenced,
            built: Built::default(),
            hosts: BTreeMap::new(),
            numbers: HashMap::new(),
            paths: HashMap::new(),
            claims: BTreeMap::new(),
        }
    }

    fn finish(mut self) -> Built {
        self.built.table.secure = self.claims.keys().map(|host| (host.clone(), ())).collect();
        self.built.table.hosts = self.hosts.into_iter().collect();
        self.built.tls = self.claims.into_values().collect();
        self.built
    }

    fn add(&mut self, ingress: &Ingress) {
        let mut current = Current {
            ingress: Arc::new(reference(ingress)),
            policy: None,
        };
        current.policy = self.policy(&current, ingress);
        self.check_class(&current, ingress);
        let Some(spec) = &ingress.spec else {
            return self.invalid(&current, "spec", "is required");
        };
        self.add_spec(&current, spec);
    }

    fn add_spec(&mut self, current: &Current, spec: &IngressSpec) {
        let rules = spec.rules.as_deref().unwrap_or_default();
        if rules.is_empty() && spec.default_backend.is_none() {
            self.invalid(current, "spec", "must have rules or a defaultBackend");
        }
        let mut hosts: Vec<HostPattern> = Vec::new();
        for (number, rule) in rules.iter().enumerate() {
            hosts.extend(self.add_rule(current, &format!("spec.rules[{number}]"), rule));
        }
        if let Some(backend) = &spec.default_backend {
            self.add_default(current, backend, &hosts);
        }
        for (number, tls) in spec.tls.iter().flatten().enumerate() {
            self.add_tls(current, &format!("spec.tls[{number}]"), tls, &hosts);
        }
    }

    fn invalid(&mut self, current: &Current, field: impl Into<String>, message: impl Into<String>) {
        self.problem(current, field, Fault::Invalid(message.into()));
    }

    fn problem(&mut self, current: &Current, field: impl Into<String>, fault: Fault) {
        self.built.problems.push(Problem {
            ingress: current.ingress.clone(),
            field: field.into(),
            fault,
        });
    }
}

// What concerns the whole object.

impl Builder<'_> {
    fn check_class(&mut self, current: &Current, ingress: &Ingress) {
        let both = class_annotation(ingress).zip(class_field(ingress));
        if let Some((annotation, field)) = both.filter(|(annotation, field)| annotation != field) {
            let (annotation, field) = (annotation.to_owned(), field.to_owned());
            let fault = Fault::ClassMismatch { annotation, field };
            self.problem(current, "spec.ingressClassName", fault);
        }
    }

    /// What the annotations ask for. What is wrong with them is reported.
    fn policy(&mut self, current: &Current, ingress: &Ingress) -> Option<Arc<Policy>> {
        let reading = Policy::read(ingress, Some(self.referenced));
        let problems = reading.findings.iter();
        let problems = problems.filter_map(|finding| finding.problem(&current.ingress));
        self.built.problems.extend(problems);
        self.built.references.extend(reading.references);
        reading.policy
    }

    /// A default backend serves what its own hosts do not route. Without a rule it serves all hosts nobody names.
    fn add_default(&mut self, current: &Current, backend: &IngressBackend, hosts: &[HostPattern]) {
        let route = self.route(current, "spec.defaultBackend", "", backend);
        let everywhere = [HostPattern::Any];
        for host in if hosts.is_empty() { &everywhere } else { hosts } {
            let host = self.hosts.entry(host.clone()).or_default();
            host.default.get_or_insert_with(|| route.clone());
        }
    }
}

// Rules and paths.

impl Builder<'_> {
    fn add_rule(
        &mut self,
        current: &Current,
        field: &str,
        rule: &IngressRule,
    ) -> Option<HostPattern> {
        let text = rule.host.as_deref().unwrap_or_default();
        let host = match HostPattern::parse(text) {
            Ok(host) => host,
            Err(error) => {
                self.invalid(
                    current,
                    format!("{field}.host"),
                    format!("{text:?} {error}"),
                );
                return None;
            }
        };
        // A rule without paths still makes the host known, for its default backend.
        self.hosts.entry(host.clone()).or_default();
        let paths = rule.http.iter().flat_map(|http| &http.paths);
        for (number, path) in paths.enumerate() {
            self.add_path(
                current,
                &format!("{field}.http.paths[{number}]"),
                &host,
                path,
            );
        }
        Some(host)
    }

    fn add_path(
        &mut self,
        current: &Current,
        field: &str,
        host: &HostPattern,
        rule: &HTTPIngressPath,
    ) {
        let (kind, path) = match validate::path(rule) {
            Ok(valid) => valid,
            Err((name, message)) => {
                return self.invalid(current, format!("{field}.{name}"), message);
            }
        };
        let key = (host.clone(), kind, path.clone());
        if let Some(owner) = self.paths.get(&key).cloned() {
            let what = format!("{kind} path {path} of host {host}");
            let fault = Fault::Conflict { what, owner };
            return self.problem(current, format!("{field}.path"), fault);
        }
        self.paths.insert(key, current.ingress.name.clone());
        let route = self.route(current, &format!("{field}.backend"), &path, &rule.backend);
        let host = self.hosts.entry(host.clone()).or_default();
        host.paths.insert(&path, kind, route);
    }

    fn route(
        &mut self,
        current: &Current,
        field: &str,
        path: &str,
        backend: &IngressBackend,
    ) -> Arc<Route> {
        let target = match self.backend(current, backend) {
            Ok(number) => Target::Backend(number),
            Err((name, fault)) => {
                self.problem(current, format!("{field}.{name}"), fault);
                Target::Nowhere
            }
        };
        let service = backend.service.as_ref().map_or("", |service| &service.name);
        let routes = &mut self.built.table.routes;
        let route = Arc::new(Route {
            number: routes.len(),
            ingress: current.ingress.clone(),
            path: path.into(),
            service: service.into(),
            target,
            policy: current.policy.clone(),
        });
        routes.push(route.clone());
        route
    }
}

// Backends.

impl Builder<'_> {
    /// The number of `backend`, or the field at fault and why.
    fn backend(
        &mut self,
        current: &Current,
        backend: &IngressBackend,
    ) -> Result<usize, (&'static str, Fault)> {
        match (&backend.service, &backend.resource) {
            (Some(service), None) => self.service_backend(current, service),
            (None, Some(resource)) => {
                let named = format!("{} {}", resource.kind, resource.name);
                Err(("resource", Fault::ResourceBackend(named)))
            }
            _ => {
                let message = "must name a Service or a resource, and not both";
                Err(("service", Fault::Invalid(message.to_owned())))
            }
        }
    }

    fn service_backend(
        &mut self,
        current: &Current,
        backend: &IngressServiceBackend,
    ) -> Result<usize, (&'static str, Fault)> {
        let namespace = current.ingress.name.namespace.clone();
        let name = ObjectName::new(namespace, backend.name.as_str());
        self.built.services.insert(name.clone());
        let invalid = |message: &str| ("service.port", Fault::Invalid(message.to_owned()));
        let port = validate::port(backend).map_err(invalid)?;
        let Some(service) = self.world.service(&name) else {
            return Err(("service.name", Fault::ServiceMissing(name)));
        };
        if matches!(service.kind, Kind::ExternalName(_)) {
            return Err(("service.name", Fault::ExternalName(name)));
        }
        let Some(port) = find_port(service, port) else {
            let port = match port {
                PortRef::Name(name) => name.to_owned(),
                PortRef::Number(number) => number.to_string(),
            };
            return Err((
                "service.port",
                Fault::PortMissing {
                    service: name,
                    port,
                },
            ));
        };
        Ok(self.number(service.port_name(port)))
    }

    fn number(&mut self, backend: ServicePortName) -> usize {
        let backends = &mut self.built.table.backends;
        *self.numbers.entry(backend).or_insert_with_key(|backend| {
            backends.push(backend.clone());
            backends.len() - 1
        })
    }
}

fn find_port<'s>(service: &'s Service, port: PortRef<'_>) -> Option<&'s ServicePort> {
    let mut tcp = service
        .ports
        .iter()
        .filter(|port| port.protocol == Protocol::Tcp);
    tcp.find(|candidate| match port {
        PortRef::Name(name) => *candidate.name == *name,
        PortRef::Number(number) => i32::from(candidate.port.get()) == number,
    })
}

// TLS.

impl Builder<'_> {
    /// A TLS section without hosts speaks of the hosts of the rules.
    fn add_tls(&mut self, current: &Current, field: &str, tls: &IngressTLS, rules: &[HostPattern]) {
        let namespace = &current.ingress.name.namespace;
        let secret = tls.secret_name.as_deref().filter(|name| !name.is_empty());
        let secret = secret.map(|name| ObjectName::new(namespace.clone(), name));
        let listed = tls.hosts.as_deref().unwrap_or_default();
        for (number, text) in listed.iter().enumerate() {
            let field = format!("{field}.hosts[{number}]");
            match HostPattern::parse(text) {
                Ok(host) => self.claim(current, field, host, secret.clone()),
                Err(error) => self.invalid(current, field, format!("{text:?} {error}")),
            }
        }
        if listed.is_empty() {
            let everywhere = [HostPattern::Any];
            for host in if rules.is_empty() { &everywhere } else { rules } {
                self.claim(current, field.to_owned(), host.clone(), secret.clone());
            }
        }
    }

    fn claim(
        &mut self,
        current: &Current,
        field: String,
        host: HostPattern,
        secret: Option<ObjectName>,
    ) {
        if let Some(first) = self.claims.get(&host) {
            if first.secret != secret {
                let what = format!("the certificate for host {host}");
                let owner = first.ingress.name.clone();
                self.problem(current, field, Fault::Conflict { what, owner });
            }
            return;
        }
        let ingress = current.ingress.clone();
        let claim = TlsClaim {
            ingress,
            field,
            host: host.clone(),
            secret,
        };
        self.claims.insert(host, claim);
    }
}
