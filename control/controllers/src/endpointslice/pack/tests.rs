//! Which slices are written for which change.

use serde_json::json;

use super::*;
use crate::object::parse;

fn service() -> Service {
    parse(
        json!({"metadata": {"name": "svc", "namespace": "a", "uid": "s", "labels": {"team": "t"}}, "spec": {}}),
    )
}

fn ports(number: i32) -> Vec<EndpointPort> {
    parse(json!([{"name": "", "port": number, "protocol": "TCP"}]))
}

fn endpoint(index: usize, ready: bool) -> Endpoint {
    let address = format!("10.0.{}.{}", index / 250, index % 250);
    parse(json!({
        "addresses": [address], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "uid": index.to_string()}
    }))
}

fn wanted(range: std::ops::Range<usize>) -> ByPorts {
    let endpoints: Vec<_> = range.map(|index| endpoint(index, true)).collect();
    ByPorts::from([(ports_key(&ports(80)), (ports(80), endpoints))])
}

fn slice(range: std::ops::Range<usize>) -> Arc<EndpointSlice> {
    let endpoints = range.map(|index| endpoint(index, true)).collect();
    Arc::new(new_slice(
        &service(),
        Family::V4,
        Some(ports(80)),
        endpoints,
    ))
}

fn check(
    existing: &[Arc<EndpointSlice>],
    wanted: ByPorts,
    create: &[usize],
    update: &[usize],
    delete: &[usize],
) {
    let writes = pack(&service(), Family::V4, existing, wanted);
    let sizes = |slices: &[EndpointSlice]| {
        slices
            .iter()
            .map(|slice| listed(slice).len())
            .collect::<Vec<_>>()
    };
    let gone: Vec<_> = writes
        .delete
        .iter()
        .map(|slice| listed(slice).len())
        .collect();
    assert_eq!(
        (sizes(&writes.create), sizes(&writes.update), gone),
        (create.into(), update.into(), delete.into())
    );
}

#[test]
fn new_endpoints_fill_slices_of_a_hundred() {
    check(&[], wanted(0..250), &[100, 100, 50], &[], &[]);
    check(&[], wanted(0..100), &[100], &[], &[]);
}

#[test]
fn nothing_is_written_when_nothing_changes() {
    check(
        &[slice(0..100), slice(100..150)],
        wanted(0..150),
        &[],
        &[],
        &[],
    );
}

#[test]
fn additions_go_where_there_is_room() {
    check(
        &[slice(0..100), slice(100..150)],
        wanted(0..160),
        &[],
        &[60],
        &[],
    );
    check(
        &[slice(0..95), slice(95..150)],
        wanted(0..156),
        &[],
        &[61],
        &[],
    );
    check(
        &[slice(0..60), slice(60..120)],
        wanted(0..121),
        &[],
        &[61],
        &[],
    );
    check(&[slice(0..100)], wanted(0..101), &[1], &[], &[]);
}

#[test]
fn removed_endpoints_make_room_for_new_ones_in_the_same_write() {
    check(
        &[slice(0..100), slice(100..150)],
        wanted(5..155),
        &[],
        &[100],
        &[],
    );
    check(
        &[slice(0..100), slice(100..150)],
        wanted(0..100),
        &[],
        &[],
        &[50],
    );
}

#[test]
fn a_changed_state_updates_its_slice_only() {
    let mut changed = wanted(0..150);
    changed.values_mut().next().expect("one").1[120] = endpoint(120, false);
    check(&[slice(0..100), slice(100..150)], changed, &[], &[50], &[]);
}

#[test]
fn a_service_without_endpoints_keeps_one_empty_slice() {
    check(&[], ByPorts::new(), &[0], &[], &[]);
    let placeholder = Arc::new(new_slice(&service(), Family::V4, None, Vec::new()));
    check(
        std::slice::from_ref(&placeholder),
        ByPorts::new(),
        &[],
        &[],
        &[],
    );
    check(&[slice(0..5)], ByPorts::new(), &[0], &[], &[5]);
    check(&[placeholder], wanted(0..1), &[1], &[], &[0]);
}

#[test]
fn other_ports_mean_other_slices() {
    let mut both = wanted(0..2);
    both.insert(ports_key(&ports(81)), (ports(81), vec![endpoint(9, true)]));
    check(&[slice(0..2)], both, &[1], &[], &[]);
}

#[test]
fn slices_are_labelled_and_owned() {
    let writes = pack(&service(), Family::V6, &[], wanted(0..1));
    let slice = &writes.create[0];
    assert_eq!(slice.address_type, "IPv6");
    let labels = slice.metadata.labels.as_ref().expect("labelled");
    assert_eq!(labels.get(SERVICE_LABEL).map(String::as_str), Some("svc"));
    assert_eq!(labels.get("team").map(String::as_str), Some("t"));
    let mut old = slice.clone();
    old.metadata.labels.get_or_insert_default().remove("team");
    check(&[Arc::new(old)], wanted(0..1), &[], &[1], &[]);
}
