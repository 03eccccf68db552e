//! From objects to what the data plane has in effect: computes what a change has outdated, and only that, and swaps it
//! in.
//!
//! Nothing is published before every kind of object has been listed once, and nothing while an object that an
//! Ingress names has not been looked for yet: what it is needed for would be served without it. Certificates go first, endpoints second and
//! routes last, so a route never leads to something that is not there yet.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use model::ObjectName;

use crate::annotations::Reference;
use crate::api::configuration::Configuration;
use crate::api::objects::{Change, Objects, Stale};
use crate::api::status;
use crate::problem::Problem;
use crate::routes::class::Classes;
use crate::routes::index::Changed;
use crate::routes::ingress::{Context, reference};
use crate::routes::{Routes, default_backend};
use crate::server::gateway::Shared;
use crate::upstream::external::Names;

/// What turns objects into routes.
#[derive(Debug)]
pub struct Controller {
    objects: Objects,
    configuration: Configuration,
    shared: Arc<Shared>,
    stale: Stale,
    routes: Routes,
    /// What has been computed and not been put into effect.
    pending: Pending,
    /// The objects that Ingresses name, there or not.
    references: BTreeSet<Reference>,
    /// Those of them that nobody has looked for yet.
    awaited: BTreeSet<Reference>,
    certificate_problems: Vec<Problem>,
    is_published: bool,
}

#[derive(Debug, Default)]
struct Pending {
    settings: bool,
    routes: bool,
    certificates: bool,
    statuses: bool,
}

