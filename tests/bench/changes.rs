//! Changes of endpoints, one by one or many a second, and how long the maps take to show each.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::api::Kind;
use crate::daemon::Daemon;
use crate::kernel::Installed;
use crate::objects::Cluster;
use crate::report::Figure;

/// Changes a second that must not make the daemon fall behind.
pub(crate) const RATE: u32 = 1_000;

/// Makes one endpoint after another ready or not, and looks when the map shows it.
pub(crate) struct Changes<'a> {
    daemon: &'a Daemon,
    maps: &'a Installed,
    cluster: &'a Cluster,
    count: u32,
    /// How many endpoints of each Service are ready.
    ready: Vec<u32>,
}

/// A change that the map does not show yet.
struct Pending {
    id: u32,
    ready: u32,
    since: Instant,
}

/// How long a change may take before the daemon counts as stuck.
const STUCK: Duration = Duration::from_secs(20);

impl<'a> Changes<'a> {
    pub(crate) fn new(daemon: &'a Daemon, maps: &'a Installed, cluster: &'a Cluster) -> Self {
        Self {
            daemon,
            maps,
            cluster,
            count: 0,
            ready: vec![cluster.endpoints; cluster.services as usize],
        }
    }

    /// Changes another Service than the last times.
    fn send(&mut self) -> Result<Pending> {
        // A prime, so that all have their turn in an order that no cache likes.
        let service = (u64::from(self.count) * 7_919 % u64::from(self.cluster.services)) as u32;
        self.count += 1;
        let full = self.cluster.endpoints;
        let ready = &mut self.ready[service as usize];
        *ready = if *ready == full { full - 1 } else { full };
        let slice = self.cluster.slice(service, *ready);
        let id = self
            .maps
            .id(self.cluster, service)
            .context("an installed Service")?;
        Ok(Pending {
            id,
            ready: *ready,
            since: self.daemon.api.change(Kind::Slices, service, slice)?,
        })
    }

    /// How long it has taken the map to show the change, in microseconds, if it does.
    fn look(&self, pending: &Pending) -> Result<Option<f64>> {
        let passed = pending.since.elapsed();
        if self.maps.run(pending.id).count() == pending.ready {
            return Ok(Some(passed.as_secs_f64() * 1e6));
        }
        ensure!(passed < STUCK, "a change has not arrived in the maps");
        Ok(None)
    }

    /// Makes one change after another; the figure is in microseconds.
    pub(crate) fn one_by_one(&mut self, changes: u32) -> Result<Figure> {
        let mut times = Vec::new();
        for _ in 0..changes {
            let pending = self.send()?;
            let time = loop {
                if let Some(time) = self.look(&pending)? {
                    break time;
                }
                // The daemon may have been woken on this very processor.
                std::thread::yield_now();
            };
            times.push(time);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Figure::of(times))
    }

    /// Makes [`RATE`] changes a second; the figure is in microseconds.
    pub(crate) fn sustained(&mut self, time: Duration) -> Result<Figure> {
        let begun = Instant::now();
        let total = RATE * u32::try_from(time.as_secs())?;
        let mut times = Vec::new();
        let mut pending = VecDeque::new();
        let mut sent = 0;
        while sent < total || !pending.is_empty() {
            if sent < total && begun.elapsed() >= sent * Duration::from_secs(1) / RATE {
                // A Service that is still on its way must not change again: the map would show the later state.
                if pending.len() < self.cluster.services as usize {
                    pending.push_back(self.send()?);
                    sent += 1;
                }
            }
            while let Some(first) = pending.front() {
                let Some(time) = self.look(first)? else { break };
                times.push(time);
                pending.pop_front();
            }
        }
        Ok(Figure::of(times))
    }
}
