//! The ServiceAccount `default` of every namespace, without which no pod of it would be admitted.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, ObjectMeta};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, is_already_exists, is_namespace_terminating};
use crate::object::{deleting, namespace};
use crate::runtime::queue::Queue;
use crate::runtime::store::Key;
use crate::runtime::{Context, worker, writing};

const WORKERS: usize = 4;
const DEFAULT: &str = "default";

/// The ServiceAccount controller. Its keys are namespaces.
pub(crate) struct Controller {
    context: Context,
    queue: Queue<Key>,
}

impl Controller {
    /// Registers with the informers.
    pub(crate) fn new(context: Context) -> Arc<Self> {
        let queue = Queue::default();
        context.informers.namespaces.on_change({
            let queue = queue.clone();
            move |change| queue.add(Key::of(&**change.object()))
        });
        context.informers.service_accounts.on_change({
            let queue = queue.clone();
            move |change| {
                if change.deleted() {
                    queue.add(Key::cluster(namespace(&**change.object())));
                }
            }
        });
        Arc::new(Self { context, queue })
    }

    /// Works until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        worker::run(
            "serviceaccount",
            &self.queue,
            WORKERS,
            |key| self.reconcile(key),
            shutdown,
        )
        .await;
    }

    async fn reconcile(&self, key: Key) -> Result<(), Error> {
        let informers = &self.context.informers;
        let alive = informers
            .namespaces
            .get(&key)
            .is_some_and(|namespace| !deleting(&*namespace));
        if !alive
            || informers
                .service_accounts
                .get(&Key::new(&key.name, DEFAULT))
                .is_some()
        {
            return Ok(());
        }
        let metadata = ObjectMeta {
            name: Some(DEFAULT.to_owned()),
            ..ObjectMeta::default()
        };
        let account = ServiceAccount {
            metadata,
            ..ServiceAccount::default()
        };
        let api: Api<ServiceAccount> = self.context.api(&key.name);
        match api.create(&writing(), &account).await {
            Err(error) if is_already_exists(&error) || is_namespace_terminating(&error) => Ok(()),
            outcome => Ok(outcome.map(|_| ())?),
        }
    }
}