/// What the world should be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What is wrong with Ingresses.
    pub problems: Vec<Problem>,
    /// The Ingresses that are served.
    pub served: Vec<Served>,
    /// Whose Ingresses are served.
    pub classes: Classes,
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
    /// A controller of `shared` that knows no objects yet, and that the API server is at the addresses `api`. Settings are
    /// those that `shared` has, with those of the ConfigMap `settings` over them.
    pub fn new(
        shared: Arc<Shared>,
        classes: Classes,
        settings: Option<ObjectName>,
        api: Vec<IpAddr>,
    ) -> Self {
        let given = shared.settings();
        let configuration = Configuration::new(settings, given.args().clone());
        let references = own_references(&shared, &configuration);
        let names = Names::new(given.external_name.clone(), api);
        let mut routes = Routes::default();
        routes.fall_through(given.host_fall_through);
        Self {
            objects: Objects::new(classes, names, given.node()),
            configuration,
            shared,
            stale: Stale::default(),
            routes,
            pending: Pending::default(),
            awaited: references.clone(),
            references,
            certificate_problems: Vec::new(),
            is_published: false,
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
        let mut stale = std::mem::take(&mut self.stale);
        let is_set = self.refresh_settings(&mut stale);
        let mut changed = self.read(&stale);
        changed.references |= is_set;
        self.await_references(changed, &stale);
        self.pending.settings |= is_set;
        self.pending.routes |= changed.routes;
        self.pending.certificates |= changed.claims || stale.certificates;
        self.pending.statuses |= stale.statuses;
        let (upstreams, sources) = (&self.shared.upstreams, self.objects.sources());
        upstreams.refresh(sources, &stale.endpoints);
        if stale.names {
            upstreams.refresh_external(sources);
        }
        if !self.awaited.is_empty() || !self.configuration.is_usable() {
            return None;
        }
        self.is_published = true;
        let pending = std::mem::take(&mut self.pending);
        if pending.settings {
            self.publish_settings();
        }
        if pending.certificates {
            self.publish_certificates();
        }
        if pending.routes {
            self.publish_routes();
        }
        (pending.routes || pending.certificates || pending.statuses).then(|| self.report())
    }

    /// The objects that Ingresses name as of the last [`publish`](Self::publish); whoever feeds changes should look for
    /// them.
    pub fn references(&self) -> &BTreeSet<Reference> {
        &self.references
    }

    /// Those of them that nobody has looked for yet. Nothing is published before.
    pub fn awaited(&self) -> &BTreeSet<Reference> {
        &self.awaited
    }

    /// Reads the settings anew if they may be others. What they say counts for all Ingresses, so those are all stale then.
    fn refresh_settings(&mut self, stale: &mut Stale) -> bool {
        let named = self.configuration.references();
        if stale.references.is_disjoint(&named) {
            return false;
        }
        // What is wrong with them is reported even where nothing comes of them.
        stale.statuses = true;
        let is_set = self.configuration.refresh(self.objects.referenced());
        if is_set {
            let all = self
                .objects
                .ingresses()
                .map(|ingress| reference(ingress).name);
            stale.ingresses.extend(all);
            stale
                .services
                .extend(self.shared.settings().default_backend_service.clone());
        }
        is_set
    }

    /// Reads the Ingresses anew that changed, or that name something that did.
    fn read(&mut self, stale: &Stale) -> Changed {
        let services = stale.services.iter();
        let users = services.flat_map(|name| self.routes.users(name));
        let named = stale.references.iter();
        let users = users.chain(named.flat_map(|named| self.routes.reference_users(named)));
        let names: BTreeSet<_> = stale.ingresses.iter().chain(users).cloned().collect();
        let objects = names.iter().map(|name| (name, self.objects.ingress(name)));
        let context = Context {
            world: self.objects.world(),
            names: self.objects.names(),
            upstreams: &self.shared.upstreams,
            referenced: self.objects.referenced(),
            defaults: self.configuration.defaults(),
            metrics: &self.shared.metrics,
        };
        let mut changed = self.routes.update(objects, context);
        let settings = self.shared.settings();
        let default = settings.default_backend_service.as_ref();
        if let Some(name) = default.filter(|name| stale.services.contains(*name)) {
            let route = default_backend::route(name, context);
            if route.is_none() {
                tracing::warn!(service = %name, "the default backend has no TCP port or does not exist");
            }
            self.routes.set_otherwise(route);
            changed.routes = true;
        }
        changed
    }

    fn await_references(&mut self, changed: Changed, stale: &Stale) {
        for reference in &stale.references {
            self.awaited.remove(reference);
        }
        if changed.references {
            self.references = own_references(&self.shared, &self.configuration);
            self.references.extend(self.routes.references().cloned());
            self.objects.keep_referenced(&self.references);
            let unseen = self.references.iter();
            let unseen = unseen.filter(|reference| !self.objects.have_seen(reference));
            // Name servers can take long, or not answer at all. So they are waited for at the start, but keep nothing from
            // being put into effect later.
            let is_late = |reference: &Reference| matches!(reference, Reference::ExternalName(_));
            let unseen = unseen.filter(|reference| !self.is_published || !is_late(reference));
            self.awaited = unseen.cloned().collect();
        }
    }

    fn publish_settings(&self) {
        let (args, everywhere) = self.configuration.settings();
        match self.shared.change_settings(args, everywhere) {
            Ok(()) => tracing::info!("settings of the ConfigMap are in effect"),
            Err(error) => tracing::error!(%error, "the settings of the ConfigMap cannot be used"),
        }
    }

    fn publish_certificates(&mut self) {
        let in_use = self.shared.certificates.load();
        let secrets = self.objects.secrets();
        if let Some(name) = &self.shared.settings().default_ssl_certificate {
            let why = match secrets.get(name) {
                Some(Ok(_)) => None,
                Some(Err(error)) => Some(error.to_string()),
                None => Some("it does not exist or cannot be read".to_owned()),
            };
            if let Some(why) = why {
                tracing::warn!(secret = %name, why, "the default certificate cannot be used");
            }
        }
        let (next, problems) = in_use.next(self.routes.claims(), secrets);
        self.shared.certificates.store(Arc::new(next));
        self.certificate_problems = problems;
    }

    fn publish_routes(&self) {
        self.shared.routes.store(Arc::new(self.routes.table()));
        self.shared.metrics.routes.set(self.routes.len() as u64);
        self.shared.metrics.updates.count();
        let now = u64::try_from(jiff::Timestamp::now().as_second());
        self.shared.metrics.updated.set(now.unwrap_or_default());
        self.shared.metrics.series.drop_unused();
        self.shared.upstreams.drop_unused();
    }

    fn report(&self) -> Report {
        let problems = self.routes.problems().chain(&self.certificate_problems);
        let problems = problems.chain(self.configuration.problems());
        let problems: Vec<Problem> = problems.cloned().collect();
        self.shared.metrics.set_problems(&problems);
        let served = self.objects.ingresses().map(|ingress| Served {
            name: reference(ingress).name,
            version: ingress
                .metadata
                .resource_version
                .clone()
                .unwrap_or_default(),
            addresses: status::addresses(ingress),
        });
        let served: Vec<Served> = served.collect();
        let metrics = &self.shared.metrics;
        metrics.configuration.set(configuration(&served));
        Report {
            problems,
            served,
            classes: self.objects.classes().clone(),
        }
    }
}

/// A number for the versions of the Ingresses that are `served`, the same in every gateway. Metrics are floating-point
/// numbers, so it has the bits that fit there.
fn configuration(served: &[Served]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for Served { name, version, .. } in served {
        (name, version).hash(&mut hasher);
    }
    hasher.finish() >> 12
}

/// The objects that the settings name.
fn own_references(shared: &Shared, configuration: &Configuration) -> BTreeSet<Reference> {
    let certificate = shared.settings().default_ssl_certificate.clone();
    let certificate = certificate.map(Reference::Secret);
    certificate
        .into_iter()
        .chain(configuration.references())
        .collect()
}
