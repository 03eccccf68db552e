//! The loop around the [`Reconciler`]: it hands it what is seen, has it make its rounds, and passes on what they mean to
//! others.

use std::time::{Duration, Instant};

use model::Event;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::devices::Devices;
use crate::due::LAST_RETRY;
use crate::events::Events;
use crate::health::Health;
use crate::health_check::Change;
use crate::maps::Maps;
use crate::metrics::{Metrics, State};
use crate::reconcile::Reconciler;
use crate::standing::Round;
use crate::tables::Retired;

/// How many events are taken in before a round: one round for a burst instead of one each.
const BURST: usize = 1024;

/// Those who have to know how the reconciler stands.
#[derive(Debug)]
pub struct Listeners {
    /// Who answers about the proxy.
    pub health: watch::Sender<Health>,
    /// Who answers load balancers.
    pub checks: mpsc::UnboundedSender<Change>,
    /// Who tells the owners of Services.
    pub events: Events,
    /// What is counted.
    pub metrics: Metrics,
}

/// Where the reconciler sends what others have to do.
pub struct Orders<M> {
    /// Backends that are gone, to which UDP sockets may be connected.
    pub retired: std::sync::mpsc::Sender<Vec<Retired>>,
    /// Maps that are full.
    pub full: mpsc::Sender<Full<M>>,
}

/// A map that something did not fit into.
pub struct Full<M> {
    /// Its name.
    pub map: &'static str,
    /// Where to send maps with the same contents and more room; nothing, if there can be none. Until then nobody writes.
    pub larger: oneshot::Sender<M>,
}

impl<M> Orders<M> {
    async fn larger(&self, map: &'static str) -> Option<M> {
        let (larger, answer) = oneshot::channel();
        self.full.send(Full { map, larger }).await.ok()?;
        answer.await.ok()
    }
}

/// Runs the reconciler until `shutdown` or until a source ends. Everything stays installed.
pub async fn run<M: Maps>(
    mut reconciler: Reconciler<M>,
    mut events: mpsc::Receiver<Event>,
    mut devices: watch::Receiver<Devices>,
    orders: Orders<M>,
    listeners: Listeners,
    shutdown: CancellationToken,
) {
    let mut burst = Vec::with_capacity(BURST);
    let known = devices.borrow_and_update().clone();
    reconciler.see_devices(known, Instant::now());
    loop {
        let alarm = reconciler.next_round();
        let alarm =
            tokio::time::sleep_until(alarm.unwrap_or_else(|| Instant::now() + LAST_RETRY).into());
        tokio::select! {
            () = shutdown.cancelled() => break,
            count = events.recv_many(&mut burst, BURST) => {
                if count == 0 {
                    break;
                }
                for event in burst.drain(..) {
                    listeners.metrics.count_event(&event);
                    reconciler.see(event, Instant::now());
                }
            }
            changed = devices.changed() => {
                if changed.is_err() {
                    break;
                }
                let known = devices.borrow_and_update().clone();
                reconciler.see_devices(known, Instant::now());
            }
            () = alarm => {}
        }
        let start = Instant::now();
        let round = reconciler.round(start);
        let took = start.elapsed();
        if round.applied + round.failed > 0 {
            debug!(?round, ?took, "round");
        }
        if let Some(map) = reconciler.tables_mut().take_full()
            && let Some(maps) = orders.larger(map).await
        {
            reconciler.grow(maps, Instant::now());
        }
        let retired = reconciler.tables_mut().take_retired();
        if !retired.is_empty() && orders.retired.send(retired).is_err() {
            warn!("nobody closes UDP sockets connected to backends that are gone");
        }
        listeners.tell(&mut reconciler, &round, took);
    }
}

impl Listeners {
    /// Tells everybody how `reconciler` stands after a round that `took` so long.
    fn tell<M: Maps>(&self, reconciler: &mut Reconciler<M>, round: &Round, took: Duration) {
        let news = reconciler.take_news();
        self.metrics.round(round, took, &news.programmed);
        self.metrics.state(&State {
            usage: reconciler.tables().usage(),
            waiting: reconciler.waiting(),
            without_local: reconciler.without_local(),
        });
        for note in news.notes {
            self.events.warn(note);
        }
        for change in news.checks {
            if self.checks.send(change).is_err() {
                debug!("nobody answers health checks any more");
            }
        }
        self.health
            .send_modify(|health| health.update(&reconciler.standing()));
    }
}
