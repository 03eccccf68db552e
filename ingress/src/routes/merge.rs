//! Where objects meet: what several Ingresses say about one host.
//!
//! Parts are taken from the oldest object to the youngest, so of two that want the same path, or a certificate for the
//! host, the older one keeps it, whatever order they were seen in.

use std::collections::HashMap;
use std::sync::Arc;

use super::ingress::{PathRule, Reading, TlsClaim};
use super::{Host, PathMatch};
use crate::host::HostPattern;
use crate::problem::{Fault, Problem};

/// What a host comes to.
#[derive(Debug, Default)]
pub struct Merged {
    /// Its routes; nothing if no rule names it.
    pub host: Option<Host>,
    /// Its certificate, if a TLS section speaks of it.
    pub claim: Option<TlsClaim>,
    /// What others have already taken.
    pub problems: Vec<Problem>,
}

/// Brings together what `readings`, oldest first, say about the host `pattern`.
pub fn merge<'r>(pattern: &HostPattern, readings: impl Iterator<Item = &'r Reading>) -> Merged {
    let mut merged = Merged::default();
    let mut owners: HashMap<(PathMatch, &str), &Reading> = HashMap::new();
    for reading in readings {
        for claim in reading.claims.iter().filter(|claim| claim.host == *pattern) {
            merged.claim(claim);
        }
        let Some(part) = reading.parts.get(pattern) else {
            continue;
        };
        let host = merged.host.get_or_insert_default();
        if let Some(default) = &part.default {
            host.default.get_or_insert_with(|| default.clone());
        }
        for rule in &part.paths {
            let key = (rule.kind, &*rule.route.path);
            if let Some(owner) = owners.get(&key) {
                let conflict = conflict(pattern, rule, reading, owner);
                merged.problems.push(conflict);
                continue;
            }
            owners.insert(key, reading);
            let route = Arc::clone(&rule.route);
            host.paths.insert(&rule.route.path, rule.kind, route);
        }
    }
    merged
}

impl Merged {
    fn claim(&mut self, claim: &TlsClaim) {
        let Some(first) = &self.claim else {
            self.claim = Some(claim.clone());
            return;
        };
        if first.secret != claim.secret {
            let what = format!("the certificate for host {}", claim.host);
            let owner = first.ingress.name.clone();
            self.problems.push(Problem {
                ingress: claim.ingress.clone(),
                field: claim.field.clone(),
                fault: Fault::Conflict { what, owner },
            });
        }
    }
}

fn conflict(host: &HostPattern, rule: &PathRule, loser: &Reading, owner: &Reading) -> Problem {
    let PathRule { kind, field, route } = rule;
    let what = format!("{kind} path {} of host {host}", route.path);
    let owner = owner.ingress.name.clone();
    Problem {
        ingress: loser.ingress.clone(),
        field: format!("{field}.path"),
        fault: Fault::Conflict { what, owner },
    }
}
