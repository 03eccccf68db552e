//! A pod's life as the machine plans it.

#![expect(clippy::unwrap_used, reason = "a failing step fails the test")]

use serde_json::json;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn spec(policy: &str, init: &[&str], main: &[&str]) -> PodSpec {
    let container = |name: &&str| {
        let sidecar = name.starts_with("side");
        json!({"name": name, "image": "x", "restartPolicy": sidecar.then_some("Always")})
    };
    let init: Vec<_> = init.iter().map(container).collect();
    let main: Vec<_> = main.iter().map(container).collect();
    serde_json::from_value(
        json!({"restartPolicy": policy, "initContainers": init, "containers": main}),
    )
    .unwrap()
}

/// A pod under test: actions are written short, as "prepare", "start a0", "stop a", "tear down", "forget".
struct Test {
    spec: PodSpec,
    machine: Machine,
}

impl Test {
    fn new(policy: &str, init: &[&str], main: &[&str]) -> Self {
        let spec = spec(policy, init, main);
        Self {
            machine: Machine::new(&spec),
            spec,
        }
    }

    fn plan(&mut self, now: i64, expected: &[&str]) -> &mut Self {
        let planned: Vec<String> = self
            .machine
            .plan(&self.spec, at(now))
            .iter()
            .map(short)
            .collect();
        assert_eq!(planned, expected, "at {now}: {:#?}", self.machine);
        self
    }

    fn prepared(&mut self) -> &mut Self {
        self.plan(0, &["prepare"]);
        self.machine.prepared(vec![]);
        self
    }

    fn started(&mut self, name: &str, now: i64) -> &mut Self {
        self.machine.started(name, None, Needs::default(), at(now));
        self
    }

    fn ended(&mut self, name: &str, code: i32, now: i64) -> &mut Self {
        let started_at = match self.machine.containers[name].phase {
            Phase::Running { since, .. } => Some(since),
            _ => None,
        };
        let ended = Ended {
            code,
            signal: None,
            reason: String::new(),
            message: None,
            started_at,
            finished_at: at(now),
        };
        self.machine.ended(name, ended);
        self
    }
}

fn short(action: &Action) -> String {
    match action {
        Action::Prepare => "prepare".into(),
        Action::Start { name, attempt } => format!("start {name}{attempt}"),
        Action::Stop { name, .. } => format!("stop {name}"),
        Action::TearDown => "tear down".into(),
        Action::Forget => "forget".into(),
    }
}

#[test]
fn an_action_is_planned_once() {
    let mut test = Test::new("Always", &[], &["a", "b"]);
    test.plan(0, &["prepare"]).plan(0, &[]);
    test.machine.prepared(vec![]);
    test.plan(0, &["start a0", "start b0"]).plan(0, &[]);
    test.started("a", 1).plan(1, &[]);
}

#[test]
fn restarts_back_off_from_the_second_crash_on() {
    let mut test = Test::new("Always", &[], &["a"]);
    test.prepared()
        .plan(0, &["start a0"])
        .started("a", 0)
        .ended("a", 1, 1)
        .plan(1, &["start a1"]);
    test.started("a", 1)
        .ended("a", 0, 2)
        .plan(2, &[])
        .plan(11, &[])
        .plan(12, &["start a2"]);
    test.started("a", 12)
        .ended("a", 1, 13)
        .plan(13, &[])
        .plan(32, &[])
        .plan(33, &["start a3"]);
    assert_eq!(test.machine.containers["a"].restarts, 3);
    assert_eq!(
        test.machine.containers["a"]
            .last
            .as_ref()
            .unwrap()
            .finished_at,
        at(13)
    );
    // It ran for ten minutes: forgiven.
    test.started("a", 33)
        .ended("a", 1, 633)
        .plan(633, &["start a4"]);
}

#[test]
fn the_longest_back_off_is_five_minutes() {
    let mut test = Test::new("Always", &[], &["a"]);
    test.prepared().plan(0, &["start a0"]);
    let mut now = 0;
    for delay in [0, 10, 20, 40, 80, 160, 300, 300] {
        test.started("a", now)
            .ended("a", 1, now)
            .plan(now + delay - 1, &[]);
        now += delay;
        assert_eq!(test.machine.containers["a"].back_off().as_secs(), delay);
        assert_eq!(test.machine.plan(&test.spec, at(now)).len(), 1);
    }
}

#[test]
fn init_containers_run_one_after_the_other() {
    let mut test = Test::new("Always", &["i", "j"], &["a"]);
    test.prepared()
        .plan(0, &["start i0"])
        .started("i", 0)
        .plan(0, &[]);
    test.ended("i", 1, 1)
        .plan(1, &["start i1"])
        .started("i", 1)
        .ended("i", 0, 2);
    test.plan(2, &["start j0"])
        .started("j", 2)
        .ended("j", 0, 3)
        .plan(3, &["start a0"]);
    test.started("a", 3).plan(4, &[]);
}

