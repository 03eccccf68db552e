//! What all tasks of a node agent share.

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::runtime::reflector::Store;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::args::NodeArgs;
use crate::events::Recorder;
use crate::image::ImageStore;
use crate::net::{Node, Pools};
use crate::pod::env::Place;
use crate::pod::{PodView, resources};
use crate::runtime::cgroup::CgroupDirs;

/// CPUs in thousandths and memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) cpu: u64,
    pub(crate) memory: u64,
}

/// A node agent's settings, connections and books.
pub(crate) struct Agent {
    pub(crate) args: NodeArgs,
    pub(crate) client: Client,
    pub(crate) images: ImageStore,
    pub(crate) net: Node,
    pub(crate) recorder: Recorder,
    pub(crate) services: Store<Service>,
    pub(crate) capacity: Capacity,
    /// The cgroup that all pods are in.
    pub(crate) pods_cgroup: CgroupDirs,
    pools: Mutex<Pools>,
    views: Mutex<HashMap<(String, String), watch::Receiver<PodView>>>,
}

impl Agent {
    #[expect(
        clippy::too_many_arguments,
        reason = "it only gathers what was opened one by one"
    )]
    pub(crate) fn new(
        args: NodeArgs,
        client: Client,
        images: ImageStore,
        net: Node,
        recorder: Recorder,
        services: Store<Service>,
        capacity: Capacity,
        pods_cgroup: CgroupDirs,
        pools: Pools,
    ) -> Self {
        let views = Mutex::default();
        Self {
            args,
            client,
            images,
            net,
            recorder,
            services,
            capacity,
            pods_cgroup,
            pools: Mutex::new(pools),
            views,
        }
    }

    /// The books of pod addresses. Held for moments only, never across an await.
    pub(crate) fn pools(&self) -> MutexGuard<'_, Pools> {
        // Every change to the books is complete in itself.
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pods that logs and exec can be asked of, by namespace and name.
    pub(crate) fn views(
        &self,
    ) -> MutexGuard<'_, HashMap<(String, String), watch::Receiver<PodView>>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object of the API; none if it does not exist.
    pub(crate) async fn get<K>(&self, namespace: &str, name: &str) -> Result<Option<K>, String>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        api.get_opt(name).await.map_err(|error| error.to_string())
    }

    /// What the downward API says of a pod with these addresses.
    pub(crate) fn place(&self, pod_ips: &[IpAddr]) -> Place {
        Place {
            node_name: self.args.name.clone(),
            host_ips: self.args.node_ip.clone(),
            pod_ips: pod_ips.to_vec(),
            capacity: (self.capacity.cpu, self.capacity.memory),
        }
    }

    /// The pod's directory.
    pub(crate) fn pod_dir(&self, pod: &Pod) -> PathBuf {
        let meta = &pod.metadata;
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        self.args.pods_dir().join(format!(
            "{}_{}_{}",
            part(&meta.namespace),
            part(&meta.name),
            part(&meta.uid)
        ))
    }

    /// The pod's cgroup, below that of its class of service.
    pub(crate) fn pod_cgroup(&self, pod: &Pod) -> CgroupDirs {
        let class = resources::Qos::of(crate::pod::kinds::spec(pod)).cgroup();
        self.pods_cgroup.child(&class).child(&format!(
            "pod{}",
            pod.metadata.uid.as_deref().unwrap_or_default()
        ))
    }
}
