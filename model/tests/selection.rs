//! Endpoint selection, one row a rule. An endpoint is written as its number followed by what is remarkable about it; by
//! default it is ready, serving, not terminating, on another node, and has no hints. This node is `here`, in `zone-a`.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use model::select::{Destination, Origin, policy};
use model::{Endpoint, ObjectName, Outcome, Place, Service, TrafficPolicy, select};

const HERE: Place<'_> = Place {
    node: "here",
    zone: Some("zone-a"),
};

fn endpoint(row: &str) -> Endpoint {
    let mut words = row.split_whitespace();
    let number = words.next().expect("an endpoint starts with its number");
    let number: u8 = number.parse().expect("the number is a number");
    let mut endpoint = Endpoint {
        ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, number)),
        ready: true,
        serving: true,
        terminating: false,
        node: Some("there".into()),
        hints: None,
    };
    for word in words {
        match word.split_once(':').unwrap_or((word, "")) {
            ("here", _) => endpoint.node = Some("here".into()),
            ("nowhere", _) => endpoint.node = None,
            ("unready", _) => (endpoint.ready, endpoint.serving) = (false, false),
            // Terminating, and what is left of it.
            ("draining", _) => (endpoint.ready, endpoint.terminating) = (false, true),
            ("dying", _) => {
                (endpoint.ready, endpoint.serving, endpoint.terminating) = (false, false, true);
            }
            // `publishNotReadyAddresses`.
            ("published", _) => (endpoint.ready, endpoint.terminating) = (true, true),
            ("zone", zone) => endpoint
                .hints
                .get_or_insert_default()
                .zones
                .push(zone.into()),
            ("node", node) => endpoint
                .hints
                .get_or_insert_default()
                .nodes
                .push(node.into()),
            other => panic!("unknown word {other:?}"),
        }
    }
    endpoint
}

