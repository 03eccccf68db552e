//! When something that is not as it should be is tried next, and since when it is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::{Duration, Instant};

use model::ServiceName;
use tracing::warn;

use crate::tables::Error;

/// The wait after the first failure; doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The wait for others that something depends on.
const NEXT_TRY: Duration = Duration::from_secs(10);
/// The longest wait.
pub(crate) const LAST_RETRY: Duration = Duration::from_secs(60);
/// How many failures in a row say that the next try will fail too. The first ones take some seconds.
const HOPELESS: u32 = 5;

/// When something has to be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// Since when the kernel does not have what it should, if that says something about the proxy as a whole.
    pub(crate) since: Option<Instant>,
    /// When to try. Nothing if it is as it should be.
    pub(crate) at: Option<Instant>,
    /// How often it has failed in a row.
    failures: u32,
    /// Somebody was told that it fails.
    told: bool,
}

/// The Services that have to be tried. What a change costs does not depend on how many others are due.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    due: BTreeMap<ServiceName, Due>,
    by_time: BTreeSet<(Instant, ServiceName)>,
    /// Those that count against the proxy.
    by_age: BTreeSet<(Instant, ServiceName)>,
}

impl Due {
    /// As it should be.
    pub(crate) const NEVER: Self = Self {
        since: None,
        at: None,
        failures: 0,
        told: false,
    };

    /// To be tried once more, when others have got further.
    pub(crate) fn later(now: Instant) -> Self {
        Self {
            since: None,
            at: Some(now + NEXT_TRY),
            ..Self::NEVER
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

    /// Takes in how the try went; `what` is for the log. That there is no room is the matter of what does not fit, and
    /// says nothing about the proxy: a load balancer that took the node for broken would only make it worse.
    pub(crate) fn settle(&mut self, result: &Result<(), Error>, what: impl Display, now: Instant) {
        let Err(error) = result else {
            *self = Self::NEVER;
            return;
        };
        let wait = LAST_RETRY.min(FIRST_RETRY * 2u32.saturating_pow(self.failures.min(10)));
        self.failures += 1;
        self.at = Some(now + wait);
        if matches!(error, Error::Full { .. }) {
            self.since = None;
        }
        warn!(
            %what,
            failures = self.failures,
            ?wait,
            error = error as &dyn std::error::Error,
            "not installed yet"
        );
    }
}

impl Queue {
    /// Makes the Service called `name` be tried at once.
    pub(crate) fn now(&mut self, name: ServiceName, now: Instant) {
        let mut due = self.take(&name).unwrap_or(Due::NEVER);
        due.now(now);
        self.put(name, due);
    }

    /// Whether the Service called `name` has been tried in vain.
    pub(crate) fn has_failed(&self, name: &ServiceName) -> bool {
        self.due.get(name).is_some_and(|due| due.failures > 0)
    }

    /// Whether the Service called `name` has not been tried yet, or not often enough in vain to be given up.
    pub(crate) fn has_hope(&self, name: &ServiceName) -> bool {
        self.due
            .get(name)
            .is_some_and(|due| due.failures < HOPELESS)
    }

    /// Notes that it is told that the Service called `name` fails. Whether that is so and was not told before.
    pub(crate) fn tell(&mut self, name: &ServiceName) -> bool {
        let due = self.due.get_mut(name).filter(|due| due.failures > 0);
        due.is_some_and(|due| !std::mem::replace(&mut due.told, true))
    }

    /// The Services that wait, in order of names.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &ServiceName> {
        self.due.keys()
    }

    /// The Services that it is time to try, in order of names.
    pub(crate) fn names(&self, now: Instant) -> Vec<ServiceName> {
        let due = self.by_time.iter().take_while(|(at, _)| *at <= now);
        let mut names: Vec<ServiceName> = due.map(|(_, name)| name.clone()).collect();
        names.sort();
        names
    }

    /// Takes in how the try of the Service called `name` went, which need not have been due.
    pub(crate) fn settle(&mut self, name: &ServiceName, result: &Result<(), Error>, now: Instant) {
        let mut due = self.take(name).unwrap_or(Due {
            since: Some(now),
            ..Due::NEVER
        });
        due.settle(result, name, now);
        self.put(name.clone(), due);
    }

    /// Makes all that wait be tried at once, as if they had never failed: what they failed by has changed.
    pub(crate) fn all_anew(&mut self, now: Instant) {
        let waiting: Vec<ServiceName> = self.due.keys().cloned().collect();
        for name in waiting {
            let mut due = self.take(&name).unwrap_or(Due::NEVER);
            due.failures = 0;
            due.now(now);
            self.put(name, due);
        }
    }

    /// When the next one is to be tried.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Since when the oldest one that counts against the proxy is due.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.by_age.first().map(|(since, _)| *since)
    }

    /// How many are due.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    fn take(&mut self, name: &ServiceName) -> Option<Due> {
        let (name, due) = self.due.remove_entry(name)?;
        if let Some(since) = due.since {
            self.by_age.remove(&(since, name.clone()));
        }
        if let Some(at) = due.at {
            self.by_time.remove(&(at, name));
        }
        Some(due)
    }

    fn put(&mut self, name: ServiceName, due: Due) {
        let Some(at) = due.at else {
            return;
        };
        if let Some(since) = due.since {
            self.by_age.insert((since, name.clone()));
        }
        self.by_time.insert((at, name.clone()));
        self.due.insert(name, due);
    }
}
