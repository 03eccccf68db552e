//! Shapes of the list for pods in every state.

use serde_json::{Value, json};

use super::*;
use crate::object::parse;

fn service(spec: Value) -> Service {
    let mut whole = json!({"ports": [{"port": 80, "targetPort": "web"}], "selector": {"app": "x"}});
    json_patch::merge(&mut whole, &spec);
    parse(json!({"metadata": {"name": "svc", "namespace": "a"}, "spec": whole}))
}

fn pod(index: usize, port: i32, ready: bool, leaving: bool) -> Arc<Pod> {
    let deletion = leaving.then_some("2026-01-01T00:00:00Z");
    let address = format!("10.0.{}.{}", index / 250, index % 250);
    Arc::new(parse(json!({
        "metadata": {"name": index.to_string(), "namespace": "a", "uid": index.to_string(), "deletionTimestamp": deletion},
        "spec": {"nodeName": "n", "containers": [
            {"name": "c", "ports": [{"name": "web", "containerPort": port}]}
        ]},
        "status": {
            "phase": "Running", "podIP": address,
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]
        }
    })))
}

fn shape(service: &Service, pods: &[Arc<Pod>]) -> Vec<(usize, usize)> {
    let count = |side: &Option<Vec<EndpointAddress>>| side.as_ref().map_or(0, Vec::len);
    let subsets = subsets(service, pods);
    subsets
        .iter()
        .map(|subset| (count(&subset.addresses), count(&subset.not_ready_addresses)))
        .collect()
}

#[test]
fn addresses_are_grouped_by_ports_and_readiness() {
    let pods = [
        pod(1, 80, true, false),
        pod(2, 80, false, false),
        pod(3, 81, true, false),
        pod(4, 80, true, true),
    ];
    assert_eq!(shape(&service(json!({})), &pods), [(1, 1), (1, 0)]);
    assert_eq!(
        shape(&service(json!({"publishNotReadyAddresses": true})), &pods),
        [(3, 0), (1, 0)]
    );
    assert_eq!(
        shape(&service(json!({"ports": null, "clusterIP": "None"})), &pods),
        [(2, 1)]
    );
    assert!(shape(&service(json!({"ipFamilies": ["IPv6"]})), &pods).is_empty());
}

#[test]
fn what_is_right_already_is_not_written() {
    let (service, pods) = (service(json!({})), [pod(1, 80, true, false)]);
    let first = plan(&service, &pods, None).expect("missing");
    assert_eq!(plan(&service, &pods, Some(&first)), None);
    let empty = plan(&service, &[], Some(&first)).expect("changed");
    assert_eq!(empty.subsets, None);
    assert_eq!(plan(&service, &[], Some(&empty)), None);
}

#[test]
fn a_list_too_long_is_cut_and_says_so() {
    let pods: Vec<_> = (0..1200)
        .map(|index| pod(index, 80, index % 2 == 0, false))
        .collect();
    let written = plan(&service(json!({})), &pods, None).expect("missing");
    let subset = &written.subsets.expect("some")[0];
    let counts = (
        subset.addresses.as_ref().map(Vec::len),
        subset.not_ready_addresses.as_ref().map(Vec::len),
    );
    assert_eq!(counts, (Some(600), Some(400)));
    let annotations = written.metadata.annotations.expect("annotated");
    assert_eq!(
        annotations.get(OVER_CAPACITY).map(String::as_str),
        Some("truncated")
    );
}
