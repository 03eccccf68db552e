//! What a controller has asked the API for and its cache does not show yet.
//!
//! Between creating a pod and seeing it in the cache a controller would count one too few and create another. So it notes
//! what it expects before asking, callbacks note what arrives, and the controller acts again only when nothing is open.
//! A lost event cannot block it for ever: expectations lapse after five minutes.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;
use super::store::Key;

const LAPSE: Duration = Duration::from_secs(300);

/// The open expectations of one controller, by the key of the owner.
#[derive(Debug, Default)]
pub(crate) struct Expectations(Mutex<HashMap<Key, Open>>);

#[derive(Debug)]
struct Open {
    creations: usize,
    /// Uids still to be deleted.
    deletions: HashSet<String>,
    since: Instant,
}

impl Expectations {
    /// Whether everything asked for has been seen, or has lapsed.
    pub(crate) fn satisfied(&self, key: &Key, now: Instant) -> bool {
        lock(&self.0).get(key).is_none_or(|open| {
            (open.creations == 0 && open.deletions.is_empty())
                || now.duration_since(open.since) > LAPSE
        })
    }

    /// Expects so many objects to appear. Replaces what was open.
    pub(crate) fn expect_creations(&self, key: &Key, count: usize, now: Instant) {
        let open = Open {
            creations: count,
            deletions: HashSet::new(),
            since: now,
        };
        lock(&self.0).insert(key.clone(), open);
    }

    /// Expects these objects to vanish. Replaces what was open.
    pub(crate) fn expect_deletions(
        &self,
        key: &Key,
        uids: impl IntoIterator<Item = String>,
        now: Instant,
    ) {
        let open = Open {
            creations: 0,
            deletions: uids.into_iter().collect(),
            since: now,
        };
        lock(&self.0).insert(key.clone(), open);
    }

    /// An object appeared, or so many creations will not happen.
    pub(crate) fn created(&self, key: &Key, count: usize) {
        if let Some(open) = lock(&self.0).get_mut(key) {
            open.creations = open.creations.saturating_sub(count);
        }
    }

    /// An object vanished or began to, or its deletion will not happen.
    pub(crate) fn deleted(&self, key: &Key, uid: &str) {
        if let Some(open) = lock(&self.0).get_mut(key) {
            open.deletions.remove(uid);
        }
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, key: &Key) {
        lock(&self.0).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creations_and_deletions_are_awaited() {
        let (expectations, key, now) =
            (Expectations::default(), Key::new("a", "b"), Instant::now());
        assert!(expectations.satisfied(&key, now));
        expectations.expect_creations(&key, 2, now);
        expectations.created(&key, 1);
        assert!(!expectations.satisfied(&key, now));
        expectations.created(&key, 1);
        assert!(expectations.satisfied(&key, now));

        expectations.expect_deletions(&key, ["u".to_owned()], now);
        expectations.deleted(&key, "other");
        assert!(!expectations.satisfied(&key, now));
        expectations.deleted(&key, "u");
        assert!(expectations.satisfied(&key, now));
    }

    #[test]
    fn expectations_lapse() {
        let (expectations, key, now) =
            (Expectations::default(), Key::new("a", "b"), Instant::now());
        expectations.expect_creations(&key, 1, now);
        assert!(!expectations.satisfied(&key, now + LAPSE));
        assert!(expectations.satisfied(&key, now + LAPSE + Duration::from_millis(1)));
    }
}
