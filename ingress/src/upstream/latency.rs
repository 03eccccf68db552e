//! How long an endpoint takes, as a moving average that believes bad news at once (peak EWMA, as Finagle and Linkerd have
//! it): a slow response counts in full, a fast one only by and by, and what is old fades away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The time in which an observation loses two thirds of its weight.
const DECAY_SECONDS: f32 = 10.0;

/// An average, as one number so that it can be shared without a lock: the upper half is when it was made, in milliseconds
/// since the endpoint was first seen, the lower half the average in microseconds as the bits of an `f32`. Zero is none.
#[derive(Debug, Default)]
pub(crate) struct Latency(AtomicU64);

impl Latency {
    /// The average at `now` in microseconds. It fades towards zero while nothing is observed, so that an endpoint that
    /// was slow once is tried again some day.
    pub(crate) fn estimate(&self, now: Duration) -> Option<f32> {
        let (at, average) = unpack(self.0.load(Ordering::Relaxed))?;
        Some(average * weight(at, milliseconds(now)))
    }

    /// Takes in that a response `took` so long, at `now`.
    pub(crate) fn observe(&self, now: Duration, took: Duration) {
        let before = self.0.load(Ordering::Relaxed);
        let (now, took) = (milliseconds(now), took.as_secs_f32() * 1e6);
        let average = match unpack(before) {
            Some((at, average)) if took < average => {
                let weight = weight(at, now);
                average * weight + took * (1.0 - weight)
            }
            _ => took,
        };
        // Of two at the same time one is lost, which is as good as the other.
        self.0.store(pack(now, average), Ordering::Relaxed);
    }

    /// Sets the average of an endpoint that is only just known.
    pub(crate) fn assume(&self, microseconds: f32) {
        self.0.store(pack(0, microseconds), Ordering::Relaxed);
    }
}

/// How much an average made `at` counts `now`.
fn weight(at: u32, now: u32) -> f32 {
    let seconds = now.saturating_sub(at) as f32 / 1e3;
    (-seconds / DECAY_SECONDS).exp()
}

/// Wraps around after 49 days, when an average is taken for too old or too new once.
fn milliseconds(time: Duration) -> u32 {
    time.as_millis() as u32
}

fn pack(at: u32, average: f32) -> u64 {
    // Never zero, which is none.
    u64::from(at) << 32 | u64::from(average.max(f32::MIN_POSITIVE).to_bits())
}

fn unpack(packed: u64) -> Option<(u32, f32)> {
    let average = f32::from_bits(packed as u32);
    (packed != 0).then_some(((packed >> 32) as u32, average))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn bad_news_counts_at_once_and_good_news_slowly() {
        let latency = Latency::default();
        let at = Duration::from_secs;
        assert_eq!(latency.estimate(at(0)), None);
        latency.observe(at(1), Duration::from_millis(1));
        assert_eq!(latency.estimate(at(1)).unwrap().round(), 1_000.0);
        latency.observe(at(1), Duration::from_millis(100));
        assert_eq!(latency.estimate(at(1)).unwrap().round(), 100_000.0);
        latency.observe(at(2), Duration::from_millis(1));
        let after = latency.estimate(at(2)).unwrap();
        assert!((80_000.0..95_000.0).contains(&after), "{after}");
        // An hour later nothing of it is left.
        assert!(latency.estimate(at(3600)).unwrap() < 1.0);
    }
}
