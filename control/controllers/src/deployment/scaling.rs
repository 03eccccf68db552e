//! The arithmetic of a rollout: how many pods may be too many or missing, and which ReplicaSet gets which size. Pure.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::revision::{desired_replicas, max_replicas};
use crate::object::created;

/// A ReplicaSet and the size it should have.
pub(crate) type Resize = (Arc<ReplicaSet>, i32);

/// The size asked for.
pub(crate) fn replicas(deployment: &Deployment) -> i32 {
    deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

/// The size a set is to have.
pub(crate) fn size(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

/// The set's pods that are available.
pub(crate) fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

/// The sum of the sizes of these sets.
pub(crate) fn total<'a>(sets: impl IntoIterator<Item = &'a Arc<ReplicaSet>>) -> i32 {
    sets.into_iter().map(|set| size(set)).sum()
}

/// Whether old and new pods may run at the same time.
pub(crate) fn rolls(deployment: &Deployment) -> bool {
    let strategy = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.strategy.as_ref()?.type_.as_deref());
    strategy != Some("Recreate")
}

/// How far a rollout may stray from the size asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slack {
    pub(crate) surge: i32,
    pub(crate) unavailable: i32,
}

impl Slack {
    /// Percentages are of the size; surge rounds up and unavailable down. If both come out as nothing, one pod may be
    /// unavailable, or the rollout could never move.
    pub(crate) fn of(deployment: &Deployment) -> Self {
        if !rolls(deployment) {
            return Self {
                surge: 0,
                unavailable: 0,
            };
        }
        let quarter = IntOrString::String("25%".to_owned());
        let strategy = deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.strategy.as_ref());
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let surge = rolling
            .and_then(|rolling| rolling.max_surge.as_ref())
            .unwrap_or(&quarter);
        let unavailable = rolling
            .and_then(|rolling| rolling.max_unavailable.as_ref())
            .unwrap_or(&quarter);
        let replicas = replicas(deployment);
        let surge = resolve(surge, replicas, Round::Up);
        let unavailable = match resolve(unavailable, replicas, Round::Down) {
            0 if surge == 0 => 1,
            unavailable => unavailable,
        };
        Self {
            surge,
            unavailable: unavailable.min(replicas),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Round {
    Up,
    Down,
}

/// A number, or a percentage of `whole`; what is neither counts as nothing.
fn resolve(value: &IntOrString, whole: i32, round: Round) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text
                .strip_suffix('%')
                .and_then(|number| number.parse().ok())
                .unwrap_or(0);
            let hundredfold = percent.saturating_mul(whole.into()).max(0);
            let rounded = match round {
                Round::Up => hundredfold.saturating_add(99) / 100,
                Round::Down => hundredfold / 100,
            };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// The size the new set may grow to now, given the sizes of all sets.
pub(crate) fn new_set_size(deployment: &Deployment, new_size: i32, all: i32) -> i32 {
    let wanted = replicas(deployment);
    if !rolls(deployment) {
        return wanted;
    }
    let room = wanted + Slack::of(deployment).surge - all;
    if room <= 0 {
        new_size
    } else {
        new_size + room.min(wanted - new_size)
    }
}

/// How the old sets may shrink now: pods that are not available first, since nobody misses them, then available ones as
/// far as enough others are available.
pub(crate) fn shrink_old(
    deployment: &Deployment,
    old: &[Arc<ReplicaSet>],
    new: &Arc<ReplicaSet>,
) -> Vec<Resize> {
    let least = replicas(deployment) - Slack::of(deployment).unavailable;
    let everyone = || old.iter().chain([new]);
    let spare = total(everyone()) - least - (size(new) - available(new)).max(0);
    let mut oldest_first: Vec<_> = old.iter().filter(|set| size(set) > 0).cloned().collect();
    if spare <= 0 || oldest_first.is_empty() {
        return Vec::new();
    }
    oldest_first.sort_by_key(|set| created(&**set));
    let mut sizes: Vec<i32> = oldest_first.iter().map(|set| size(set)).collect();
    let mut unhealthy = spare;
    for (set, size) in oldest_first.iter().zip(&mut sizes) {
        let cut = (*size - available(set)).clamp(0, unhealthy);
        *size -= cut;
        unhealthy -= cut;
    }
    let mut healthy = everyone().map(|set| available(set)).sum::<i32>() - least;
    for size in &mut sizes {
        let cut = (*size).min(healthy.max(0));
        *size -= cut;
        healthy -= cut;
    }
    oldest_first
        .into_iter()
        .zip(sizes)
        .filter(|(set, to)| size(set) != *to)
        .collect()
}

/// New sizes after the Deployment was scaled: the only active set (or else the newest) gets everything; a complete
/// rollout leaves nothing to old sets; in the middle of a rollout every active set gets its share.
pub(crate) fn rescale(
    deployment: &Deployment,
    old: &[Arc<ReplicaSet>],
    new: Option<&Arc<ReplicaSet>>,
) -> Vec<Resize> {
    if let Some(only) = active_or_latest(old, new) {
        return vec![(only.clone(), replicas(deployment))];
    }
    if new.is_some_and(|new| saturated(deployment, new)) {
        return old
            .iter()
            .filter(|set| size(set) > 0)
            .map(|set| (set.clone(), 0))
            .collect();
    }
    if !rolls(deployment) {
        return Vec::new();
    }
    share(
        deployment,
        old.iter()
            .chain(new)
            .filter(|set| size(set) > 0)
            .cloned()
            .collect(),
    )
}

fn active_or_latest<'a>(
    old: &'a [Arc<ReplicaSet>],
    new: Option<&'a Arc<ReplicaSet>>,
) -> Option<&'a Arc<ReplicaSet>> {
    let mut active = old.iter().chain(new).filter(|set| size(set) > 0);
    match (active.next(), active.next()) {
        (None, _) => new.or_else(|| old.iter().max_by_key(|set| created(&***set))),
        (Some(only), None) => Some(only),
        _ => None,
    }
}

