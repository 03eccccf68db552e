//! The pods that wait for a node, in the order in which they are tried. Pure: time is an argument.
//!
//! A pod is ready to be tried, or it was found unschedulable and waits for a change that could help it, or it waits out a
//! pause after a failure. Higher priority goes first, then who has waited longer.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::demand::Demand;
use crate::runtime::store::Key;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// However sure we are that nothing has changed, an unschedulable pod is tried again after this long.
const SAFETY_NET: Duration = Duration::from_secs(300);

/// A waiting pod.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) uid: String,
    pub(super) demand: Arc<Demand>,
    priority: i32,
    arrival: u64,
    attempts: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// Being bound.
    Taken,
    Pausing {
        until: Instant,
    },
    Unschedulable {
        since: Instant,
        until: Instant,
    },
}

/// The waiting pods.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pods: HashMap<Key, Waiting>,
    ready: BTreeSet<(Reverse<i32>, u64, Key)>,
    /// The pods that are to be tried again at a time, though nothing happens.
    due: BTreeSet<(Instant, Key)>,
    arrivals: u64,
}

impl Queue {
    /// A pod wants a node. One that waits already keeps its place; if it has changed it is worth another try.
    pub(super) fn set(
        &mut self,
        key: &Key,
        uid: &str,
        priority: i32,
        demand: Demand,
        now: Instant,
    ) {
        let known = self.pods.get(key).filter(|known| known.uid == uid).cloned();
        let (arrival, attempts, state) = match known {
            Some(known) => (known.arrival, known.attempts, known.state),
            None => {
                self.arrivals += 1;
                (self.arrivals, 0, State::Ready)
            }
        };
        self.remove(key);
        let pod = Waiting {
            uid: uid.to_owned(),
            demand: Arc::new(demand),
            priority,
            arrival,
            attempts,
            state,
        };
        self.pods.insert(key.clone(), pod);
        match state {
            State::Unschedulable { until, .. } => self.wake(key, until, now),
            state => self.enter(key, state),
        }
    }

    /// The pod needs no node any more.
    pub(super) fn remove(&mut self, key: &Key) {
        self.leave(key);
        self.pods.remove(key);
    }

    /// The next pod to try.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Key, Waiting)> {
        while let Some((at, key)) = self.due.first().cloned()
            && at <= now
        {
            self.enter(&key, State::Ready);
        }
        let (_, _, key) = self.ready.first()?.clone();
        self.enter(&key, State::Taken);
        let pod = self.pods.get_mut(&key)?;
        pod.attempts += 1;
        Some((key, pod.clone()))
    }

    /// No node can take the pod now.
    pub(super) fn unschedulable(&mut self, key: &Key, now: Instant) {
        let until = now + self.pause(key);
        self.enter(key, State::Unschedulable { since: now, until });
    }

    /// Binding failed for a reason that has nothing to do with nodes.
    pub(super) fn failed(&mut self, key: &Key, now: Instant) {
        let until = now + self.pause(key);
        self.enter(key, State::Pausing { until });
    }

    /// Something changed: unschedulable pods that it helps are tried again, but not before their pause is over.
    pub(super) fn helped(&mut self, helps: impl Fn(&Demand) -> bool, now: Instant) {
        let stuck = self.pods.iter().filter_map(|(key, pod)| match pod.state {
            State::Unschedulable { until, .. } if helps(&pod.demand) => Some((key.clone(), until)),
            _ => None,
        });
        for (key, until) in stuck.collect::<Vec<_>>() {
            self.wake(&key, until, now);
        }
    }

    /// When the queue should be looked at again though nothing happens.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    fn pause(&self, key: &Key) -> Duration {
        pause(self.pods.get(key).map_or(0, |pod| pod.attempts))
    }

    fn wake(&mut self, key: &Key, until: Instant, now: Instant) {
        self.enter(
            key,
            if until <= now {
                State::Ready
            } else {
                State::Pausing { until }
            },
        );
    }

    fn enter(&mut self, key: &Key, state: State) {
        self.leave(key);
        let Some(pod) = self.pods.get_mut(key) else {
            return;
        };
        pod.state = state;
        if let Some(at) = state.due() {
            self.due.insert((at, key.clone()));
        }
        if state == State::Ready {
            self.ready
                .insert((Reverse(pod.priority), pod.arrival, key.clone()));
        }
    }

    fn leave(&mut self, key: &Key) {
        let Some(pod) = self.pods.get(key) else {
            return;
        };
        self.ready
            .remove(&(Reverse(pod.priority), pod.arrival, key.clone()));
        if let Some(at) = pod.state.due() {
            self.due.remove(&(at, key.clone()));
        }
    }
}

