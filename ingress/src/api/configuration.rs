//! The ConfigMap with the gateway's settings over time: what it says now, and what is in effect of it.
//!
//! What keeps requests out and cannot be used stays as it last could. Before anything has been in effect there is nothing
//! to stay with, and then the gateway must not begin.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::ObjectName;

use crate::annotations::{Data, Defaults, Reference, Referenced, Seen, defaults};
use crate::config::GatewayArgs;
use crate::configmap::{self, Entries, Everywhere, Reading, known};
use crate::problem::{IngressRef, Problem};

/// What the gateway is set to, by command line and ConfigMap.
#[derive(Debug)]
pub struct Configuration {
    map: Option<ObjectName>,
    /// The arguments of the command line.
    given: GatewayArgs,
    in_effect: Option<InEffect>,
    /// What is wrong with what the ConfigMap says now.
    problems: Vec<Problem>,
}

#[derive(Debug)]
struct InEffect {
    entries: Entries,
    reading: Reading,
}

impl Configuration {
    /// The settings are `given` by the command line, and by `map` as soon as it has been seen.
    pub fn new(map: Option<ObjectName>, given: GatewayArgs) -> Self {
        Self {
            map,
            given,
            in_effect: None,
            problems: Vec::new(),
        }
    }

    /// The ConfigMaps that have to be looked for.
    pub fn references(&self) -> BTreeSet<Reference> {
        let in_effect = self.in_effect.iter();
        let named = in_effect.flat_map(|in_effect| &in_effect.reading.references);
        let own = self.map.clone().map(Reference::ConfigMap);
        named.cloned().chain(own).collect()
    }

    /// Whether there are settings that can be in effect.
    pub fn is_usable(&self) -> bool {
        self.map.is_none() || self.in_effect.is_some()
    }

    /// What holds for Ingresses that say nothing else.
    pub fn defaults(&self) -> &Defaults {
        match &self.in_effect {
            Some(in_effect) => &in_effect.reading.defaults,
            None => &defaults::NONE,
        }
    }

    /// The arguments that are to be in effect, and what holds for all routes beside them.
    pub fn settings(&self) -> (GatewayArgs, Everywhere) {
        match &self.in_effect {
            Some(InEffect { reading, .. }) => (reading.args.clone(), reading.everywhere.clone()),
            None => (self.given.clone(), Everywhere::default()),
        }
    }

    /// What is wrong with the ConfigMap.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Takes in what has been seen. Says whether other settings are to be in effect.
    pub fn refresh(&mut self, objects: &Referenced) -> bool {
        let Some(map) = &self.map else { return false };
        let mut entries = match objects.get(&Reference::ConfigMap(map.clone())) {
            Some(Seen::Present(data)) => texts(data),
            Some(Seen::Absent) => {
                tracing::warn!(configmap = %map, "there is no such ConfigMap, so it sets nothing");
                Entries::new()
            }
            Some(Seen::Hidden(why)) => {
                tracing::error!(configmap = %map, why, "the ConfigMap with settings cannot be read");
                return false;
            }
            None => return false,
        };
        let read = |entries: &Entries| {
            configmap::read(&map.namespace, entries, &self.given, Some(objects))
        };
        let mut reading = read(&entries);
        self.problems = problems(map, &reading);
        if !reading.unusable.is_empty() {
            let Some(before) = &self.in_effect else {
                for problem in &self.problems {
                    tracing::error!(configmap = %map, "not ready with these settings: {problem}");
                }
                return false;
            };
            for key in &reading.unusable {
                match before.entries.get(key) {
                    Some(value) => drop(entries.insert(key.clone(), value.clone())),
                    None => drop(entries.remove(key)),
                }
            }
            reading = read(&entries);
        }
        if let Some(before) = &self.in_effect {
            for key in waiting(&before.entries, &entries) {
                tracing::warn!(
                    key,
                    "this setting has changed and takes effect at the next start"
                );
            }
        }
        self.in_effect = Some(InEffect { entries, reading });
        true
    }
}

