//! What there is to say about an Ingress that is about to be kept.

use std::collections::HashMap;

use k8s_openapi::api::networking::v1::Ingress;
use model::ObjectName;

use crate::annotations::{Finding, OWN_PREFIX, Verdict, known};
use crate::lint;
use crate::problem::Fault;
use crate::routes::ingress::{Part, Reading};
use crate::routes::{PathMatch, Route, Table, Target};

/// What is said about an Ingress.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Judgement {
    /// Why it must not be kept; if there is nothing, it may be.
    pub(super) refusals: Vec<String>,
    /// What its author should know.
    pub(super) warnings: Vec<String>,
}

/// Judges `ingress`, which takes the place of `old`, while `routes` are in effect. What the old one would have been
/// refused for does not keep it from being changed otherwise, and becomes a warning.
pub(super) fn judge(ingress: &Ingress, old: Option<&Ingress>, routes: &Table) -> Judgement {
    let mut judgement = of_one(ingress, routes);
    let known = old.map(|old| of_one(old, routes).refusals);
    let known = known.unwrap_or_default();
    let is_known = |refusal: &String| known.contains(refusal);
    let (forgiven, refusals) = judgement.refusals.into_iter().partition(is_known);
    judgement.refusals = refusals;
    judgement.warnings.splice(..0, forgiven);
    judgement
}

fn of_one(ingress: &Ingress, routes: &Table) -> Judgement {
    let mut judgement = Judgement::default();
    let report = lint::alone(ingress);
    for finding in &report.findings {
        judgement.of_annotation(finding);
    }
    for problem in &report.reading.problems {
        let text = problem.to_string();
        match problem.fault {
            // The API server refuses that itself where it is new.
            Fault::ClassMismatch { .. } => judgement.warnings.push(text),
            _ => judgement.refusals.push(text),
        }
    }
    let quirks = report.quirks.iter();
    let quirks = quirks.map(|(field, quirk)| format!("{field}: {quirk}"));
    judgement.warnings.extend(quirks);
    judgement
        .refusals
        .extend(conflicts(&report.reading, routes));
    judgement
}

impl Judgement {
    fn of_annotation(&mut self, finding: &Finding) {
        let known = known::name(&finding.annotation).and_then(|name| known::find(name.name));
        let is_harmless = known.is_none_or(|known| known.is_harmless);
        let text = format!("{}: {}", finding.annotation, finding.verdict);
        match finding.verdict {
            Verdict::Same => {}
            // Ours differ from nothing.
            Verdict::Differs(_) if finding.annotation.starts_with(OWN_PREFIX) => {}
            Verdict::Differs(_) => self.warnings.push(text),
            Verdict::Refused { .. } | Verdict::Invalid(_) if is_harmless => {
                self.warnings.push(text)
            }
            Verdict::Refused { .. } | Verdict::Invalid(_) => self.refusals.push(text),
        }
    }
}

/// The paths of `reading` that another object has already. As in ingress-nginx it does not matter which of them is older:
/// one that is would take the path away from the other.
fn conflicts(reading: &Reading, routes: &Table) -> Vec<String> {
    let named = reading.parts.iter().filter(|(_, part)| !part.is_alias);
    let parts = named.filter_map(|(host, part)| Some((host, part, routes.hosts().at(host)?)));
    let mut conflicts = Vec::new();
    for (host, part, taken) in parts {
        let owners = owners(taken.routes().map(AsRef::as_ref), reading);
        for (field, what, owner) in part.taken(&owners) {
            let what = match reading.is_canary {
                true => format!("the canary of {what} at host {host}"),
                false => format!("{what} of host {host}"),
            };
            let owner = owner.clone();
            conflicts.push(format!("{field}.path: {}", Fault::Conflict { what, owner }));
        }
    }
    conflicts
}

type Owners<'r> = HashMap<(PathMatch, &'r str), &'r ObjectName>;

/// Who else has a path, or a canary of it if `reading` is one, by path.
fn owners<'r>(routes: impl Iterator<Item = &'r Route>, reading: &Reading) -> Owners<'r> {
    // Redirects to the path with a slash yield to everybody.
    let own = routes.filter(|route| !matches!(route.target, Target::WithSlash));
    let owner = own.filter_map(|route| {
        let owner = match reading.is_canary {
            true => route.canary.as_deref()?,
            false => route,
        };
        let name = &owner.ingress.name;
        (*name != reading.ingress.name).then_some(((route.kind?, &*route.path), name))
    });
    owner.collect()
}

impl Part {
    /// Which of its paths somebody has, and who.
    fn taken<'o>(
        &self,
        owners: &'o Owners<'_>,
    ) -> impl Iterator<Item = (&str, String, &'o ObjectName)> {
        self.paths.iter().filter_map(|rule| {
            let owner = owners.get(&(rule.kind, &*rule.route.path))?;
            let what = format!("{} path {}", rule.kind, rule.route.path);
            Some((rule.field.as_str(), what, *owner))
        })
    }
}
