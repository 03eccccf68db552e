//! The ConfigMap `kube-root-ca.crt` of every namespace: by it pods recognise the API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, is_already_exists, is_namespace_terminating};
use crate::object::{deleting, namespace};
use crate::runtime::informers::ROOT_CA;
use crate::runtime::queue::Queue;
use crate::runtime::store::Key;
use crate::runtime::{Context, worker, writing};

const WORKERS: usize = 4;
const ENTRY: &str = "ca.crt";
const DESCRIPTION: &str = "CA bundle to verify the API server with, at its internal addresses";

/// The root CA publisher. Its keys are namespaces.
pub(crate) struct Controller {
    context: Context,
    queue: Queue<Key>,
    certificate: String,
}

impl Controller {
    /// Registers with the informers; nothing without a CA to publish.
    pub(crate) fn new(context: Context) -> Result<Option<Arc<Self>>, Error> {
        let Some(path) = context.args.root_ca_file.clone() else {
            return Ok(None);
        };
        let certificate =
            std::fs::read_to_string(&path).map_err(|source| Error::RootCa { path, source })?;
        let queue = Queue::default();
        context.informers.namespaces.on_change({
            let queue = queue.clone();
            move |change| queue.add(Key::of(&**change.object()))
        });
        context.informers.root_cas.on_change({
            let queue = queue.clone();
            move |change| queue.add(Key::cluster(namespace(&**change.object())))
        });
        Ok(Some(Arc::new(Self {
            context,
            queue,
            certificate,
        })))
    }

    /// Works until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        worker::run(
            "rootca",
            &self.queue,
            WORKERS,
            |key| self.reconcile(key),
            shutdown,
        )
        .await;
    }

    async fn reconcile(&self, key: Key) -> Result<(), Error> {
        let informers = &self.context.informers;
        if informers
            .namespaces
            .get(&key)
            .is_none_or(|namespace| deleting(&*namespace))
        {
            return Ok(());
        }
        let existing = informers.root_cas.get(&Key::new(&key.name, ROOT_CA));
        let Some(wanted) = plan(existing.as_deref(), &self.certificate) else {
            return Ok(());
        };
        let api: Api<ConfigMap> = self.context.api(&key.name);
        let outcome = match existing {
            Some(_) => api.replace(ROOT_CA, &writing(), &wanted).await,
            None => api.create(&writing(), &wanted).await,
        };
        match outcome {
            Err(error) if is_already_exists(&error) || is_namespace_terminating(&error) => Ok(()),
            outcome => Ok(outcome.map(|_| ())?),
        }
    }
}

/// The ConfigMap as it should be, if it is not so already.
fn plan(existing: Option<&ConfigMap>, certificate: &str) -> Option<ConfigMap> {
    let data = BTreeMap::from([(ENTRY.to_owned(), certificate.to_owned())]);
    if existing.is_some_and(|existing| existing.data.as_ref() == Some(&data)) {
        return None;
    }
    let annotations = BTreeMap::from([(
        "kubernetes.io/description".to_owned(),
        DESCRIPTION.to_owned(),
    )]);
    let mut wanted = existing.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta {
            name: Some(ROOT_CA.to_owned()),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    });
    wanted.data = Some(data);
    Some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_altered_bundle_is_put_right() {
        let first = plan(None, "CA").expect("missing");
        assert_eq!(plan(Some(&first), "CA"), None);
        let renewed = plan(Some(&first), "NEW").expect("altered");
        assert_eq!(
            renewed
                .data
                .and_then(|data| data.get(ENTRY).cloned())
                .as_deref(),
            Some("NEW")
        );
    }
}
