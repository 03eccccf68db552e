//! A queue of keys in which every key waits at most once and is worked on by at most one worker.
//!
//! A key added while it is being worked on comes back when that work is done. A failed key comes back after a pause that
//! doubles with each failure; a key can also be asked for at a later time, and the earliest request wins.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::lock;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A handle to a queue; clones share it.
pub(crate) struct Queue<T>(Arc<Inner<T>>);

struct Inner<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

struct State<T> {
    ready: VecDeque<T>,
    /// The keys in `ready`.
    waiting: HashSet<T>,
    active: HashSet<T>,
    /// Keys added while active.
    again: HashSet<T>,
    due: BTreeSet<(Instant, T)>,
    due_at: HashMap<T, Instant>,
    failures: HashMap<T, u32>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Clone + Ord + Hash + fmt::Display> Default for Queue<T> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            active: HashSet::new(),
            again: HashSet::new(),
            due: BTreeSet::new(),
            due_at: HashMap::new(),
            failures: HashMap::new(),
        };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            changed: Notify::new(),
        }))
    }
}

impl<T: Clone + Ord + Hash + fmt::Display> Queue<T> {
    /// Asks for the key to be worked on now.
    pub(crate) fn add(&self, key: T) {
        lock(&self.0.state).add(key);
        self.0.changed.notify_one();
    }

    /// Asks for the key to be worked on after this time, unless it is asked for earlier.
    pub(crate) fn add_after(&self, key: T, pause: Duration) {
        lock(&self.0.state).delay(key, Instant::now() + pause);
        self.0.changed.notify_one();
    }

    /// Waits for the next key. It is active until [`Queue::done`]. Cancelling the wait loses nothing.
    pub(crate) async fn next(&self) -> T {
        loop {
            let changed = self.0.changed.notified();
            let due = {
                let mut state = lock(&self.0.state);
                state.wake(Instant::now());
                if let Some(key) = state.take() {
                    return key;
                }
                state.due.first().map(|(at, _)| *at)
            };
            match due {
                Some(at) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => changed.await,
            }
        }
    }

    /// Ends the work on a key; after a failure the key comes back later. Answers the pause.
    pub(crate) fn done(&self, key: &T, failed: bool) -> Option<Duration> {
        let pause = lock(&self.0.state).done(key, failed, Instant::now());
        self.0.changed.notify_one();
        pause
    }

    /// Brings back the keys whose worker died over them.
    pub(crate) fn recover(&self) {
        let mut state = lock(&self.0.state);
        let lost: Vec<T> = state.active.iter().cloned().collect();
        for key in lost {
            state.done(&key, true, Instant::now());
        }
    }
}

impl<T: Clone + Ord + Hash> State<T> {
    fn add(&mut self, key: T) {
        if let Some(at) = self.due_at.remove(&key) {
            self.due.remove(&(at, key.clone()));
        }
        if self.active.contains(&key) {
            self.again.insert(key);
        } else if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn delay(&mut self, key: T, at: Instant) {
        if self.waiting.contains(&key) || self.again.contains(&key) {
            return;
        }
        match self.due_at.get(&key) {
            Some(earlier) if *earlier <= at => return,
            Some(later) => {
                self.due.remove(&(*later, key.clone()));
            }
            None => {}
        }
        self.due.insert((at, key.clone()));
        self.due_at.insert(key, at);
    }

    /// Moves what is due to the ready keys.
    fn wake(&mut self, now: Instant) {
        while let Some((at, key)) = self.due.first() {
            if *at > now {
                return;
            }
            let key = key.clone();
            self.add(key);
        }
    }

    fn take(&mut self) -> Option<T> {
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        self.active.insert(key.clone());
        Some(key)
    }

    fn done(&mut self, key: &T, failed: bool, now: Instant) -> Option<Duration> {
        self.active.remove(key);
        if self.again.remove(key) && !failed {
            self.add(key.clone());
        }
        if !failed {
            self.failures.remove(key);
            return None;
        }
        let failures = self.failures.entry(key.clone()).or_default();
        let pause = FIRST_PAUSE
            .saturating_mul(1 << (*failures).min(20))
            .min(LONGEST_PAUSE);
        *failures += 1;
        self.delay(key.clone(), now + pause);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_returns_if_added_while_active() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(queue.next().await, "b");
        assert_eq!(queue.done(&"a", false), None);
        assert_eq!(queue.next().await, "a");
        queue.done(&"a", false);
        queue.done(&"b", false);
        assert!(
            tokio::time::timeout(Duration::from_secs(3600), queue.next())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failures_pause_longer_each_time_and_success_forgets_them() {
        let queue = Queue::default();
        queue.add("a");
        for pause in [5, 10, 20, 40] {
            let key = queue.next().await;
            assert_eq!(queue.done(&key, true), Some(Duration::from_millis(pause)));
        }
        let key = queue.next().await;
        queue.done(&key, false);
        queue.add("a");
        let key = queue.next().await;
        assert_eq!(queue.done(&key, true), Some(Duration::from_millis(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_request_wins() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(30));
        let key = queue.next().await;
        assert_eq!(start.elapsed(), Duration::from_secs(10));
        queue.done(&key, false);
        assert!(
            tokio::time::timeout(Duration::from_secs(3600), queue.next())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn keys_of_a_dead_worker_come_back() {
        let queue = Queue::default();
        queue.add("a");
        queue.next().await;
        queue.recover();
        assert_eq!(queue.next().await, "a");
    }
}
