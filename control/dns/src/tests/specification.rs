//! Row by row what the Kubernetes DNS specification 1.1.0 asks for, and what DNS itself asks for around it.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType::{self, A, AAAA, ANY, CNAME, MX, NS, PTR, SOA, SRV, TXT};
use serde_json::json;

use super::{World, render, service_json, slice_json};
use crate::answer::Answer;

/// A dual-stack Service, a headless one with every kind of endpoint, and names for something else.
fn world() -> World {
    let web = json!({
        "type": "NodePort",
        "clusterIP": "10.96.0.7",
        "clusterIPs": ["10.96.0.7", "fd00:10:96::7"],
        "ports": [
            {"name": "http", "port": 80},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ],
    });
    let endpoints = json!([
        {"addresses": ["10.244.1.2"], "hostname": "db-0", "conditions": {"ready": true}},
        {"addresses": ["10.244.2.3"], "conditions": {}},
        {"addresses": ["10.244.3.4"], "hostname": "db-2", "conditions": {"ready": false, "serving": true}},
    ]);
    let sixes = json!([
        {"addresses": ["fd00:10:244:1::2"], "hostname": "db-0"},
        {"addresses": ["fd00:10:244:2::3"]},
    ]);
    World::of(
        &[
            service_json("web", web),
            service_json(
                "single",
                json!({"clusterIP": "10.96.0.8", "ports": [{"port": 80}]}),
            ),
            service_json(
                "db",
                json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}),
            ),
            service_json("idle", json!({"clusterIP": "None"})),
            service_json(
                "out",
                json!({"type": "ExternalName", "externalName": "www.example.com"}),
            ),
            service_json(
                "dotted",
                json!({"type": "ExternalName", "externalName": "www.example.com."}),
            ),
            service_json(
                "in",
                json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}),
            ),
            service_json(
                "gone",
                json!({"type": "ExternalName", "externalName": "no.default.svc.cluster.local"}),
            ),
            service_json(
                "loop",
                json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"}),
            ),
            service_json(
                "number",
                json!({"type": "ExternalName", "externalName": "192.0.2.1"}),
            ),
            service_json(
                "pending",
                json!({"clusterIP": "", "ports": [{"name": "http", "port": 80}]}),
            ),
        ],
        &[
            slice_json("db", "db-1", endpoints),
            slice_json("db", "db-2", sixes),
            slice_json(
                "idle",
                "idle-1",
                json!([{"addresses": ["10.244.9.9"], "conditions": {"ready": false}}]),
            ),
            slice_json(
                "web",
                "web-1",
                json!([{"addresses": ["10.244.1.9"], "hostname": "web-0"}]),
            ),
        ],
    )
}

#[test]
fn the_version_of_the_schema_is_told() {
    let world = world();
    world.check(
        "dns-version.cluster.local",
        TXT,
        &["dns-version.cluster.local. TXT 1.1.0"],
    );
    world.check("dns-version.cluster.local", A, &["NODATA"]);
}

#[test]
fn a_service_has_its_addresses_of_both_families() {
    let world = world();
    let name = "web.default.svc.cluster.local";
    world.check(name, A, &["web.default.svc.cluster.local. A 10.96.0.7"]);
    world.check(
        name,
        AAAA,
        &["web.default.svc.cluster.local. AAAA fd00:10:96::7"],
    );
    world.check(name, MX, &["NODATA"]);
    world.check(
        name,
        ANY,
        &[
            "web.default.svc.cluster.local. A 10.96.0.7",
            "web.default.svc.cluster.local. AAAA fd00:10:96::7",
        ],
    );
    world.check(
        "single.default.svc.cluster.local",
        A,
        &["single.default.svc.cluster.local. A 10.96.0.8"],
    );
    world.check("single.default.svc.cluster.local", AAAA, &["NODATA"]);
}

