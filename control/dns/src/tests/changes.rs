//! The records follow the objects: in any order of arrival, through a list that starts anew, down to nothing.

use hickory_proto::rr::RecordType::{A, PTR, SRV};
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::{World, service, service_json, slice, slice_json};

const DB: &str = "db.default.svc.cluster.local";

fn headless() -> Value {
    service_json("db", json!({"clusterIP": "None"}))
}

fn endpoint(address: &str) -> Value {
    json!([{"addresses": [address]}])
}

fn addresses(addresses: &[&str]) -> Vec<String> {
    let line = |address: &&str| format!("{DB}. A {address}");
    addresses.iter().map(line).collect()
}

#[track_caller]
fn check(world: &World, expected: &[&str]) {
    let expected = addresses(expected);
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let nothing = ["NXDOMAIN"];
    world.check(
        DB,
        A,
        if expected.is_empty() {
            &nothing
        } else {
            &expected
        },
    );
}

#[test]
fn service_and_slices_may_come_in_any_order() {
    for service_first in [true, false] {
        let mut world = World::of(&[], &[]);
        if service_first {
            world.service(Event::Apply(service(&headless())));
        }
        world.slice(Event::Apply(slice(&slice_json(
            "db",
            "db-1",
            endpoint("10.244.0.1"),
        ))));
        world.slice(Event::Apply(slice(&slice_json(
            "db",
            "db-2",
            endpoint("10.244.0.2"),
        ))));
        if !service_first {
            world.service(Event::Apply(service(&headless())));
        }
        check(&world, &["10.244.0.1", "10.244.0.2"]);
    }
}

#[test]
fn deleted_objects_leave_nothing_behind() {
    let first = slice_json("db", "db-1", endpoint("10.244.0.1"));
    let second = slice_json("db", "db-2", endpoint("10.244.0.2"));
    let mut world = World::of(&[headless()], &[first.clone(), second.clone()]);
    world.slice(Event::Delete(slice(&first)));
    check(&world, &["10.244.0.2"]);
    world.check("1.0.244.10.in-addr.arpa", PTR, &["OUTSIDE"]);
    world.slice(Event::Delete(slice(&second)));
    check(&world, &[]);
    world.check("default.svc.cluster.local", A, &["NXDOMAIN"]);
    world.service(Event::Delete(service(&headless())));
    check(&world, &[]);
}

#[test]
fn an_endpoint_in_two_slices_is_one() {
    let slices = [
        slice_json("db", "db-1", endpoint("10.244.0.1")),
        slice_json("db", "db-2", endpoint("10.244.0.1")),
    ];
    let world = World::of(&[headless()], &slices);
    check(&world, &["10.244.0.1"]);
}

#[test]
fn an_address_two_services_share_stays_while_one_of_them_does() {
    let other = service_json("other", json!({"clusterIP": "None"}));
    let slices = [
        slice_json("db", "db-1", endpoint("10.244.0.1")),
        slice_json("other", "other-1", endpoint("10.244.0.1")),
    ];
    let mut world = World::of(&[headless(), other.clone()], &slices);
    world.service(Event::Delete(service(&headless())));
    world.check(
        "1.0.244.10.in-addr.arpa",
        PTR,
        &["1.0.244.10.in-addr.arpa. PTR 10-244-0-1.other.default.svc.cluster.local."],
    );
    world.check("default.svc.cluster.local", A, &["NODATA"]);
    world.service(Event::Delete(service(&other)));
    world.check("1.0.244.10.in-addr.arpa", PTR, &["OUTSIDE"]);
}

#[test]
fn a_slice_may_move_to_another_service() {
    let other = service_json("other", json!({"clusterIP": "None"}));
    let mut world = World::of(
        &[headless(), other],
        &[slice_json("db", "moving", endpoint("10.244.0.1"))],
    );
    world.slice(Event::Apply(slice(&slice_json(
        "other",
        "moving",
        endpoint("10.244.0.1"),
    ))));
    check(&world, &[]);
    world.check(
        "other.default.svc.cluster.local",
        A,
        &["other.default.svc.cluster.local. A 10.244.0.1"],
    );
}

#[test]
fn a_service_may_change_its_type() {
    let ports = json!([{"name": "http", "port": 80}]);
    let mut world = World::of(
        &[service_json(
            "db",
            json!({"clusterIP": "10.96.0.9", "ports": ports}),
        )],
        &[slice_json("db", "db-1", endpoint("10.244.0.1"))],
    );
    check(&world, &["10.96.0.9"]);
    let external = json!({"type": "ExternalName", "externalName": "db.example.com"});
    world.service(Event::Apply(service(&service_json("db", external))));
    world.check(
        DB,
        A,
        &[
            "db.default.svc.cluster.local. CNAME db.example.com.",
            "ask db.example.com.",
        ],
    );
    world.check(
        "_http._tcp.db.default.svc.cluster.local",
        SRV,
        &["NXDOMAIN"],
    );
    world.check("9.0.96.10.in-addr.arpa", PTR, &["OUTSIDE"]);
    world.service(Event::Apply(service(&headless())));
    check(&world, &["10.244.0.1"]);
}

#[test]
fn a_list_that_starts_anew_takes_away_only_what_it_does_not_name_and_only_at_its_end() {
    let web = service_json("web", json!({"clusterIP": "10.96.0.7"}));
    let old = service_json("old", json!({"clusterIP": "10.96.0.8"}));
    let mut world = World::of(&[web.clone(), old], &[]);
    let check_old = |world: &World, expected: &str| {
        world.check("old.default.svc.cluster.local", A, &[expected]);
        world.check(
            "web.default.svc.cluster.local",
            A,
            &["web.default.svc.cluster.local. A 10.96.0.7"],
        );
    };
    let present = "old.default.svc.cluster.local. A 10.96.0.8";
    world.service(Event::Init);
    check_old(&world, present);
    world.service(Event::InitApply(service(&web)));
    check_old(&world, present);
    world.service(Event::InitDone);
    check_old(&world, "NXDOMAIN");
}

#[test]
fn a_list_that_breaks_off_takes_nothing_away() {
    let web = service_json("web", json!({"clusterIP": "10.96.0.7"}));
    let mut world = World::of(&[web], &[]);
    world.service(Event::Init);
    world.service(Event::Init);
    world.check(
        "web.default.svc.cluster.local",
        A,
        &["web.default.svc.cluster.local. A 10.96.0.7"],
    );
}
