//! Watching the API: all objects of four kinds, and single objects and names in DNS that Ingresses name, in one loop.
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
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
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

/// Most changes that are taken in before the result is published.
const BURST: usize = 4096;

/// Keeps the data plane at the state of the API until `shutdown`, and `reports` at what the world should be told. The
/// first report says that everything is in effect. Without a `resolver` nobody stands for a name outside the cluster.
pub async fn run(
    client: Client,
    resolver: Option<Resolver>,
    mut controller: Controller,
    reports: watch::Sender<Option<Arc<Report>>>,
    shutdown: CancellationToken,
) {
    let mut changes = changes(&client).ready_chunks(BURST);
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

fn changes(client: &Client) -> SelectAll<BoxStream<'static, Change>> {
    futures::stream::select_all([
        source(client, Change::Ingress),
        source(client, Change::Class),
        source(client, Change::Service),
        source(client, Change::Slice),
    ])
}

/// All changes of one kind.
fn source<K>(client: &Client, change: fn(Delta<K>) -> Change) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let config = watcher::Config::default();
    let events = watcher(Api::<K>::all(client.clone()), config).default_backoff();
    deltas(events).map(change).boxed()
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