#[test]
fn named_ports_have_srv_records_with_addresses() {
    let world = world();
    world.check(
        "_http._tcp.web.default.svc.cluster.local",
        SRV,
        &[
            "_http._tcp.web.default.svc.cluster.local. SRV 0 100 80 web.default.svc.cluster.local.",
            "+ web.default.svc.cluster.local. A 10.96.0.7",
            "+ web.default.svc.cluster.local. AAAA fd00:10:96::7",
        ],
    );
    world.check("_http._tcp.web.default.svc.cluster.local", A, &["NODATA"]);
    world.check("_tcp.web.default.svc.cluster.local", SRV, &["NODATA"]);
    world.check(
        "_http._udp.web.default.svc.cluster.local",
        SRV,
        &["NXDOMAIN"],
    );
    world.check("_sctp.web.default.svc.cluster.local", SRV, &["NXDOMAIN"]);
    world.check("_tcp.single.default.svc.cluster.local", SRV, &["NXDOMAIN"]);
}

#[test]
fn a_service_with_addresses_hides_its_endpoints() {
    world().check("web-0.web.default.svc.cluster.local", A, &["NXDOMAIN"]);
    world().check("9.1.244.10.in-addr.arpa", PTR, &["OUTSIDE"]);
}

#[test]
fn a_headless_service_has_the_addresses_of_its_ready_endpoints() {
    let world = world();
    let name = "db.default.svc.cluster.local";
    world.check(
        name,
        A,
        &[
            "db.default.svc.cluster.local. A 10.244.1.2",
            "db.default.svc.cluster.local. A 10.244.2.3",
        ],
    );
    world.check(
        name,
        AAAA,
        &[
            "db.default.svc.cluster.local. AAAA fd00:10:244:1::2",
            "db.default.svc.cluster.local. AAAA fd00:10:244:2::3",
        ],
    );
}

#[test]
fn endpoints_have_names_of_their_own() {
    let world = world();
    world.check(
        "db-0.db.default.svc.cluster.local",
        A,
        &["db-0.db.default.svc.cluster.local. A 10.244.1.2"],
    );
    world.check(
        "db-0.db.default.svc.cluster.local",
        AAAA,
        &["db-0.db.default.svc.cluster.local. AAAA fd00:10:244:1::2"],
    );
    world.check(
        "10-244-2-3.db.default.svc.cluster.local",
        A,
        &["10-244-2-3.db.default.svc.cluster.local. A 10.244.2.3"],
    );
    world.check(
        "fd00-10-244-2--3.db.default.svc.cluster.local",
        AAAA,
        &["fd00-10-244-2--3.db.default.svc.cluster.local. AAAA fd00:10:244:2::3"],
    );
    world.check("10-244-2-3.db.default.svc.cluster.local", AAAA, &["NODATA"]);
    world.check("10-244-1-2.db.default.svc.cluster.local", A, &["NXDOMAIN"]);
    world.check("db-2.db.default.svc.cluster.local", A, &["NXDOMAIN"]);
}

#[test]
fn a_headless_service_has_a_srv_record_for_each_endpoint() {
    world().check(
        "_http._tcp.db.default.svc.cluster.local",
        SRV,
        &[
            "_http._tcp.db.default.svc.cluster.local. SRV 0 100 8080 10-244-2-3.db.default.svc.cluster.local.",
            "_http._tcp.db.default.svc.cluster.local. SRV 0 100 8080 db-0.db.default.svc.cluster.local.",
            "_http._tcp.db.default.svc.cluster.local. SRV 0 100 8080 fd00-10-244-2--3.db.default.svc.cluster.local.",
            "+ 10-244-2-3.db.default.svc.cluster.local. A 10.244.2.3",
            "+ db-0.db.default.svc.cluster.local. A 10.244.1.2",
            "+ db-0.db.default.svc.cluster.local. AAAA fd00:10:244:1::2",
            "+ fd00-10-244-2--3.db.default.svc.cluster.local. AAAA fd00:10:244:2::3",
        ],
    );
}

#[test]
fn a_headless_service_without_ready_endpoints_is_not_there() {
    world().check("idle.default.svc.cluster.local", A, &["NXDOMAIN"]);
    world().check("9.9.244.10.in-addr.arpa", PTR, &["OUTSIDE"]);
}

