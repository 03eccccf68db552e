//! How large the body of a request may be, and how slowly it may come.
//!
//! A body is counted as it passes, so one that is too large is found out at the first byte too many, however it is
//! framed. Time counts against the client only while somebody waits for its bytes: a backend that reads slowly is not
//! the client's fault.

use std::time::Duration;

use tokio::time::Instant;

use crate::message::answer::Reason;

/// How long a body may be waited for before its rate is looked at. Every sender starts slowly.
const GRACE: Duration = Duration::from_secs(5);

/// What the body of a request is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BodyLimits {
    /// The most bytes, if there is a limit.
    pub size: Option<u64>,
    /// The fewest bytes per second, if there is a limit.
    pub rate: Option<u64>,
}

/// What a body has used of its limits.
#[derive(Debug)]
pub struct Allowance {
    limits: BodyLimits,
    bytes: u64,
    waited: Duration,
    waiting: Option<Instant>,
}

impl BodyLimits {
    /// Refuses a body whose head already says that it is too large.
    pub fn check_length(&self, length: Option<u64>) -> Result<(), Reason> {
        match (length, self.size) {
            (Some(length), Some(limit)) if length > limit => Err(Reason::BodyTooLarge),
            _ => Ok(()),
        }
    }
}

impl Allowance {
    /// All of `limits`, for a body of which nothing has come yet.
    pub fn new(limits: BodyLimits) -> Self {
        Self {
            limits,
            bytes: 0,
            waited: Duration::ZERO,
            waiting: None,
        }
    }

    /// The body is waited for from `now` on.
    pub fn wait(&mut self, now: Instant) {
        self.waiting.get_or_insert(now);
    }

    /// So many more bytes have come, `now`.
    pub fn take(&mut self, bytes: usize, now: Instant) -> Result<(), Reason> {
        self.waited += self
            .waiting
            .take()
            .map_or(Duration::ZERO, |since| now - since);
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.limits.size.is_some_and(|limit| self.bytes > limit) {
            return Err(Reason::BodyTooLarge);
        }
        if self.waited > GRACE && self.limits.rate.is_some_and(|least| self.is_below(least)) {
            return Err(Reason::ClientTimeout);
        }
        Ok(())
    }

    fn is_below(&self, least: u64) -> bool {
        u128::from(self.bytes) * 1_000 < u128::from(least) * self.waited.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(size: Option<u64>, rate: Option<u64>) -> BodyLimits {
        BodyLimits { size, rate }
    }

    #[test]
    fn one_byte_too_many_is_too_large_declared_or_counted() {
        let limits = limits(Some(10), None);
        assert_eq!(limits.check_length(None), Ok(()));
        assert_eq!(limits.check_length(Some(10)), Ok(()));
        assert_eq!(limits.check_length(Some(11)), Err(Reason::BodyTooLarge));
        let (mut allowance, now) = (Allowance::new(limits), Instant::now());
        assert_eq!(allowance.take(4, now), Ok(()));
        assert_eq!(allowance.take(6, now), Ok(()));
        assert_eq!(allowance.take(1, now), Err(Reason::BodyTooLarge));
    }

    #[test]
    fn a_body_that_trickles_is_too_slow_once_it_had_its_time() {
        let (mut allowance, start) = (Allowance::new(limits(None, Some(100))), Instant::now());
        for second in 0..10 {
            let now = start + Duration::from_secs(second);
            allowance.wait(now);
            let expected = match second {
                0..=4 => Ok(()),
                _ => Err(Reason::ClientTimeout),
            };
            let found = allowance.take(1, now + Duration::from_secs(1));
            assert_eq!(found, expected, "{second}");
        }
    }

    #[test]
    fn a_slow_reader_is_not_held_against_the_sender() {
        let (mut allowance, start) = (Allowance::new(limits(None, Some(100))), Instant::now());
        for second in 0..100 {
            let now = start + Duration::from_secs(10 * second);
            assert_eq!(allowance.take(1, now), Ok(()));
        }
    }
}
