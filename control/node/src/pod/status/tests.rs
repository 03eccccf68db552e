//! Statuses of pods in every stage of their life.

#![expect(clippy::unwrap_used, reason = "a failing step fails the test")]

use serde_json::json;

use super::super::machine::Needs;
use super::*;

fn pod(policy: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {
            "restartPolicy": policy,
            "initContainers": [{"name": "i", "image": "x"}],
            "containers": [{"name": "a", "image": "x"}],
        },
    }))
    .unwrap()
}

fn ended(code: i32) -> Ended {
    let now = Timestamp::UNIX_EPOCH;
    Ended {
        code,
        signal: None,
        reason: "Error".into(),
        message: None,
        started_at: Some(now),
        finished_at: now,
    }
}

/// Phase, then the conditions that are true, then the main container's state.
fn check(pod: &Pod, machine: &Machine, expected: &str) {
    let now = Timestamp::UNIX_EPOCH;
    let status = of(pod, None, machine, &["10.0.0.1".parse().unwrap()], now, now);
    let conditions = status.conditions.unwrap();
    let held: Vec<&str> = conditions
        .iter()
        .filter(|c| c.status == "True" && c.type_ != "PodScheduled")
        .map(|c| c.type_.as_str())
        .collect();
    let state = status.container_statuses.unwrap()[0].state.clone().unwrap();
    let state = if state.running.is_some() {
        "running".to_owned()
    } else {
        let reason = state.waiting.and_then(|waiting| waiting.reason);
        reason
            .or_else(|| state.terminated.and_then(|terminated| terminated.reason))
            .unwrap()
    };
    assert_eq!(
        format!("{} [{}] {state}", status.phase.unwrap(), held.join(" ")),
        expected
    );
}

#[test]
fn a_pods_life_as_its_status_tells_it() {
    let pod = pod("Always");
    let now = Timestamp::UNIX_EPOCH;
    let mut machine = Machine::new(spec(&pod));
    check(&pod, &machine, "Pending [] PodInitializing");
    machine.plan(spec(&pod), now);
    machine.prepared(vec!["10.244.0.2".parse().unwrap()]);
    machine.plan(spec(&pod), now);
    machine.started("i", None, Needs::default(), now);
    check(
        &pod,
        &machine,
        "Pending [PodReadyToStartContainers] PodInitializing",
    );
    machine.ended("i", ended(0));
    machine.plan(spec(&pod), now);
    check(
        &pod,
        &machine,
        "Pending [PodReadyToStartContainers Initialized] ContainerCreating",
    );
    machine.started(
        "a",
        None,
        Needs {
            readiness: true,
            startup: false,
        },
        now,
    );
    check(
        &pod,
        &machine,
        "Running [PodReadyToStartContainers Initialized] running",
    );
    machine.readiness("a", true);
    check(
        &pod,
        &machine,
        "Running [PodReadyToStartContainers Initialized Ready ContainersReady] running",
    );
    machine.ended("a", ended(1));
    check(
        &pod,
        &machine,
        "Running [PodReadyToStartContainers Initialized] Error",
    );
    machine.plan(spec(&pod), now);
    machine.started("a", None, Needs::default(), now);
    machine.ended("a", ended(1));
    machine.plan(spec(&pod), now);
    check(
        &pod,
        &machine,
        "Running [PodReadyToStartContainers Initialized] CrashLoopBackOff",
    );
}

#[test]
fn pods_that_are_not_restarted_succeed_or_fail() {
    for (code, expected) in [
        (0, "Succeeded [Initialized] Error"),
        (1, "Failed [Initialized] Error"),
    ] {
        let pod = pod("Never");
        let mut machine = Machine::new(spec(&pod));
        machine.prepared(vec![]);
        machine.ended("i", ended(0));
        machine.ended("a", ended(code));
        check(&pod, &machine, expected);
    }
    let pod = pod("Never");
    let mut machine = Machine::new(spec(&pod));
    machine.ended("i", ended(1));
    check(&pod, &machine, "Failed [] PodInitializing");
}

#[test]
fn conditions_of_others_stay_and_times_only_change_with_the_status() {
    let mut pod = pod("Always");
    pod.status = Some(
        serde_json::from_value(json!({"conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"},
            {"type": "example.com/gate", "status": "True"},
        ]}))
        .unwrap(),
    );
    let machine = Machine::new(spec(&pod));
    let status = of(
        &pod,
        None,
        &machine,
        &[],
        Timestamp::UNIX_EPOCH,
        Timestamp::UNIX_EPOCH,
    );
    let conditions = status.conditions.unwrap();
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
        .unwrap();
    assert_eq!(
        ready.last_transition_time.as_ref().unwrap().0.to_string(),
        "2020-01-01T00:00:00Z"
    );
    assert!(
        conditions
            .iter()
            .any(|condition| condition.type_ == "example.com/gate")
    );
    assert_eq!(go_duration(160), "2m40s");
}
