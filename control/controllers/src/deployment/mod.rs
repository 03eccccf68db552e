//! Deployments: rollouts from one ReplicaSet to the next.

mod plan;
mod revision;
mod scaling;
mod status;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::SelectorExt;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::plan::{Plan, Step};
use crate::error::{
    Error, gone_is_fine, is_already_exists, is_namespace_terminating, message, unless_gone,
};
use crate::object::{adoption, controller_of, name, namespace, pod, selector, uid};
use crate::runtime::events::Recorder;
use crate::runtime::informer::Informer;
use crate::runtime::queue::Queue;
use crate::runtime::store::{Change, Key};
use crate::runtime::{Context, worker, writing};

const WORKERS: usize = 16;

/// The Deployment controller.
pub(crate) struct Controller {
    context: Context,
    recorder: Recorder,
    queue: Queue<Key>,
}

impl Controller {
    /// Registers with the informers.
    pub(crate) fn new(context: Context) -> Arc<Self> {
        let queue = Queue::default();
        let deployments = context.informers.deployments.clone();
        deployments.on_change({
            let queue = queue.clone();
            move |change| queue.add(Key::of(&**change.object()))
        });
        context.informers.pods.on_change({
            let (queue, deployments, sets) = (
                queue.clone(),
                deployments.clone(),
                context.informers.replica_sets.clone(),
            );
            move |change| pod_changed(change, &deployments, &sets, &queue)
        });
        context.informers.replica_sets.on_change({
            let queue = queue.clone();
            move |change| set_changed(change, &deployments, &queue)
        });
        let recorder = context.recorder.named("deployment-controller");
        Arc::new(Self {
            context,
            recorder,
            queue,
        })
    }

