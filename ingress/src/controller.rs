//! From objects to what the data plane has in effect: computes what a change has outdated and swaps it in.
//!
//! Nothing is published before every kind of object has been listed once, and whatever annotations name has been looked
//! for. Certificates go first, endpoints second and
//! routes last, so a route never leads to something that is not there yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{ObjectName, ServiceName, ServicePortName};

use crate::annotations::Reference;
use crate::gateway::{Live, Shared};
use crate::objects::{Change, Objects, Stale};
use crate::problem::Problem;
use crate::routes::class::Classes;
use crate::routes::{self, Built, Table, TlsClaim};
use crate::status;
use crate::upstream::Upstream;

/// What turns objects into routes.
#[derive(Debug)]
pub struct Controller {
    objects: Objects,
    shared: Arc<Shared>,
    stale: Stale,
    upstreams: BTreeMap<ServicePortName, Arc<Upstream>>,
    /// The Services that routes name, there or not.
    services: BTreeSet<ServiceName>,
    /// The objects that annotations name, there or not.
    references: BTreeSet<Reference>,
    /// Whether something has been published.
    is_live: bool,
    claims: Vec<TlsClaim>,
    route_problems: Vec<Problem>,
    certificate_problems: Vec<Problem>,
}

/// What the world should be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What is wrong with Ingresses.
    pub problems: Vec<Problem>,
    /// The Ingresses that are served.
    pub served: Vec<Served>,
}

/// An Ingress that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Its name.
    pub name: ObjectName,
    /// The version of the object that was seen.
    pub version: String,
    /// The addresses that its status has.
    pub addresses: Vec<String>,
}

impl Controller {
    /// A controller of `shared` that knows no objects yet.
    pub fn new(shared: Arc<Shared>, classes: Classes) -> Self {
        Self {
            objects: Objects::new(classes),
            shared,
            stale: Stale::default(),
            upstreams: BTreeMap::new(),
            services: BTreeSet::new(),
            references: BTreeSet::new(),
            is_live: false,
            claims: Vec::new(),
            route_problems: Vec::new(),
            certificate_problems: Vec::new(),
        }
    }

    /// Takes in a change. Nothing is in effect before [`publish`](Self::publish).
    pub fn apply(&mut self, change: Change) {
        self.objects.apply(change, &mut self.stale);
    }

    /// Puts into effect what has changed. Returns what the world should be told, if that may have changed too.
    pub fn publish(&mut self) -> Option<Report> {
        if !self.objects.is_complete() {
            return None;
        }
        let stale = std::mem::take(&mut self.stale);
        let routes = stale.routes || !self.services.is_disjoint(&stale.services);
        let built = routes.then(|| self.build());
        let (table, claims) = built.map(|built| self.take(built)).unzip();
        if !self.is_live && !self.objects.has_looked_for(&self.references) {
            self.stale.routes = true;
            return None;
        }
        self.is_live = true;
        if let Some(claims) = claims {
            self.claims = claims;
        }
        if routes || stale.certificates {
            self.publish_certificates();
        }
        self.publish_endpoints(&stale.endpoints);
        if let Some(table) = table {
            self.publish_routes(table);
        }
        (routes || stale.certificates || stale.statuses).then(|| self.report())
    }

    /// The objects that annotations name as of the last [`publish`](Self::publish); whoever feeds changes should watch
    /// them.
    pub fn references(&self) -> &BTreeSet<Reference> {
        &self.references
    }

    fn build(&self) -> Built {
        let objects = &self.objects;
        routes::build(objects.ingresses(), objects.world(), objects.referenced())
    }

    fn take(&mut self, built: Built) -> (Table, Vec<TlsClaim>) {
        self.services = built.services;
        self.objects.keep_referenced(&built.references);
        self.references = built.references;
        self.route_problems = built.problems;
        (built.table, built.tls)
    }

    fn publish_certificates(&mut self) {
        let in_use = self.shared.certificates.load();
        let (next, problems) = in_use.next(&self.claims, self.objects.secrets());
        self.shared.certificates.store(Arc::new(next));
        self.certificate_problems = problems;
    }

    fn publish_endpoints(&self, services: &BTreeSet<ServiceName>) {
        let changed = self
            .upstreams
            .iter()
            .filter(|(name, _)| services.contains(&name.service));
        for (_, upstream) in changed {
            upstream.refresh(self.objects.world());
        }
    }

    fn publish_routes(&mut self, table: Table) {
        let upstreams: Vec<_> = table
            .backends()
            .iter()
            .map(|name| self.upstream(name))
            .collect();
        let used = upstreams
            .iter()
            .map(|upstream| (upstream.name().clone(), upstream.clone()));
        self.upstreams = used.collect();
        let series = self.shared.metrics.series(table.routes());
        self.shared.metrics.routes.set(table.routes().len() as u64);
        self.shared.metrics.updates.count();
        self.shared.live.store(Arc::new(Live {
            table,
            upstreams,
            series,
        }));
    }

    /// The upstream of `name`, the one that is in use if there is one.
    fn upstream(&self, name: &ServicePortName) -> Arc<Upstream> {
        self.upstreams.get(name).cloned().unwrap_or_else(|| {
            let upstream = Upstream::new(name.clone());
            upstream.refresh(self.objects.world());
            Arc::new(upstream)
        })
    }

    fn report(&self) -> Report {
        let problems = self.route_problems.iter().chain(&self.certificate_problems);
        self.shared.metrics.set_problems(problems.clone());
        let served = self.objects.ingresses().map(|ingress| Served {
            name: routes::ingress::reference(ingress).name,
            version: ingress
                .metadata
                .resource_version
                .clone()
                .unwrap_or_default(),
            addresses: status::addresses(ingress),
        });
        Report {
            problems: problems.cloned().collect(),
            served: served.collect(),
        }
    }
}