#[test]
fn sidecars_start_in_order_and_stop_last() {
    let mut test = Test::new("Never", &["side"], &["a"]);
    test.prepared()
        .plan(0, &["start side0"])
        .started("side", 0)
        .plan(0, &["start a0"])
        .started("a", 0);
    test.ended("side", 1, 1)
        .plan(1, &["start side1"])
        .started("side", 1);
    test.ended("a", 0, 2)
        .plan(2, &["stop side"])
        .ended("side", 0, 3)
        .plan(3, &["tear down"])
        .plan(3, &[]);
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let mut test = Test::new("Never", &["i"], &["a"]);
    test.prepared()
        .plan(0, &["start i0"])
        .started("i", 0)
        .ended("i", 3, 1)
        .plan(1, &["tear down"]);
    assert!(test.machine.init_failed(&test.spec));
}

#[test]
fn complete_pods_are_torn_down_but_stay() {
    let mut test = Test::new("OnFailure", &[], &["a", "b"]);
    test.prepared()
        .plan(0, &["start a0", "start b0"])
        .started("a", 0)
        .started("b", 0);
    test.ended("a", 0, 1)
        .plan(1, &[])
        .ended("b", 2, 1)
        .plan(1, &["start b1"])
        .started("b", 1);
    test.ended("b", 0, 2).plan(2, &["tear down"]);
    test.machine.torn_down();
    test.plan(3, &[]);
    test.machine.delete();
    test.plan(4, &["forget"]).plan(4, &[]);
}

#[test]
fn deleted_pods_are_stopped_torn_down_and_forgotten() {
    let mut test = Test::new("Always", &["side"], &["a"]);
    test.prepared()
        .plan(0, &["start side0"])
        .started("side", 0)
        .plan(0, &["start a0"])
        .started("a", 0);
    test.machine.delete();
    test.plan(1, &["stop a"])
        .plan(1, &[])
        .ended("a", 143, 2)
        .plan(2, &["stop side"]);
    test.ended("side", 143, 3)
        .plan(3, &["tear down"])
        .plan(3, &[]);
    test.machine.torn_down();
    test.plan(4, &["forget"]);
    test.machine.not_forgotten();
    test.plan(5, &["forget"]);
}

#[test]
fn deletion_waits_for_what_is_being_started() {
    let mut test = Test::new("Always", &[], &["a"]);
    test.plan(0, &["prepare"]);
    test.machine.delete();
    test.plan(0, &[]);
    test.machine.prepared(vec![]);
    test.plan(0, &["tear down"]);

    let mut test = Test::new("Always", &[], &["a"]);
    test.prepared().plan(0, &["start a0"]);
    test.machine.delete();
    test.plan(0, &[]).started("a", 0).plan(0, &["stop a"]);
}

#[test]
fn failures_to_start_are_tried_again_later() {
    let mut test = Test::new("Always", &[], &["a"]);
    test.prepared().plan(0, &["start a0"]);
    let image = || StartFailure::Image {
        reason: "ErrImagePull",
        message: String::new(),
    };
    test.machine.not_started("a", image(), at(0));
    test.plan(9, &[]).plan(10, &["start a0"]);
    test.machine.not_started("a", image(), at(10));
    test.plan(29, &[]).plan(30, &["start a0"]);
    test.machine.not_started(
        "a",
        StartFailure::Config {
            reason: "x",
            message: String::new(),
        },
        at(30),
    );
    assert_eq!(test.machine.wakes_at(), Some(at(35)));
    test.plan(35, &["start a0"]);
    test.machine
        .not_started("a", StartFailure::Run("no such file".into()), at(35));
    test.plan(35, &["start a1"]);
}

#[test]
fn an_unhealthy_container_is_stopped_once() {
    let mut test = Test::new("Always", &[], &["a"]);
    test.prepared().plan(0, &["start a0"]).started("a", 0);
    assert!(test.machine.unhealthy("a", "liveness").is_some());
    assert!(test.machine.unhealthy("a", "liveness").is_none());
    test.ended("a", 137, 1).plan(1, &["start a1"]);
}

#[test]
fn readiness_needs_both_probes() {
    let mut test = Test::new("Always", &[], &["a"]);
    test.prepared().plan(0, &["start a0"]);
    let needs = Needs {
        startup: true,
        readiness: true,
    };
    test.machine.started("a", None, needs, at(0));
    test.machine.readiness("a", true);
    assert!(!test.machine.containers["a"].is_ready());
    test.machine.passed_startup("a");
    assert!(test.machine.containers["a"].is_ready());
    test.machine.readiness("a", false);
    assert!(!test.machine.containers["a"].is_ready());
}
