//! Who may use which number: service ids, backend ids, and stretches of the slot array. Pure; time is an argument.
//!
//! What nothing names any more goes through a quarantine before it is used again, because a program in the kernel may
//! have read its number just before. Allocation prefers low numbers, which keeps the part of the arrays in use dense.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use dataplane_ebpf::abi::{QUARANTINE_SECONDS, Run};

/// How long a number stays unused after nothing names it any more.
pub(crate) const QUARANTINE: Duration = Duration::from_secs(QUARANTINE_SECONDS);

/// Ids below a limit.
#[derive(Debug)]
pub(crate) struct Ids {
    size: u32,
    /// Ids from here on were never given out.
    fresh: u32,
    free: BTreeSet<u32>,
    quarantine: VecDeque<(Instant, u32)>,
}

/// Stretches of an array.
#[derive(Debug)]
pub(crate) struct Runs {
    size: u32,
    /// Free stretches: base to length. No two touch.
    free: BTreeMap<u32, u32>,
    /// The same by length, to find the smallest that fits.
    by_length: BTreeSet<(u32, u32)>,
    /// The sum of their lengths.
    free_slots: u64,
    quarantine: VecDeque<(Instant, Run)>,
}

impl Ids {
    /// All ids below `size` but those already `used`.
    pub(crate) fn new(size: u32, used: &BTreeSet<u32>) -> Self {
        let fresh = used.last().map_or(0, |last| last + 1);
        let free = (0..fresh).filter(|id| !used.contains(id)).collect();
        let quarantine = VecDeque::new();
        Self {
            size,
            fresh,
            free,
            quarantine,
        }
    }

    /// Adds the ids up to `size`.
    pub(crate) fn grow(&mut self, size: u32) {
        self.size = self.size.max(size);
    }

    /// An id that nothing names, if there is one left.
    pub(crate) fn take(&mut self) -> Option<u32> {
        if let Some(id) = self.free.pop_first() {
            return Some(id);
        }
        let id = (self.fresh < self.size).then_some(self.fresh)?;
        self.fresh += 1;
        Some(id)
    }

    /// Gives back an id that was never published.
    pub(crate) fn give_back(&mut self, id: u32) {
        self.free.insert(id);
    }

    /// Puts an id that nothing names any more into quarantine.
    pub(crate) fn retire(&mut self, id: u32, now: Instant) {
        self.quarantine.push_back((now + QUARANTINE, id));
    }

    /// The next id whose quarantine is over; the caller gives it back when it has no trace left.
    pub(crate) fn next_released(&mut self, now: Instant) -> Option<u32> {
        pop_due(&mut self.quarantine, now)
    }

    /// When the next quarantine is over.
    pub(crate) fn next_release(&self) -> Option<Instant> {
        self.quarantine.front().map(|(due, _)| *due)
    }

    /// How many ids are given out, not counting those in quarantine.
    pub(crate) fn used(&self) -> usize {
        self.fresh as usize - self.free.len() - self.quarantine.len()
    }
}

impl Runs {
    /// An array of `size` free slots.
    pub(crate) fn new(size: u32) -> Self {
        let mut runs = Self {
            size: 0,
            free: BTreeMap::new(),
            by_length: BTreeSet::new(),
            free_slots: 0,
            quarantine: VecDeque::new(),
        };
        runs.grow(size);
        runs
    }

    /// Adds the slots up to `size`.
    pub(crate) fn grow(&mut self, size: u32) {
        if size > self.size {
            self.give_back(Run::new(self.size, size - self.size));
            self.size = size;
        }
    }

    /// Marks `run` as used, unless a part of it already is or does not exist.
    #[must_use]
    pub(crate) fn reserve(&mut self, run: Run) -> bool {
        let (base, count) = (run.base(), run.count());
        let Some((&start, &length)) = self.free.range(..=base).next_back() else {
            return false;
        };
        let before = base - start;
        let Some(after) = length
            .checked_sub(before)
            .and_then(|rest| rest.checked_sub(count))
        else {
            return false;
        };
        self.remove(start, length);
        self.insert(start, before);
        self.insert(base + count, after);
        true
    }

    /// A run of `count` slots that nothing names, if one fits; the smallest free stretch that does is used.
    pub(crate) fn take(&mut self, count: u32) -> Option<Run> {
        let &(length, base) = self.by_length.range((count, 0)..).next()?;
        self.remove(base, length);
        self.insert(base + count, length - count);
        Some(Run::new(base, count))
    }

