//! The connections of HTTP/1.1 that a thread keeps for later, bounded in number: the one that has been idle for longest
//! makes room for another.

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::exclusive::Exclusive;
use super::pool::Key;

/// Idle connections by what they are good for, each list in order of time. Keys are not chosen by clients, so they are
/// hashed in the cheapest way.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    of_key: FxHashMap<Key, Vec<Idle>>,
    count: usize,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) connection: Exclusive,
    pub(super) since: Instant,
}

impl Shelf {
    /// Takes the one for `key` that was used last.
    pub(super) fn pop(&mut self, key: &Key) -> Option<Idle> {
        let idle = self.of_key.get_mut(key)?.pop()?;
        self.count -= 1;
        Some(idle)
    }

    /// Keeps `idle` for `key`, with no more than `most` of all.
    pub(super) fn push(&mut self, key: Key, idle: Idle, most: usize) {
        if most == 0 {
            return;
        }
        while self.count >= most {
            self.drop_oldest();
        }
        self.of_key.entry(key).or_default().push(idle);
        self.count += 1;
    }

    /// Drops all that are not `kept`, and forgets keys without any.
    pub(super) fn retain(&mut self, mut kept: impl FnMut(&mut Idle) -> bool) {
        self.of_key.retain(|_, list| {
            list.retain_mut(&mut kept);
            !list.is_empty()
        });
        self.count = self.of_key.values().map(Vec::len).sum();
    }

    fn drop_oldest(&mut self) {
        let lists = self.of_key.values_mut().filter(|list| !list.is_empty());
        match lists.min_by_key(|list| list.first().map(|idle| idle.since)) {
            Some(list) => {
                list.remove(0);
                self.count -= 1;
            }
            None => self.count = 0,
        }
    }
}
