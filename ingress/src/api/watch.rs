//! Watching the API: all objects of four kinds, everywhere or in one namespace, and single objects and names in DNS that
//! Ingresses name, in one loop.
//!
//! The loop takes whatever has arrived, then publishes once, so a burst costs one update and a quiet moment none. Each
//! Secret and ConfigMap has a watch of its own, by name: RBAC can then allow just these (`resourceNames`), and all
//! others, tokens and passwords, never get here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::ready;
use futures::stream::{self, BoxStream, SelectAll};
use futures::{Stream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, IngressClassSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource};
use model::ObjectName;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::annotations::referenced::{config_map_data, secret_data};
use crate::annotations::{Data, Reference, Seen};
use crate::api::controller::{Controller, Report};
use crate::api::names::{self, Resolver};
use crate::api::objects::{Change, Delta};
use crate::config::IngressArgs;
use crate::routes::class::Scope;

/// Most changes that are taken in before the result is published.
const BURST: usize = 4096;

/// Arguments about what is watched.
#[derive(clap::Args, Debug, Clone, Default)]
#[group(skip)]
pub struct WatchArgs {
    /// Serve the Ingresses of this namespace only, and look into no other, but for objects that arguments name. Rights in
    /// this namespace are enough then, with that to list and watch ingressclasses (but see --disable-ingress-classes).
    #[arg(long, value_name = "NAMESPACE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub watch_namespace: Option<String>,

    /// Serve the Ingresses of the namespaces with these labels only (`team=a`, `env in (test, live)`), as those come and go.
    /// The gateway needs the right to list and watch namespaces.
    #[arg(
        long,
        value_name = "LABELS",
        conflicts_with = "watch_namespace",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub watch_namespace_selector: Option<String>,

    /// Do not look at IngressClasses, which belong to no namespace. An Ingress is ours then when its annotation or its
    /// spec.ingressClassName is what --ingress-class says.
    #[arg(long)]
    pub disable_ingress_classes: bool,
}

impl WatchArgs {
    /// The namespaces whose Ingresses can be ours.
    pub fn scope(&self) -> Scope {
        match (&self.watch_namespace, &self.watch_namespace_selector) {
            (Some(name), _) => Scope::One(name.clone()),
            (None, Some(_)) => Scope::Chosen(BTreeSet::new()),
            (None, None) => Scope::All,
        }
    }
}

/// Keeps the data plane at the state of the API until `shutdown`, and `reports` at what the world should be told. The
/// first report says that everything is in effect. Without a `resolver` nobody stands for a name outside the cluster.
pub async fn run(
    client: Client,
    args: IngressArgs,
    resolver: Option<Resolver>,
    mut controller: Controller,
    reports: watch::Sender<Option<Arc<Report>>>,
    shutdown: CancellationToken,
) {
    let mut changes = changes(&client, &args).ready_chunks(BURST);
    let mut watched = Watched::default();
    loop {
        let burst = tokio::select! {
            burst = changes.next() => burst,
            () = shutdown.cancelled() => return,
        };
        // Watches never end; they begin anew.
        let Some(burst) = burst else { return };
        for change in burst {
            controller.apply(change);
        }
        if let Some(report) = controller.publish() {
            reports.send_replace(Some(Arc::new(report)));
        }
        let look = |reference: &Reference| look(&client, resolver.as_ref(), reference);
        watched.follow(controller.references(), look, changes.get_mut());
    }
}

/// What Ingresses name and is watched one by one, each with what ends its watch.
#[derive(Default)]
struct Watched(BTreeMap<Reference, DropGuard>);

impl Watched {
    /// Watches `wanted`, which is done by `look`, and nothing else.
    fn follow(
        &mut self,
        wanted: &BTreeSet<Reference>,
        look: impl Fn(&Reference) -> BoxStream<'static, Change>,
        changes: &mut SelectAll<BoxStream<'static, Change>>,
    ) {
        self.0.retain(|reference, _| wanted.contains(reference));
        for reference in wanted {
            if self.0.contains_key(reference) {
                continue;
            }
            let end = CancellationToken::new();
            let seen = look(reference);
            changes.push(seen.take_until(end.clone().cancelled_owned()).boxed());
            self.0.insert(reference.clone(), end.drop_guard());
        }
    }
}

