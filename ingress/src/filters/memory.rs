//! A bounded memory of answers that are dear to find out: whether a password is right, whether a client may enter.
//!
//! What is remembered is found by the hash of what was asked, keyed at random, so neither passwords nor tokens stay in
//! memory. Once half of the room is taken, what has not been asked for since the last such time is forgotten.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sha2::{Digest, Sha256};

/// Parts that are locked apart from each other.
const SHARDS: usize = 16;

/// Answers of one kind, shared by all threads.
#[derive(Debug)]
pub struct Memory<V> {
    seed: [u8; 32],
    room: usize,
    shards: [Mutex<Generations<V>>; SHARDS],
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Question([u8; 32]);

#[derive(Debug)]
struct Generations<V> {
    young: HashMap<Question, Answer<V>>,
    old: HashMap<Question, Answer<V>>,
}

#[derive(Debug, Clone)]
struct Answer<V> {
    value: V,
    until: Instant,
}

impl<V: Clone> Memory<V> {
    /// A memory with room for about `room` answers.
    pub fn new(room: usize) -> Self {
        Self {
            seed: rand::random(),
            room: (room / SHARDS / 2).max(1),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// The question that is told by all of `parts`.
    pub fn question(&self, parts: &[&[u8]]) -> Question {
        let mut hash = Sha256::new().chain_update(self.seed);
        for part in parts {
            // With their lengths, so that no two lists of parts are one text.
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        Question(hash.finalize().into())
    }

    /// The answer, if it is known and not out of date `now`.
    pub fn get(&self, question: Question, now: Instant) -> Option<V> {
        let mut shard = self.shard(question);
        if let Some(answer) = shard.old.remove(&question) {
            shard.insert(question, answer, self.room);
        }
        let answer = shard.young.get(&question)?;
        (now < answer.until).then(|| answer.value.clone())
    }

    /// Remembers an answer `until` then.
    pub fn put(&self, question: Question, value: V, until: Instant) {
        let answer = Answer { value, until };
        self.shard(question).insert(question, answer, self.room);
    }

    fn shard(&self, question: Question) -> MutexGuard<'_, Generations<V>> {
        let shard = &self.shards[usize::from(question.0[0]) % SHARDS];
        // Every step leaves generations that are sound.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Generations<V> {
    fn insert(&mut self, question: Question, answer: Answer<V>, room: usize) {
        if self.young.len() >= room {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(question, answer);
    }
}

impl<V> Default for Generations<V> {
    fn default() -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn answers_are_known_until_they_are_out_of_date() {
        let (memory, now) = (Memory::new(100), Instant::now());
        let until = now + Duration::from_secs(5);
        let question = memory.question(&[b"a", b"b"]);
        assert_eq!(memory.get(question, now), None);
        memory.put(question, 1, until);
        assert_eq!(memory.get(question, now), Some(1));
        assert_eq!(memory.get(memory.question(&[b"ab", b""]), now), None);
        assert_eq!(memory.get(question, until), None);
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_asked_for() {
        let room = 64;
        let memory = Memory::new(room);
        let later = Instant::now() + Duration::from_secs(3600);
        let asked = memory.question(&[b"asked"]);
        memory.put(asked, 0, later);
        for number in 1..10_000_u32 {
            memory.put(memory.question(&[&number.to_be_bytes()]), number, later);
            assert_eq!(memory.get(asked, Instant::now()), Some(0), "{number}");
        }
        let known = |shard: &Mutex<Generations<u32>>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.young.len() + shard.old.len()
        };
        assert!(memory.shards.iter().map(known).sum::<usize>() <= room);
    }
}