#[test]
fn a_service_that_waits_for_its_address_is_not_there() {
    world().check("pending.default.svc.cluster.local", A, &["NXDOMAIN"]);
}

#[test]
fn addresses_lead_back_to_names() {
    let world = world();
    world.check(
        "7.0.96.10.in-addr.arpa",
        PTR,
        &["7.0.96.10.in-addr.arpa. PTR web.default.svc.cluster.local."],
    );
    let six = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa";
    world.check(
        six,
        PTR,
        &[&format!("{six}. PTR web.default.svc.cluster.local.")],
    );
    world.check(
        "2.1.244.10.in-addr.arpa",
        PTR,
        &["2.1.244.10.in-addr.arpa. PTR db-0.db.default.svc.cluster.local."],
    );
    world.check(
        "3.2.244.10.in-addr.arpa",
        PTR,
        &["3.2.244.10.in-addr.arpa. PTR 10-244-2-3.db.default.svc.cluster.local."],
    );
    world.check("7.0.96.10.in-addr.arpa", A, &["NODATA"]);
    for outside in [
        "1.2.0.192.in-addr.arpa",
        "0.96.10.in-addr.arpa",
        "x.0.96.10.in-addr.arpa",
        "in-addr.arpa",
    ] {
        world.check(outside, PTR, &["OUTSIDE"]);
    }
}

#[test]
fn names_given_by_people_come_first_among_those_of_one_address() {
    let world = World::of(
        &[
            service_json("a", json!({"clusterIP": "None"})),
            service_json("b", json!({"clusterIP": "None"})),
        ],
        &[
            slice_json("a", "a-1", json!([{"addresses": ["10.244.1.2"]}])),
            slice_json(
                "b",
                "b-1",
                json!([{"addresses": ["10.244.1.2"], "hostname": "b-0"}]),
            ),
        ],
    );
    world.check(
        "2.1.244.10.in-addr.arpa",
        PTR,
        &[
            "2.1.244.10.in-addr.arpa. PTR b-0.b.default.svc.cluster.local.",
            "2.1.244.10.in-addr.arpa. PTR 10-244-1-2.a.default.svc.cluster.local.",
        ],
    );
}

#[test]
fn an_external_name_is_an_alias() {
    let world = world();
    for name in ["out", "dotted"] {
        let name = format!("{name}.default.svc.cluster.local");
        let alias = format!("{name}. CNAME www.example.com.");
        for kind in [A, AAAA, TXT] {
            world.check(&name, kind, &[&alias, "ask www.example.com."]);
        }
        world.check(&name, CNAME, &[&alias]);
    }
}

#[test]
fn an_external_name_inside_the_zone_is_followed() {
    let world = world();
    let alias = "in.default.svc.cluster.local. CNAME web.default.svc.cluster.local.";
    world.check(
        "in.default.svc.cluster.local",
        A,
        &[alias, "web.default.svc.cluster.local. A 10.96.0.7"],
    );
    world.check("in.default.svc.cluster.local", MX, &[alias]);
    world.check(
        "gone.default.svc.cluster.local",
        A,
        &[
            "gone.default.svc.cluster.local. CNAME no.default.svc.cluster.local.",
            "NXDOMAIN",
        ],
    );
}

#[test]
fn external_names_in_a_circle_fail() {
    world().check("loop.default.svc.cluster.local", A, &["ServFail"]);
}

#[test]
fn an_external_name_that_is_an_address_resolves_to_nothing() {
    world().check("number.default.svc.cluster.local", A, &["NXDOMAIN"]);
}

#[test]
fn every_pod_address_has_a_name() {
    let world = world();
    world.check(
        "10-244-1-2.default.pod.cluster.local",
        A,
        &["10-244-1-2.default.pod.cluster.local. A 10.244.1.2"],
    );
    world.check("10-244-1-2.default.pod.cluster.local", AAAA, &["NODATA"]);
    world.check(
        "fd00--1.any.pod.cluster.local",
        AAAA,
        &["fd00--1.any.pod.cluster.local. AAAA fd00::1"],
    );
    for nothing in [
        "10-244-1.default",
        "10-244-1-256.default",
        "web.default",
        "a.10-244-1-2.default",
    ] {
        world.check(&format!("{nothing}.pod.cluster.local"), A, &["NXDOMAIN"]);
    }
    world.check("default.pod.cluster.local", A, &["NODATA"]);
}

