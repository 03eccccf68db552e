//! The connections of HTTP/1.1 that a thread keeps for later, bounded in number: the one that has been idle for longest
//! makes room for another.

use std::collections::HashMap;

use tokio::time::Instant;

use super::pool::{Exclusive, Key};

/// Idle connections by what they are good for. No list is empty, and each is in order of time.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    of_key: HashMap<Key, Vec<Idle>>,
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
        let list = self.of_key.get_mut(key)?;
        let idle = list.pop();
        if list.is_empty() {
            self.of_key.remove(key);
        }
        self.count -= usize::from(idle.is_some());
        idle
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

    /// Drops all that are not `kept`.
    pub(super) fn retain(&mut self, kept: impl Fn(&Idle) -> bool) {
        self.of_key.retain(|_, list| {
            list.retain(&kept);
            !list.is_empty()
        });
        self.count = self.of_key.values().map(Vec::len).sum();
    }

    fn drop_oldest(&mut self) {
        let oldest = self.of_key.iter();
        let oldest = oldest.min_by_key(|(_, list)| list.first().map(|idle| idle.since));
        let Some(key) = oldest.map(|(key, _)| key.clone()) else {
            self.count = 0;
            return;
        };
        let Some(list) = self.of_key.get_mut(&key) else {
            return;
        };
        list.remove(0);
        self.count -= 1;
        if list.is_empty() {
            self.of_key.remove(&key);
        }
    }
}
