//! Writing our addresses to the status of the Ingresses that we serve.
//!
//! Only an Ingress whose status differs is written, and only after its routes are in effect. Of several gateways only the
//! leader writes.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use model::ObjectName;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::controller::{Report, Served};

/// How long to wait after a write that failed.
const RETRY: Duration = Duration::from_secs(5);

/// The addresses in the status of `ingress`.
pub fn addresses(ingress: &Ingress) -> Vec<String> {
    let status = ingress.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let points = balancer.and_then(|balancer| balancer.ingress.as_ref());
    let points = points.into_iter().flatten();
    points
        .filter_map(|point| point.ip.clone().or_else(|| point.hostname.clone()))
        .collect()
}

/// What was written: for each Ingress, the version that it had before. As long as that is what is seen, the write has
/// not come back yet.
type Written = HashMap<ObjectName, String>;

/// Keeps statuses at `wanted` until `shutdown`, while this gateway `leads`. As long as no address is known, statuses stay
/// as they are.
pub async fn run(
    client: Client,
    mut wanted: watch::Receiver<Vec<String>>,
    mut leads: watch::Receiver<bool>,
    mut reports: watch::Receiver<Option<Arc<Report>>>,
    shutdown: CancellationToken,
) {
    let mut written = Written::new();
    loop {
        let report = reports.borrow_and_update().clone().unwrap_or_default();
        let addresses = wanted.borrow_and_update().clone();
        let is_ours_to_do = *leads.borrow_and_update() && !addresses.is_empty();
        let is_done = match is_ours_to_do {
            true => write_all(&client, &report, &addresses, &mut written).await,
            false => true,
        };
        let retry = async {
            match is_done {
                true => std::future::pending().await,
                false => tokio::time::sleep(RETRY).await,
            }
        };
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return },
            Ok(()) = wanted.changed() => written.clear(),
            Ok(()) = leads.changed() => written.clear(),
            () = retry => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Removes `ours` from all statuses of `report` that have exactly these.
pub async fn clear(client: &Client, report: &Report, ours: &[String]) {
    for served in report
        .served
        .iter()
        .filter(|served| same(&served.addresses, ours))
    {
        if let Err(error) = write(client, &served.name, &[]).await {
            tracing::warn!(ingress = %served.name, %error, "cannot clear the status");
        }
    }
}

/// Writes what differs. Says whether all went well.
async fn write_all(
    client: &Client,
    report: &Report,
    wanted: &[String],
    written: &mut Written,
) -> bool {
    let differing: Vec<_> = report
        .served
        .iter()
        .filter(|served| !same(&served.addresses, wanted))
        .collect();
    let names: BTreeSet<&ObjectName> = differing.iter().map(|served| &served.name).collect();
    written.retain(|name, _| names.contains(name));
    let mut is_done = true;
    for Served { name, version, .. } in differing {
        if written.get(name) == Some(version) {
            continue;
        }
        match write(client, name, wanted).await {
            Ok(()) => {
                written.insert(name.clone(), version.clone());
                tracing::info!(ingress = %name, "status written");
            }
            Err(error) => {
                tracing::warn!(ingress = %name, %error, "cannot write the status");
                is_done = false;
            }
        }
    }
    is_done
}

fn same(one: &[String], other: &[String]) -> bool {
    let set = |addresses: &[String]| addresses.iter().cloned().collect::<BTreeSet<_>>();
    one.len() == other.len() && set(one) == set(other)
}

/// Writes one status. An Ingress that is gone meanwhile needs none.
async fn write(client: &Client, name: &ObjectName, wanted: &[String]) -> kube::Result<()> {
    let api = Api::<Ingress>::namespaced(client.clone(), &name.namespace);
    let points: Vec<Value> = wanted.iter().map(|address| point(address)).collect();
    let patch = json!({"status": {"loadBalancer": {"ingress": points}}});
    let params = PatchParams::default();
    match api
        .patch_status(&name.name, &params, &Patch::Merge(patch))
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(drop),
    }
}

fn point(address: &str) -> Value {
    match address.parse::<IpAddr>() {
        Ok(ip) => json!({"ip": ip}),
        Err(_) => json!({"hostname": address}),
    }
}