#[test]
fn the_zone_knows_its_authority_and_server() {
    let world = world();
    let Answer::Complete(reply) = world.ask("cluster.local", SOA) else {
        panic!("the zone is ours");
    };
    assert_eq!(reply.answers.len(), 1);
    assert!(reply.authoritative);
    world.check(
        "cluster.local",
        NS,
        &[
            "cluster.local. NS ns.dns.cluster.local.",
            "+ ns.dns.cluster.local. A 169.254.20.10",
        ],
    );
    world.check(
        "ns.dns.cluster.local",
        A,
        &["ns.dns.cluster.local. A 169.254.20.10"],
    );
    world.check("cluster.local", A, &["NODATA"]);
}

#[test]
fn names_above_others_exist_without_data() {
    let world = world();
    for name in ["svc", "pod", "dns", "default.svc"] {
        world.check(&format!("{name}.cluster.local"), A, &["NODATA"]);
    }
    for name in [
        "other.svc",
        "no.default.svc",
        "x.web.default.svc",
        "nothing",
        "x.dns",
        "x.dns-version",
    ] {
        world.check(&format!("{name}.cluster.local"), A, &["NXDOMAIN"]);
    }
}

#[test]
fn negative_answers_name_the_zone_and_live_as_short_as_others() {
    let cases = [
        ("no.default.svc.cluster.local", ResponseCode::NXDomain),
        ("svc.cluster.local", ResponseCode::NoError),
    ];
    for (name, code) in cases {
        let Answer::Complete(reply) = world().ask(name, A) else {
            panic!("{name} is ours");
        };
        assert_eq!(reply.code, code);
        let soa = &reply.authorities[0];
        assert_eq!(
            (soa.name.to_string().as_str(), soa.ttl),
            ("cluster.local.", 5)
        );
        assert!(soa.data.to_string().ends_with(" 5"), "{}", soa.data);
    }
}

#[test]
fn case_does_not_matter_and_comes_back_as_it_came() {
    world().check(
        "WEB.Default.svc.CLUSTER.local",
        A,
        &["WEB.Default.svc.CLUSTER.local. A 10.96.0.7"],
    );
    world().check(
        "7.0.96.10.IN-ADDR.arpa",
        PTR,
        &["7.0.96.10.IN-ADDR.arpa. PTR web.default.svc.cluster.local."],
    );
}

#[test]
fn other_names_are_not_ours() {
    for name in [
        "example.com",
        "local",
        "xcluster.local",
        ".",
        "cluster.local.example",
    ] {
        world().check(name, A, &["OUTSIDE"]);
    }
}

#[test]
fn nothing_of_ours_is_denied_before_everything_is_known() {
    let mut world = World::unknown();
    let check = |world: &World| {
        world.check("web.default.svc.cluster.local", A, &["ServFail"]);
        world.check("7.0.96.10.in-addr.arpa", PTR, &["ServFail"]);
        world.check("example.com", A, &["OUTSIDE"]);
    };
    check(&world);
    world.list_services(&[service_json("web", json!({"clusterIP": "10.96.0.7"}))]);
    check(&world);
    world.list_slices(&[]);
    world.check(
        "web.default.svc.cluster.local",
        A,
        &["web.default.svc.cluster.local. A 10.96.0.7"],
    );
}

#[test]
fn equal_records_take_turns_in_coming_first() {
    let world = world();
    let first = |turn| {
        let answer = world.ask_in_turn("db.default.svc.cluster.local", RecordType::A, turn);
        render(&answer).swap_remove(0)
    };
    assert_ne!(first(0), first(1));
    assert_eq!(first(0), first(2));
}