/// The entries of a ConfigMap that are text, as all settings are.
fn texts(data: &Data) -> Entries {
    let text = |(key, value): (&String, &Vec<u8>)| {
        let value = String::from_utf8(value.clone()).ok()?;
        Some((key.clone(), value))
    };
    data.iter().filter_map(text).collect()
}

fn problems(map: &ObjectName, reading: &Reading) -> Vec<Problem> {
    let object = Arc::new(IngressRef {
        name: map.clone(),
        uid: "".into(),
    });
    let all = reading.findings.iter();
    all.filter_map(|finding| finding.problem_of_settings(&object))
        .collect()
}

/// The keys that have changed and count at the start only.
fn waiting<'k>(before: &Entries, now: &Entries) -> impl Iterator<Item = &'k str> {
    let keys = known::AT_THE_START.iter().copied();
    keys.filter(|key| before.get(*key) != now.get(*key))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: GatewayArgs,
    }

    fn seen(entries: &[(&str, &str)]) -> Referenced {
        let data = entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
        let mut objects = Referenced::default();
        objects.put(reference(), Seen::Present(data.collect()));
        objects
    }

    fn name() -> ObjectName {
        ObjectName::new("ns", "settings")
    }

    fn reference() -> Reference {
        Reference::ConfigMap(name())
    }

    fn new() -> Configuration {
        let args = Cli::try_parse_from(["portolan-ingress"]).unwrap().args;
        Configuration::new(Some(name()), args)
    }

    #[test]
    fn nothing_begins_with_a_guard_that_cannot_be_used() {
        let mut configuration = new();
        assert!(!configuration.is_usable());
        let bad = seen(&[("block-cidrs", "everybody"), ("keep-alive-requests", "7")]);
        assert!(!configuration.refresh(&bad) && !configuration.is_usable());
        let mut hidden = Referenced::default();
        hidden.put(reference(), Seen::Hidden("forbidden".to_owned()));
        assert!(!configuration.refresh(&hidden) && !configuration.is_usable());
        // What is no guard does not hold it up.
        assert!(configuration.refresh(&seen(&[("keep-alive-requests", "x")])));
        assert!(configuration.is_usable());
        assert_eq!(configuration.problems().len(), 1);
        let mut absent = Referenced::default();
        absent.put(reference(), Seen::Absent);
        assert!(new().refresh(&absent));
    }

    #[test]
    fn what_waits_for_the_next_start_is_told() {
        let entries = |entries: &[(&str, &str)]| -> Entries {
            let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            entries.iter().map(owned).collect()
        };
        let before = entries(&[("otel-sampler", "AlwaysOn"), ("use-gzip", "true")]);
        let now = entries(&[("otel-sampler", "AlwaysOff"), ("otlp-collector-port", "1")]);
        let told: Vec<_> = waiting(&before, &now).collect();
        assert_eq!(told, ["otel-sampler", "otlp-collector-port"]);
        assert_eq!(waiting(&now, &now).count(), 0);
    }

    #[test]
    fn the_last_good_guard_stays_and_everything_else_goes_on() {
        let mut configuration = new();
        configuration.refresh(&seen(&[("block-cidrs", "10.0.0.0/8")]));
        let bans = |configuration: &Configuration| configuration.settings().1.bans;
        let good = bans(&configuration);
        assert!(!good.is_empty());
        for _ in 0..2 {
            let bad = [
                ("block-cidrs", "x"),
                ("denylist-source-range", "y"),
                ("keep-alive-requests", "7"),
            ];
            assert!(configuration.refresh(&seen(&bad)));
            assert_eq!(bans(&configuration), good);
            assert_eq!(configuration.defaults(), &defaults::NONE);
            assert_eq!(configuration.settings().0.keep_alive_requests, 7);
            assert_eq!(configuration.problems().len(), 2);
        }
        assert!(configuration.refresh(&seen(&[])));
        assert!(bans(&configuration).is_empty() && configuration.problems().is_empty());
    }
}
