//! Namespaces on their way out: emptied of every kind, pods first, and then let go.

mod conditions;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, ListParams};
use tokio_util::sync::CancellationToken;

use self::conditions::Outcome;
use crate::error::{Error, gone_is_fine, is_not_found, message};
use crate::object::{deleting, name, namespace};
use crate::runtime::discovery::{self, Kind};
use crate::runtime::queue::Queue;
use crate::runtime::store::Key;
use crate::runtime::{Context, worker, writing};

const WORKERS: usize = 4;
/// The finalizer by which a namespace waits for us.
const FINALIZER: &str = "kubernetes";
/// How soon to look again while content remains. The end of a pod wakes us anyway; other kinds may wait for finalizers
/// of others.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The namespace controller.
pub(crate) struct Controller {
    context: Context,
    queue: Queue<Key>,
}

impl Controller {
    /// Registers with the informers.
    pub(crate) fn new(context: Context) -> Arc<Self> {
        let queue = Queue::default();
        let namespaces = context.informers.namespaces.clone();
        namespaces.on_change({
            let queue = queue.clone();
            move |change| {
                if change
                    .new
                    .as_ref()
                    .is_some_and(|namespace| deleting(&**namespace))
                {
                    queue.add(Key::of(&**change.object()));
                }
            }
        });
        context.informers.pods.on_change({
            let queue = queue.clone();
            move |change| {
                let key = Key::cluster(namespace(&**change.object()));
                if change.deleted()
                    && namespaces
                        .get(&key)
                        .is_some_and(|namespace| deleting(&*namespace))
                {
                    queue.add(key);
                }
            }
        });
        Arc::new(Self { context, queue })
    }

    /// Works until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        worker::run(
            "namespace",
            &self.queue,
            WORKERS,
            |key| self.reconcile(key),
            shutdown,
        )
        .await;
    }

    async fn reconcile(&self, key: Key) -> Result<(), Error> {
        let api: Api<Namespace> = Api::all(self.context.client.clone());
        let Some(namespace) = self.context.informers.namespaces.get(&key) else {
            return Ok(());
        };
        if !deleting(&*namespace) || !waits_for_us(&namespace) {
            return Ok(());
        }
        let outcome = self.empty(&key.name).await;
        if outcome.empty() {
            return self.finalize(&api, &namespace).await;
        }
        self.queue.add_after(key, LOOK_AGAIN);
        self.report(&api, &namespace, &outcome).await
    }

    /// Deletes everything in the namespace; other kinds only after the last pod, which may still need them.
    async fn empty(&self, namespace: &str) -> Outcome {
        let mut outcome = Outcome::default();
        let kinds = match discovery::kinds(&self.context.client).await {
            Ok(kinds) => kinds,
            Err(error) => {
                outcome.discovery = Some(message(&error));
                return outcome;
            }
        };
        let (pods, others): (Vec<_>, Vec<_>) = kinds
            .iter()
            .filter(|kind| kind.namespaced)
            .partition(|kind| kind.name() == "pods");
        for stage in [pods, others] {
            for kind in stage {
                if let Err(error) = self.empty_kind(kind, namespace, &mut outcome).await {
                    outcome
                        .failures
                        .push(format!("{}: {}", kind.name(), message(&error)));
                }
            }
            if !outcome.empty() {
                break;
            }
        }
        outcome
    }

    async fn empty_kind(
        &self,
        kind: &Kind,
        namespace: &str,
        outcome: &mut Outcome,
    ) -> Result<(), kube::Error> {
        let api = kind.api(&self.context.client, namespace);
        let listed = api.list_metadata(&ListParams::default()).await?;
        if listed.items.is_empty() {
            return Ok(());
        }
        if listed.items.iter().any(|object| !deleting(object)) {
            let how = DeleteParams::background();
            if kind.collection {
                api.delete_collection(&how, &ListParams::default()).await?;
            } else {
                for object in &listed.items {
                    gone_is_fine(api.delete(name(object), &how).await)?;
                }
            }
        }
        let left = api.list_metadata(&ListParams::default()).await?;
        if !left.items.is_empty() {
            let group = format!("{}.{}", kind.resource.plural, kind.resource.group);
            outcome.remaining.insert(group, left.items.len());
        }
        for finalizer in left
            .items
            .iter()
            .flat_map(|object| object.metadata.finalizers.iter().flatten())
        {
            *outcome.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        Ok(())
    }

    async fn report(
        &self,
        api: &Api<Namespace>,
        namespace: &Namespace,
        outcome: &Outcome,
    ) -> Result<(), Error> {
        let mut status = namespace.status.clone().unwrap_or_default();
        let conditions =
            conditions::conditions(status.conditions.as_ref(), outcome, Timestamp::now());
        if status.conditions.as_ref() == Some(&conditions) {
            return Ok(());
        }
        status.conditions = Some(conditions);
        status.phase = Some("Terminating".to_owned());
        let updated = Namespace {
            status: Some(status),
            ..namespace.clone()
        };
        match api
            .replace_status(name(namespace), &writing(), &updated)
            .await
        {
            Err(error) if is_not_found(&error) => Ok(()),
            outcome => Ok(outcome.map(|_| ())?),
        }
    }

    /// Lets the namespace go.
    async fn finalize(&self, api: &Api<Namespace>, namespace: &Namespace) -> Result<(), Error> {
        let mut released = namespace.clone();
        if let Some(finalizers) = released
            .spec
            .as_mut()
            .and_then(|spec| spec.finalizers.as_mut())
        {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let outcome = api
            .replace_subresource("finalize", name(namespace), &writing(), &released)
            .await;
        gone_is_fine(outcome)?;
        tracing::info!(namespace = name(namespace), "namespace emptied");
        Ok(())
    }
}

fn waits_for_us(namespace: &Namespace) -> bool {
    let finalizers = namespace
        .spec
        .as_ref()
        .and_then(|spec| spec.finalizers.as_deref());
    finalizers
        .unwrap_or_default()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
}
