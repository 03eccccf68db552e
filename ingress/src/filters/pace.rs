//! How fast an answer is sent (nginx's `limit_rate`).

use std::num::NonZeroU64;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

/// How many pieces a second's worth is sent in, at the least.
const PIECES: u64 = 10;
/// The longest that an answer may have to wait. A timer knows no longer times.
const MAX_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// A rate for each answer by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Bytes per second.
    rate: NonZeroU64,
    /// Bytes before that counts.
    after: u64,
}

/// An answer that is sent at a pace.
#[derive(Debug)]
pub struct Paced {
    pace: Pace,
    begun: Instant,
    sent: u64,
    /// What is not to be sent yet.
    held: Bytes,
    timer: Pin<Box<Sleep>>,
}

impl Pace {
    /// `rate` bytes per second after the first `after`; nothing for a rate of 0, which is none.
    pub fn new(rate: u64, after: u64) -> Option<Self> {
        let rate = NonZeroU64::new(rate)?;
        Some(Self { rate, after })
    }

    /// How many bytes may have been sent so long after the beginning. Like nginx an answer may be a second ahead.
    fn allowed(&self, elapsed: Duration) -> u64 {
        let millis = elapsed.as_millis().saturating_add(1000);
        let counted = u128::from(self.rate.get()).saturating_mul(millis) / 1000;
        let counted = u64::try_from(counted).unwrap_or(u64::MAX);
        counted.saturating_add(self.after)
    }

    /// How long after the beginning so many bytes may have been sent.
    fn reached(&self, sent: u64) -> Duration {
        let counted = u128::from(sent.saturating_sub(self.after));
        let millis = (counted * 1000).div_ceil(u128::from(self.rate.get()));
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        Duration::from_millis(millis.saturating_sub(1000)).min(MAX_WAIT)
    }
}

impl Paced {
    /// An answer that begins now.
    pub fn new(pace: Pace) -> Self {
        let begun = Instant::now();
        Self {
            pace,
            begun,
            sent: 0,
            held: Bytes::new(),
            timer: Box::pin(tokio::time::sleep_until(begun)),
        }
    }

    /// Ready with the number of bytes that may be sent now; there is at least one.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            let allowed = self.pace.allowed(self.begun.elapsed());
            let budget = usize::try_from(allowed.saturating_sub(self.sent)).unwrap_or(usize::MAX);
            if budget > 0 {
                return Poll::Ready(budget);
            }
            let piece = (self.pace.rate.get() / PIECES).max(1);
            let reached = self.pace.reached(self.sent.saturating_add(piece));
            self.timer.as_mut().reset(self.begun + reached);
            ready!(self.timer.as_mut().poll(cx));
        }
    }

    /// What was held back before.
    pub fn take_held(&mut self) -> Option<Bytes> {
        let held = std::mem::take(&mut self.held);
        (!held.is_empty()).then_some(held)
    }

    /// The part of `data` that `budget` allows. The rest is held back.
    pub fn portion(&mut self, mut data: Bytes, budget: usize) -> Bytes {
        self.held = data.split_off(budget.min(data.len()));
        self.sent = self.sent.saturating_add(data.len() as u64);
        data
    }

    /// Whether something is held back.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn an_answer_is_a_second_ahead_of_its_rate_at_most() {
        assert_eq!(Pace::new(0, 5), None);
        for (rate, after, millis, allowed) in [
            (100, 0, 0, 100),
            (100, 0, 500, 150),
            (100, 0, 10_000, 1100),
            (100, 1000, 0, 1100),
            (100, 1000, 2000, 1300),
        ] {
            let pace = Pace::new(rate, after).unwrap();
            let elapsed = Duration::from_millis(millis);
            assert_eq!(
                pace.allowed(elapsed),
                allowed,
                "{rate} after {after}: {millis} ms"
            );
            assert_eq!(
                pace.reached(allowed),
                elapsed,
                "{rate} after {after}: {allowed}"
            );
        }
        let slow = Pace::new(1, 0).unwrap();
        assert_eq!(
            (slow.allowed(Duration::MAX), slow.reached(u64::MAX)),
            (u64::MAX, MAX_WAIT)
        );
    }

    #[tokio::test]
    async fn what_exceeds_the_budget_is_held_back() {
        let mut paced = Paced::new(Pace::new(1, 0).unwrap());
        let data = Bytes::from_static(b"abcdef");
        assert_eq!(paced.portion(data, 2), "ab");
        assert!(paced.is_holding());
        let held = paced.take_held().unwrap();
        assert_eq!((&held[..], paced.is_holding()), (&b"cdef"[..], false));
        assert_eq!(paced.portion(held, 10), "cdef");
        assert_eq!(paced.take_held(), None);
    }
}
