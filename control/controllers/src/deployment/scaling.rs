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
mod tests;
