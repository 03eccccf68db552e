//! Objects the server keeps itself: the first namespaces, and the Service through which pods reach it; and what it throws
//! away: Events past their time.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use control_schema::{Resource, by_plural};
use control_store::Query;
use ipnetwork::IpNetwork;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api::Api;
use crate::error::ApiError;
use crate::hooks;
use crate::identity::{MASTERS, User};
use crate::object::{self, text};
use crate::query::{FieldValidation, WriteOptions};
use crate::rest::{self, Creation, DeleteOptions, Update};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// How often the server looks after its Service, as upstream does.
const TEND_EVERY: Duration = Duration::from_secs(10);
/// After how many of these rounds old Events are thrown away.
const SWEEP_ROUNDS: u32 = 6;

/// Takes what stored objects hold from the pools.
pub(crate) fn recover(api: &Api) {
    for res in control_schema::resources()
        .iter()
        .filter(|res| res.is_stored())
    {
        let table = object::table(res);
        let entries = api
            .store
            .list(&Query {
                table: &table,
                ..Query::default()
            })
            .map(|page| page.entries);
        for entry in entries.unwrap_or_default() {
            if hooks::is_core(res, "services") {
                hooks::recover(api, res, &object::decode(&entry.value));
            }
        }
    }
}

/// Makes what is missing.
pub(crate) async fn furnish(api: &Api, advertised: SocketAddr) -> Result<(), ApiError> {
    for namespace in NAMESPACES {
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        ensure(api, core("namespaces"), "", namespace, object).await?;
    }
    furnish_service_cidr(api).await?;
    let Some(address) = api.allocators.addresses().first() else {
        return Ok(());
    };
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "clusterIP": address.to_string(), "type": "ClusterIP", "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": advertised.port()}],
        },
    });
    ensure(api, core("services"), "default", "kubernetes", service).await?;
    tend_endpoints(api, advertised).await
}

/// Tells proxies and people what cluster addresses are taken from. The server's flags decide that, so an object that says
/// otherwise is of an earlier run.
async fn furnish_service_cidr(api: &Api) -> Result<(), ApiError> {
    let res = by_plural("networking.k8s.io", "v1", "servicecidrs")
        .expect("the schema has service ranges");
    let networks = api.allocators.addresses().networks();
    if networks.is_empty() {
        return Ok(());
    }
    let cidr = |network: &IpNetwork| format!("{}/{}", network.network(), network.prefix());
    let cidrs: Vec<String> = networks.iter().map(cidr).collect();
    let spec = json!({ "cidrs": cidrs });
    let known = api.store.get(&object::key(res, "", hooks::SERVICE_CIDR));
    if known.is_some_and(|known| object::decode(&known.value)["spec"] != spec) {
        rest::remove(api, res, "", hooks::SERVICE_CIDR, &DeleteOptions::default()).await?;
    }
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": hooks::SERVICE_CIDR},
        "spec": spec,
    });
    ensure(api, res, "", hooks::SERVICE_CIDR, object).await
}

/// Keeps the Service's endpoints, ages Events and history, until shutdown.
pub(crate) async fn tend(api: &Api, advertised: SocketAddr, event_ttl: Duration) {
    let mut ticks = tokio::time::interval(TEND_EVERY);
    let mut round: u32 = 0;
    loop {
        tokio::select! {
            () = api.shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        round = round.wrapping_add(1);
        if let Err(error) = furnish(api, advertised).await {
            tracing::warn!(%error, "the server's own objects could not be kept");
        }
        if round.is_multiple_of(SWEEP_ROUNDS) {
            sweep_events(api, event_ttl).await;
            api.store.trim();
        }
    }
}

fn core(plural: &str) -> &'static Resource {
    by_plural("", "v1", plural).expect("the schema has the core kinds")
}

fn own_user() -> User {
    User::known("system:apiserver", vec![MASTERS.into()])
}

fn own_options() -> WriteOptions {
    WriteOptions {
        dry_run: false,
        field_validation: FieldValidation::Strict,
        manager: "kube-apiserver".into(),
        force: false,
    }
}

/// Creates an object unless it is there.
async fn ensure(
    api: &Api,
    res: &'static Resource,
    namespace: &str,
    name: &str,
    object: Value,
) -> Result<(), ApiError> {
    if api.store.get(&object::key(res, namespace, name)).is_some() {
        return Ok(());
    }
    let (user, options) = (own_user(), own_options());
    let creation = Creation {
        api,
        user: &user,
        res,
        options: &options,
    };
    match creation.run(object, namespace).await {
        Err(error) if error.reason != "AlreadyExists" => Err(error),
        _ => Ok(()),
    }
}

/// Creates an object, or gives it the members of `wanted` that are not metadata.
async fn keep(
    api: &Api,
    res: &'static Resource,
    namespace: &str,
    name: &str,
    wanted: Value,
) -> Result<(), ApiError> {
    ensure(api, res, namespace, name, wanted.clone()).await?;
    let options = own_options();
    let update = Update {
        api,
        res,
        namespace,
        name,
        sub: None,
        options: &options,
        tracked: false,
    };
    let kept: Result<Bytes, ApiError> = update
        .run(|old| {
            let mut new = old.clone();
            for (key, value) in wanted
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(key, _)| *key != "metadata")
            {
                object::members(&mut new).insert(key.clone(), value.clone());
            }
            Ok(new)
        })
        .await;
    kept.map(drop)
}

/// Says where the server is. A server on the loopback is nowhere for pods, and endpoints there are not valid.
async fn tend_endpoints(api: &Api, advertised: SocketAddr) -> Result<(), ApiError> {
    if advertised.ip().is_loopback() {
        return Ok(());
    }
    let (ip, port) = (advertised.ip().to_string(), advertised.port());
    let labels = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    });
    keep(api, core("endpoints"), "default", "kubernetes", endpoints).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if advertised.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    let slices = by_plural("discovery.k8s.io", "v1", "endpointslices")
        .expect("the schema has endpoint slices");
    keep(api, slices, "default", "kubernetes", slice).await
}

async fn sweep_events(api: &Api, ttl: Duration) {
    let events = core("events");
    let table = object::table(events);
    let Ok(page) = api.store.list(&Query {
        table: &table,
        ..Query::default()
    }) else {
        return;
    };
    let ttl = SignedDuration::try_from(ttl).unwrap_or(SignedDuration::MAX);
    let now = Timestamp::now();
    let old = page.entries.iter().filter(|entry| {
        let seen = last_seen(&object::decode(&entry.value));
        seen.is_some_and(|seen| now.duration_since(seen) > ttl)
    });
    for entry in old {
        let (namespace, name) = (&entry.key.scope, &entry.key.name);
        if let Err(error) =
            rest::remove(api, events, namespace, name, &DeleteOptions::default()).await
        {
            tracing::debug!(%error, %name, "an old event was not removed");
        }
    }
}

/// The newest of the times in an Event.
fn last_seen(event: &Value) -> Option<Timestamp> {
    [
        "/metadata/creationTimestamp",
        "/lastTimestamp",
        "/eventTime",
        "/series/lastObservedTime",
    ]
    .iter()
    .filter_map(|pointer| text(event, pointer).parse().ok())
    .max()
}
