//! Endpoints: the older list of a service's pods, kept for clients that still read it.
//!
//! One object per service, of its primary family only, and at most a thousand addresses.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use kube::api::{Api, DeleteParams, ObjectMeta};
use tokio_util::sync::CancellationToken;

use crate::endpointslice::desired::hostname;
use crate::error::{Error, gone_is_fine, is_already_exists, is_namespace_terminating};
use crate::object::{deleting, label, name, namespace, pod, uid};
use crate::runtime::queue::Queue;
use crate::runtime::store::Key;
use crate::runtime::{Context, worker, writing};
use crate::service::{
    Family, HEADLESS_LABEL, families, is_headless, is_managed, protocol, publishes_not_ready,
    selects, target_port, wake_on_changes,
};

const WORKERS: usize = 8;
const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const CAPACITY: usize = 1000;

/// The Endpoints controller. Its keys are services.
pub(crate) struct Controller {
    context: Context,
    queue: Queue<Key>,
}

impl Controller {
    /// Registers with the informers.
    pub(crate) fn new(context: Context) -> Arc<Self> {
        let queue = Queue::default();
        wake_on_changes(&context, &queue);
        context.informers.endpoints.on_change({
            let queue = queue.clone();
            move |change| queue.add(Key::of(&**change.object()))
        });
        Arc::new(Self { context, queue })
    }

    /// Works until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        worker::run(
            "endpoints",
            &self.queue,
            WORKERS,
            |key| self.reconcile(key),
            shutdown,
        )
        .await;
    }

    async fn reconcile(&self, key: Key) -> Result<(), Error> {
        let api: Api<Endpoints> = self.context.api(&key.namespace);
        let existing = self.context.informers.endpoints.get(&key);
        let Some(service) = self.context.informers.services.get(&key) else {
            if existing
                .is_some_and(|existing| label(&*existing, MANAGED_BY_LABEL) == Some(MANAGED_BY))
            {
                gone_is_fine(api.delete(&key.name, &DeleteParams::default()).await)?;
            }
            return Ok(());
        };
        if !is_managed(&service) {
            return Ok(());
        }
        let pods = self
            .context
            .informers
            .pods
            .find(&key.namespace, |pod| selects(&service, pod));
        let Some(wanted) = plan(&service, &pods, existing.as_deref()) else {
            return Ok(());
        };
        let outcome = match existing {
            Some(_) => api.replace(&key.name, &writing(), &wanted).await,
            None => api.create(&writing(), &wanted).await,
        };
        match outcome {
            Err(error) if is_namespace_terminating(&error) || is_already_exists(&error) => Ok(()),
            outcome => {
                self.context.informers.endpoints.absorb(outcome?);
                Ok(())
            }
        }
    }
}

/// The object as it should be, if it is not so already.
fn plan(service: &Service, pods: &[Arc<Pod>], existing: Option<&Endpoints>) -> Option<Endpoints> {
    let mut subsets = subsets(service, pods);
    let cut = truncate(&mut subsets);
    let subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    let mut wanted = existing.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: Some(name(service).to_owned()),
            namespace: Some(namespace(service).to_owned()),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    wanted.subsets = subsets;
    wanted.metadata.labels = Some(labels);
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    if cut {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        wanted.metadata.annotations = None;
    }
    let known = existing.map(normalized);
    (known.as_ref() != Some(&wanted)).then_some(wanted)
}

/// The object with absence written in one way only.
fn normalized(endpoints: &Endpoints) -> Endpoints {
    let mut endpoints = endpoints.clone();
    endpoints.subsets = endpoints
        .subsets
        .take()
        .filter(|subsets| !subsets.is_empty());
    endpoints.metadata.annotations = endpoints
        .metadata
        .annotations
        .take()
        .filter(|all| !all.is_empty());
    endpoints
}

/// Addresses grouped by the ports they have, everything in a fixed order.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let family = families(service).first().copied().unwrap_or(Family::V4);
    let mut groups: BTreeMap<Vec<(String, i32, String)>, EndpointSubset> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| listed(service, pod)) {
        let Some(address) = family.address_of(pod) else {
            continue;
        };
        let Some(ports) = ports(service, pod) else {
            continue;
        };
        let key = ports.iter().map(|port| {
            let name = port.name.clone().unwrap_or_default();
            (name, port.port, port.protocol.clone().unwrap_or_default())
        });
        let subset = groups
            .entry(key.collect())
            .or_insert_with(|| EndpointSubset {
                ports: Some(ports).filter(|ports| !ports.is_empty()),
                ..EndpointSubset::default()
            });
        let side = if pod::ready(pod) || publishes_not_ready(service) {
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        side.get_or_insert_default()
            .push(self::address(service, pod, address.to_string()));
    }
    for subset in groups.values_mut() {
        for side in subset
            .addresses
            .iter_mut()
            .chain(&mut subset.not_ready_addresses)
        {
            side.sort_by(|a, b| a.ip.cmp(&b.ip));
        }
    }
    groups.into_values().collect()
}

/// This list has no word for pods on their way out, so they are listed only if everything is.
fn listed(service: &Service, pod: &Pod) -> bool {
    !pod::finished(pod) && (!deleting(pod) || publishes_not_ready(service))
}

/// The service's ports at this pod; nothing if it has none of those asked for.
fn ports(service: &Service, pod: &Pod) -> Option<Vec<EndpointPort>> {
    let asked: Vec<_> = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten())
        .collect();
    let resolved = asked.iter().filter_map(|port| {
        Some(EndpointPort {
            name: port.name.clone(),
            port: target_port(pod, port)?,
            protocol: Some(protocol(port.protocol.as_deref()).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    });
    let mut resolved: Vec<_> = resolved.collect();
    resolved.sort_by(|a, b| (&a.name, a.port, &a.protocol).cmp(&(&b.name, b.port, &b.protocol)));
    (!resolved.is_empty() || asked.is_empty()).then_some(resolved)
}

fn address(service: &Service, pod: &Pod, ip: String) -> EndpointAddress {
    EndpointAddress {
        ip,
        hostname: hostname(service, pod),
        node_name: pod::node(pod).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace(pod).to_owned()),
            name: Some(name(pod).to_owned()),
            uid: Some(uid(pod).to_owned()),
            ..ObjectReference::default()
        }),
    }
}

/// Cuts the list to its capacity, ready addresses kept first; answers whether anything was cut.
fn truncate(subsets: &mut Vec<EndpointSubset>) -> bool {
    let mut room = CAPACITY;
    let mut cut = false;
    let mut take = |side: &mut Option<Vec<EndpointAddress>>| {
        let Some(addresses) = side else { return };
        cut |= addresses.len() > room;
        addresses.truncate(room);
        room -= addresses.len();
        if addresses.is_empty() {
            *side = None;
        }
    };
    subsets
        .iter_mut()
        .for_each(|subset| take(&mut subset.addresses));
    subsets
        .iter_mut()
        .for_each(|subset| take(&mut subset.not_ready_addresses));
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    cut
}

#[cfg(test)]
mod tests;
