//! Deletes what its owners left behind, in the way they asked for: after them, before them, or not at all.
//!
//! Every kind's metadata is watched. Watches feed the graph, the graph names the objects to decide about, and workers
//! carry the verdicts out, each write conditional on the version that was judged.

mod graph;

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{
    Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::graph::{Graph, ORPHAN, Object, Propagation, Verdict};
use crate::error::{Error, gone_is_fine};
use crate::object::uid;
use crate::runtime::discovery::{self, Kind};
use crate::runtime::informer::Pause;
use crate::runtime::queue::Queue;
use crate::runtime::{Context, lock, read, worker, write};

const WORKERS: usize = 16;
/// How often the list of kinds is looked at for new ones.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(60);

/// The garbage collector. Its keys are uids.
pub(crate) struct Controller {
    context: Context,
    queue: Queue<String>,
    graph: Mutex<Graph>,
    /// Kinds by index; an index never changes its meaning.
    kinds: RwLock<Vec<Kind>>,
    /// How many kinds have been listed completely.
    listed: watch::Sender<usize>,
}

impl Controller {
    /// A collector that watches nothing yet.
    pub(crate) fn new(context: Context) -> Arc<Self> {
        Arc::new(Self {
            context,
            queue: Queue::default(),
            graph: Mutex::default(),
            kinds: RwLock::default(),
            listed: watch::Sender::new(0),
        })
    }

    /// Works until `shutdown`. Nothing is deleted before every kind has been listed.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        write(&self.kinds).clear();
        *lock(&self.graph) = Graph::default();
        self.listed.send_replace(0);
        let mut watches = JoinSet::new();
        if shutdown
            .run_until_cancelled(self.start_watches(&mut watches, &shutdown))
            .await
            .is_none()
        {
            return;
        }
        let kinds = read(&self.kinds).len();
        let mut listed = self.listed.subscribe();
        if shutdown
            .run_until_cancelled(listed.wait_for(|listed| *listed >= kinds))
            .await
            .is_none()
        {
            return;
        }
        let work = worker::run(
            "garbage",
            &self.queue,
            WORKERS,
            |uid| self.reconcile(uid),
            shutdown.clone(),
        );
        tokio::join!(work, self.watch_new_kinds(&mut watches, &shutdown));
    }

    /// Watches all kinds there are; tries until that is known.
    async fn start_watches(
        self: &Arc<Self>,
        watches: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) {
        for pause in Pause::default() {
            match self.watch_kinds(watches, shutdown).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot learn what kinds there are, will try again")
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Custom kinds come without an event that we could wait for.
    async fn watch_new_kinds(
        self: &Arc<Self>,
        watches: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) {
        while shutdown
            .run_until_cancelled(tokio::time::sleep(DISCOVERY_PERIOD))
            .await
            .is_some()
        {
            if let Some(Err(error)) = shutdown
                .run_until_cancelled(self.watch_kinds(watches, shutdown))
                .await
            {
                tracing::debug!(%error, "cannot learn whether there are new kinds");
            }
        }
    }

    async fn watch_kinds(
        self: &Arc<Self>,
        watches: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> Result<(), Error> {
        for kind in discovery::kinds(&self.context.client).await? {
            if !kind.watchable || kind.resource.kind == "Event" || read(&self.kinds).contains(&kind)
            {
                continue;
            }
            let index = {
                let mut kinds = write(&self.kinds);
                kinds.push(kind.clone());
                kinds.len() - 1
            };
            let (collector, stop) = (self.clone(), shutdown.clone());
            let watch = move || collector.clone().watch(index, kind.clone(), stop.clone());
            watches.spawn(worker::supervise("garbage watch", watch, shutdown.clone()));
        }
        Ok(())
    }

    async fn watch(self: Arc<Self>, index: usize, kind: Kind, shutdown: CancellationToken) {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::all_with(self.context.client.clone(), &kind.resource);
        let mut events = pin!(watcher(api, watcher::Config::default()).backoff(Pause::default()));
        let mut first = true;
        while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    tracing::warn!(kind = kind.name(), %error, "watch broken, taking it up again");
                    continue;
                }
            };
            let complete = matches!(event, Event::InitDone);
            let concerned = apply(&mut lock(&self.graph), index, event);
            concerned.into_iter().for_each(|uid| self.queue.add(uid));
            if complete && std::mem::take(&mut first) {
                // An owner of a kind unknown until now could not be looked up.
                let unexplained = lock(&self.graph).unexplained();
                unexplained.into_iter().for_each(|uid| self.queue.add(uid));
                self.listed.send_modify(|listed| *listed += 1);
            }
        }
    }

    async fn reconcile(&self, uid: String) -> Result<(), Error> {
        let mut found = HashSet::new();
        loop {
            let (verdict, object) = {
                let graph = lock(&self.graph);
                (graph.decide(&uid, &found), graph.get(&uid).cloned())
            };
            let Some(object) = object else { return Ok(()) };
            let Verdict::LookUp(owners) = verdict else {
                return self.carry_out(&object, verdict).await;
            };
            for owner in owners {
                if self.exists(&object, &owner).await? {
                    found.insert(owner.uid);
                } else {
                    lock(&self.graph).note_absent(&owner.uid);
                }
            }
        }
    }

    fn api(&self, object: &Object) -> Api<DynamicObject> {
        read(&self.kinds)[object.kind].api(&self.context.client, &object.key.namespace)
    }

    /// Asks the API for an owner. An owner of a kind that we do not know may exist.
    async fn exists(&self, object: &Object, owner: &OwnerReference) -> Result<bool, Error> {
        let kind = {
            let kinds = read(&self.kinds);
            let group = owner
                .api_version
                .split_once('/')
                .map_or("", |(group, _)| group);
            kinds
                .iter()
                .find(|kind| kind.resource.group == group && kind.resource.kind == owner.kind)
                .cloned()
        };
        let Some(kind) = kind else {
            tracing::debug!(object = %object.key, owner = owner.kind, "owner of an unknown kind");
            return Ok(true);
        };
        if kind.namespaced && object.key.namespace.is_empty() {
            tracing::warn!(object = %object.key, owner = owner.name, "cluster-scoped object with a namespaced owner");
            return Ok(true);
        }
        let api = kind.api(&self.context.client, &object.key.namespace);
        let live = api.get_metadata_opt(&owner.name).await?;
        Ok(live.is_some_and(|live| uid(&live) == owner.uid))
    }

    async fn carry_out(&self, object: &Object, verdict: Verdict) -> Result<(), Error> {
        match verdict {
            Verdict::Nothing | Verdict::LookUp(_) => Ok(()),
            Verdict::Delete(how) => self.delete(object, how).await,
            Verdict::SetOwners(owners) => {
                self.patch(object, json!({"ownerReferences": owners})).await
            }
            Verdict::Release(finalizer) => self.release(object, finalizer).await,
            Verdict::OrphanDependents(dependents) => {
                for dependent in dependents {
                    self.orphan(&object.uid, &dependent).await?;
                }
                self.release(object, ORPHAN).await
            }
        }
    }

    async fn delete(&self, object: &Object, how: Propagation) -> Result<(), Error> {
        let policy = match how {
            Propagation::Background => PropagationPolicy::Background,
            Propagation::Foreground => PropagationPolicy::Foreground,
            Propagation::Orphan => PropagationPolicy::Orphan,
        };
        let as_judged = Preconditions {
            uid: Some(object.uid.clone()),
            resource_version: Some(object.resource_version.clone()),
        };
        let how = DeleteParams {
            propagation_policy: Some(policy),
            ..DeleteParams::default()
        };
        gone_is_fine(
            self.api(object)
                .delete(&object.key.name, &how.preconditions(as_judged))
                .await,
        )?;
        tracing::debug!(object = %object.key, "deleted: its owner is gone");
        Ok(())
    }

    async fn release(&self, object: &Object, finalizer: &str) -> Result<(), Error> {
        let left: Vec<_> = object
            .finalizers
            .iter()
            .filter(|known| *known != finalizer)
            .collect();
        self.patch(object, json!({"finalizers": left})).await
    }

    /// Takes one owner off a dependent.
    async fn orphan(&self, owner: &str, dependent: &str) -> Result<(), Error> {
        let Some(dependent) = lock(&self.graph).get(dependent).cloned() else {
            return Ok(());
        };
        let left: Vec<_> = dependent
            .owners
            .iter()
            .filter(|reference| reference.uid != owner)
            .collect();
        self.patch(&dependent, json!({"ownerReferences": left}))
            .await
    }

    /// Patches metadata, provided the object is still as it was judged.
    async fn patch(&self, object: &Object, mut metadata: Value) -> Result<(), Error> {
        metadata["uid"] = json!(object.uid);
        metadata["resourceVersion"] = json!(object.resource_version);
        let patch = Patch::Merge(json!({"metadata": metadata}));
        Ok(gone_is_fine(
            self.api(object)
                .patch_metadata(&object.key.name, &PatchParams::default(), &patch)
                .await,
        )?)
    }
}

/// Takes a watch event into the graph; answers the uids about which to decide.
fn apply(
    graph: &mut Graph,
    kind: usize,
    event: Event<PartialObjectMeta<DynamicObject>>,
) -> Vec<String> {
    match event {
        Event::Init => {
            graph.start_relist(kind);
            Vec::new()
        }
        Event::InitDone => graph.finish_relist(kind),
        Event::Apply(object) | Event::InitApply(object) => Object::of(kind, object.metadata)
            .map(|object| graph.set(object))
            .unwrap_or_default(),
        Event::Delete(object) => object
            .metadata
            .uid
            .map(|uid| graph.remove(&uid))
            .unwrap_or_default(),
    }
}
