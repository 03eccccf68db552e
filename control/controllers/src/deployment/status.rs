//! What a Deployment says about itself: counts, and the conditions that `kubectl rollout status` and waiters read. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
};

use super::scaling::{Slack, replicas, total};
use crate::object::{condition, deleting, name, time, unless_zero};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";

const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";

/// What has just been done for the new set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewSet<'a> {
    /// Paused or being scaled: progress is not judged.
    NotJudged,
    /// It is not there yet and was not made.
    Missing,
    Created(&'a str),
    Existing(&'a str),
}

/// The status that describes these sets.
pub(crate) fn status(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    new: Option<&Arc<ReplicaSet>>,
    judged: NewSet,
    now: Timestamp,
) -> DeploymentStatus {
    let mut status = counts(deployment, sets, new);
    pause_conditions(deployment, &mut status, now);
    availability(deployment, &mut status, now);
    if !deleting(deployment) && judged != NewSet::NotJudged {
        progress(deployment, &mut status, judged, now);
        failure(sets, new, &mut status);
    }
    status
}

fn counts(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    new: Option<&Arc<ReplicaSet>>,
) -> DeploymentStatus {
    let sum = |of: &dyn Fn(&ReplicaSetStatus) -> i32| {
        sets.iter()
            .filter_map(|set| set.status.as_ref())
            .map(of)
            .sum::<i32>()
    };
    let available = sum(&|status| status.available_replicas.unwrap_or(0));
    let before = deployment.status.as_ref();
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: unless_zero(sum(&|status| status.replicas)),
        updated_replicas: new
            .and_then(|new| new.status.as_ref())
            .and_then(|status| unless_zero(status.replicas)),
        ready_replicas: unless_zero(sum(&|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: unless_zero(available),
        unavailable_replicas: unless_zero((total(sets) - available).max(0)),
        terminating_replicas: Some(sum(&|status| status.terminating_replicas.unwrap_or(0))),
        collision_count: before.and_then(|status| status.collision_count),
        conditions: before.and_then(|status| status.conditions.clone()),
    }
}

fn availability(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    let least = replicas(deployment) - Slack::of(deployment).unavailable;
    let enough = status.available_replicas.unwrap_or(0) >= least;
    let available = if enough {
        condition(
            AVAILABLE,
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
            now,
        )
    } else {
        let message = "Deployment does not have minimum availability.";
        condition(
            AVAILABLE,
            "False",
            "MinimumReplicasUnavailable",
            message,
            now,
        )
    };
    set(status, available);
}

/// Pausing stops the clock of the progress deadline, resuming starts it anew. A deadline that has passed stays passed.
fn pause_conditions(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    let reason = progressing(status).and_then(|condition| condition.reason.clone());
    if deadline(deployment).is_none() || reason.as_deref() == Some(TIMED_OUT) {
        return;
    }
    match (paused(deployment), reason.as_deref() == Some(PAUSED)) {
        (true, false) => set(
            status,
            condition(PROGRESSING, "Unknown", PAUSED, "Deployment is paused", now),
        ),
        (false, true) => set(
            status,
            condition(
                PROGRESSING,
                "Unknown",
                RESUMED,
                "Deployment is resumed",
                now,
            ),
        ),
        _ => {}
    }
}

fn progress(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    judged: NewSet,
    now: Timestamp,
) {
    let Some(deadline) = deadline(deployment) else {
        condition::remove(&mut status.conditions, PROGRESSING);
        return;
    };
    let known = progressing(status).cloned();
    match judged {
        NewSet::Created(set_name) => {
            let message = format!("Created new replica set {set_name:?}");
            set(
                status,
                condition(PROGRESSING, "True", "NewReplicaSetCreated", &message, now),
            );
            return;
        }
        NewSet::Existing(set_name) if known.is_none() => {
            let message = format!("Found new replica set {set_name:?}");
            set(
                status,
                condition(PROGRESSING, "True", "FoundNewReplicaSet", &message, now),
            );
        }
        _ => {}
    }
    let was_complete = known
        .as_ref()
        .is_some_and(|known| known.reason.as_deref() == Some(COMPLETE));
    if was_complete && status.replicas == status.updated_replicas {
        return;
    }
    let subject = match judged {
        NewSet::Existing(set_name) => format!("ReplicaSet {set_name:?}"),
        _ => format!("Deployment {:?}", name(deployment)),
    };
    if complete(deployment, status) {
        let message = format!("{subject} has successfully progressed.");
        set(
            status,
            condition(PROGRESSING, "True", COMPLETE, &message, now),
        );
    } else if moved(deployment.status.as_ref(), status) {
        let message = format!("{subject} is progressing.");
        let mut moved = condition(PROGRESSING, "True", "ReplicaSetUpdated", &message, now);
        if let Some(known) = known.filter(|known| known.status == "True") {
            moved.last_transition_time = known.last_transition_time;
        }
        condition::set(&mut status.conditions, moved);
    } else if timed_out(status, deadline, now) {
        let message = format!("{subject} has timed out progressing.");
        set(
            status,
            condition(PROGRESSING, "False", TIMED_OUT, &message, now),
        );
    }
}

/// Whether the rollout has arrived.
pub(crate) fn complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = unless_zero(replicas(deployment));
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

/// Whether anything got better since the status before.
fn moved(before: Option<&DeploymentStatus>, now: &DeploymentStatus) -> bool {
    let of = |status: Option<&DeploymentStatus>| {
        let count =
            |field: fn(&DeploymentStatus) -> Option<i32>| status.and_then(field).unwrap_or(0);
        let updated = count(|status| status.updated_replicas);
        let old = count(|status| status.replicas) - updated;
        (
            updated,
            old,
            count(|status| status.ready_replicas),
            count(|status| status.available_replicas),
        )
    };
    let (before, now) = (of(before), of(Some(now)));
    now.0 > before.0 || now.1 < before.1 || now.2 > before.2 || now.3 > before.3
}

fn timed_out(status: &DeploymentStatus, deadline: Duration, now: Timestamp) -> bool {
    let Some(known) = progressing(status).filter(|known| known.reason.as_deref() != Some(COMPLETE))
    else {
        return false;
    };
    let since = known.last_update_time.as_ref().map_or(now, |time| time.0);
    let deadline = SignedDuration::try_from(deadline).unwrap_or(SignedDuration::MAX);
    known.reason.as_deref() == Some(TIMED_OUT) || now.duration_since(since) > deadline
}

/// How long until the progress deadline, if it is running.
pub(crate) fn until_deadline(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let deadline = deadline(deployment)?;
    let known = progressing(status)?;
    let reason = known.reason.as_deref();
    if paused(deployment)
        || reason == Some(TIMED_OUT)
        || complete(deployment, status) && reason == Some(COMPLETE)
    {
        return None;
    }
    let since = known.last_update_time.as_ref()?.0;
    let left = since + deadline + Duration::from_secs(1);
    Some(
        Duration::try_from(left.duration_since(now))
            .unwrap_or(Duration::ZERO)
            .max(Duration::from_secs(1)),
    )
}

/// Shows the failure of a set to make pods, the new set's before others'.
fn failure(sets: &[Arc<ReplicaSet>], new: Option<&Arc<ReplicaSet>>, status: &mut DeploymentStatus) {
    let of = |candidate: &Arc<ReplicaSet>| {
        condition::find(
            candidate.status.as_ref()?.conditions.as_ref(),
            REPLICA_FAILURE,
        )
        .cloned()
    };
    let Some(failed) = new.and_then(of).or_else(|| sets.iter().find_map(of)) else {
        return condition::remove(&mut status.conditions, REPLICA_FAILURE);
    };
    let shown = DeploymentCondition {
        type_: failed.type_,
        status: failed.status,
        reason: failed.reason,
        message: failed.message,
        last_update_time: failed.last_transition_time.clone(),
        last_transition_time: failed.last_transition_time,
    };
    set(status, shown);
}

/// The status after the new set could not be made.
pub(crate) fn creation_failed(
    deployment: &Deployment,
    message: &str,
    now: Timestamp,
) -> DeploymentStatus {
    let mut status = deployment.status.clone().unwrap_or_default();
    if deadline(deployment).is_some() {
        set(
            &mut status,
            condition(PROGRESSING, "False", "ReplicaSetCreateError", message, now),
        );
    }
    status
}

/// Whether rollouts are stopped.
pub(crate) fn paused(deployment: &Deployment) -> bool {
    deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.paused)
        .unwrap_or(false)
}

/// The time in which a rollout has to move; the largest number means no deadline.
fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment
        .spec
        .as_ref()?
        .progress_deadline_seconds
        .filter(|seconds| *seconds != i32::MAX)?;
    Some(Duration::from_secs(seconds.max(0).unsigned_abs().into()))
}

fn progressing(status: &DeploymentStatus) -> Option<&DeploymentCondition> {
    condition::find(status.conditions.as_ref(), PROGRESSING)
}

fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    }
}

/// Sets the condition unless status and reason are what they were; the time of transition is that of the last change of
/// status.
fn set(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    if let Some(known) = condition::find(status.conditions.as_ref(), &new.type_) {
        if known.status == new.status && known.reason == new.reason {
            return;
        }
        if known.status == new.status {
            new.last_transition_time = known.last_transition_time.clone();
        }
    }
    condition::set(&mut status.conditions, new);
}

#[cfg(test)]
mod tests;