/// Whether the new set carries the whole Deployment and was sized for it.
fn saturated(deployment: &Deployment, new: &ReplicaSet) -> bool {
    let wanted = replicas(deployment);
    size(new) == wanted && desired_replicas(new) == Some(wanted) && available(new) == wanted
}

/// Spreads what is to be added or taken in proportion to the sets' sizes, the largest first; what rounding leaves over
/// goes to the first.
fn share(deployment: &Deployment, mut sets: Vec<Arc<ReplicaSet>>) -> Vec<Resize> {
    let wanted = replicas(deployment);
    let allowed = if wanted > 0 {
        wanted + Slack::of(deployment).surge
    } else {
        0
    };
    let to_add = allowed - total(&sets);
    if to_add >= 0 {
        sets.sort_by_key(|set| (Reverse(size(set)), Reverse(created(&**set))));
    } else {
        sets.sort_by_key(|set| (Reverse(size(set)), created(&**set)));
    }
    let mut added = 0;
    let mut resized: Vec<Resize> = Vec::with_capacity(sets.len());
    for set in sets {
        let part = proportion(deployment, &set, to_add, added);
        added += part;
        let size = (size(&set) + part).max(0);
        resized.push((set, size));
    }
    if let Some((_, first)) = resized.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    resized
}

fn proportion(deployment: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    let left = to_add - added;
    match to_add.signum() {
        1 => fraction(deployment, set).min(left),
        -1 => fraction(deployment, set).max(left),
        _ => 0,
    }
}

