//! What a namespace says while it is being emptied, in upstream's words. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;

use crate::object::{condition, time};

/// How emptying went.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Why the kinds could not be listed.
    pub(super) discovery: Option<String>,
    /// What went wrong with deleting.
    pub(super) failures: Vec<String>,
    /// Objects left, by kind.
    pub(super) remaining: BTreeMap<String, usize>,
    /// Objects that wait for a finalizer, by finalizer.
    pub(super) finalizers: BTreeMap<String, usize>,
}

impl Outcome {
    /// Whether nothing is left and nothing went wrong.
    pub(super) fn empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The conditions with the outcome in them; a condition that does not change keeps its time.
pub(super) fn conditions(
    known: Option<&Vec<NamespaceCondition>>,
    outcome: &Outcome,
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let mut conditions = known.cloned();
    let list = |counts: &BTreeMap<String, usize>, unit: &str| {
        let parts: Vec<_> = counts
            .iter()
            .map(|(name, count)| format!("{name} {unit} {count} resource instances"))
            .collect();
        parts.join(", ")
    };
    let remaining = format!(
        "Some resources are remaining: {}",
        list(&outcome.remaining, "has")
    );
    let finalizers = format!(
        "Some content in the namespace has finalizers remaining: {}",
        list(&outcome.finalizers, "in")
    );
    let failures = format!(
        "Failed to delete all resource types, {} remaining: {}",
        outcome.failures.len(),
        outcome.failures.join(", ")
    );
    let discovery = outcome.discovery.clone().unwrap_or_default();
    let table = [
        (
            "NamespaceDeletionDiscoveryFailure",
            outcome.discovery.is_some(),
            ("DiscoveryFailed", discovery.as_str()),
            (
                "ResourcesDiscovered",
                "All resources successfully discovered",
            ),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            ("GroupVersionParsingFailed", ""),
            (
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
        ),
        (
            "NamespaceDeletionContentFailure",
            !outcome.failures.is_empty(),
            ("ContentDeletionFailed", failures.as_str()),
            (
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
        ),
        (
            "NamespaceContentRemaining",
            !outcome.remaining.is_empty(),
            ("SomeResourcesRemain", remaining.as_str()),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            !outcome.finalizers.is_empty(),
            ("SomeFinalizersRemain", finalizers.as_str()),
            (
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            ),
        ),
    ];
    for (kind, holds, yes, no) in table {
        let (status, (reason, message)) = if holds { ("True", yes) } else { ("False", no) };
        set(&mut conditions, kind, status, reason, message, now);
    }
    conditions.unwrap_or_default()
}

fn set(
    conditions: &mut Option<Vec<NamespaceCondition>>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let known = condition::find(conditions.as_ref(), kind);
    if known.is_some_and(|known| {
        known.status == status
            && known.reason.as_deref() == Some(reason)
            && known.message.as_deref() == Some(message)
    }) {
        return;
    }
    let since = known
        .filter(|known| known.status == status)
        .and_then(|known| known.last_transition_time.clone());
    let new = NamespaceCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or_else(|| time(now))),
    };
    condition::set(conditions, new);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("in range")
    }

    fn of<'a>(conditions: &'a [NamespaceCondition], kind: &str) -> (&'a str, &'a str) {
        let found = conditions
            .iter()
            .find(|condition| condition.type_ == kind)
            .expect("set");
        (&found.status, found.message.as_deref().unwrap_or_default())
    }

    #[test]
    fn what_remains_is_named_and_counted() {
        let outcome = Outcome {
            remaining: BTreeMap::from([("configmaps.".to_owned(), 1), ("pods.".to_owned(), 2)]),
            finalizers: BTreeMap::from([("example.com/hold".to_owned(), 1)]),
            ..Outcome::default()
        };
        let got = conditions(None, &outcome, at(0));
        let remaining = "Some resources are remaining: configmaps. has 1 resource instances, pods. has 2 resource instances";
        assert_eq!(of(&got, "NamespaceContentRemaining"), ("True", remaining));
        let held = "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances";
        assert_eq!(of(&got, "NamespaceFinalizersRemaining"), ("True", held));
        assert_eq!(of(&got, "NamespaceDeletionContentFailure").0, "False");
        assert!(!outcome.empty());
    }

    #[test]
    fn unchanged_conditions_keep_their_time() {
        let first = conditions(None, &Outcome::default(), at(0));
        assert_eq!(first.len(), 5);
        assert_eq!(conditions(Some(&first), &Outcome::default(), at(9)), first);
        let failed = Outcome {
            discovery: Some("no".to_owned()),
            ..Outcome::default()
        };
        let second = conditions(Some(&first), &failed, at(9));
        assert_eq!(
            of(&second, "NamespaceDeletionDiscoveryFailure"),
            ("True", "no")
        );
        assert_eq!(second[1], first[1]);
    }
}