fn numbers(set: &[model::Backend<'_>]) -> String {
    let numbers = set.iter().map(|backend| match backend.endpoint.ip {
        IpAddr::V4(ip) => ip.octets()[3].to_string(),
        IpAddr::V6(ip) => ip.to_string(),
    });
    numbers.collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check_at(place: Place<'_>, rows: &str, expected: &str) {
    let rows = rows.split(',').filter(|row| !row.trim().is_empty());
    let endpoints: Vec<Endpoint> = rows.map(endpoint).collect();
    let port = NonZeroU16::new(80).expect("80 is not 0");
    let selection = select(place, endpoints.iter().map(|e| e.at(port)));
    let (cluster, local) = (numbers(&selection.cluster), numbers(&selection.local));
    let any = if selection.any { "any" } else { "none" };
    assert_eq!(format!("[{cluster}] [{local}] {any}"), expected);
}

#[track_caller]
fn check(rows: &str, expected: &str) {
    check_at(HERE, rows, expected);
}

#[test]
fn ready_endpoints_serve_and_those_on_this_node_serve_local_traffic() {
    check("", "[] [] none");
    check("1, 2 here", "[1 2] [2] any");
    check("2 here, 1", "[1 2] [2] any");
    check("1, 2 unready", "[1] [] any");
    check("1 unready, 2 unready here", "[] [] none");
}

#[test]
fn an_endpoint_without_a_node_is_not_local() {
    check("1 nowhere", "[1] [] any");
}

#[test]
fn terminating_endpoints_serve_when_none_is_ready() {
    check("1 draining, 2 draining here", "[1 2] [2] any");
    check("1 draining, 2 dying here", "[1] [] any");
    check("1 draining, 2", "[2] [] any");
    check("1 dying", "[] [] none");
    check("1 dying, 2 unready", "[] [] none");
}

#[test]
fn each_set_falls_back_to_terminating_endpoints_on_its_own() {
    check("1, 2 draining here", "[1] [2] any");
    check("1 draining, 2 here", "[2] [2] any");
    check("1 here, 2 draining here", "[1] [1] any");
}

#[test]
fn a_published_terminating_endpoint_is_ready_like_any_other() {
    check("1 published, 2", "[1 2] [] any");
    check("1 published here, 2 draining here", "[1] [1] any");
}

#[test]
fn hints_for_this_zone_are_followed_when_all_ready_endpoints_have_hints() {
    check("1 zone:zone-a, 2 zone:zone-b", "[1] [] any");
    check("1 zone:zone-a, 2 zone:zone-a zone:zone-b", "[1 2] [] any");
    check("1 zone:zone-a, 2", "[1 2] [] any");
    check("1 zone:zone-b, 2 zone:zone-c", "[1 2] [] any");
}

#[test]
fn hints_for_this_node_come_before_those_for_its_zone() {
    let both = "1 node:here zone:zone-a, 2 node:there zone:zone-a, 3 node:there zone:zone-b";
    check(both, "[1] [] any");
    check(
        "1 node:there zone:zone-a, 2 node:there zone:zone-b",
        "[1] [] any",
    );
    check("1 node:here zone:zone-a, 2 zone:zone-a", "[1 2] [] any");
    check("1 node:there, 2 node:there", "[1 2] [] any");
}

#[test]
fn only_ready_endpoints_decide_about_hints() {
    check("1 zone:zone-a, 2 unready, 3 draining", "[1] [] any");
    check("1 zone:zone-b, 2 unready zone:zone-a", "[1] [] any");
}

#[test]
fn the_fallback_to_terminating_endpoints_ignores_hints() {
    check(
        "1 draining zone:zone-a, 2 draining zone:zone-b",
        "[1 2] [] any",
    );
}

#[test]
fn local_traffic_ignores_hints() {
    check("1 here zone:zone-b, 2 zone:zone-a", "[2] [1] any");
}

#[test]
fn a_node_without_a_zone_follows_no_zone_hints() {
    let place = Place { zone: None, ..HERE };
    check_at(place, "1 zone:zone-a, 2 zone:zone-b", "[1 2] [] any");
    check_at(
        place,
        "1 node:here zone:zone-a, 2 node:there zone:zone-a",
        "[1] [] any",
    );
}

#[test]
fn of_duplicates_a_local_one_wins_and_then_the_better_one() {
    check("1, 1", "[1] [] any");
    check("1, 1 here", "[1] [1] any");
    check("1 here unready, 1", "[] [] none");
    check("1 unready, 1", "[1] [] any");
    check("1 dying, 1 draining", "[1] [] any");
}

#[test]
fn without_any_endpoint_traffic_is_refused_and_with_an_unreachable_one_dropped() {
    let outcome = |row: &str, policy: TrafficPolicy| {
        let endpoint = endpoint(row);
        let port = NonZeroU16::new(80).expect("80 is not 0");
        let selection = select(HERE, [endpoint.at(port)]);
        match selection.outcome(policy) {
            Outcome::Forward(set) => numbers(set),
            Outcome::Reject => "reject".to_owned(),
            Outcome::Drop => "drop".to_owned(),
        }
    };
    assert_eq!(outcome("1", TrafficPolicy::Cluster), "1");
    assert_eq!(outcome("1", TrafficPolicy::Local), "drop");
    assert_eq!(outcome("1 draining", TrafficPolicy::Local), "drop");
    assert_eq!(outcome("1 here", TrafficPolicy::Local), "1");
    assert_eq!(outcome("1 unready", TrafficPolicy::Cluster), "reject");
    assert_eq!(outcome("1 here unready", TrafficPolicy::Local), "reject");
}

#[test]
fn the_policy_depends_on_destination_and_origin() {
    use Destination::{ClusterIp, External, RemoteNodePort};
    use Origin::{Elsewhere, ThisNode};
    use TrafficPolicy::{Cluster, Local};

    let service = |internal_policy, external_policy| Service {
        internal_policy,
        external_policy,
        ..Service::new(ObjectName::new("default", "web"))
    };
    let internal_local = service(Local, Cluster);
    let external_local = service(Cluster, Local);
    assert_eq!(policy(&internal_local, ClusterIp, ThisNode), Some(Local));
    assert_eq!(policy(&internal_local, ClusterIp, Elsewhere), Some(Local));
    assert_eq!(policy(&internal_local, External, Elsewhere), Some(Cluster));
    assert_eq!(policy(&external_local, ClusterIp, ThisNode), Some(Cluster));
    assert_eq!(policy(&external_local, External, Elsewhere), Some(Local));
    assert_eq!(policy(&external_local, External, ThisNode), Some(Cluster));
    assert_eq!(policy(&external_local, RemoteNodePort, ThisNode), None);
}
