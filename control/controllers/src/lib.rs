//! Controllers and scheduler: they reach the API only through the API, so they run against any Kubernetes API server.
//!
//! Every controller has a pure part, which is given objects and the time and answers what to do, and a thin part that
//! listens and writes. All share one watch per kind (`runtime`): a change in a cache puts keys into the queues of the
//! controllers it concerns, and a worker brings the named object to the state it should have, computed afresh from the
//! caches. Nothing is carried in an event and every step may be repeated. Nothing is polled but what has no watch: the
//! list of kinds, and foreign finalizers that keep a namespace from going.
//!
//! The way of a Deployment: `deployment` creates a ReplicaSet, `replicaset` creates pods, `scheduler` binds them, a node
//! agent (not here) runs them and says they are Ready, `endpointslice` and `endpoints` list them under the Services that
//! select them. On the way out, `garbage` deletes what an owner left behind and `namespace` empties namespaces.
//! `node_lifecycle` watches heartbeats, `node_ipam` hands out pod ranges, `service_account` and `root_ca` furnish
//! namespaces, `pod_gc` clears away pods nobody will finish.

pub mod args;
pub mod error;

mod deployment;
mod endpoints;
mod endpointslice;
mod garbage;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod object;
mod pod_gc;
mod replicaset;
mod root_ca;
mod runtime;
mod scheduler;
mod service;
mod service_account;

use std::sync::Arc;

use futures::future::join_all;
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::args::ControllersArgs;
pub use self::error::Error;
use self::runtime::informers::Informers;
use self::runtime::{Context, events, worker};

/// Runs all controllers and the scheduler until `shutdown`. Trouble with the API is waited out and never ends them;
/// settings that cannot work are answered before anything starts.
pub async fn run(
    client: Client,
    args: ControllersArgs,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (recorder, writer) = events::channel();
    let informers = Arc::new(Informers::new());
    let context = Context {
        client: client.clone(),
        informers: informers.clone(),
        recorder,
        args: Arc::new(args),
    };
    let controllers = controllers(&context)?;

    let mut tasks = JoinSet::new();
    tasks.spawn(writer.run(client.clone(), shutdown.clone()));
    for watch in informers.tasks(&client, &shutdown) {
        tasks.spawn(watch);
    }
    if shutdown
        .run_until_cancelled(informers.synced())
        .await
        .is_some()
    {
        tracing::info!("caches are complete, controllers start");
        join_all(
            controllers
                .iter()
                .map(|controller| controller.supervise(&shutdown)),
        )
        .await;
    }
    tasks.join_all().await;
    Ok(())
}

/// A controller as a name and a way to start it, again if need be.
struct Runnable {
    name: &'static str,
    start: Box<dyn Fn(CancellationToken) -> futures::future::BoxFuture<'static, ()> + Send + Sync>,
}

impl Runnable {
    async fn supervise(&self, shutdown: &CancellationToken) {
        worker::supervise(
            self.name,
            || (self.start)(shutdown.clone()),
            shutdown.clone(),
        )
        .await;
    }
}

/// All controllers, registered with the informers and ready to start.
fn controllers(context: &Context) -> Result<Vec<Runnable>, Error> {
    macro_rules! runnable {
        ($name:literal, $controller:expr) => {{
            let controller = $controller;
            Runnable {
                name: $name,
                start: Box::new(move |shutdown| Box::pin(controller.clone().run(shutdown))),
            }
        }};
    }
    let mut all = vec![
        runnable!("deployment", deployment::Controller::new(context.clone())),
        runnable!("replicaset", replicaset::Controller::new(context.clone())),
        runnable!(
            "endpointslice",
            endpointslice::Controller::new(context.clone())
        ),
        runnable!("endpoints", endpoints::Controller::new(context.clone())),
        runnable!("scheduler", scheduler::Controller::new(context.clone())),
        runnable!(
            "nodelifecycle",
            node_lifecycle::Controller::new(context.clone())
        ),
        runnable!("namespace", namespace::Controller::new(context.clone())),
        runnable!("garbage", garbage::Controller::new(context.clone())),
        runnable!("podgc", pod_gc::Controller::new(context.clone())),
        runnable!(
            "serviceaccount",
            service_account::Controller::new(context.clone())
        ),
    ];
    if let Some(controller) = root_ca::Controller::new(context.clone())? {
        all.push(runnable!("rootca", controller));
    }
    if let Some(controller) = node_ipam::Controller::new(context.clone())? {
        all.push(runnable!("nodeipam", controller));
    }
    Ok(all)
}
