//! Deployments and ReplicaSets.

use serde_json::Value;

use super::causes::{At, Causes};
use super::{meta, names, pod};
use crate::selector::LabelSelector;

pub(super) fn deployment(spec: &At<'_>, causes: &mut Causes) {
    replicated(spec, causes);
    strategy(&spec.child("strategy"), causes);
    causes.not_negative(&spec.child("revisionHistoryLimit"));
    let deadline = spec.child("progressDeadlineSeconds");
    causes.not_negative(&deadline);
    if deadline.is_set() && deadline.number() <= spec.child("minReadySeconds").number() {
        causes.invalid(&deadline, "must be greater than minReadySeconds");
    }
}

pub(super) fn replica_set(spec: &At<'_>, causes: &mut Causes) {
    replicated(spec, causes);
}

/// What both have: a number of pods, a template, a selector that selects it.
fn replicated(spec: &At<'_>, causes: &mut Causes) {
    causes.not_negative(&spec.child("replicas"));
    causes.not_negative(&spec.child("minReadySeconds"));
    let selector = spec.child("selector");
    if !selector.is_set() {
        causes.required(&selector, "");
    } else {
        meta::selector(&selector, causes);
        if selector.child("matchLabels").is_empty() && selector.child("matchExpressions").is_empty()
        {
            causes.invalid(&selector, "empty selector is invalid for deployment");
        }
    }
    let template = spec.child("template");
    matches_template(&selector, &template, causes);
    pod::template(&template, causes);
    let policy = template.child("spec").child("restartPolicy");
    causes.one_of_if_set(&policy, &["Always"]);
    let deadline = template.child("spec").child("activeDeadlineSeconds");
    if deadline.is_set() {
        causes.forbidden(
            &deadline,
            "activeDeadlineSeconds in ReplicaSet is not Supported",
        );
    }
}

fn matches_template(selector: &At<'_>, template: &At<'_>, causes: &mut Causes) {
    let labels = template.child("metadata").child("labels");
    if let Ok(parsed) = LabelSelector::from_object(selector.value)
        && selector.is_set()
        && !parsed.is_empty()
        && !parsed.matches_object(template.value)
    {
        let none = Value::Object(serde_json::Map::new());
        let value = if labels.is_set() { labels.value } else { &none };
        causes.invalid_value(
            &labels,
            value,
            "`selector` does not match template `labels`",
        );
    }
}

fn strategy(strategy: &At<'_>, causes: &mut Causes) {
    let (kind, rolling) = (strategy.child("type"), strategy.child("rollingUpdate"));
    match kind.text() {
        "Recreate" if rolling.is_set() => {
            causes.forbidden(
                &rolling,
                "may not be specified when strategy `type` is 'Recreate'",
            );
        }
        "Recreate" => {}
        "RollingUpdate" => rolling_update(&rolling, causes),
        _ => causes.one_of(&kind, &["Recreate", "RollingUpdate"]),
    }
}

fn rolling_update(rolling: &At<'_>, causes: &mut Causes) {
    let (unavailable, surge) = (rolling.child("maxUnavailable"), rolling.child("maxSurge"));
    for share in [&unavailable, &surge] {
        match share.value {
            Value::String(text) => causes.invalid_all(share, names::percent(text)),
            _ => causes.not_negative(share),
        }
    }
    if is_zero(&unavailable) && is_zero(&surge) {
        causes.invalid(&unavailable, "may not be 0 when `maxSurge` is 0");
    }
    if percentage(&unavailable).is_some_and(|p| p > 100) {
        causes.invalid(&unavailable, "must not be greater than 100%");
    }
}

fn is_zero(share: &At<'_>) -> bool {
    match share.value {
        Value::Number(number) => number.as_i64() == Some(0),
        _ => percentage(share) == Some(0),
    }
}

fn percentage(share: &At<'_>) -> Option<u64> {
    share.text().strip_suffix('%')?.parse().ok()
}

/// The selector never changes.
pub(super) fn update(new: &At<'_>, old: &At<'_>, causes: &mut Causes) {
    causes.immutable(
        &new.child("spec").child("selector"),
        &old.child("spec").child("selector"),
    );
}

pub(super) fn status(status: &At<'_>, causes: &mut Causes) {
    let counts = [
        "replicas",
        "updatedReplicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
    ];
    for key in counts {
        causes.not_negative(&status.child(key));
    }
    causes.not_negative(&status.child("observedGeneration"));
    let all = status.child("replicas").number();
    for key in [
        "updatedReplicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
    ] {
        if status.child(key).number() > all {
            causes.invalid(&status.child(key), "cannot be greater than status.replicas");
        }
    }
    if status.child("availableReplicas").number() > status.child("readyReplicas").number() {
        causes.invalid(
            &status.child("availableReplicas"),
            "cannot be greater than readyReplicas",
        );
    }
}