    /// Works until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        worker::run(
            "deployment",
            &self.queue,
            WORKERS,
            |key| self.reconcile(key),
            shutdown,
        )
        .await;
    }

    async fn reconcile(&self, key: Key) -> Result<(), Error> {
        let Some(deployment) = self.context.informers.deployments.get(&key) else {
            return Ok(());
        };
        let sets = self.own_sets(&deployment).await?;
        let now = Timestamp::now();
        let Plan { steps, status } =
            plan::plan(&deployment, &sets, |new| self.old_pods_run(&sets, new), now);
        let mut current = Deployment::clone(&deployment);
        for step in steps {
            if let Step::Revise(revision) = step {
                current = self.revise(&current, &revision).await?;
            } else {
                self.carry_out(&current, step).await?;
            }
        }
        if let Some(wait) = status::until_deadline(&deployment, &status, now) {
            self.queue.add_after(key, wait);
        }
        self.write_status(current, status).await
    }

    async fn own_sets(&self, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>, Error> {
        let Some(spec) = &deployment.spec else {
            return Ok(Vec::new());
        };
        let selector = selector(&spec.selector)?;
        let sets = &self.context.informers.replica_sets;
        let mut candidates = sets.owned_by(uid(deployment));
        candidates.extend(sets.orphans(namespace(deployment)));
        let deployments: Api<Deployment> = self.context.api(namespace(deployment));
        adoption::claim_all(
            &deployments,
            &self.api(deployment),
            deployment,
            &selector,
            candidates,
        )
        .await
    }

    fn api(&self, deployment: &Deployment) -> Api<ReplicaSet> {
        self.context.api(namespace(deployment))
    }

    fn old_pods_run(&self, sets: &[Arc<ReplicaSet>], new: Option<&Arc<ReplicaSet>>) -> bool {
        let old = sets.iter().filter(|set| Some(*set) != new);
        let mut pods = old.flat_map(|set| self.context.informers.pods.owned_by(uid(&**set)));
        pods.any(|pod| !pod::finished(&pod))
    }

    async fn carry_out(&self, deployment: &Deployment, step: Step) -> Result<(), Error> {
        match step {
            Step::Create(set) => self.create(deployment, *set).await,
            Step::Update(set) => self.update_set(&set).await,
            Step::Scale { set, to } => self.scale(deployment, &set, to).await,
            Step::Delete(set) => {
                let only_this = Preconditions {
                    uid: Some(uid(&*set).to_owned()),
                    resource_version: None,
                };
                let how = DeleteParams::background().preconditions(only_this);
                Ok(gone_is_fine(
                    self.api(deployment).delete(name(&*set), &how).await,
                )?)
            }
            Step::Revise(revision) => self.revise(deployment, &revision).await.map(|_| ()),
        }
    }

    async fn create(&self, deployment: &Deployment, set: ReplicaSet) -> Result<(), Error> {
        match self.api(deployment).create(&writing(), &set).await {
            Ok(created) => {
                let size = scaling::size(&created);
                if size > 0 {
                    let text = format!("Scaled up replica set {} from 0 to {size}", name(&created));
                    self.recorder.normal(deployment, "ScalingReplicaSet", text);
                }
                Ok(())
            }
            Err(error) if is_already_exists(&error) => {
                self.resolve_collision(deployment, &set).await
            }
            Err(error) if is_namespace_terminating(&error) => Ok(()),
            Err(error) => {
                let text = format!(
                    "Failed to create new replica set {:?}: {}",
                    name(&set),
                    message(&error)
                );
                self.recorder
                    .warning(deployment, "ReplicaSetCreateError", text.clone());
                let status = status::creation_failed(deployment, &text, Timestamp::now());
                self.write_status(deployment.clone(), status).await?;
                Err(error.into())
            }
        }
    }

    /// The name is taken: by our own set which the cache does not show yet, or by another template with the same hash,
    /// which then is made different by counting the collision.
    async fn resolve_collision(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
    ) -> Result<(), Error> {
        let Some(existing) = self.api(deployment).get_opt(name(set)).await? else {
            return Err(Error::NotYet(format!(
                "replica set {} has just vanished",
                name(set)
            )));
        };
        let template = |set: &ReplicaSet| {
            set.spec
                .as_ref()
                .and_then(|spec| spec.template.clone())
                .unwrap_or_default()
        };
        let ours = controller_of(&existing).is_some_and(|owner| owner.uid == uid(deployment));
        if ours && revision::same_template(&template(&existing), &template(set)) {
            return Ok(());
        }
        let mut status = deployment.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        tracing::info!(deployment = %Key::of(deployment), taken = name(set), "hash collision");
        self.write_status(deployment.clone(), status).await
    }

    async fn update_set(&self, set: &ReplicaSet) -> Result<(), Error> {
        let api: Api<ReplicaSet> = self.context.api(namespace(set));
        let written = api.replace(name(set), &writing(), set).await?;
        self.context.informers.replica_sets.absorb(written);
        Ok(())
    }

    async fn scale(&self, deployment: &Deployment, set: &ReplicaSet, to: i32) -> Result<(), Error> {
        let from = scaling::size(set);
        self.update_set(&plan::resized(deployment, set, to)).await?;
        if from != to {
            let direction = if to > from { "up" } else { "down" };
            let text = format!(
                "Scaled {direction} replica set {} from {from} to {to}",
                name(set)
            );
            self.recorder.normal(deployment, "ScalingReplicaSet", text);
        }
        Ok(())
    }

    async fn revise(&self, deployment: &Deployment, revision: &str) -> Result<Deployment, Error> {
        let patch = json!({"metadata": {"annotations": {revision::REVISION: revision}}});
        let api = self.context.api::<Deployment>(namespace(deployment));
        Ok(api
            .patch(
                name(deployment),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await?)
    }

    async fn write_status(
        &self,
        mut deployment: Deployment,
        status: DeploymentStatus,
    ) -> Result<(), Error> {
        if deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        deployment.status = Some(status);
        let api = self.context.api::<Deployment>(namespace(&deployment));
        let written = api
            .replace_status(name(&deployment), &writing(), &deployment)
            .await;
        if let Some(written) = unless_gone(written)? {
            self.context.informers.deployments.absorb(written);
        }
        Ok(())
    }
}

/// Wakes the Deployments that own the set, owned it before, or could adopt it.
fn set_changed(
    change: &Change<ReplicaSet>,
    deployments: &Informer<Deployment>,
    queue: &Queue<Key>,
) {
    let owned: Vec<_> = change
        .sides()
        .filter_map(|set| owning_deployment(set))
        .collect();
    if owned.is_empty() && !change.deleted() {
        let labels = change.object().metadata.labels.clone().unwrap_or_default();
        let adopters = deployments.find(namespace(&**change.object()), |deployment| {
            let wanted = deployment
                .spec
                .as_ref()
                .and_then(|spec| selector(&spec.selector).ok());
            wanted.is_some_and(|wanted| wanted.matches(&labels))
        });
        adopters
            .iter()
            .for_each(|deployment| queue.add(Key::of(&**deployment)));
    }
    owned.into_iter().for_each(|key| queue.add(key));
}

/// A Deployment that recreates waits for its old pods to be gone.
fn pod_changed(
    change: &Change<Pod>,
    deployments: &Informer<Deployment>,
    sets: &Informer<ReplicaSet>,
    queue: &Queue<Key>,
) {
    let pod = change.object();
    if !change.deleted() && !pod::finished(pod) {
        return;
    }
    let set = controller_of(&**pod).filter(|owner| owner.kind == "ReplicaSet");
    let set = set.and_then(|owner| sets.get(&Key::new(namespace(&**pod), &owner.name)));
    let Some(key) = set.and_then(|set| owning_deployment(&set)) else {
        return;
    };
    if deployments
        .get(&key)
        .is_some_and(|deployment| !scaling::rolls(&deployment))
    {
        queue.add(key);
    }
}

fn owning_deployment(set: &ReplicaSet) -> Option<Key> {
    let owner = controller_of(set).filter(|owner| owner.kind == "Deployment")?;
    Some(Key::new(namespace(set), &owner.name))
}
