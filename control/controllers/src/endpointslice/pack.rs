//! Fits endpoints into slices so that as few slices as possible are written: what is listed already stays where it is,
//! what is new goes first into slices that change anyway. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use kube::api::ObjectMeta;

use super::desired::{ByPorts, ports_key};
use crate::object::{controller_reference, name, namespace};
use crate::service::{Family, HEADLESS_LABEL, is_headless};

pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
pub(crate) const MANAGED_BY: &str = "endpointslice-controller.k8s.io";

/// Endpoints of one slice at most.
const ROOM: usize = 100;

/// What to write.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    pub(crate) create: Vec<EndpointSlice>,
    pub(crate) update: Vec<EndpointSlice>,
    pub(crate) delete: Vec<Arc<EndpointSlice>>,
}

/// Decides about the slices of one family. `existing` are those of that family.
pub(crate) fn pack(
    service: &Service,
    family: Family,
    existing: &[Arc<EndpointSlice>],
    wanted: ByPorts,
) -> Writes {
    let mut by_ports: BTreeMap<String, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        let key = ports_key(slice.ports.as_deref().unwrap_or_default());
        by_ports.entry(key).or_default().push(slice.clone());
    }
    let mut writes = Writes::default();
    let mut listed = false;
    for (key, (ports, endpoints)) in wanted {
        listed = true;
        let slices = by_ports.remove(&key).unwrap_or_default();
        pack_one(service, family, &ports, endpoints, slices, &mut writes);
    }
    writes.delete.extend(by_ports.into_values().flatten());
    if !listed {
        keep_placeholder(service, family, &mut writes);
    }
    writes
}

/// A service without endpoints has one empty slice, which says that it is known to have none.
fn keep_placeholder(service: &Service, family: Family, writes: &mut Writes) {
    let is_placeholder = |slice: &Arc<EndpointSlice>| {
        listed(slice).is_empty() && slice.ports.as_ref().is_none_or(Vec::is_empty)
    };
    match writes.delete.iter().position(is_placeholder) {
        Some(index) => {
            let kept = writes.delete.swap_remove(index);
            writes.update.extend(relabelled(service, &kept));
        }
        None => writes
            .create
            .push(new_slice(service, family, None, Vec::new())),
    }
}

fn listed(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or_default()
}

/// A slice while it is being packed.
struct Open {
    before: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

fn pack_one(
    service: &Service,
    family: Family,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
    slices: Vec<Arc<EndpointSlice>>,
    writes: &mut Writes,
) {
    let mut missing: HashMap<String, Endpoint> = HashMap::with_capacity(endpoints.len());
    let mut order = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let identity = identity(&endpoint);
        order.push(identity.clone());
        missing.insert(identity, endpoint);
    }
    let mut open: Vec<_> = slices
        .into_iter()
        .map(|slice| keep_listed(slice, &mut missing))
        .collect();
    let mut rest: Vec<_> = order
        .iter()
        .filter_map(|identity| missing.remove(identity))
        .collect();
    fill(&mut open, &mut rest);
    for slice in open {
        settle(service, slice, writes);
    }
    while !rest.is_empty() {
        let part = rest.drain(..rest.len().min(ROOM)).collect();
        writes
            .create
            .push(new_slice(service, family, Some(ports.to_vec()), part));
    }
}

/// What makes an endpoint the same one in another state.
fn identity(endpoint: &Endpoint) -> String {
    let target = endpoint.target_ref.as_ref();
    let uid = target
        .and_then(|target| target.uid.as_deref())
        .unwrap_or_default();
    format!("{uid}/{}", endpoint.addresses.join(","))
}

/// Keeps the slice's endpoints that are still wanted, in their present state.
fn keep_listed(slice: Arc<EndpointSlice>, missing: &mut HashMap<String, Endpoint>) -> Open {
    let endpoints: Vec<_> = listed(&slice)
        .iter()
        .filter_map(|known| missing.remove(&identity(known)))
        .collect();
    let changed = endpoints != listed(&slice);
    Open {
        before: slice,
        endpoints,
        changed,
    }
}

/// Puts new endpoints into slices that change anyway; what is left over goes into the fullest unchanged slice that has
/// room for all of it.
fn fill(open: &mut [Open], rest: &mut Vec<Endpoint>) {
    for slice in open.iter_mut().filter(|slice| slice.changed) {
        slice.top_up(rest);
    }
    if rest.is_empty() {
        return;
    }
    let fitting = open
        .iter_mut()
        .filter(|slice| !slice.changed && slice.endpoints.len() + rest.len() <= ROOM);
    if let Some(slice) = fitting.max_by_key(|slice| slice.endpoints.len()) {
        slice.top_up(rest);
        slice.changed = true;
    }
}

impl Open {
    fn top_up(&mut self, rest: &mut Vec<Endpoint>) {
        let room = ROOM.saturating_sub(self.endpoints.len());
        self.endpoints.extend(rest.drain(..rest.len().min(room)));
    }
}

fn settle(service: &Service, slice: Open, writes: &mut Writes) {
    if slice.endpoints.is_empty() {
        writes.delete.push(slice.before);
    } else if slice.changed {
        let mut updated = EndpointSlice {
            endpoints: Some(slice.endpoints),
            ..EndpointSlice::clone(&slice.before)
        };
        label(service, &mut updated);
        writes.update.push(updated);
    } else {
        writes.update.extend(relabelled(service, &slice.before));
    }
}

/// The slice with the labels it should have, if it has others.
fn relabelled(service: &Service, slice: &EndpointSlice) -> Option<EndpointSlice> {
    let mut updated = slice.clone();
    label(service, &mut updated);
    (updated != *slice).then_some(updated)
}

fn new_slice(
    service: &Service,
    family: Family,
    ports: Option<Vec<EndpointPort>>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let mut slice = EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name(service))),
            namespace: Some(namespace(service).to_owned()),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.name().to_owned(),
        endpoints: Some(endpoints),
        ports,
    };
    label(service, &mut slice);
    slice
}

/// The service's labels, except those that say what a slice is.
fn label(service: &Service, slice: &mut EndpointSlice) {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    labels.insert(SERVICE_LABEL.to_owned(), name(service).to_owned());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    slice.metadata.labels = Some(labels);
}

#[cfg(test)]
mod tests;
