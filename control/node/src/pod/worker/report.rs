//! What a pod's task tells: its status to the API, its back-offs as events, its containers to logs and exec.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::kinds;
use super::super::machine::Phase;
use super::super::start::attempt_dir;
use super::super::status;
use super::{Event, RETRY, RunningContainer, Worker, key};
use crate::agent::Agent;
use crate::events::Level;

/// The status as the API was told it.
#[derive(Default)]
pub(super) struct Told {
    /// What the API has last taken.
    taken: Option<PodStatus>,
    /// What is on its way.
    sent: Option<PodStatus>,
}

impl Worker {
    /// Writes the pod's status if it has changed. One write is on its way at a time, and nothing waits for it.
    pub(super) fn publish(&mut self) {
        let over = self.told.taken.is_none() && self.machine.is_retired();
        if self.vanished || self.gone || over || self.told.sent.is_some() {
            return;
        }
        let now = Timestamp::now();
        let before = self.told.taken.as_ref();
        let status = status::of(
            &self.pod,
            before,
            &self.machine,
            &self.agent.args.node_ip,
            self.first_seen,
            now,
        );
        if self.told.taken.as_ref() == Some(&status) {
            return;
        }
        self.retry_at = None;
        self.told.sent = Some(status.clone());
        let (agent, pod, tell) = (
            Arc::clone(&self.agent),
            Arc::clone(&self.pod),
            self.tell.clone(),
        );
        tokio::spawn(async move {
            drop(tell.send(Event::Published(patch(&agent, &pod, status).await)))
        });
    }

    /// Notes the outcome of a write.
    pub(super) fn published(&mut self, outcome: kube::Result<()>) {
        let sent = self.told.sent.take();
        match outcome {
            Ok(()) => {
                self.told.taken = sent;
                self.settle();
            }
            // It is gone or replaced: the watch will say so.
            Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => {
                self.told.taken = sent
            }
            Err(error) => {
                tracing::warn!(pod = self.pod.metadata.name, %error, "cannot write a pod's status");
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    /// An image's absence was told as an error; from now on it is a back-off.
    fn settle(&mut self) {
        let pod = Arc::clone(&self.pod);
        let image = |name: &str| {
            let container = kinds::container(kinds::spec(&pod), name);
            container
                .and_then(|(_, container)| container.image.clone())
                .unwrap_or_default()
        };
        for name in self.machine.settle(image) {
            let tell = |level, reason, message| {
                self.agent
                    .recorder
                    .pod(&pod, Some(&name), level, reason, message)
            };
            tell(
                Level::Normal,
                "BackOff",
                format!("Back-off pulling image {:?}", image(&name)),
            );
            tell(
                Level::Warning,
                "Failed",
                "Error: ImagePullBackOff".to_owned(),
            );
        }
    }

    /// Tells of containers that wait for their restart, once for each.
    pub(super) fn announce_back_offs(&mut self) {
        let now = Timestamp::now();
        for (name, state) in &self.machine.containers {
            match &state.phase {
                Phase::Waiting {
                    reason: Some("CrashLoopBackOff"),
                    until: Some(until),
                    ..
                } if *until > now => {
                    if self.announced.insert(name.clone(), state.restarts) == Some(state.restarts) {
                        continue;
                    }
                    let meta = &self.pod.metadata;
                    let text = |text: &Option<String>| text.clone().unwrap_or_default();
                    let pod = format!(
                        "{}_{}({})",
                        text(&meta.name),
                        text(&meta.namespace),
                        text(&meta.uid)
                    );
                    let message =
                        format!("Back-off restarting failed container {name} in pod {pod}");
                    self.agent.recorder.pod(
                        &self.pod,
                        Some(name),
                        Level::Warning,
                        "BackOff",
                        message,
                    );
                }
                _ => {}
            }
        }
    }

    /// Shows logs and exec what there is.
    pub(super) fn show(&self) {
        let containers = self.machine.containers.iter().map(|(name, state)| {
            let running = self
                .running
                .get(name)
                .map(|running| running.target.running.clone());
            let exists = attempt_dir(&self.dir, name, state.restarts).exists();
            (
                name.clone(),
                RunningContainer {
                    attempt: state.restarts,
                    exists,
                    running,
                },
            )
        });
        let containers = containers.collect();
        self.view.send_modify(|view| view.containers = containers);
    }
}

/// Writes the pod's status, of this very pod and none of the same name.
async fn patch(agent: &Agent, pod: &Pod, status: PodStatus) -> kube::Result<()> {
    let (namespace, name) = key(pod);
    let mut status = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
    if let Value::Object(fields) = &mut status {
        // A merge patch keeps what it does not name.
        for field in [
            "reason",
            "message",
            "podIP",
            "podIPs",
            "initContainerStatuses",
        ] {
            fields.entry(field).or_insert(Value::Null);
        }
    }
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
    let api: Api<Pod> = Api::namespaced(agent.client.clone(), &namespace);
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map(drop)
}

/// Removes the pod from the API for good; true once it is gone.
pub(super) async fn forget(agent: &Agent, pod: &Pod) -> bool {
    let (namespace, name) = key(pod);
    let api: Api<Pod> = Api::namespaced(agent.client.clone(), &namespace);
    let uid = pod.metadata.uid.clone();
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid,
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(&name, &parameters).await {
        Ok(_) => true,
        Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => true,
        Err(error) => {
            tracing::warn!(pod = name, %error, "cannot remove a pod from the API");
            false
        }
    }
}
