//! Tables of rollout arithmetic.

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
    let check = |replicas: i32, before: i32, old: (i32, i32), new: i32, expected: (i32, i32)| {
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
