//! Starts a node agent's tasks, in the order they need each other, and waits for their end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node as ApiNode, Service};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config};
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::args::NodeArgs;
use crate::dispatch;
use crate::events::Recorder;
use crate::image::{ImageError, ImageStore};
use crate::net::{NetError, Node, Pools};
use crate::node_object;
use crate::pod::resources::Qos;
use crate::runtime::cgroup::{CgroupDirs, Hierarchies};
use crate::server;
use crate::tls::TlsError;

/// The wait between tries to reach an API that is not there yet.
const RETRY: Duration = Duration::from_millis(250);

/// What ends a node agent, or keeps it from starting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The cluster's API cannot be configured.
    #[error("cannot use the kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// The environment has no configuration either.
    #[error("no kubeconfig: {0}")]
    NoConfig(#[from] kube::config::InferConfigError),
    /// The API's client cannot be made.
    #[error("cannot reach the API: {0}")]
    Client(#[from] kube::Error),
    /// The image store cannot be opened.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The node's network cannot be prepared.
    #[error("cannot prepare the network: {0}")]
    Network(String),
    /// The HTTPS API cannot be served.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The machine refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// The machine's answer.
        source: io::Error,
    },
}

impl From<NetError> for Error {
    fn from(error: NetError) -> Self {
        Self::Network(error.to_string())
    }
}

/// Names what was attempted.
pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io {
        what: what.into(),
        source,
    }
}

/// Runs the node agent until `shutdown`. Containers go on when it ends.
pub async fn run(args: NodeArgs, shutdown: CancellationToken) -> Result<(), Error> {
    // Paths are handed to processes that start in another directory.
    let args = absolute(args).map_err(io("making paths absolute"))?;
    let client = connect(&args).await?;
    let images = ImageStore::open(&args.image_dir)?;
    let net = Node::open(&args.node_ip).await?;
    let pods_cgroup = prepare_cgroups(&args).map_err(io("making the pods' cgroups"))?;
    let listener = server::bind(&args).await?;

    let capacity = node_object::capacity();
    let Some(node) = register(&client, &args, &shutdown).await else {
        return Ok(());
    };
    let recorder = Recorder::start(client.clone(), &args.name);
    recorder.node(&args.name, "Starting", "Starting kubelet.".into());
    let (services, watching_services) = watch_services(client.clone());
    let pools = Pools::new(&node_object::pod_ranges(&node));
    let agent = Arc::new(Agent::new(
        args.clone(),
        client.clone(),
        images,
        net,
        recorder,
        services,
        capacity,
        pods_cgroup,
        pools,
    ));

    let tasks = async {
        tokio::join!(
            dispatch::pods(Arc::clone(&agent), shutdown.clone()),
            dispatch::routes(Arc::clone(&agent), shutdown.clone()),
            node_object::report(client.clone(), args.clone(), capacity, shutdown.clone()),
            server::serve(Arc::clone(&agent), listener, shutdown.clone()),
            shutdown.run_until_cancelled(watching_services),
        )
    };
    tasks.await;
    Ok(())
}

fn absolute(mut args: NodeArgs) -> io::Result<NodeArgs> {
    use std::os::unix::fs::DirBuilderExt;
    // Specifications in it hold the values of Secrets.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(args.pods_dir())?;
    args.data_dir = args.data_dir.canonicalize()?;
    args.image_dir = std::path::absolute(&args.image_dir)?;
    Ok(args)
}

async fn connect(args: &NodeArgs) -> Result<Client, Error> {
    let config = match &args.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
        None => Config::infer().await?,
    };
    Ok(Client::try_from(config)?)
}

/// Makes the pods' cgroup and those of their classes of service.
fn prepare_cgroups(args: &NodeArgs) -> io::Result<CgroupDirs> {
    let hierarchies = Hierarchies::detect()?;
    let pods = args.cgroup_root.join("pods");
    for class in Qos::ALL {
        hierarchies.open(&pods.join(class.cgroup()))?;
    }
    Ok(hierarchies.group(&pods))
}

/// Registers the node and waits for its pod ranges; none on shutdown.
async fn register(
    client: &Client,
    args: &NodeArgs,
    shutdown: &CancellationToken,
) -> Option<ApiNode> {
    let registering = async {
        loop {
            match node_object::register(client, args).await {
                Ok(node) => {
                    match node_object::report_now(client, args, node_object::capacity(), &node)
                        .await
                    {
                        Ok(()) => break,
                        Err(error) => tracing::warn!(%error, "cannot write the node's status"),
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot register the node"),
            }
            tokio::time::sleep(RETRY).await;
        }
        wait_for_ranges(client, &args.name).await
    };
    shutdown.run_until_cancelled(registering).await
}

async fn wait_for_ranges(client: &Client, name: &str) -> ApiNode {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let nodes = watcher(Api::<ApiNode>::all(client.clone()), config)
        .default_backoff()
        .applied_objects();
    let mut nodes = std::pin::pin!(nodes);
    loop {
        match nodes.try_next().await {
            Ok(Some(node)) if !node_object::pod_ranges(&node).is_empty() => return node,
            Ok(_) => tracing::info!("waiting for the node's pod ranges"),
            Err(error) => tracing::warn!(%error, "cannot watch the node"),
        }
    }
}

/// A store of all Services, and the task that fills it.
fn watch_services(client: Client) -> (Store<Service>, impl Future<Output = ()>) {
    let (store, writer) = reflector::store();
    let stream = watcher(Api::<Service>::all(client), watcher::Config::default()).default_backoff();
    let filling = reflector::reflector(writer, stream).for_each(|event| async {
        if let Err(error) = event {
            tracing::warn!(%error, "cannot watch services");
        }
    });
    (store, filling)
}
