//! A small memory of what upstream answered, so that a pod that asks for one name a thousand times asks the node only.
//!
//! Only answers with records are kept, at most half a minute and never past their own time to live. No clock here: now is
//! an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Record;

use crate::answer::Reply;
use crate::upstream::Question;

/// How many answers are kept.
const MAX_ANSWERS: usize = 2048;
/// Seconds an answer is kept, even if its records would live longer.
const MAX_AGE: u32 = 30;

/// Answers that came lately.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    answers: HashMap<Question, Kept>,
}

#[derive(Debug)]
struct Kept {
    reply: Reply,
    since: Instant,
    until: Instant,
}

impl Cache {
    /// The answer to `question`, if it is still good. Its records have aged.
    pub(crate) fn get(&self, question: &Question, now: Instant) -> Option<Reply> {
        let kept = self.answers.get(question).filter(|kept| now < kept.until)?;
        let seconds = now.saturating_duration_since(kept.since).as_secs();
        let age = u32::try_from(seconds).unwrap_or(u32::MAX);
        let mut reply = kept.reply.clone();
        for record in records(&mut reply) {
            record.decrement_ttl(age);
        }
        Some(reply)
    }

    /// Keeps an answer, if it is worth it.
    pub(crate) fn put(&mut self, question: Question, reply: &Reply, now: Instant) {
        let mut reply = reply.clone();
        let shortest = records(&mut reply).map(|record| record.ttl).min();
        let (Some(ttl @ 1..), ResponseCode::NoError) = (shortest, reply.code) else {
            return;
        };
        if reply.answers.is_empty() {
            return;
        }
        self.make_room(now);
        let kept = Kept {
            reply,
            since: now,
            until: now + Duration::from_secs(ttl.min(MAX_AGE).into()),
        };
        self.answers.insert(question, kept);
    }

    /// Drops what is past its time if the cache is full, and everything if nothing is.
    fn make_room(&mut self, now: Instant) {
        if self.answers.len() < MAX_ANSWERS {
            return;
        }
        self.answers.retain(|_, kept| now < kept.until);
        if self.answers.len() >= MAX_ANSWERS {
            self.answers.clear();
        }
    }
}

fn records(reply: &mut Reply) -> impl Iterator<Item = &mut Record> {
    let Reply {
        answers,
        authorities,
        additionals,
        ..
    } = reply;
    answers.iter_mut().chain(authorities).chain(additionals)
}
