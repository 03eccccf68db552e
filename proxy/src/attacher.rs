//! Keeps the programs attached while devices come and go, and makes room in maps that are full.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::attach::{self, Dataplane};
use crate::devices::Devices;
use crate::health::Health;
use crate::maps::KernelMaps;
use crate::rounds::Full;

/// The wait before devices are tried again to which the programs could not be attached.
const REATTACH: Duration = Duration::from_secs(10);
/// How often every attachment is looked at, though nothing was reported.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Attaches the programs to the devices there are and to those that come, and makes room in maps that are full, until
/// `shutdown`. Those that fail are tried again, and from time to time all are looked at. An earlier daemon's programs with
/// another layout stay until the maps hold everything for the first time. Ends by itself when something is wrong that
/// only the next start puts in order.
pub async fn run(
    mut dataplane: Dataplane,
    mut devices: watch::Receiver<Devices>,
    health: watch::Sender<Health>,
    mut full: mpsc::Receiver<Full<KernelMaps>>,
    shutdown: CancellationToken,
) {
    let mut alone = false;
    let mut health_seen = health.subscribe();
    let mut look_again = tokio::time::interval_at(Instant::now() + LOOK_AGAIN, LOOK_AGAIN);
    loop {
        let known = devices.borrow_and_update().clone();
        let failed = dataplane.attach_devices(&known);
        for error in &failed {
            warn!(
                error = error as &dyn std::error::Error,
                "not attached to all devices yet"
            );
        }
        let is_complete = failed.is_empty();
        health.send_if_modified(|health| {
            health.update_attached(is_complete, std::time::Instant::now())
        });
        let retry = async {
            match failed.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(REATTACH).await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = devices.changed() => if changed.is_err() {
                break;
            },
            () = is_steady(&mut health_seen), if !alone => {
                alone = true;
                if let Err(error) = dataplane.remove_other_layouts() {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "another layout stays until the next start"
                    );
                }
            }
            Some(full) = full.recv() => {
                let Ok((back, grown)) = grow(dataplane, full.map).await else {
                    break;
                };
                dataplane = back;
                match grown {
                    // Whoever asked may have ended meanwhile.
                    Ok(maps) => drop(full.larger.send(maps)),
                    Err(error) if error.is_fatal() => {
                        error!(
                            error = &error as &dyn std::error::Error,
                            map = full.map,
                            "no room was made; the daemon ends, since its next start puts this in order"
                        );
                        break;
                    }
                    Err(error) => warn!(
                        error = &error as &dyn std::error::Error,
                        map = full.map,
                        "no room was made"
                    ),
                }
            }
            _ = look_again.tick() => if let Err(error) = dataplane.look_again() {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot see what is attached"
                );
            },
            () = retry => {}
        }
    }
}

/// Waits until the maps hold everything.
async fn is_steady(health: &mut watch::Receiver<Health>) {
    if health.wait_for(Health::is_steady).await.is_err() {
        // Nobody is at it any more.
        std::future::pending().await
    }
}

/// Makes room on a thread of its own: it takes the verifier some tenths of a second, in which watches are to be read and
/// probes answered. An error is that thread's panic.
async fn grow(
    mut dataplane: Dataplane,
    full: &'static str,
) -> Result<(Dataplane, Result<KernelMaps, attach::Error>), JoinError> {
    let work = move || {
        let grown = dataplane.grow(full);
        (dataplane, grown)
    };
    spawn_blocking(work).await
}
