//! Writes core/v1 Events about objects, so that `kubectl describe` shows what was done and why.
//!
//! Reporting never waits and never fails the reporter: a queue of bounded length feeds one writing task.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::correlate::{Correlator, Outcome, Report};
use crate::error::{gone_is_fine, is_not_found};
use crate::object::time;

const WAITING: usize = 4096;

/// A handle to report events with; clones share the writing task.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    reports: mpsc::Sender<(ObjectReference, Report)>,
    source: &'static str,
}

/// The writing side of a [`Recorder`].
pub(crate) struct Writer {
    reports: mpsc::Receiver<(ObjectReference, Report)>,
    correlator: Correlator,
}

/// A recorder and the writer that has to be run for it.
pub(crate) fn channel() -> (Recorder, Writer) {
    let (sender, reports) = mpsc::channel(WAITING);
    (
        Recorder {
            reports: sender,
            source: "",
        },
        Writer {
            reports,
            correlator: Correlator::default(),
        },
    )
}

impl Recorder {
    /// A recorder that reports as this component.
    pub(crate) fn named(&self, source: &'static str) -> Self {
        Self {
            source,
            ..self.clone()
        }
    }

    /// Reports that something went as it should.
    pub(crate) fn normal<K: Resource<DynamicType = ()>>(
        &self,
        about: &K,
        reason: &str,
        message: String,
    ) {
        self.send(about.object_ref(&()), "Normal", reason, message);
    }

    /// Reports that something needs a look.
    pub(crate) fn warning<K: Resource<DynamicType = ()>>(
        &self,
        about: &K,
        reason: &str,
        message: String,
    ) {
        self.send(about.object_ref(&()), "Warning", reason, message);
    }

    fn send(&self, about: ObjectReference, kind: &'static str, reason: &str, message: String) {
        let uid = about.uid.clone().unwrap_or_default();
        let report = Report {
            uid,
            source: self.source,
            kind,
            reason: reason.to_owned(),
            message,
        };
        if self.reports.try_send((about, report)).is_err() {
            tracing::debug!(reason, "event dropped: too many are waiting");
        }
    }
}

impl Writer {
    /// Writes events until `shutdown`; those still waiting are lost.
    pub(crate) async fn run(mut self, client: Client, shutdown: CancellationToken) {
        while let Some(Some((about, report))) =
            shutdown.run_until_cancelled(self.reports.recv()).await
        {
            let written = shutdown
                .run_until_cancelled(self.write(&client, &about, report))
                .await;
            if let Some(Err(error)) = written {
                tracing::debug!(%error, "event not written");
            }
        }
    }

    async fn write(
        &mut self,
        client: &Client,
        about: &ObjectReference,
        report: Report,
    ) -> Result<(), kube::Error> {
        let namespace = about
            .namespace
            .as_deref()
            .filter(|name| !name.is_empty())
            .unwrap_or("default");
        let events = Api::<Event>::namespaced(client.clone(), namespace);
        let now = Timestamp::now();
        match self.correlator.report(report, now) {
            Outcome::Drop => Ok(()),
            Outcome::Create { key, message } => {
                let event = new_event(about, &key, message, namespace, now);
                let written = events.create(&PostParams::default(), &event).await?;
                self.correlator
                    .created(&key, written.metadata.name.unwrap_or_default());
                Ok(())
            }
            Outcome::Repeat {
                key,
                message,
                name,
                count,
            } => {
                let patch = json!({"count": count, "message": message, "lastTimestamp": time(now)});
                let outcome = events
                    .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                    .await;
                if outcome.as_ref().is_err_and(is_not_found) {
                    self.correlator.lost(&key);
                }
                gone_is_fine(outcome)
            }
        }
    }
}

fn new_event(
    about: &ObjectReference,
    key: &Report,
    message: String,
    namespace: &str,
    now: Timestamp,
) -> Event {
    let object = about.name.as_deref().unwrap_or_default();
    let name = format!("{object}.{:x}", now.as_nanosecond());
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: about.clone(),
        type_: Some(key.kind.to_owned()),
        reason: Some(key.reason.clone()),
        message: Some(message),
        source: Some(EventSource {
            component: Some(key.source.to_owned()),
            host: None,
        }),
        reporting_component: Some(key.source.to_owned()),
        count: Some(1),
        first_timestamp: Some(time(now)),
        last_timestamp: Some(time(now)),
        ..Event::default()
    }
}
