//! Rollouts as a Deployment tells of them, from creation to completion or to the deadline.

use serde_json::{Value, json};

use super::*;
use crate::object::parse;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).expect("in range")
}

fn deployment(status: DeploymentStatus, extra: Value) -> Deployment {
    let mut spec =
        json!({"replicas": 3, "selector": {}, "template": {}, "progressDeadlineSeconds": 600});
    json_patch::merge(&mut spec, &extra);
    let mut deployment: Deployment =
        parse(json!({"metadata": {"name": "web", "generation": 1}, "spec": spec}));
    deployment.status = Some(status);
    deployment
}

fn set_of(size: i32, available: i32) -> Arc<ReplicaSet> {
    Arc::new(parse(json!({
        "metadata": {"name": "web-1"}, "spec": {"replicas": size, "selector": {}},
        "status": {"replicas": size, "readyReplicas": available, "availableReplicas": available}
    })))
}

fn reason(status: &DeploymentStatus, kind: &str) -> Option<String> {
    condition::find(status.conditions.as_ref(), kind)?
        .reason
        .clone()
}

fn run(
    before: DeploymentStatus,
    extra: Value,
    size: i32,
    available: i32,
    judged: NewSet,
    now: i64,
) -> DeploymentStatus {
    let new = set_of(size, available);
    status(
        &deployment(before, extra),
        std::slice::from_ref(&new),
        Some(&new),
        judged,
        at(now),
    )
}

#[test]
fn a_rollout_is_created_progresses_and_completes() {
    let existing = NewSet::Existing("web-1");
    let created = run(
        DeploymentStatus::default(),
        json!({}),
        0,
        0,
        NewSet::Created("web-1"),
        0,
    );
    assert_eq!(
        reason(&created, PROGRESSING).as_deref(),
        Some("NewReplicaSetCreated")
    );
    assert_eq!(
        reason(&created, AVAILABLE).as_deref(),
        Some("MinimumReplicasUnavailable")
    );
    let moving = run(created, json!({}), 3, 1, existing, 5);
    assert_eq!(
        reason(&moving, PROGRESSING).as_deref(),
        Some("ReplicaSetUpdated")
    );
    assert_eq!(
        (moving.updated_replicas, moving.unavailable_replicas),
        (Some(3), Some(2))
    );
    let done = run(moving, json!({}), 3, 3, existing, 9);
    assert_eq!(reason(&done, PROGRESSING).as_deref(), Some(COMPLETE));
    assert_eq!(
        reason(&done, AVAILABLE).as_deref(),
        Some("MinimumReplicasAvailable")
    );
    let progressing = progressing(&done).expect("set");
    assert_eq!(
        progressing.message.as_deref(),
        Some("ReplicaSet \"web-1\" has successfully progressed.")
    );
    assert_eq!(
        progressing.last_transition_time,
        Some(time(at(0))),
        "it was True all the time"
    );
    assert_eq!(
        run(done.clone(), json!({}), 3, 3, existing, 99),
        done,
        "nothing changes any more"
    );
}

#[test]
fn a_rollout_that_stands_still_times_out() {
    let existing = NewSet::Existing("web-1");
    let moving = run(DeploymentStatus::default(), json!({}), 3, 1, existing, 0);
    let wait = until_deadline(&deployment(moving.clone(), json!({})), &moving, at(0));
    assert_eq!(wait, Some(Duration::from_secs(601)));
    let waiting = run(moving.clone(), json!({}), 3, 1, existing, 600);
    assert_eq!(waiting, moving);
    let late = run(moving, json!({}), 3, 1, existing, 601);
    assert_eq!(reason(&late, PROGRESSING).as_deref(), Some(TIMED_OUT));
    assert_eq!(
        until_deadline(&deployment(late.clone(), json!({})), &late, at(602)),
        None
    );
    let saved = run(late, json!({}), 3, 3, existing, 700);
    assert_eq!(reason(&saved, PROGRESSING).as_deref(), Some(COMPLETE));
}

#[test]
fn pausing_stops_the_clock() {
    let moving = run(
        DeploymentStatus::default(),
        json!({}),
        3,
        1,
        NewSet::Existing("web-1"),
        0,
    );
    let paused = run(moving, json!({"paused": true}), 3, 1, NewSet::NotJudged, 10);
    assert_eq!(reason(&paused, PROGRESSING).as_deref(), Some(PAUSED));
    assert_eq!(
        until_deadline(
            &deployment(paused.clone(), json!({"paused": true})),
            &paused,
            at(11)
        ),
        None
    );
    let resumed = run(paused, json!({}), 3, 1, NewSet::Existing("web-1"), 5000);
    assert_eq!(reason(&resumed, PROGRESSING).as_deref(), Some(RESUMED));
}

#[test]
fn without_a_deadline_there_is_no_progress_condition() {
    for never in [
        json!({"progressDeadlineSeconds": null}),
        json!({"progressDeadlineSeconds": i32::MAX}),
    ] {
        let status = run(
            DeploymentStatus::default(),
            never,
            3,
            1,
            NewSet::Existing("web-1"),
            0,
        );
        assert_eq!(reason(&status, PROGRESSING), None);
    }
}

#[test]
fn a_sets_failure_is_the_deployments() {
    let mut failing = (*set_of(3, 0)).clone();
    failing.status.as_mut().expect("given").conditions = Some(parse(
        json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "no"}]),
    ));
    let failing = Arc::new(failing);
    let deployment = deployment(DeploymentStatus::default(), json!({}));
    let sets = [failing.clone()];
    let got = status(
        &deployment,
        &sets,
        Some(&failing),
        NewSet::Existing("web-1"),
        at(0),
    );
    assert_eq!(
        reason(&got, REPLICA_FAILURE).as_deref(),
        Some("FailedCreate")
    );
    let healed = run(got, json!({}), 3, 0, NewSet::Existing("web-1"), 1);
    assert_eq!(reason(&healed, REPLICA_FAILURE), None);
}
