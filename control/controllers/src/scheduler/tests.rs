//! What the scheduling task knows after changes, and whom it helps.

use super::*;
use crate::object::parse;

fn node(name: &str, cpu: &str) -> Arc<Node> {
    Arc::new(parse(json!({
        "metadata": {"name": name},
        "status": {
            "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}]
        }
    })))
}

fn pod(name: &str, node: Option<&str>) -> Pod {
    parse(json!({
        "metadata": {"name": name, "namespace": "a", "uid": name},
        "spec": {"nodeName": node, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": "1"}}}
        ]}
    }))
}

fn place_all(state: &mut State) -> Vec<(String, Result<String, String>)> {
    let mut placed = Vec::new();
    while let Some((key, waiting)) = state.queue.pop(Instant::now()) {
        let decision = state.decide(&waiting.demand);
        match &decision {
            Ok(node) => state
                .cluster
                .assume(&key, &waiting.uid, node, waiting.demand),
            Err(_) => state.queue.unschedulable(&key, Instant::now()),
        }
        placed.push((key.name, decision));
    }
    placed
}

#[test]
fn pods_decided_in_one_go_know_of_each_other() {
    let mut state = State::default();
    state.node(node("n1", "2"));
    state.node(node("n2", "1"));
    for index in 0..4 {
        let pod = pod(&format!("p{index}"), None);
        state.pod(&Key::of(&pod), &pod);
    }
    let placed = place_all(&mut state);
    assert_eq!(
        placed
            .iter()
            .filter(|(_, decision)| decision.is_ok())
            .count(),
        3
    );
    let refusal = Err("0/2 nodes are available: 2 Insufficient cpu.".to_owned());
    assert_eq!(
        placed.last().map(|(_, decision)| decision.clone()),
        Some(refusal)
    );
}

#[test]
fn a_failed_binding_gives_the_room_back() {
    let mut state = State::default();
    state.node(node("n1", "1"));
    let pod = pod("p", None);
    state.pod(&Key::of(&pod), &pod);
    place_all(&mut state);
    let error = Error::NotYet("no".to_owned());
    state.finish(Finished {
        key: Key::of(&pod),
        uid: "p".to_owned(),
        outcome: Err(error),
    });
    assert_eq!(state.cluster.node("n1").expect("known").load.pods.len(), 0);
    assert!(state.queue.next_due().is_some());
}

#[test]
fn a_pod_that_leaves_or_a_node_that_comes_helps_the_waiting() {
    let mut state = State::default();
    state.node(node("n1", "1"));
    let (first, second) = (pod("p1", Some("n1")), pod("p2", None));
    state.pod(&Key::of(&first), &first);
    state.pod(&Key::of(&second), &second);
    assert!(place_all(&mut state)[0].1.is_err());
    state.pod_gone(&Key::of(&first));
    assert!(
        state.queue.next_due().expect("it pauses")
            < Instant::now() + std::time::Duration::from_secs(2)
    );
}

#[test]
fn other_schedulers_and_gated_pods_are_left_alone() {
    let check = |spec: Value, expected: bool| {
        let mut whole = json!({"containers": []});
        json_patch::merge(&mut whole, &spec);
        assert_eq!(is_ours(&parse(json!({"spec": whole}))), expected, "{spec}");
    };
    check(json!({}), true);
    check(json!({"schedulerName": "default-scheduler"}), true);
    check(json!({"schedulerName": "other"}), false);
    check(json!({"schedulingGates": [{"name": "g"}]}), false);
    check(json!({"schedulingGates": []}), true);
}
