//! ingress-nginx's ConfigMap, from text to settings.
//!
//! What it says goes over the command line, key by key, and under the annotations of an Ingress. A value that cannot be
//! used counts as absent and is reported. One that keeps requests out and cannot be used is named apart: whoever asked
//! must go on with the last good one, or not begin.

use std::collections::{BTreeMap, BTreeSet};

use crate::annotations::known::Known;
use crate::annotations::{
    Annotations, Defaults, Finding, Policy, Reference, Referenced, Verdict, external_auth,
};
use crate::config::GatewayArgs;

mod arguments;
mod everywhere;
pub mod known;

pub use everywhere::Everywhere;

use known::Way;

/// The entries of a ConfigMap.
pub type Entries = BTreeMap<String, String>;

/// What a ConfigMap comes to.
#[derive(Debug)]
pub struct Reading {
    /// The arguments of the command line with what it says over them.
    pub args: GatewayArgs,
    /// What it says for all routes beside that.
    pub everywhere: Everywhere,
    /// What it says for Ingresses that say nothing else.
    pub defaults: Defaults,
    /// What there is to say about each key.
    pub findings: Vec<Finding>,
    /// The ConfigMaps that it names, there or not.
    pub references: BTreeSet<Reference>,
    /// The keys that keep requests out and have a value that cannot be used.
    pub unusable: BTreeSet<String>,
}

/// Reads `entries`, which are in `namespace`, over the command line's `args`. The ConfigMaps they name are looked up in
/// `objects`; without it, as in a check of a file, those are taken on trust.
pub fn read(
    namespace: &str,
    entries: &Entries,
    args: &GatewayArgs,
    objects: Option<&Referenced>,
) -> Reading {
    let mut reading = Reading {
        args: args.clone(),
        everywhere: Everywhere::default(),
        defaults: Defaults::default(),
        findings: Vec::new(),
        references: BTreeSet::new(),
        unusable: BTreeSet::new(),
    };
    for key in entries.keys().filter(|key| known::find(key).is_none()) {
        let message = match known::nearest(key) {
            Some(other) => format!("no such key; is {other} meant?"),
            None => "no such key".to_owned(),
        };
        reading.say(key, Verdict::Invalid(message));
    }
    let own = of_way(entries, |way| match way {
        Way::Own(known) => Some(known),
        _ => None,
    });
    let mut from = Annotations::of_entries(namespace, own, objects);
    arguments::read(&mut from, &mut reading);
    reading.take(from);

    let auth = of_way(entries, |way| match way {
        Way::GlobalAuth(known) => Some(known),
        _ => None,
    });
    let mut from = Annotations::of_entries(namespace, auth, objects);
    reading.everywhere.global_auth = external_auth::parse(&mut from);
    reading.take(from);

    let annotations = of_way(entries, |way| match way {
        Way::Annotation(known) => Some(known),
        _ => None,
    });
    let mut from = Annotations::of_entries(namespace, annotations.clone(), objects);
    Policy::parse(&mut from);
    reading.take(from);
    let bad: BTreeSet<&str> = reading.bad().collect();
    let good = annotations.filter(|(key, _, value)| !bad.contains(key) && !value.is_empty());
    // Of two keys for one annotation the one that is called like it decides, so it goes over the other.
    let (named, called_else): (Vec<_>, Vec<_>) =
        good.partition(|(key, known, _)| *key == known.name);
    let good = called_else.into_iter().chain(named);
    let good = good.map(|(_, known, value)| (known.name, value.trim().to_owned()));
    reading.defaults.values = good.collect();
    reading.defaults = std::mem::take(&mut reading.defaults).settled();
    reading.findings.sort();
    reading
}

/// The entries that are read in one way, with what they are known as.
fn of_way(
    entries: &Entries,
    wanted: impl Fn(Way) -> Option<&'static Known> + Clone,
) -> impl Iterator<Item = (&str, &'static Known, &str)> + Clone {
    entries.iter().filter_map(move |(key, value)| {
        let known = known::find(key).and_then(&wanted)?;
        Some((key.as_str(), known, value.as_str()))
    })
}

impl Reading {
    fn say(&mut self, key: &str, verdict: Verdict) {
        self.findings.push(Finding {
            annotation: key.to_owned(),
            verdict,
        });
    }

    /// Takes over what there is to say once all has been read.
    fn take(&mut self, from: Annotations<'_>) {
        let remarks = from.finish();
        for finding in &remarks.findings {
            let is_guard = known::find(&finding.annotation).is_some_and(|way| way.known().is_guard);
            if is_guard && finding.is_bad() {
                self.unusable.insert(finding.annotation.clone());
            }
        }
        self.findings.extend(remarks.findings);
        self.references.extend(remarks.references);
    }

    /// The keys that are not carried out.
    fn bad(&self) -> impl Iterator<Item = &str> {
        let bad = self.findings.iter().filter(|finding| finding.is_bad());
        bad.map(|finding| finding.annotation.as_str())
    }
}

#[cfg(test)]
mod tests;
