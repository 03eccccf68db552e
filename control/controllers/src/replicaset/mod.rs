//! ReplicaSets: as many pods of one template as asked for.

mod plan;
mod victims;

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use futures::stream;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams};
use kube::core::SelectorExt;
use tokio_util::sync::CancellationToken;

use self::plan::{Failure, Step};
use crate::error::{Error, is_namespace_terminating, is_not_found, message, unless_gone};
use crate::object::{adoption, controller_of, deleting, name, namespace, selector, uid};
use crate::runtime::events::Recorder;
use crate::runtime::expectations::Expectations;
use crate::runtime::informer::Informer;
use crate::runtime::queue::Queue;
use crate::runtime::store::{Change, Key};
use crate::runtime::{Context, worker, writing};

const WORKERS: usize = 16;
/// Requests of one set at once: the client opens a connection for each.
const AT_ONCE: usize = 16;

/// The ReplicaSet controller.
pub(crate) struct Controller {
    context: Context,
    recorder: Recorder,
    queue: Queue<Key>,
    expectations: Arc<Expectations>,
}

impl Controller {
    /// Registers with the informers.
    pub(crate) fn new(context: Context) -> Arc<Self> {
        let queue = Queue::default();
        let expectations = Arc::new(Expectations::default());
        let sets = context.informers.replica_sets.clone();
        sets.on_change({
            let queue = queue.clone();
            move |change| queue.add(Key::of(&**change.object()))
        });
        context.informers.pods.on_change({
            let (queue, expectations) = (queue.clone(), expectations.clone());
            move |change| pod_changed(change, &sets, &queue, &expectations)
        });
        let recorder = context.recorder.named("replicaset-controller");
        Arc::new(Self {
            context,
            recorder,
            queue,
            expectations,
        })
    }