/// What is seen over time of what `reference` names.
fn look(
    client: &Client,
    resolver: Option<&Resolver>,
    reference: &Reference,
) -> BoxStream<'static, Change> {
    match reference {
        Reference::Secret(name) => look_at::<Secret>(client, name, secret_data, reference.clone()),
        Reference::ConfigMap(name) => {
            look_at::<ConfigMap>(client, name, config_map_data, reference.clone())
        }
        Reference::ExternalName(name) => {
            let Some(resolver) = resolver else {
                return stream::empty().boxed();
            };
            let resolutions = names::follow(resolver.clone(), name.clone());
            let name = name.clone();
            let change = move |resolution| Change::Resolved(name.clone(), resolution);
            resolutions.map(change).boxed()
        }
    }
}

/// Watches the object `name` alone, so that the right to read this one is enough.
fn look_at<K>(
    client: &Client,
    name: &ObjectName,
    data: fn(&K) -> Data,
    reference: Reference,
) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    let api = Api::<K>::namespaced(client.clone(), &name.namespace);
    let one = watcher::Config::default().fields(&format!("metadata.name={}", name.name));
    let events = watcher(api, one).default_backoff();
    let seen = events.scan(Vec::new(), move |list, event| {
        let hidden = event
            .as_ref()
            .err()
            .map(|error| Seen::Hidden(error.to_string()));
        let delta = step(list, event);
        ready(Some(
            hidden.or_else(|| delta.map(|delta| sight(delta, data))),
        ))
    });
    let change = move |seen| Change::Referenced(reference.clone(), seen);
    seen.filter_map(ready).map(change).boxed()
}

fn sight<K>(delta: Delta<K>, data: fn(&K) -> Data) -> Seen {
    match delta {
        Delta::All(all) => all
            .first()
            .map_or(Seen::Absent, |object| Seen::Present(data(object))),
        Delta::Applied(object) => Seen::Present(data(&object)),
        Delta::Deleted(_) => Seen::Absent,
    }
}

fn changes(client: &Client, args: &IngressArgs) -> SelectAll<BoxStream<'static, Change>> {
    let namespace = args.watch.watch_namespace.as_deref();
    let mut all = futures::stream::select_all([
        source(within::<Ingress>(client, namespace), Change::Ingress),
        source(within::<Service>(client, namespace), Change::Service),
        source(within::<EndpointSlice>(client, namespace), Change::Slice),
        match args.watch.disable_ingress_classes {
            true => one_class(args),
            false => source(Api::all(client.clone()), Change::Class),
        },
    ]);
    if let Some(labels) = &args.watch.watch_namespace_selector {
        let chosen = watcher::Config::default().labels(labels);
        let namespaces = Api::<Namespace>::all(client.clone());
        all.push(source_of(namespaces, chosen, Change::Namespace));
    }
    all
}

/// The objects of a kind, everywhere or in one namespace.
fn within<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// All changes of the objects of one kind.
fn source<K>(api: Api<K>, change: fn(Delta<K>) -> Change) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    source_of(api, watcher::Config::default(), change)
}

/// The same for those that `config` chooses.
fn source_of<K>(
    api: Api<K>,
    config: watcher::Config,
    change: fn(Delta<K>) -> Change,
) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    deltas(watcher(api, config).default_backoff())
        .map(change)
        .boxed()
}

/// That there is one class, called like that of the annotation, and that it is ours.
fn one_class(args: &IngressArgs) -> BoxStream<'static, Change> {
    let class = IngressClass {
        metadata: ObjectMeta {
            name: Some(args.ingress_class.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(IngressClassSpec {
            controller: Some(args.controller_class.clone()),
            ..IngressClassSpec::default()
        }),
    };
    futures::stream::iter([Change::Class(Delta::All(vec![class]))]).boxed()
}

/// Gathers lists, and passes everything else on.
fn deltas<K>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
) -> impl Stream<Item = Delta<K>> + Send
where
    K: Resource<DynamicType = ()> + Send,
{
    let gathered = events.scan(Vec::new(), |list, event| ready(Some(step(list, event))));
    gathered.filter_map(ready)
}

fn step<K>(list: &mut Vec<K>, event: watcher::Result<watcher::Event<K>>) -> Option<Delta<K>>
where
    K: Resource<DynamicType = ()>,
{
    match event {
        Ok(watcher::Event::Init) => list.clear(),
        Ok(watcher::Event::InitApply(object)) => list.push(object),
        Ok(watcher::Event::InitDone) => return Some(Delta::All(std::mem::take(list))),
        Ok(watcher::Event::Apply(object)) => return Some(Delta::Applied(Box::new(object))),
        Ok(watcher::Event::Delete(object)) => return Some(Delta::Deleted(Box::new(object))),
        Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "watch failed, trying again"),
    }
    None
}