impl State {
    /// When the pod is to be tried again by itself.
    fn due(self) -> Option<Instant> {
        match self {
            Self::Pausing { until } => Some(until),
            Self::Unschedulable { since, .. } => Some(since + SAFETY_NET),
            Self::Ready | Self::Taken => None,
        }
    }
}

fn pause(attempts: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(1 << attempts.saturating_sub(1).min(10))
        .min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(seconds: u64, start: Instant) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn add(queue: &mut Queue, name: &str, priority: i32, now: Instant) {
        queue.set(&Key::new("a", name), name, priority, Demand::default(), now);
    }

    fn pop(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|(key, _)| key.name)
    }

    #[test]
    fn priority_then_age() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        add(&mut queue, "first", 0, now);
        add(&mut queue, "second", 0, now);
        add(&mut queue, "urgent", 10, now);
        add(&mut queue, "gone", 20, now);
        add(&mut queue, "first", 0, now);
        queue.remove(&Key::new("a", "gone"));
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue, now)).collect();
        assert_eq!(order, ["urgent", "first", "second"]);
        add(&mut queue, "first", 0, now);
        assert_eq!(pop(&mut queue, now), None, "it is being bound");
    }

    #[test]
    fn an_unschedulable_pod_waits_for_help_and_for_its_pause() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let key = Key::new("a", "p");
        add(&mut queue, "p", 0, now);
        pop(&mut queue, now);
        queue.unschedulable(&key, now);
        assert_eq!(queue.next_due(), Some(now + SAFETY_NET));
        queue.helped(|_| false, second(5, now));
        assert_eq!(pop(&mut queue, second(5, now)), None);
        queue.helped(|_| true, second(5, now));
        assert_eq!(pop(&mut queue, second(5, now)).as_deref(), Some("p"));
        queue.unschedulable(&key, second(5, now));
        queue.helped(|_| true, second(5, now));
        assert_eq!(
            queue.next_due(),
            Some(second(7, now)),
            "the second pause is two seconds"
        );
        assert_eq!(pop(&mut queue, second(6, now)), None);
        assert_eq!(pop(&mut queue, second(7, now)).as_deref(), Some("p"));
    }

    #[test]
    fn nobody_is_forgotten() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        add(&mut queue, "p", 0, now);
        pop(&mut queue, now);
        queue.unschedulable(&Key::new("a", "p"), now);
        assert_eq!(pop(&mut queue, second(299, now)), None);
        assert_eq!(pop(&mut queue, second(300, now)).as_deref(), Some("p"));
        queue.failed(&Key::new("a", "p"), now);
        assert_eq!(pop(&mut queue, second(2, now)).as_deref(), Some("p"));
    }

    #[test]
    fn a_changed_pod_is_tried_again_and_a_reborn_one_starts_anew() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        add(&mut queue, "p", 0, now);
        pop(&mut queue, now);
        queue.unschedulable(&Key::new("a", "p"), now);
        add(&mut queue, "p", 0, second(3, now));
        assert_eq!(pop(&mut queue, second(3, now)).as_deref(), Some("p"));
        queue.set(&Key::new("a", "p"), "reborn", 0, Demand::default(), now);
        assert_eq!(pop(&mut queue, now).as_deref(), Some("p"));
    }

    #[test]
    fn pauses_grow_to_ten_seconds() {
        assert_eq!(
            [1, 2, 3, 4, 5, 99].map(|attempts| pause(attempts).as_secs()),
            [1, 2, 4, 8, 10, 10]
        );
    }
}
