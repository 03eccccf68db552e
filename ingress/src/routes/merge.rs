//! Where objects meet: what several Ingresses say about one host.
//!
//! Parts are taken from the oldest object to the youngest, so of two that want the same path, or a certificate for the
//! host, the older one keeps it, whatever order they were seen in.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::ingress::{Part, PathRule, Reading, TlsClaim};
use super::{Host, PathMatch, Route};
use crate::annotations::known;
use crate::message::host::HostPattern;
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

/// Brings together what `readings`, oldest first, say about the host `pattern`. A canary has no paths of its own: each
/// hangs under the same path of another object, and without one it is nothing.
pub fn merge<'r>(pattern: &HostPattern, readings: impl Iterator<Item = &'r Reading>) -> Merged {
    let mut merged = Merged::default();
    let (canaries, own): (Vec<&Reading>, Vec<&Reading>) =
        readings.partition(|reading| reading.is_canary);
    let own = merged.without_aliases(pattern, own);
    let mut canaries = merged.canaries(pattern, &canaries);
    let mut slashless: Vec<&Arc<Route>> = Vec::new();
    let mut owners: HashMap<Path<'_>, &Reading> = HashMap::new();
    for reading in own {
        for claim in reading.claims.iter().filter(|claim| claim.host == *pattern) {
            merged.claim(claim);
        }
        let Some(part) = reading.parts.get(pattern) else {
            continue;
        };
        let host = merged.host.get_or_insert_default();
        if let (None, Some(default)) = (&host.default, &part.default) {
            host.ask(default);
            host.default = Some(with_canary(default, canaries.remove(&(None, ""))));
        }
        for rule in &part.paths {
            let key = (Some(rule.kind), &*rule.route.path);
            if let Some(owner) = owners.get(&key) {
                let conflict = conflict(pattern, rule, reading, owner);
                merged.problems.push(conflict);
                continue;
            }
            owners.insert(key, reading);
            host.ask(&rule.route);
            let canary = canaries.remove(&key).or_else(|| {
                // A canary need not repeat what makes expressions of paths.
                let plain = CANARY_KINDS
                    .iter()
                    .filter(|_| rule.kind == PathMatch::Pattern);
                plain
                    .clone()
                    .find_map(|kind| canaries.remove(&(Some(*kind), key.1)))
            });
            host.insert(rule.kind, with_canary(&rule.route, canary));
        }
        host.moved = host.moved.take().or_else(|| part.moved.clone());
        slashless.extend(&part.slashless);
    }
    let slashless = slashless
        .into_iter()
        .filter(|route| !owners.contains_key(&(Some(PathMatch::Exact), &*route.path)));
    if let Some(host) = &mut merged.host {
        slashless.for_each(|route| host.insert(PathMatch::Exact, Arc::clone(route)));
        // Of two as long the older one comes first still.
        host.patterns.sort_by_key(|route| Reverse(route.path.len()));
    }
    let alone = canaries.values().map(|canary| canary.problem(pattern));
    merged.problems.extend(alone);
    merged
}

/// How a path matches, and the path; nothing and the empty path for a default backend.
type Path<'r> = (Option<PathMatch>, &'r str);

/// How the paths of a canary match that says nothing of expressions.
const CANARY_KINDS: [PathMatch; 3] = [PathMatch::Loose, PathMatch::Prefix, PathMatch::Exact];

/// A canary that looks for something to hang under.
struct Canary<'r> {
    field: String,
    route: &'r Arc<Route>,
}

impl Canary<'_> {
    /// That there is nothing to hang under.
    fn problem(&self, host: &HostPattern) -> Problem {
        let path = match &*self.route.path {
            "" => "default backend".to_owned(),
            path => format!("path {path} of this kind"),
        };
        let message = format!("is a canary, and no other Ingress has a {path} at host {host}");
        Problem {
            ingress: self.route.ingress.clone(),
            field: self.field.clone(),
            fault: Fault::Invalid(message),
        }
    }
}

fn with_canary(route: &Arc<Route>, canary: Option<Canary<'_>>) -> Arc<Route> {
    let Some(canary) = canary else {
        return Arc::clone(route);
    };
    Arc::new(Route {
        canary: Some(Arc::clone(canary.route)),
        ..Route::clone(route)
    })
}

impl Host {
    fn insert(&mut self, kind: PathMatch, route: Arc<Route>) {
        match kind {
            PathMatch::Pattern => self.patterns.push(route),
            kind => {
                let path = route.path.clone();
                self.paths.insert(&path, kind, route);
            }
        }
    }
}

impl Merged {
    /// Those of `readings` that name `pattern` in a rule; if there are none, those that have it by an annotation.
    fn without_aliases<'r>(
        &mut self,
        pattern: &HostPattern,
        readings: Vec<&'r Reading>,
    ) -> Vec<&'r Reading> {
        let is_named = |part: &Part| !part.is_alias && part.moved.is_none();
        let mut parts = readings
            .iter()
            .filter_map(|reading| reading.parts.get(pattern));
        if !parts.any(is_named) {
            return readings;
        }
        let has_say = |reading: &&Reading| reading.parts.get(pattern).is_none_or(is_named);
        let (named, others): (Vec<_>, Vec<_>) = readings.into_iter().partition(has_say);
        for reading in others {
            self.yields(pattern, reading);
        }
        named
    }

    /// `reading` wanted `pattern` as an alias, but somebody has it.
    fn yields(&mut self, pattern: &HostPattern, reading: &Reading) {
        if reading.parts.get(pattern).is_none_or(|part| !part.is_alias) {
            return;
        }
        let message =
            format!("host {pattern} is served by rules that name it; the alias is left out");
        self.problems.push(Problem {
            ingress: reading.ingress.clone(),
            field: format!("metadata.annotations[{}]", known::key("server-alias")),
            fault: Fault::Invalid(message),
        });
    }

    /// The canaries by path. There is one for each; as with paths, the oldest object has it.
    fn canaries<'r>(
        &mut self,
        pattern: &HostPattern,
        readings: &[&'r Reading],
    ) -> BTreeMap<Path<'r>, Canary<'r>> {
        let mut canaries: BTreeMap<Path<'r>, Canary<'r>> = BTreeMap::new();
        for part in readings
            .iter()
            .filter_map(|reading| reading.parts.get(pattern))
        {
            let paths = part.paths.iter().map(|rule| {
                let field = format!("{}.path", rule.field);
                ((Some(rule.kind), &*rule.route.path), field, &rule.route)
            });
            let default = part.default.iter().map(|route| {
                let field = "spec.defaultBackend".to_owned();
                ((None, ""), field, route)
            });
            for (path, field, route) in paths.chain(default) {
                if let Some(first) = canaries.get(&path) {
                    let what = format!("the canary of path {} at host {pattern}", route.path);
                    let owner = first.route.ingress.name.clone();
                    self.problems.push(Problem {
                        ingress: route.ingress.clone(),
                        field,
                        fault: Fault::Conflict { what, owner },
                    });
                    continue;
                }
                canaries.insert(path, Canary { field, route });
            }
        }
        canaries
    }

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
