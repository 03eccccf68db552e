//! Which events are worth a request: repeats raise a count, floods of one reason are combined, and a source that talks
//! without end about one object is cut off. Pure; the rules and numbers are upstream's.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

/// Distinct messages of one reason about one object before they are combined.
const COMBINE_AFTER: usize = 10;
/// How long messages stay alike to each other.
const COMBINE_WITHIN: SignedDuration = SignedDuration::from_secs(600);
/// Events one source may emit about one object at once, and how long one takes to be earned back.
const BURST: f64 = 25.0;
const REFILL: SignedDuration = SignedDuration::from_secs(300);
/// Remembered keys; beyond it the memory starts anew, which costs duplicates and nothing else.
const MEMORY: usize = 4096;

/// An event as a controller reports it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Report {
    /// Uid of the object it is about.
    pub(crate) uid: String,
    pub(crate) source: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// What to do with a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Write a new event with this message; its name is to be told by [`Correlator::created`].
    Create { key: Report, message: String },
    /// The event with this name happened again, now for the `count`th time.
    Repeat {
        key: Report,
        message: String,
        name: String,
        count: i32,
    },
    /// Say nothing.
    Drop,
}

/// The memory of what was reported.
#[derive(Debug, Default)]
pub(crate) struct Correlator {
    known: HashMap<Report, Known>,
    alike: HashMap<Report, Alike>,
    budgets: HashMap<(String, &'static str), Budget>,
}

#[derive(Debug, Default)]
struct Known {
    name: Option<String>,
    count: i32,
}

#[derive(Debug)]
struct Alike {
    messages: std::collections::HashSet<String>,
    last: Timestamp,
}

#[derive(Debug)]
struct Budget {
    left: f64,
    at: Timestamp,
}

impl Correlator {
    /// Takes a report.
    pub(crate) fn report(&mut self, report: Report, now: Timestamp) -> Outcome {
        let (key, message) = self.combine(report, now);
        if !self.pay(&key, now) {
            return Outcome::Drop;
        }
        if self.known.len() >= MEMORY {
            self.known.clear();
        }
        let known = self.known.entry(key.clone()).or_default();
        known.count += 1;
        match &known.name {
            Some(name) => Outcome::Repeat {
                name: name.clone(),
                count: known.count,
                key,
                message,
            },
            None => Outcome::Create { key, message },
        }
    }

    /// The event was written under this name; later repeats will count on it.
    pub(crate) fn created(&mut self, key: &Report, name: String) {
        if let Some(known) = self.known.get_mut(key) {
            known.name = Some(name);
        }
    }

    /// The written event has expired or was deleted.
    pub(crate) fn lost(&mut self, key: &Report) {
        self.known.remove(key);
    }

    /// The key under which the report is counted, and the message to show.
    fn combine(&mut self, report: Report, now: Timestamp) -> (Report, String) {
        if self.alike.len() >= MEMORY {
            self.alike.clear();
        }
        let group = Report {
            message: String::new(),
            ..report.clone()
        };
        let alike = self.alike.entry(group).or_insert_with(|| Alike {
            messages: Default::default(),
            last: now,
        });
        if now.duration_since(alike.last) > COMBINE_WITHIN {
            alike.messages.clear();
        }
        alike.last = now;
        if alike.messages.len() < COMBINE_AFTER {
            alike.messages.insert(report.message.clone());
        }
        if alike.messages.len() < COMBINE_AFTER {
            let message = report.message.clone();
            return (report, message);
        }
        let message = format!("{COMBINED}{}", report.message);
        (
            Report {
                message: COMBINED.to_owned(),
                ..report
            },
            message,
        )
    }

    fn pay(&mut self, report: &Report, now: Timestamp) -> bool {
        if self.budgets.len() >= MEMORY {
            self.budgets.clear();
        }
        let key = (report.uid.clone(), report.source);
        let budget = self.budgets.entry(key).or_insert(Budget {
            left: BURST,
            at: now,
        });
        let earned = now.duration_since(budget.at).as_secs_f64() / REFILL.as_secs_f64();
        budget.left = (budget.left + earned.max(0.0)).min(BURST);
        budget.at = now;
        if budget.left < 1.0 {
            return false;
        }
        budget.left -= 1.0;
        true
    }
}

const COMBINED: &str = "(combined from similar events): ";

#[cfg(test)]
mod tests {
    use super::*;

    fn report(message: &str) -> Report {
        let (uid, reason, message) = ("u".to_owned(), "Failed".to_owned(), message.to_owned());
        Report {
            uid,
            source: "test",
            kind: "Warning",
            reason,
            message,
        }
    }

    #[test]
    fn a_repeat_counts_on_the_written_event() {
        let (mut correlator, now) = (Correlator::default(), Timestamp::UNIX_EPOCH);
        let (key, message) = (report("m"), "m".to_owned());
        let create = Outcome::Create {
            key: key.clone(),
            message: message.clone(),
        };
        assert_eq!(correlator.report(report("m"), now), create);
        correlator.created(&key, "e1".to_owned());
        let repeat = Outcome::Repeat {
            key: key.clone(),
            message,
            name: "e1".to_owned(),
            count: 2,
        };
        assert_eq!(correlator.report(report("m"), now), repeat);
        correlator.lost(&key);
        assert_eq!(correlator.report(report("m"), now), create);
    }

    #[test]
    fn ten_different_messages_are_combined() {
        let (mut correlator, now) = (Correlator::default(), Timestamp::UNIX_EPOCH);
        for n in 0..9 {
            let message = format!("m{n}");
            assert_eq!(
                correlator.report(report(&message), now),
                Outcome::Create {
                    key: report(&message),
                    message
                }
            );
        }
        let (key, message) = (report(COMBINED), format!("{COMBINED}m9"));
        assert_eq!(
            correlator.report(report("m9"), now),
            Outcome::Create {
                key: key.clone(),
                message
            }
        );
        correlator.created(&key, "e".to_owned());
        let (message, name) = (format!("{COMBINED}m10"), "e".to_owned());
        assert_eq!(
            correlator.report(report("m10"), now),
            Outcome::Repeat {
                key,
                message,
                name,
                count: 2
            }
        );
        let later = now + SignedDuration::from_secs(601);
        let (key, message) = (report("m99"), "m99".to_owned());
        assert_eq!(
            correlator.report(report("m99"), later),
            Outcome::Create { key, message }
        );
    }

    #[test]
    fn an_endless_source_is_cut_off_and_earns_its_voice_back() {
        let (mut correlator, now) = (Correlator::default(), Timestamp::UNIX_EPOCH);
        let said = (0..100)
            .filter(|_| correlator.report(report("m"), now) != Outcome::Drop)
            .count();
        assert_eq!(said, 25);
        assert_ne!(correlator.report(report("m"), now + REFILL), Outcome::Drop);
        assert_eq!(correlator.report(report("m"), now + REFILL), Outcome::Drop);
    }
}
