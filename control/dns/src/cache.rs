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
    /// The answer to `question`, if it is still good. Its records have aged, and the name is written as it was asked for.
    pub(crate) fn get(&self, question: &Question, now: Instant) -> Option<Reply> {
        let kept = self.answers.get(question).filter(|kept| now < kept.until)?;
        let seconds = now.saturating_duration_since(kept.since).as_secs();
        let age = u32::try_from(seconds).unwrap_or(u32::MAX);
        let mut reply = kept.reply.clone();
        for record in records(&mut reply) {
            record.decrement_ttl(age);
            if record.name == question.query.name {
                record.name = question.query.name.clone();
            }
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

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, RecordType};

    use super::*;

    fn question(name: &str) -> Question {
        Question {
            query: Query::query(Name::from_ascii(name).expect("a name"), RecordType::A),
            dnssec_ok: false,
            checking_disabled: false,
        }
    }

    fn reply(question: &Question, ttl: u32) -> Reply {
        let data = RData::A(A::new(192, 0, 2, 1));
        let record = Record::from_rdata(question.query.name.clone(), ttl, data);
        Reply {
            answers: vec![record],
            ..Reply::empty(ResponseCode::NoError)
        }
    }

    /// Keeps an answer with `ttl` and looks after `age` seconds what is left of it.
    #[track_caller]
    fn check(ttl: u32, age: u64, expected: Option<u32>) {
        let (mut cache, question, start) =
            (Cache::default(), question("a.example."), Instant::now());
        cache.put(question.clone(), &reply(&question, ttl), start);
        let found = cache.get(&question, start + Duration::from_secs(age));
        let left = found.map(|reply| reply.answers[0].ttl);
        assert_eq!(left, expected, "ttl {ttl} after {age} s");
    }

    #[test]
    fn answers_age_and_die() {
        check(10, 0, Some(10));
        check(10, 4, Some(6));
        check(10, 10, None);
        check(3600, 29, Some(3571));
        check(3600, 30, None);
        check(0, 0, None);
    }

    #[test]
    fn only_answers_with_records_are_kept() {
        let (mut cache, question, now) = (Cache::default(), question("a.example."), Instant::now());
        for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
            cache.put(question.clone(), &Reply::empty(code), now);
            assert!(cache.get(&question, now).is_none());
        }
    }

    #[test]
    fn an_answer_is_written_as_it_was_asked_for() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let first = question("a.example.");
        cache.put(first.clone(), &reply(&first, 10), now);
        let again = question("A.Example.");
        let found = cache.get(&again, now).expect("the same name");
        assert!(found.answers[0].name.eq_case(&again.query.name));
    }

    #[test]
    fn a_full_cache_makes_room() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for i in 0..=MAX_ANSWERS {
            let question = question(&format!("n{i}.example."));
            cache.put(question.clone(), &reply(&question, 10), now);
            assert!(cache.get(&question, now).is_some());
            assert!(cache.answers.len() <= MAX_ANSWERS);
        }
    }
}
