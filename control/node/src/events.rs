//! Events about pods and the node: what `kubectl describe` shows. Posting never holds up what is being told about.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc;

/// Events that wait to be posted; more are dropped, with a log line.
const QUEUE: usize = 1024;
/// Distinct events whose repetitions are counted instead of posted anew.
const REMEMBERED: usize = 4096;

/// How much an event should worry its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Level {
    /// For information.
    Normal,
    /// Something is wrong.
    Warning,
}

/// Hands events to the task that posts them.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Told>,
}

#[derive(Debug)]
struct Told {
    about: ObjectReference,
    level: Level,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

impl Recorder {
    /// Starts posting; ends when every clone is gone.
    pub(crate) fn start(client: Client, node: &str) -> Self {
        let (queue, told) = mpsc::channel(QUEUE);
        tokio::spawn(post_all(client, node.to_owned(), told));
        Self { queue }
    }

    /// Tells something about a pod, or about one of its containers.
    pub(crate) fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        level: Level,
        reason: &'static str,
        message: String,
    ) {
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: container.map(|name| field_path(pod, name)),
        };
        self.tell(Told {
            about,
            level,
            reason,
            message,
            at: Timestamp::now(),
        });
    }

    /// Tells something about the node.
    pub(crate) fn node(&self, name: &str, reason: &'static str, message: String) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..ObjectReference::default()
        };
        self.tell(Told {
            about,
            level: Level::Normal,
            reason,
            message,
            at: Timestamp::now(),
        });
    }

    fn tell(&self, told: Told) {
        if let Err(error) = self.queue.try_send(told) {
            tracing::warn!(%error, "an event is lost");
        }
    }
}

fn field_path(pod: &Pod, container: &str) -> String {
    let init = pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    let list = if init.into_iter().any(|init| init.name == container) {
        "initContainers"
    } else {
        "containers"
    };
    format!("spec.{list}{{{container}}}")
}

type Key = (Option<String>, Option<String>, &'static str, String);

async fn post_all(client: Client, node: String, mut queue: mpsc::Receiver<Told>) {
    let mut posted: HashMap<Key, (String, i32)> = HashMap::new();
    while let Some(told) = queue.recv().await {
        let key = (
            told.about.uid.clone(),
            told.about.field_path.clone(),
            told.reason,
            told.message.clone(),
        );
        if posted.len() > REMEMBERED {
            posted.clear();
        }
        let known = posted.get(&key).cloned();
        match post(&client, &node, &told, known).await {
            Ok(now_known) => {
                posted.insert(key, now_known);
            }
            Err(error) => tracing::warn!(%error, reason = told.reason, "cannot post an event"),
        }
    }
}

/// Posts the event, or counts it where it was posted before; gives its name and count.
async fn post(
    client: &Client,
    node: &str,
    told: &Told,
    known: Option<(String, i32)>,
) -> kube::Result<(String, i32)> {
    let namespace = told.about.namespace.as_deref().unwrap_or("default");
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    if let Some((name, count)) = known {
        let patch = serde_json::json!({"count": count + 1, "lastTimestamp": Time(told.at)});
        match api
            .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            // Events are removed after an hour.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            other => return other.map(|_| (name, count + 1)),
        }
    }
    let name = format!(
        "{}.{:x}",
        told.about.name.as_deref().unwrap_or_default(),
        told.at.as_nanosecond()
    );
    let event = Event {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.into()),
            ..ObjectMeta::default()
        },
        involved_object: told.about.clone(),
        type_: Some(
            if told.level == Level::Normal {
                "Normal"
            } else {
                "Warning"
            }
            .into(),
        ),
        reason: Some(told.reason.into()),
        message: Some(told.message.clone()),
        count: Some(1),
        first_timestamp: Some(Time(told.at)),
        last_timestamp: Some(Time(told.at)),
        source: Some(EventSource {
            component: Some("kubelet".into()),
            host: Some(node.to_owned()),
        }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    };
    api.create(&PostParams::default(), &event).await?;
    Ok((name, 1))
}