/// The change that keeps the set's share of the Deployment what it was when the set was last sized.
fn fraction(deployment: &Deployment, set: &ReplicaSet) -> i32 {
    let wanted = replicas(deployment);
    if wanted == 0 {
        return -size(set);
    }
    let running = || {
        deployment
            .status
            .as_ref()
            .and_then(|status| status.replicas)
    };
    let before = max_replicas(set).or_else(running).unwrap_or(0);
    if before == 0 {
        return 0;
    }
    let now = i64::from(wanted + Slack::of(deployment).surge) * i64::from(size(set));
    let before = i64::from(before);
    let rounded = (2 * now + before) / (2 * before);
    i32::try_from(rounded).unwrap_or(i32::MAX) - size(set)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::object::parse;

    fn deployment(replicas: i32, surge: Value, unavailable: Value) -> Deployment {
        parse(json!({"metadata": {"name": "d"}, "spec": {
            "replicas": replicas, "selector": {}, "template": {},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
        }}))
    }

    fn set(name: &str, size: i32, available: i32, max: i32) -> Arc<ReplicaSet> {
        let second = name.bytes().map(u32::from).sum::<u32>() % 60;
        Arc::new(parse(json!({
            "metadata": {
                "name": name, "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
                "annotations": {
                    "deployment.kubernetes.io/max-replicas": max.to_string(),
                    "deployment.kubernetes.io/desired-replicas": max.to_string()
                }
            },
            "spec": {"replicas": size, "selector": {}},
            "status": {"replicas": size, "availableReplicas": available}
        })))
    }

    fn named(resized: &[Resize]) -> Vec<(String, i32)> {
        let mut named: Vec<_> = resized
            .iter()
            .map(|(set, to)| (set.metadata.name.clone().expect("named"), *to))
            .collect();
        named.sort();
        named
    }

    fn pairs(expected: &[(&str, i32)]) -> Vec<(String, i32)> {
        expected
            .iter()
            .map(|(name, size)| ((*name).to_owned(), *size))
            .collect()
    }

    #[test]
    fn slack_rounds_surge_up_and_unavailable_down() {
        for (replicas, surge, unavailable, expected) in [
            (3, json!("25%"), json!("25%"), (1, 0)),
            (4, json!("25%"), json!("25%"), (1, 1)),
            (10, json!("25%"), json!("25%"), (3, 2)),
            (10, json!(2), json!(1), (2, 1)),
            (10, json!(0), json!(0), (0, 1)),
            (3, json!("0%"), json!("1%"), (0, 1)),
            (1, json!("100%"), json!("100%"), (1, 1)),
            (2, json!(0), json!(5), (0, 2)),
            (0, json!("25%"), json!("25%"), (0, 0)),
            (2, json!("nonsense"), json!(1), (0, 1)),
        ] {
            let slack = Slack::of(&deployment(replicas, surge.clone(), unavailable.clone()));
            assert_eq!(
                (slack.surge, slack.unavailable),
                expected,
                "{replicas} {surge} {unavailable}"
            );
        }
    }

    #[test]
    fn the_new_set_grows_into_the_room_that_is_left() {
        for (replicas, surge, new_size, all, expected) in [
            (10, 3, 0, 10, 3),
            (10, 3, 3, 13, 3),
            (10, 3, 3, 11, 5),
            (10, 3, 9, 9, 10),
            (10, 0, 0, 10, 0),
            (5, 1, 0, 0, 5),
        ] {
            let deployment = deployment(replicas, json!(surge), json!(0));
            assert_eq!(
                new_set_size(&deployment, new_size, all),
                expected,
                "{replicas} {surge} {new_size} {all}"
            );
        }
    }

    #[test]
    fn old_sets_shrink_unhealthy_first() {
        let check = |unavailable: i32,
                     old: &[Arc<ReplicaSet>],
                     new: Arc<ReplicaSet>,
                     expected: &[(&str, i32)]| {
            let deployment = deployment(10, json!(2), json!(unavailable));
            assert_eq!(named(&shrink_old(&deployment, old, &new)), pairs(expected));
        };
        // Ten available old pods: two may go at once.
        check(2, &[set("a", 10, 10, 12)], set("n", 2, 0, 12), &[("a", 8)]);
        // The new ones are available: they make room.
        check(2, &[set("a", 8, 8, 12)], set("n", 4, 4, 12), &[("a", 4)]);
        // The new ones are broken: nothing beyond the allowance goes.
        check(2, &[set("a", 8, 8, 12)], set("n", 4, 0, 12), &[]);
        // Broken old pods go even though no new one is available.
        check(
            2,
            &[set("a", 8, 3, 12), set("b", 2, 2, 12)],
            set("n", 2, 0, 12),
            &[("a", 6)],
        );
        check(0, &[set("a", 10, 10, 12)], set("n", 2, 2, 12), &[("a", 8)]);
        check(0, &[set("a", 0, 0, 12)], set("n", 10, 10, 12), &[]);
    }

    #[test]
    fn one_active_set_takes_the_whole_scaling() {
        let deployment = deployment(7, json!(1), json!(1));
        let (old, new) = ([set("a", 0, 0, 3)], set("n", 3, 3, 3));
        assert_eq!(
            named(&rescale(&deployment, &old, Some(&new))),
            pairs(&[("n", 7)])
        );
        let (old, new) = ([set("a", 3, 3, 3)], set("n", 0, 0, 3));
        assert_eq!(
            named(&rescale(&deployment, &old, Some(&new))),
            pairs(&[("a", 7)])
        );
        assert_eq!(
            named(&rescale(
                &deployment,
                &[set("a", 0, 0, 3), set("b", 0, 0, 3)],
                None
            )),
            pairs(&[("b", 7)])
        );
        assert!(rescale(&deployment, &[], None).is_empty());
    }

    #[test]
    fn scaling_in_a_rollout_keeps_the_shares() {
        let check =
            |replicas: i32, before: i32, old: (i32, i32), new: i32, expected: (i32, i32)| {
                let deployment = deployment(replicas, json!(0), json!(1));
                let old_sets = [
                    set("a", old.0, old.0, before),
                    set("b", old.1, old.1, before),
                ];
                let new_set = set("n", new, new, before);
                let resized = rescale(
                    &deployment,
                    &old_sets[..if old.1 == 0 { 1 } else { 2 }],
                    Some(&new_set),
                );
                let by_name = |name: &str| {
                    named(&resized)
                        .iter()
                        .find(|(n, _)| n == name)
                        .map(|(_, size)| *size)
                };
                assert_eq!(
                    (by_name("a"), by_name("n")),
                    (Some(expected.0), Some(expected.1))
                );
                assert_eq!(resized.iter().map(|(_, size)| size).sum::<i32>(), replicas);
            };
        check(20, 10, (5, 0), 5, (10, 10));
        check(5, 10, (8, 0), 2, (4, 1));
        check(11, 10, (5, 0), 5, (5, 6));
        check(0, 10, (5, 0), 5, (0, 0));
    }

    #[test]
    fn a_complete_rollout_leaves_nothing_to_old_sets() {
        let deployment = deployment(3, json!(1), json!(1));
        let resized = rescale(&deployment, &[set("a", 2, 2, 3)], Some(&set("n", 3, 3, 3)));
        assert_eq!(named(&resized), pairs(&[("a", 0)]));
    }
}