    /// Gives back a run that was never published.
    pub(crate) fn give_back(&mut self, run: Run) {
        let (mut base, mut length) = (run.base(), run.count());
        if let Some((&before, &size)) = self.free.range(..base).next_back()
            && before + size == base
        {
            self.remove(before, size);
            (base, length) = (before, size + length);
        }
        if let Some(&size) = self.free.get(&(base + length)) {
            self.remove(base + length, size);
            length += size;
        }
        self.insert(base, length);
    }

    /// Puts a run that nothing names any more into quarantine. An empty one needs none.
    pub(crate) fn retire(&mut self, run: Run, now: Instant) {
        if run.count() > 0 {
            self.quarantine.push_back((now + QUARANTINE, run));
        }
    }

    /// Frees the runs whose quarantine is over.
    pub(crate) fn release(&mut self, now: Instant) {
        while let Some(run) = pop_due(&mut self.quarantine, now) {
            self.give_back(run);
        }
    }

    /// When the next quarantine is over.
    pub(crate) fn next_release(&self) -> Option<Instant> {
        self.quarantine.front().map(|(due, _)| *due)
    }

    /// How many slots are free.
    pub(crate) fn free(&self) -> u64 {
        self.free_slots
    }

    fn insert(&mut self, base: u32, length: u32) {
        if length > 0 {
            self.free.insert(base, length);
            self.by_length.insert((length, base));
            self.free_slots += u64::from(length);
        }
    }

    fn remove(&mut self, base: u32, length: u32) {
        self.free_slots -= u64::from(length);
        self.free.remove(&base);
        self.by_length.remove(&(length, base));
    }
}

fn pop_due<T>(quarantine: &mut VecDeque<(Instant, T)>, now: Instant) -> Option<T> {
    quarantine
        .pop_front_if(|(due, _)| *due <= now)
        .map(|(_, item)| item)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(now: Instant) -> Instant {
        now + QUARANTINE
    }

    #[test]
    fn an_id_is_used_again_only_after_its_quarantine() {
        let now = Instant::now();
        let mut ids = Ids::new(2, &BTreeSet::new());
        assert_eq!(
            (ids.take(), ids.take(), ids.take()),
            (Some(0), Some(1), None)
        );
        ids.retire(0, now);
        assert_eq!(ids.next_released(now), None);
        assert_eq!(ids.take(), None);
        assert_eq!(ids.next_released(later(now)), Some(0));
        ids.give_back(0);
        assert_eq!(ids.take(), Some(0));
    }

    #[test]
    fn what_grows_keeps_what_is_taken_and_has_more() {
        let mut ids = Ids::new(1, &BTreeSet::from([0]));
        ids.grow(2);
        assert_eq!((ids.take(), ids.take()), (Some(1), None));
        let mut runs = Runs::new(4);
        assert_eq!(runs.take(3), Some(Run::new(0, 3)));
        runs.grow(6);
        assert_eq!(runs.take(3), Some(Run::new(3, 3)));
        assert_eq!(runs.free(), 0);
    }

    #[test]
    fn recovered_ids_are_not_given_out() {
        let mut ids = Ids::new(5, &BTreeSet::from([1, 3]));
        assert_eq!(ids.used(), 2);
        let given: Vec<u32> = std::iter::from_fn(|| ids.take()).collect();
        assert_eq!(given, [0, 2, 4]);
    }

    #[test]
    fn runs_fill_the_smallest_gap_that_fits() {
        let mut runs = Runs::new(16);
        assert!(runs.reserve(Run::new(2, 2)));
        assert!(runs.reserve(Run::new(7, 1)));
        assert_eq!(runs.take(3), Some(Run::new(4, 3)));
        assert_eq!(runs.take(2), Some(Run::new(0, 2)));
        assert_eq!(runs.take(9), None);
        assert_eq!(runs.take(8), Some(Run::new(8, 8)));
        assert_eq!(runs.free(), 0);
    }

    #[test]
    fn a_run_that_is_taken_or_outside_cannot_be_reserved() {
        let mut runs = Runs::new(8);
        assert!(runs.reserve(Run::new(2, 4)));
        for run in [
            Run::new(2, 1),
            Run::new(0, 3),
            Run::new(5, 2),
            Run::new(7, 2),
            Run::new(u32::MAX, 2),
        ] {
            assert!(!runs.reserve(run), "{run:?}");
        }
        assert!(runs.reserve(Run::new(6, 2)));
    }

    #[test]
    fn freed_runs_join_their_neighbours_after_the_quarantine() {
        let now = Instant::now();
        let mut runs = Runs::new(6);
        let taken: Vec<Run> = std::iter::from_fn(|| runs.take(2)).collect();
        for run in &taken {
            runs.retire(*run, now);
        }
        runs.release(now);
        assert_eq!(runs.take(1), None);
        runs.release(later(now));
        assert_eq!(runs.take(6), Some(Run::new(0, 6)));
    }
}
