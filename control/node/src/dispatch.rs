//! Hands pods to their tasks, and nodes to the routing table.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node as ApiNode, Pod};
use kube::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::net::{NodeRoute, Routes};
use crate::node_object::{internal_ips, pod_ranges};
use crate::pod::{Assignment, Worker, prepare};

/// The wait before routes that could not be made are tried again.
const ROUTES_RETRY: Duration = Duration::from_secs(5);

/// Runs a task for every pod of this node until `shutdown`.
pub(crate) async fn pods(agent: Arc<Agent>, shutdown: CancellationToken) {
    // A container's environment names the services there are: they have to be known first.
    let known = agent.services.wait_until_ready();
    if !matches!(shutdown.run_until_cancelled(known).await, Some(Ok(()))) {
        return;
    }
    let api: Api<Pod> = Api::all(agent.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", agent.args.name));
    let events = watch_objects(api, config).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut dispatcher = Dispatcher {
        agent,
        tasks: JoinSet::new(),
        pods: HashMap::new(),
        listed: None,
        adopted: false,
    };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(event) = events.next() => match event {
                Ok(event) => dispatcher.take(event),
                Err(error) => tracing::warn!(%error, "cannot watch pods"),
            },
            Some(ended) = dispatcher.tasks.join_next(), if !dispatcher.tasks.is_empty() => match ended {
                Ok(uid) => { dispatcher.pods.remove(&uid); }
                Err(error) => tracing::error!(%error, "a pod's task ended"),
            },
        }
    }
}

struct Dispatcher {
    agent: Arc<Agent>,
    tasks: JoinSet<String>,
    /// The pods' tasks by uid.
    pods: HashMap<String, watch::Sender<Assignment>>,
    /// The uids of a list that is not complete yet.
    listed: Option<BTreeSet<String>>,
    /// True once leftovers of pods that are no more were removed.
    adopted: bool,
}

impl Dispatcher {
    fn take(&mut self, event: Event<Pod>) {
        match event {
            Event::Apply(pod) => self.assign(pod),
            Event::Delete(pod) => self.vanish(pod.metadata.uid.as_deref().unwrap_or_default()),
            Event::Init => self.listed = Some(BTreeSet::new()),
            Event::InitApply(pod) => {
                self.listed
                    .get_or_insert_default()
                    .extend(pod.metadata.uid.clone());
                self.assign(pod);
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let gone: Vec<String> = self
                    .pods
                    .keys()
                    .filter(|uid| !listed.contains(*uid))
                    .cloned()
                    .collect();
                gone.iter().for_each(|uid| self.vanish(uid));
                if !std::mem::replace(&mut self.adopted, true) {
                    tokio::spawn(remove_leftovers(Arc::clone(&self.agent), listed));
                }
            }
        }
    }

    fn assign(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else {
            return;
        };
        let assignment = Assignment {
            pod: Arc::new(pod),
            vanished: false,
        };
        if let Some(task) = self.pods.get(&uid) {
            task.send_replace(assignment);
            return;
        }
        match Worker::new(Arc::clone(&self.agent), assignment.clone()) {
            Ok(worker) => {
                let (task, assignments) = watch::channel(assignment);
                self.pods.insert(uid.clone(), task);
                self.tasks.spawn(async move {
                    worker.run(assignments).await;
                    uid
                });
            }
            Err(error) => tracing::error!(uid, %error, "cannot take over a pod"),
        }
    }

    fn vanish(&self, uid: &str) {
        if let Some(task) = self.pods.get(uid) {
            task.send_modify(|assignment| assignment.vanished = true);
        }
    }
}

/// Removes what an earlier agent has left of pods that the API has no more.
async fn remove_leftovers(agent: Arc<Agent>, alive: BTreeSet<String>) {
    for entry in fs::read_dir(agent.args.pods_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let dir = entry.path();
        let uid = entry
            .file_name()
            .to_string_lossy()
            .rsplit('_')
            .next()
            .unwrap_or_default()
            .to_owned();
        // A pod that came after the list has a task by now; its directory is younger than this agent.
        let known =
            alive.contains(&uid) || agent.views().values().any(|view| view.borrow().uid == uid);
        if known {
            continue;
        }
        tracing::info!(dir = %dir.display(), "removing what is left of a pod");
        let removed = prepare::tear_down(&agent, &dir)
            .await
            .and_then(|()| fs::remove_dir_all(&dir));
        if let Err(error) = removed {
            tracing::warn!(dir = %dir.display(), %error, "cannot remove what is left of a pod");
        }
    }
}

/// Keeps the routes to other nodes' pods until `shutdown`. This alone needs to see other Nodes, which upstream's Node
/// authorizer forbids (`authorizeNode`): a cluster that has it must grant nodes to list and watch them.
pub(crate) async fn routes(agent: Arc<Agent>, shutdown: CancellationToken) {
    let mut routes = match Routes::adopt(&agent.net).await {
        Ok(routes) => routes,
        Err(error) => {
            tracing::error!(%error, "cannot read the routing table: pods of other nodes are out of reach");
            return;
        }
    };
    let api: Api<ApiNode> = Api::all(agent.client.clone());
    let (store, writer) = kube::runtime::reflector::store();
    let nodes = watch_objects(api, watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(kube::runtime::reflector::reflector(writer, nodes));
    let mut listed = false;
    let mut failed = false;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(event) = events.next() => match event {
                Ok(event) => listed |= matches!(event, Event::InitDone),
                Err(error) => tracing::warn!(%error, "cannot watch nodes"),
            },
            () = tokio::time::sleep(ROUTES_RETRY), if failed => {}
        }
        // Nothing is removed before it is known what there is.
        if listed {
            let wanted = store
                .state()
                .iter()
                .flat_map(|node| routes_to(node, &agent.args.name))
                .collect();
            let outcome = routes.set(wanted).await;
            failed = outcome.is_err();
            if let Err(error) = outcome {
                tracing::warn!(%error, "cannot make a route to another node's pods");
            }
        }
    }
}

/// The ways to a node's pods.
fn routes_to(node: &ApiNode, own: &str) -> Vec<NodeRoute> {
    let ips = internal_ips(node);
    let is_own = node.metadata.name.as_deref() == Some(own);
    let via = |range: &ipnetwork::IpNetwork| {
        ips.iter()
            .copied()
            .find(|ip| ip.is_ipv4() == range.is_ipv4())
    };
    let route = |range| match (is_own, via(&range)) {
        (true, _) => Some(NodeRoute { range, via: None }),
        (false, Some(via)) => Some(NodeRoute {
            range,
            via: Some(via),
        }),
        (false, None) => None,
    };
    pod_ranges(node).into_iter().filter_map(route).collect()
}
