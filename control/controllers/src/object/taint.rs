//! Taints and tolerations: which repel a pod, and how long it may stay.

use std::time::Duration;

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

/// How long a pod may stay on a node with these taints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stay {
    Forever,
    For(Duration),
}

/// How long a pod with these tolerations may stay: as long as the least patient toleration in use says, and not at all
/// if a NoExecute taint is not tolerated.
pub(crate) fn stay(taints: &[Taint], tolerations: &[Toleration]) -> Stay {
    let mut shortest = Stay::Forever;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let covering: Vec<_> = tolerations
            .iter()
            .filter(|toleration| tolerates(toleration, taint))
            .collect();
        if covering.is_empty() {
            return Stay::For(Duration::ZERO);
        }
        for seconds in covering
            .iter()
            .filter_map(|toleration| toleration.toleration_seconds)
        {
            let limit = Duration::from_secs(seconds.max(0).unsigned_abs());
            shortest = match shortest {
                Stay::For(known) if known <= limit => shortest,
                _ => Stay::For(limit),
            };
        }
    }
    shortest
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
    fn stays() {
        let taints = [
            taint(NOT_READY, "NoExecute"),
            taint(UNREACHABLE, "NoSchedule"),
        ];
        for (tolerations, expected) in [
            (json!([]), Stay::For(Duration::ZERO)),
            (json!([{"operator": "Exists"}]), Stay::Forever),
            (
                json!([{"key": NOT_READY, "operator": "Exists", "tolerationSeconds": 300}]),
                Stay::For(Duration::from_secs(300)),
            ),
            (
                json!([
                    {"key": NOT_READY, "operator": "Exists", "tolerationSeconds": 300},
                    {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 20}
                ]),
                Stay::For(Duration::from_secs(20)),
            ),
            (
                json!([{"key": NOT_READY, "operator": "Exists", "tolerationSeconds": -1}]),
                Stay::For(Duration::ZERO),
            ),
        ] {
            assert_eq!(
                stay(&taints, &parse::<Vec<Toleration>>(tolerations.clone())),
                expected,
                "{tolerations}"
            );
        }
        assert_eq!(stay(&[taint("x", "NoSchedule")], &[]), Stay::Forever);
    }
}
