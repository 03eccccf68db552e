//! Whether an endpoint is to be trusted, judged by the requests it gets (passive outlier detection).
//!
//! One that fails too often in a row is ejected: it gets no requests for a while. Then a single request probes it. If
//! that succeeds, the endpoint is as good as any; if not, it is ejected for twice as long. How many failures are too many
//! and how many endpoints may be out at a time is for [`Upstream`](crate::upstream::Upstream) to say.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The longest ejection.
const LONGEST: Duration = Duration::from_secs(300);

/// The record of one endpoint. Times count from when the endpoint was first seen.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Failures since the last success.
    failures: AtomicU32,
    /// When the next probe may go, in nanoseconds; zero while it is not in doubt.
    until: AtomicU64,
    /// How often it was ejected since it was last well.
    ejections: AtomicU32,
}

impl Health {
    /// Whether it gets no requests at all at `now`.
    pub(crate) fn is_ejected(&self, now: Duration) -> bool {
        nanoseconds(now) < self.until.load(Ordering::Relaxed)
    }

    /// Whether it has been ejected and has not succeeded since.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.until.load(Ordering::Relaxed) != 0
    }

    /// Whether the request at hand may probe it. The next probe has to wait, in case this one never tells.
    pub(crate) fn probe(&self, now: Duration) -> bool {
        const NEXT: Duration = Duration::from_secs(1);
        let until = self.until.load(Ordering::Relaxed);
        let next = nanoseconds(now + NEXT);
        let claim = || {
            self.until
                .compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed)
        };
        until <= nanoseconds(now) && claim().is_ok()
    }

    /// A request succeeded. One that is not a probe says nothing about an endpoint in doubt: it was sent before.
    pub(crate) fn succeeded(&self, is_probe: bool) {
        // Reading is all that usually happens: a store would take the cache line from every other thread.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if is_probe {
            self.restore();
        }
    }

    /// A request failed. Returns how many have in a row.
    pub(crate) fn failed(&self) -> u32 {
        self.failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1)
    }

    /// Ejects it at `now`, for `base` at first and for twice as long every further time.
    pub(crate) fn eject(&self, base: Duration, now: Duration) {
        let before = self.ejections.fetch_add(1, Ordering::Relaxed).min(16);
        let time = base.saturating_mul(1 << before).min(LONGEST);
        let until = nanoseconds(now + time).max(1);
        self.until.store(until, Ordering::Relaxed);
    }

    /// Forgets all that went wrong.
    pub(crate) fn restore(&self) {
        self.until.store(0, Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
        self.ejections.store(0, Ordering::Relaxed);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