    /// Works until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        worker::run(
            "replicaset",
            &self.queue,
            WORKERS,
            |key| self.reconcile(key),
            shutdown,
        )
        .await;
    }

    async fn reconcile(&self, key: Key) -> Result<(), Error> {
        let Some(set) = self.context.informers.replica_sets.get(&key) else {
            self.expectations.forget(&key);
            return Ok(());
        };
        let ready_to_act = self.expectations.satisfied(&key, Instant::now());
        let pods = self.own_pods(&set).await?;
        let outcome = if ready_to_act {
            self.act(&key, &set, &pods).await
        } else {
            Ok(())
        };
        let now = Timestamp::now();
        let text = outcome
            .as_ref()
            .err()
            .map(|(_, error)| message(error))
            .unwrap_or_default();
        let failure = outcome.as_ref().err().map(|(reason, _)| Failure {
            reason,
            message: &text,
        });
        self.write_status(&set, plan::status(&set, &pods, failure, now))
            .await?;
        if let Some(wait) = plan::next_availability(&set, &pods, now) {
            self.queue.add_after(key, wait);
        }
        match outcome {
            Err((_, error)) if !is_namespace_terminating(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn own_pods(&self, set: &ReplicaSet) -> Result<Vec<Arc<Pod>>, Error> {
        let Some(spec) = &set.spec else {
            return Ok(Vec::new());
        };
        let selector = selector(&spec.selector)?;
        let pods = &self.context.informers.pods;
        let mut candidates = pods.owned_by(uid(set));
        candidates.extend(
            pods.orphans(namespace(set))
                .into_iter()
                .filter(|pod| adoption::counts(pod)),
        );
        let sets: Api<ReplicaSet> = self.context.api(namespace(set));
        let pods: Api<Pod> = self.context.api(namespace(set));
        adoption::claim_all(&sets, &pods, set, &selector, candidates).await
    }

    /// Pods of this set and of those with the same controller.
    fn related_pods(&self, set: &ReplicaSet, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(owner) = controller_of(set) else {
            return pods.to_vec();
        };
        let siblings = self.context.informers.replica_sets.owned_by(&owner.uid);
        siblings
            .iter()
            .flat_map(|sibling| self.context.informers.pods.owned_by(uid(&**sibling)))
            .collect()
    }

    /// Takes the next step. A failure comes with the reason to show for it.
    async fn act(
        &self,
        key: &Key,
        set: &Arc<ReplicaSet>,
        pods: &[Arc<Pod>],
    ) -> Result<(), (&'static str, kube::Error)> {
        let related = self.related_pods(set, pods);
        match plan::step(set, pods, &related, Timestamp::now()) {
            Step::Nothing => Ok(()),
            Step::Create(count) => self
                .create(key, set, count)
                .await
                .map_err(|error| ("FailedCreate", error)),
            Step::Delete(victims) => self
                .delete(key, set, &victims)
                .await
                .map_err(|error| ("FailedDelete", error)),
        }
    }

    async fn create(&self, key: &Key, set: &ReplicaSet, count: usize) -> Result<(), kube::Error> {
        self.expectations
            .expect_creations(key, count, Instant::now());
        let api = self.context.api::<Pod>(namespace(set));
        let pod = plan::new_pod(set);
        let mut attempted = 0;
        for batch in plan::batches(count) {
            let requests: Vec<_> = (0..batch)
                .map(|_| self.create_one(&api, set, &pod))
                .collect();
            let outcomes: Vec<_> = stream::iter(requests)
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            attempted += batch;
            let failed: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
            if let Some(error) = failed.first() {
                self.expectations
                    .created(key, failed.len() + count - attempted);
                tracing::debug!(%key, %error, "stopped creating pods");
                return Err(failed.into_iter().next().expect("just seen"));
            }
        }
        Ok(())
    }

    async fn create_one(
        &self,
        api: &Api<Pod>,
        set: &ReplicaSet,
        pod: &Pod,
    ) -> Result<(), kube::Error> {
        match api.create(&writing(), pod).await {
            Ok(created) => {
                self.recorder.normal(
                    set,
                    "SuccessfulCreate",
                    format!("Created pod: {}", name(&created)),
                );
                Ok(())
            }
            Err(error) => {
                if !is_namespace_terminating(&error) {
                    self.recorder.warning(
                        set,
                        "FailedCreate",
                        format!("Error creating: {}", message(&error)),
                    );
                }
                Err(error)
            }
        }
    }

    async fn delete(
        &self,
        key: &Key,
        set: &ReplicaSet,
        victims: &[Arc<Pod>],
    ) -> Result<(), kube::Error> {
        let uids = victims.iter().map(|victim| uid(&**victim).to_owned());
        self.expectations
            .expect_deletions(key, uids, Instant::now());
        let api = self.context.api::<Pod>(namespace(set));
        let requests: Vec<_> = victims
            .iter()
            .map(|victim| self.delete_one(key, &api, set, victim))
            .collect();
        let outcomes: Vec<_> = stream::iter(requests)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        outcomes.into_iter().collect()
    }

    async fn delete_one(
        &self,
        key: &Key,
        api: &Api<Pod>,
        set: &ReplicaSet,
        victim: &Pod,
    ) -> Result<(), kube::Error> {
        match api.delete(name(victim), &DeleteParams::default()).await {
            Ok(_) => {
                self.recorder.normal(
                    set,
                    "SuccessfulDelete",
                    format!("Deleted pod: {}", name(victim)),
                );
                Ok(())
            }
            Err(error) => {
                self.expectations.deleted(key, uid(victim));
                if is_not_found(&error) {
                    return Ok(());
                }
                self.recorder.warning(
                    set,
                    "FailedDelete",
                    format!("Error deleting: {}", message(&error)),
                );
                Err(error)
            }
        }
    }

    async fn write_status(&self, set: &ReplicaSet, status: ReplicaSetStatus) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let update = ReplicaSet {
            status: Some(status),
            ..set.clone()
        };
        let written = self
            .context
            .api(namespace(set))
            .replace_status(name(set), &writing(), &update)
            .await;
        if let Some(written) = unless_gone(written)? {
            self.context.informers.replica_sets.absorb(written);
        }
        Ok(())
    }
}

/// Notes what the pod's change means for expectations, and only then wakes the sets it concerns: woken earlier, one would
/// still wait for what has just arrived.
fn pod_changed(
    change: &Change<Pod>,
    sets: &Informer<ReplicaSet>,
    queue: &Queue<Key>,
    expectations: &Expectations,
) {
    let pod = change.object();
    match owning_set(pod) {
        Some(key) if change.deleted() || deleting(&**pod) => {
            expectations.deleted(&key, uid(&**pod))
        }
        Some(key) if change.old.is_none() => expectations.created(&key, 1),
        Some(_) => {}
        None if change.deleted() => {}
        None => adopters(pod, sets).for_each(|key| queue.add(key)),
    }
    change
        .sides()
        .filter_map(|pod| owning_set(pod))
        .for_each(|key| queue.add(key));
}

fn owning_set(pod: &Pod) -> Option<Key> {
    let owner = controller_of(pod).filter(|owner| owner.kind == "ReplicaSet")?;
    Some(Key::new(namespace(pod), &owner.name))
}

/// The sets whose selector matches an orphan.
fn adopters(pod: &Pod, sets: &Informer<ReplicaSet>) -> impl Iterator<Item = Key> {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let matching = sets.find(namespace(pod), |set| {
        let wanted = set
            .spec
            .as_ref()
            .and_then(|spec| selector(&spec.selector).ok());
        wanted.is_some_and(|wanted| wanted.matches(&labels))
    });
    matching.into_iter().map(|set| Key::of(&*set))
}
