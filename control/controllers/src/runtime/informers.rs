//! The kinds that controllers watch, each by one informer that all of them share.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::informer::Informer;
use super::worker;
use crate::object::pod;

/// Where the nodes' heartbeats are kept.
pub(crate) const LEASE_NAMESPACE: &str = "kube-node-lease";
/// The ConfigMap with the cluster's CA in every namespace.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";

/// All informers.
pub(crate) struct Informers {
    pub(crate) pods: Arc<Informer<Pod>>,
    pub(crate) nodes: Arc<Informer<Node>>,
    /// Node heartbeats only.
    pub(crate) leases: Arc<Informer<Lease>>,
    pub(crate) namespaces: Arc<Informer<Namespace>>,
    pub(crate) services: Arc<Informer<Service>>,
    pub(crate) endpoints: Arc<Informer<Endpoints>>,
    pub(crate) slices: Arc<Informer<EndpointSlice>>,
    pub(crate) service_accounts: Arc<Informer<ServiceAccount>>,
    /// The [`ROOT_CA`] ConfigMaps only.
    pub(crate) root_cas: Arc<Informer<ConfigMap>>,
    pub(crate) replica_sets: Arc<Informer<ReplicaSet>>,
    pub(crate) deployments: Arc<Informer<Deployment>>,
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Informers {
    /// Empty informers, not yet watching.
    pub(crate) fn new() -> Self {
        Self {
            pods: Arc::new(Informer::new(pod::trim)),
            nodes: Arc::new(Informer::new(|_| {})),
            leases: Arc::new(Informer::new(|_| {})),
            namespaces: Arc::new(Informer::new(|_| {})),
            services: Arc::new(Informer::new(|_| {})),
            endpoints: Arc::new(Informer::new(|_| {})),
            slices: Arc::new(Informer::new(|_| {})),
            service_accounts: Arc::new(Informer::new(|_| {})),
            root_cas: Arc::new(Informer::new(|_| {})),
            replica_sets: Arc::new(Informer::new(|_| {})),
            deployments: Arc::new(Informer::new(|_| {})),
        }
    }

    /// The watching tasks. They end at `shutdown` only; one that dies is started again and lists anew.
    pub(crate) fn tasks(&self, client: &Client, shutdown: &CancellationToken) -> Vec<Task> {
        let all = Config::default;
        macro_rules! watch {
            ($informer:ident, $api:expr, $config:expr) => {{
                let (informer, api, config) = (self.$informer.clone(), $api, $config);
                let (stop, shutdown) = (shutdown.clone(), shutdown.clone());
                let watch = move || {
                    let informer = informer.clone();
                    let (api, config, stop) = (api.clone(), config.clone(), stop.clone());
                    async move { informer.run(api, config, stop).await }
                };
                Box::pin(worker::supervise(stringify!($informer), watch, shutdown)) as Task
            }};
        }
        vec![
            watch!(pods, Api::all(client.clone()), all()),
            watch!(nodes, Api::all(client.clone()), all()),
            watch!(
                leases,
                Api::namespaced(client.clone(), LEASE_NAMESPACE),
                all()
            ),
            watch!(namespaces, Api::all(client.clone()), all()),
            watch!(services, Api::all(client.clone()), all()),
            watch!(endpoints, Api::all(client.clone()), all()),
            watch!(slices, Api::all(client.clone()), all()),
            watch!(service_accounts, Api::all(client.clone()), all()),
            watch!(
                root_cas,
                Api::all(client.clone()),
                all().fields(&format!("metadata.name={ROOT_CA}"))
            ),
            watch!(replica_sets, Api::all(client.clone()), all()),
            watch!(deployments, Api::all(client.clone()), all()),
        ]
    }

    /// Waits until every informer has its first complete list: before that, nothing may be concluded from absence.
    pub(crate) async fn synced(&self) {
        tokio::join!(
            self.pods.synced(),
            self.nodes.synced(),
            self.leases.synced(),
            self.namespaces.synced(),
            self.services.synced(),
            self.endpoints.synced(),
            self.slices.synced(),
            self.service_accounts.synced(),
            self.root_cas.synced(),
            self.replica_sets.synced(),
            self.deployments.synced(),
        );
    }
}
