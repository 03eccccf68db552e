//! A control plane for a test: API server, controllers, and fake nodes.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use clap::Parser;
use control_api::{Pki, ServerArgs};
use control_controllers::ControllersArgs;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::kubelet;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    controllers: ControllersArgs,
}

/// A running control plane. Dropping it stops everything.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
    controllers: (CancellationToken, Client, ControllersArgs),
    directory: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Cluster {
    /// With so many nodes, named `n0`, `n1`, ...
    pub(crate) async fn start(nodes: usize) -> Self {
        Self::start_with(nodes, &[]).await
    }

    pub(crate) async fn start_with(nodes: usize, args: &[&str]) -> Self {
        // Another test may have been first.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        drop(
            tracing_subscriber::fmt()
                .with_test_writer()
                .with_env_filter(filter())
                .try_init(),
        );
        let directory = tempfile::tempdir().unwrap();
        let (data, ca) = (directory.path(), directory.path().join("pki/ca.crt"));
        let fixed = [
            "cluster",
            "--data-dir",
            data.to_str().unwrap(),
            "--bind",
            "127.0.0.1:0",
        ];
        let ca = ["--root-ca-file", ca.to_str().unwrap()];
        let args = Args::parse_from(fixed.iter().chain(&ca).chain(args));
        let (shutdown, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let (ready, is_ready) = oneshot::channel();
        let server = control_api::run(args.server, ready, shutdown.clone());
        tasks.spawn(async move { server.await.unwrap() });
        is_ready.await.unwrap();
        let kubeconfig = Kubeconfig::read_from(directory.path().join("admin.kubeconfig")).unwrap();
        let client = client_of(kubeconfig.clone()).await;
        let url = kubeconfig.clusters[0]
            .cluster
            .as_ref()
            .unwrap()
            .server
            .clone()
            .unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let kubeconfig = pki
            .client_kubeconfig(&url, "system:kube-controller-manager", &[""; 0])
            .unwrap();
        let controllers = client_of(Kubeconfig::from_yaml(&kubeconfig).unwrap()).await;
        let controllers = (CancellationToken::new(), controllers, args.controllers);
        let mut cluster = Self {
            client,
            shutdown,
            tasks,
            controllers,
            directory,
        };
        cluster.start_controllers();
        for index in 0..nodes {
            cluster.add_node(&format!("n{index}")).await;
        }
        let accounts = cluster.api::<ServiceAccount>("default");
        eventually("the default service account", async || {
            accounts.get_opt("default").await.unwrap().is_some()
        })
        .await;
        cluster
    }

    fn start_controllers(&mut self) {
        let (stop, client, args) = &mut self.controllers;
        *stop = self.shutdown.child_token();
        let running = control_controllers::run(client.clone(), args.clone(), stop.clone());
        self.tasks.spawn(async move { running.await.unwrap() });
    }

    /// Stops the controllers and starts them anew.
    pub(crate) fn restart_controllers(&mut self) {
        self.controllers.0.cancel();
        self.start_controllers();
    }

    /// Adds a node that runs pods. Answers what stops it.
    pub(crate) async fn add_node(&mut self, name: &str) -> CancellationToken {
        kubelet::register(&self.client, name).await;
        let stop = self.shutdown.child_token();
        self.tasks.spawn(kubelet::run(
            self.client.clone(),
            name.to_owned(),
            stop.clone(),
        ));
        stop
    }

    /// Where the API server keeps its data, and the administrator's kubeconfig.
    pub(crate) fn data(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) async fn create<K>(&self, namespace: &str, object: Value) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Serialize
            + DeserializeOwned
            + Debug,
    {
        let object = serde_json::from_value(object).unwrap();
        self.api(namespace)
            .create(&PostParams::default(), &object)
            .await
            .unwrap()
    }

    /// The namespace's pods that are not on their way out.
    pub(crate) async fn pods(&self, namespace: &str) -> Vec<Pod> {
        let mut pods = self
            .api::<Pod>(namespace)
            .list(&ListParams::default())
            .await
            .unwrap()
            .items;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        pods
    }

    pub(crate) async fn change_deployment(&self, name: &str, spec: Value) -> Deployment {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.api("default")
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap()
    }

    /// Waits as `kubectl rollout status` does.
    pub(crate) async fn rolled_out(&self, name: &str) -> Deployment {
        let api = self.api::<Deployment>("default");
        eventually(&format!("the rollout of {name}"), async || {
            let deployment = api.get(name).await.unwrap();
            let (spec, status) = (
                deployment.spec.unwrap(),
                deployment.status.unwrap_or_default(),
            );
            let count = |field: Option<i32>| field.unwrap_or(0);
            status.observed_generation >= deployment.metadata.generation
                && count(status.updated_replicas) == count(spec.replicas)
                && count(status.replicas) == count(status.updated_replicas)
                && count(status.available_replicas) == count(status.updated_replicas)
        })
        .await;
        api.get(name).await.unwrap()
    }

    /// Stops everything in order.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = tokio::time::timeout(PATIENCE, self.tasks.join_next())
            .await
            .unwrap()
        {
            ended.unwrap();
        }
    }
}

fn filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into())
}

async fn client_of(kubeconfig: Kubeconfig) -> Client {
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// A Deployment of so many replicas.
pub(crate) fn deployment(name: &str, replicas: i32) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [
                    {"name": "c", "image": "one", "ports": [{"name": "web", "containerPort": 8080}]}
                ]}
            }
        }
    })
}

/// Asks until the condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
