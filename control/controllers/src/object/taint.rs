//! Taints and tolerations: which repel a pod, and how long it may stay.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Taint, Toleration};

pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// A taint without a value.
pub(crate) fn taint(key: &str, effect: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        effect: effect.to_owned(),
        ..Taint::default()
    }
}

/// Whether the toleration covers the taint. An empty key with `Exists` covers every key, an empty effect every effect.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            !key.is_empty()
                && toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

/// The first taint with one of these effects that no toleration covers.
pub(crate) fn untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    effects: &[&str],
) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .find(|taint| {
            !tolerations
                .iter()
                .any(|toleration| tolerates(toleration, taint))
        })
}

/// When a pod with these tolerations has to leave a node with these taints, if ever. A NoExecute taint that nothing
/// tolerates drives it out at once, one that is tolerated for a time when that has passed since the taint was added. Of
/// several tolerations for one taint the least patient counts.
pub(crate) fn leave_at(
    taints: &[Taint],
    tolerations: &[Toleration],
    now: Timestamp,
) -> Option<Timestamp> {
    let no_execute = taints.iter().filter(|taint| taint.effect == "NoExecute");
    let deadlines = no_execute.filter_map(|taint| {
        let covering: Vec<_> = tolerations
            .iter()
            .filter(|toleration| tolerates(toleration, taint))
            .collect();
        if covering.is_empty() {
            return Some(now);
        }
        let patience = covering
            .iter()
            .filter_map(|toleration| toleration.toleration_seconds)
            .min()?;
        let added = taint.time_added.as_ref().map_or(now, |added| added.0);
        Some(added + Duration::from_secs(patience.max(0).unsigned_abs()))
    });
    deadlines.min()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::parse;
    use super::*;

    #[test]
    fn tolerations_cover_taints() {
        let tainted: Taint = parse(json!({"key": "k", "value": "v", "effect": "NoSchedule"}));
        for (toleration, expected) in [
            (json!({"key": "k", "value": "v"}), true),
            (
                json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}),
                true,
            ),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"key": "k"}), false),
            (json!({"key": "j", "operator": "Exists"}), false),
            (json!({"operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"operator": "Equal", "value": "v"}), false),
            (
                json!({"key": "k", "operator": "Unknown", "value": "v"}),
                false,
            ),
        ] {
            assert_eq!(
                tolerates(&parse(toleration.clone()), &tainted),
                expected,
                "{toleration}"
            );
        }
    }

    #[test]
    fn pods_leave_when_their_patience_is_over() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().expect("a timestamp");
        let taints: Vec<Taint> = parse(json!([
            {"key": NOT_READY, "effect": "NoExecute", "timeAdded": "2026-01-01T00:09:00Z"},
            {"key": UNREACHABLE, "effect": "NoSchedule"}
        ]));
        let tolerating = |seconds: i64| json!({"key": NOT_READY, "operator": "Exists", "tolerationSeconds": seconds});
        let all_of_them =
            json!({"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 20});
        for (tolerations, expected) in [
            (json!([]), Some(0)),
            (json!([{"operator": "Exists"}]), None),
            (json!([tolerating(300)]), Some(240)),
            (json!([tolerating(300), all_of_them]), Some(-40)),
            (json!([tolerating(-1)]), Some(-60)),
            (json!([{"key": UNREACHABLE, "operator": "Exists"}]), Some(0)),
        ] {
            let got = leave_at(&taints, &parse::<Vec<Toleration>>(tolerations.clone()), now);
            assert_eq!(
                got.map(|at| at.duration_since(now).as_secs()),
                expected,
                "{tolerations}"
            );
        }
        assert_eq!(leave_at(&[taint("x", "NoSchedule")], &[], now), None);
    }
}
