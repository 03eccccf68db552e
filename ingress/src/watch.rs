//! Watching the API: five kinds of objects, one loop.
//!
//! The loop takes whatever has arrived, then publishes once, so a burst costs one update and a quiet moment none. Of
//! Secrets only those of type `kubernetes.io/tls` are asked for: the others, tokens and passwords, never get here. So a
//! Secret of another type counts as missing even if it has a certificate in it.

use std::sync::Arc;

use futures::future::ready;
use futures::stream::{BoxStream, SelectAll};
use futures::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::controller::{Controller, Report};
use crate::objects::{Change, Delta};

/// Most changes that are taken in before the result is published.
const BURST: usize = 4096;

/// Keeps the data plane at the state of the API until `shutdown`, and `reports` at what the world should be told. The
/// first report says that everything is in effect.
pub async fn run(
    client: Client,
    mut controller: Controller,
    reports: watch::Sender<Option<Arc<Report>>>,
    shutdown: CancellationToken,
) {
    let mut changes = changes(&client).ready_chunks(BURST);
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
    }
}

fn changes(client: &Client) -> SelectAll<BoxStream<'static, Change>> {
    let tls_only = watcher::Config::default().fields("type=kubernetes.io/tls");
    futures::stream::select_all([
        source(client, watcher::Config::default(), Change::Ingress),
        source(client, watcher::Config::default(), Change::Class),
        source(client, watcher::Config::default(), Change::Service),
        source(client, watcher::Config::default(), Change::Slice),
        source(client, tls_only, Change::Secret),
    ])
}

/// All changes of one kind.
fn source<K>(
    client: &Client,
    config: watcher::Config,
    change: fn(Delta<K>) -> Change,
) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
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
