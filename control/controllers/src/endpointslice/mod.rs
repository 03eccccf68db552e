//! EndpointSlices: where the pods are that a service selects.

pub(crate) mod desired;
mod pack;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams};
use tokio_util::sync::CancellationToken;

use self::desired::Triggers;
use self::pack::{MANAGED_BY, MANAGED_BY_LABEL, SERVICE_LABEL, Writes};
use crate::error::{Error, gone_is_fine, is_namespace_terminating, message};
use crate::object::{label, name, namespace, time};
use crate::runtime::events::Recorder;
use crate::runtime::expectations::Expectations;
use crate::runtime::queue::Queue;
use crate::runtime::store::{Change, Key};
use crate::runtime::{Context, lock, worker, writing};
use crate::service::{TRIGGER_TIME, ZONE_LABEL, families, is_managed, selects, wake_on_changes};

const WORKERS: usize = 8;

/// The EndpointSlice controller. Its keys are services.
pub(crate) struct Controller {
    context: Context,
    recorder: Recorder,
    queue: Queue<Key>,
    expectations: Arc<Expectations>,
    triggers: Mutex<HashMap<Key, Triggers>>,
}

impl Controller {
    /// Registers with the informers.
    pub(crate) fn new(context: Context) -> Arc<Self> {
        let queue = Queue::default();
        let expectations = Arc::new(Expectations::default());
        wake_on_changes(&context, &queue);
        context.informers.slices.on_change({
            let (queue, expectations) = (queue.clone(), expectations.clone());
            move |change| slice_changed(change, &queue, &expectations)
        });
        let recorder = context.recorder.named("endpoint-slice-controller");
        Arc::new(Self {
            context,
            recorder,
            queue,
            expectations,
            triggers: Mutex::default(),
        })
    }

    /// Works until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        worker::run(
            "endpointslice",
            &self.queue,
            WORKERS,
            |key| self.reconcile(key),
            shutdown,
        )
        .await;
    }

    async fn reconcile(&self, key: Key) -> Result<(), Error> {
        let Some(service) = self.context.informers.services.get(&key) else {
            return self.forget(&key).await;
        };
        if !is_managed(&service) || !self.expectations.satisfied(&key, Instant::now()) {
            return Ok(());
        }
        let (writes, trigger) = self.plan(&key, &service);
        let outcome = self.carry_out(&key, writes, trigger).await;
        match outcome {
            Err(error) if is_namespace_terminating(&error) => Ok(()),
            Err(error) => {
                let text = format!(
                    "Error updating Endpoint Slices for Service {key}: {}",
                    message(&error)
                );
                self.recorder
                    .warning(&*service, "FailedToUpdateEndpointSlices", text);
                Err(error.into())
            }
            Ok(()) => Ok(()),
        }
    }

    fn plan(&self, key: &Key, service: &Service) -> (Writes, Option<Timestamp>) {
        let informers = &self.context.informers;
        let pods = informers
            .pods
            .find(&key.namespace, |pod| selects(service, pod));
        let zone = |node: &str| {
            let node = informers.nodes.get(&Key::cluster(node))?;
            label(&*node, ZONE_LABEL).map(str::to_owned)
        };
        let mut existing = self.slices_of(key);
        let mut writes = Writes::default();
        for family in families(service) {
            let (here, elsewhere) = existing
                .into_iter()
                .partition(|slice| slice.address_type == family.name());
            existing = elsewhere;
            let here: Vec<_> = here;
            let packed = pack::pack(
                service,
                family,
                &here,
                desired::endpoints(service, family, &pods, zone),
            );
            writes.create.extend(packed.create);
            writes.update.extend(packed.update);
            writes.delete.extend(packed.delete);
        }
        writes.delete.extend(existing);
        let trigger = lock(&self.triggers)
            .entry(key.clone())
            .or_default()
            .earliest_change(service, &pods);
        (writes, trigger)
    }

    /// The slices of the service that are ours.
    fn slices_of(&self, service: &Key) -> Vec<Arc<EndpointSlice>> {
        let ours = |slice: &EndpointSlice| owner(slice).as_ref() == Some(service);
        self.context.informers.slices.find(&service.namespace, ours)
    }

    async fn carry_out(
        &self,
        key: &Key,
        writes: Writes,
        trigger: Option<Timestamp>,
    ) -> Result<(), kube::Error> {
        let api: Api<EndpointSlice> = self.context.api(&key.namespace);
        self.expectations
            .expect_creations(key, writes.create.len(), Instant::now());
        let mut left = writes.create.len();
        for mut slice in writes.create {
            stamp(&mut slice, trigger);
            if let Err(error) = api.create(&writing(), &slice).await {
                self.expectations.created(key, left);
                return Err(error);
            }
            left -= 1;
        }
        for mut slice in writes.update {
            stamp(&mut slice, trigger);
            let written = api.replace(name(&slice), &writing(), &slice).await?;
            self.context.informers.slices.absorb(written);
        }
        for slice in writes.delete {
            gone_is_fine(api.delete(name(&*slice), &DeleteParams::default()).await)?;
        }
        Ok(())
    }

    /// The service is gone: so go its slices.
    async fn forget(&self, key: &Key) -> Result<(), Error> {
        lock(&self.triggers).remove(key);
        self.expectations.forget(key);
        let api: Api<EndpointSlice> = self.context.api(&key.namespace);
        for slice in self.slices_of(key) {
            gone_is_fine(api.delete(name(&*slice), &DeleteParams::default()).await)?;
        }
        Ok(())
    }
}

/// Notes when what the slice now says came about.
fn stamp(slice: &mut EndpointSlice, trigger: Option<Timestamp>) {
    let annotations = slice.metadata.annotations.get_or_insert_default();
    match trigger {
        Some(at) => annotations.insert(TRIGGER_TIME.to_owned(), time(at).0.to_string()),
        None => annotations.remove(TRIGGER_TIME),
    };
    if annotations.is_empty() {
        slice.metadata.annotations = None;
    }
}

/// The service of a slice that is ours.
fn owner(slice: &EndpointSlice) -> Option<Key> {
    let ours = label(slice, MANAGED_BY_LABEL) == Some(MANAGED_BY);
    label(slice, SERVICE_LABEL)
        .filter(|_| ours)
        .map(|service| Key::new(namespace(slice), service))
}

fn slice_changed(change: &Change<EndpointSlice>, queue: &Queue<Key>, expectations: &Expectations) {
    if let Some(key) = owner(change.object()).filter(|_| change.old.is_none()) {
        expectations.created(&key, 1);
    }
    change
        .sides()
        .filter_map(|slice| owner(slice))
        .for_each(|key| queue.add(key));
}
