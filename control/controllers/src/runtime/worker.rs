//! The loop between a queue and a reconciler, and the supervision around it.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::queue::Queue;
use crate::error::Error;

/// Failures in a row that are expected in a busy cluster and not worth a warning: conflicts and caches a moment behind.
const QUIET_PAUSE: Duration = Duration::from_millis(100);

/// Hands keys to `reconcile`, at most `concurrency` at once, until `shutdown`. On shutdown running reconciliations are
/// dropped at their next await: everything they do is repeated from the state of the cluster at the next start.
pub(crate) async fn run<T, F, R>(
    name: &str,
    queue: &Queue<T>,
    concurrency: usize,
    reconcile: F,
    shutdown: CancellationToken,
) where
    T: Clone + Ord + Hash + fmt::Display,
    F: Fn(T) -> R,
    R: Future<Output = Result<(), Error>>,
{
    queue.recover();
    let work = |key: T| {
        let outcome = reconcile(key.clone());
        async move { (key, outcome.await) }
    };
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            key = queue.next(), if running.len() < concurrency => running.push(work(key)),
            Some((key, outcome)) = running.next() => finish(name, queue, &key, outcome),
        }
    }
}

fn finish<T: Clone + Ord + Hash + fmt::Display>(
    name: &str,
    queue: &Queue<T>,
    key: &T,
    outcome: Result<(), Error>,
) {
    let pause = queue.done(key, outcome.is_err());
    let Err(error) = outcome else { return };
    if pause.is_some_and(|pause| pause < QUIET_PAUSE) {
        tracing::debug!(controller = name, %key, %error, "will try again");
    } else {
        tracing::warn!(controller = name, %key, %error, ?pause, "keeps failing, will try again");
    }
}

/// Runs a task again whenever it panics, until `shutdown`; one controller's bug stops no other.
pub(crate) async fn supervise<F, R>(name: &'static str, task: F, shutdown: CancellationToken)
where
    F: Fn() -> R,
    R: Future<Output = ()> + Send + 'static,
{
    while !shutdown.is_cancelled() {
        match tokio::spawn(task()).await {
            Ok(()) => return,
            Err(error) => tracing::error!(controller = name, %error, "died, starting it again"),
        }
        shutdown
            .run_until_cancelled(tokio::time::sleep(Duration::from_secs(1)))
            .await;
    }
}
