//! Telling users what is wrong with their Ingresses, where `kubectl describe` shows it: as Events.
//!
//! A problem is told once when it appears, and again when it comes back. An Event's name follows from the problem, so
//! several gateways, or one that was restarted, add to the same Event instead of making new ones.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::controller::Report;
use crate::problem::Problem;

const COMPONENT: &str = "portolan-ingress";
/// How long to wait after an Event that could not be written.
const RETRY: Duration = Duration::from_secs(30);

/// Tells every problem in `reports` until `shutdown`.
pub async fn run(
    client: Client,
    mut reports: watch::Receiver<Option<Arc<Report>>>,
    shutdown: CancellationToken,
) {
    let mut told = BTreeSet::new();
    loop {
        let report = reports.borrow_and_update().clone().unwrap_or_default();
        let is_done = tell_all(&client, &report.problems, &mut told).await;
        let retry = async {
            match is_done {
                true => std::future::pending().await,
                false => tokio::time::sleep(RETRY).await,
            }
        };
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return },
            () = retry => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Tells what has not been told, and forgets what is no longer so. Says whether all went well.
async fn tell_all(client: &Client, problems: &[Problem], told: &mut BTreeSet<Problem>) -> bool {
    let current: BTreeSet<Problem> = problems.iter().cloned().collect();
    told.retain(|problem| current.contains(problem));
    let mut is_done = true;
    for problem in current {
        if told.contains(&problem) {
            continue;
        }
        let (_, kind) = problem.kind();
        let reason = problem.fault.reason();
        tracing::warn!(kind, name = %problem.ingress.name, reason, "{problem}");
        match tell(client, &problem).await {
            Ok(()) => drop(told.insert(problem)),
            Err(error) => {
                tracing::warn!(kind, name = %problem.ingress.name, %error, "cannot write an Event");
                is_done = false;
            }
        }
    }
    is_done
}

async fn tell(client: &Client, problem: &Problem) -> kube::Result<()> {
    let api = Api::<Event>::namespaced(client.clone(), &problem.ingress.name.namespace);
    let event = event(problem, jiff::Timestamp::now());
    match api.create(&PostParams::default(), &event).await {
        Err(kube::Error::Api(status)) if status.code == 409 => count_again(&api, &event).await,
        result => result.map(drop),
    }
}

/// Counts an Event that exists.
async fn count_again(api: &Api<Event>, event: &Event) -> kube::Result<()> {
    let name = event.metadata.name.as_deref().unwrap_or_default();
    let known = api.get(name).await?;
    let count = known.count.unwrap_or(1).saturating_add(1);
    let patch = json!({"count": count, "lastTimestamp": event.last_timestamp});
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map(drop)
}

fn event(problem: &Problem, now: jiff::Timestamp) -> Event {
    let ingress = &problem.ingress;
    let (version, kind) = problem.kind();
    let (namespace, name) = (
        ingress.name.namespace.to_string(),
        ingress.name.name.to_string(),
    );
    Event {
        metadata: ObjectMeta {
            name: Some(event_name(&name, problem)),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(version.to_owned()),
            kind: Some(kind.to_owned()),
            namespace: Some(namespace),
            name: Some(name),
            uid: Some(ingress.uid.to_string()).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(problem.fault.reason().to_owned()),
        message: Some(problem.to_string()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some(COMPONENT.to_owned()),
            host: None,
        }),
        reporting_component: Some(COMPONENT.to_owned()),
        ..Event::default()
    }
}

/// A name for the Event, no longer than names may be.
fn event_name(ingress: &str, problem: &Problem) -> String {
    const ROOM: usize = 253 - 17;
    // Names of objects are ASCII.
    let ingress = ingress.get(..ROOM).unwrap_or(ingress);
    format!("{ingress}.{:016x}", digest(problem))
}

/// The same for the same problem, in any process of this version.
fn digest(problem: &Problem) -> u64 {
    let mut hasher = DefaultHasher::new();
    problem.hash(&mut hasher);
    hasher.finish()
}
