//! When something that is not as it should be is tried next.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::tables::Error;

/// The wait after the first failure; doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest wait.
pub(crate) const LAST_RETRY: Duration = Duration::from_secs(60);

/// When something has to be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// When it became due the first time.
    pub(crate) since: Option<Instant>,
    /// When to try. Nothing if it is as it should be.
    pub(crate) at: Option<Instant>,
    /// How often it has failed in a row.
    failures: u32,
}

impl Due {
    /// As it should be.
    pub(crate) const NEVER: Self = Self {
        since: None,
        at: None,
        failures: 0,
    };

    /// To be tried for the first time.
    pub(crate) fn at_once(now: Instant) -> Self {
        Self {
            since: Some(now),
            at: Some(now),
            failures: 0,
        }
    }

    /// Makes it be tried at once, whatever happened before.
    pub(crate) fn now(&mut self, now: Instant) {
        self.since.get_or_insert(now);
        self.at = Some(now);
    }

    /// Whether it is time to try.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| at <= now)
    }

    /// Takes in how the try went; `what` is for the log.
    pub(crate) fn settle(&mut self, result: Result<(), Error>, what: &str, now: Instant) {
        let Err(error) = result else {
            *self = Self::NEVER;
            return;
        };
        let wait = LAST_RETRY.min(FIRST_RETRY * 2u32.saturating_pow(self.failures.min(10)));
        self.failures += 1;
        self.at = Some(now + wait);
        warn!(
            what,
            failures = self.failures,
            ?wait,
            error = &error as &dyn std::error::Error,
            "not installed yet"
        );
    }
}
