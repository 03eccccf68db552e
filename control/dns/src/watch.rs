//! Watching Services and EndpointSlices and keeping the records in step. The only writer of the records.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::{PoisonError, RwLock};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, ObjectName};
use crate::records::{Records, ServiceRecords};
use crate::zone::Zone;

/// Follows the cluster until `shutdown`. A broken watch is taken up again; meanwhile the records stay as they are.
pub(crate) async fn run(
    client: Client,
    zone: &Zone,
    records: &RwLock<Records>,
    shutdown: CancellationToken,
) {
    let mut services = pin!(events::<Service>(client.clone()));
    let mut slices = pin!(events::<EndpointSlice>(client));
    let mut cluster = Cluster::default();
    loop {
        let changed = tokio::select! {
            () = shutdown.cancelled() => return,
            Some(event) = services.next() => cluster.service(event),
            Some(event) = slices.next() => cluster.slice(event),
            else => return,
        };
        update(&cluster, changed, zone, records);
    }
}

/// The events of one kind; failures are logged and left out.
fn events<K>(client: Client) -> impl Stream<Item = Event<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let events = watch(Api::all(client), watcher::Config::default()).default_backoff();
    events.filter_map(async |event| {
        event
            .inspect_err(|error| tracing::warn!(kind = %K::kind(&()), %error, "watch broken, taking it up again"))
            .ok()
    })
}

/// Replaces the records of the Services that changed. They are computed before the lock is taken.
pub(crate) fn update(
    cluster: &Cluster,
    changed: Vec<ObjectName>,
    zone: &Zone,
    records: &RwLock<Records>,
) {
    let replacements: Vec<_> = changed
        .into_iter()
        .map(|name| {
            let service = cluster.get(&name);
            let fresh = service.and_then(|service| {
                ServiceRecords::new(zone, &name, service, cluster.slices(&name))
            });
            (name, fresh)
        })
        .collect();
    let mut records = records.write().unwrap_or_else(PoisonError::into_inner);
    for (name, fresh) in replacements {
        records.replace(&name, fresh);
    }
    if cluster.is_complete() && !records.is_complete() {
        records.set_complete();
        tracing::info!("the cluster's names are known");
    }
}
