//! What the parser makes of API objects: defaults, odd spellings, and fields that make no sense.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, UNIX_EPOCH};

use k8s_openapi::serde::de::DeserializeOwned;
use model::kube::{self, Parsed};
use model::{Algorithm, Family, Forwarding, Kind, Node, Protocol, Service, Slice, TrafficPolicy};
use serde_json::{Value, json};

fn parse<K: DeserializeOwned, T>(object: Value, parse: fn(&K) -> Parsed<T>) -> Parsed<T> {
    parse(&serde_json::from_value(object).unwrap())
}

fn service(spec: Value) -> Parsed<Service> {
    let object = json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec});
    parse(object, kube::service)
}

fn slice(address_type: &str, ports: Value, endpoints: Value) -> Parsed<Slice> {
    let metadata = json!({
        "namespace": "shop", "name": "web-x", "labels": {"kubernetes.io/service-name": "web"},
    });
    let object = json!({
        "metadata": metadata, "addressType": address_type, "ports": ports, "endpoints": endpoints,
    });
    parse(object, kube::slice)
}

fn sound<T>(parsed: Parsed<T>) -> T {
    assert_eq!(parsed.problems, []);
    parsed.value.unwrap()
}

fn problems<T>(parsed: &Parsed<T>) -> Vec<String> {
    parsed.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_plain_service_has_defaults() {
    let service = sound(service(json!({
        "clusterIP": "10.96.0.10", "ports": [{"port": 80}],
    })));
    assert_eq!(service.name.to_string(), "shop/web");
    assert_eq!(
        service.cluster_ips,
        ["10.96.0.10".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(service.internal_policy, TrafficPolicy::Cluster);
    assert_eq!(service.external_policy, TrafficPolicy::Cluster);
    assert_eq!(service.affinity, None);
    let [port] = &service.ports[..] else {
        panic!("one port")
    };
    assert_eq!(
        (&*port.name, port.protocol, port.port.get()),
        ("", Protocol::Tcp, 80)
    );
    assert_eq!(port.node_port, None);
    assert!(service.is_proxied());
}

#[test]
fn headless_external_and_unassigned_services_are_not_proxied() {
    let kind_of = |spec| {
        let service = sound(service(spec));
        assert!(!service.is_proxied());
        assert!(service.cluster_ips.is_empty());
        service.kind
    };
    assert_eq!(
        kind_of(json!({"clusterIP": "None", "clusterIPs": ["None"]})),
        Kind::Headless
    );
    assert_eq!(kind_of(json!({"clusterIPs": ["None"]})), Kind::Headless);
    assert_eq!(kind_of(json!({"clusterIP": ""})), Kind::Virtual);
    let stale = json!({
        "type": "ExternalName", "externalName": "example.org", "clusterIP": "10.96.0.10",
    });
    assert_eq!(kind_of(stale), Kind::ExternalName("example.org".into()));
}

#[test]
fn every_address_of_a_service_is_read() {
    let object = json!({
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00:10:96::a"],
            "externalIPs": ["192.000.002.01"],
            "loadBalancerSourceRanges": [" 10.0.0.0/8 ", "fd00::/8"],
            "externalTrafficPolicy": "Local",
            "ports": [{"name": "dns", "protocol": "UDP", "port": 53, "nodePort": 30053}],
        },
        "status": {"loadBalancer": {"ingress": [
            {"ip": "203.0.113.1"},
            {"ip": "203.0.113.2", "ipMode": "VIP"},
            {"ip": "203.0.113.3", "ipMode": "Proxy"},
            {"hostname": "lb.example.org"},
        ]}},
    });
    let service = sound(parse(object, kube::service));
    let text = |ips: &[std::net::IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(text(&service.cluster_ips), ["10.96.0.10", "fd00:10:96::a"]);
    assert_eq!(text(&service.external_ips), ["192.0.2.1"]);
    assert_eq!(
        text(&service.load_balancer_ips),
        ["203.0.113.1", "203.0.113.2"]
    );
    assert_eq!(service.source_ranges.len(), 2);
    let port = &service.ports[0];
    assert_eq!(port.node_port.map(|p| p.get()), Some(30053));
    assert!(service.uses_cluster(port) && service.uses_local(port));
}

#[test]
fn the_sets_a_port_uses_follow_policies_and_exposure() {
    let used = |spec: Value| {
        let service = sound(service(spec));
        (
            service.uses_cluster(&service.ports[0]),
            service.uses_local(&service.ports[0]),
        )
    };
    let ip = "10.96.0.10";
    let (plain, exposed) = (
        json!([{"port": 80}]),
        json!([{"port": 80, "nodePort": 30080}]),
    );
    assert_eq!(
        used(json!({"clusterIP": ip, "ports": plain})),
        (true, false)
    );
    let internal = json!({"clusterIP": ip, "ports": plain, "internalTrafficPolicy": "Local"});
    assert_eq!(used(internal), (false, true));
    let hidden = json!({"clusterIP": ip, "ports": plain, "externalTrafficPolicy": "Local"});
    assert_eq!(used(hidden), (true, false));
    let external = json!({"clusterIP": ip, "ports": exposed, "externalTrafficPolicy": "Local"});
    assert_eq!(used(external), (true, true));
    let both = json!({"clusterIP": ip, "ports": exposed, "internalTrafficPolicy": "Local"});
    assert_eq!(used(both), (true, true));
}

#[test]
fn affinity_has_a_default_and_bounds() {
    let affinity = |seconds: Value| {
        let config = json!({"clientIP": {"timeoutSeconds": seconds}});
        service(json!({
            "clusterIP": "10.96.0.10",
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": config,
        }))
    };
    assert_eq!(
        sound(affinity(json!(60))).affinity,
        Some(Duration::from_secs(60))
    );
    assert_eq!(
        sound(affinity(Value::Null)).affinity,
        Some(Duration::from_secs(10_800))
    );
    let too_long = affinity(json!(100_000));
    assert_eq!(problems(&too_long).len(), 1);
    assert_eq!(
        too_long.value.unwrap().affinity,
        Some(Duration::from_secs(86_400))
    );
}

#[test]
fn a_bad_field_is_named_and_its_neighbours_survive() {
    let parsed = service(json!({
        "clusterIPs": ["10.96.0.10", "nonsense"],
        "internalTrafficPolicy": "Sideways",
        "ports": [
            {"port": 0}, {"port": 80, "nodePort": 70000}, {"protocol": "ICMP", "port": 81}, {"port": 82},
        ],
    }));
    let expected = [
        "Service shop/web: spec.clusterIPs[1]: \"nonsense\" is not an IP address",
        "Service shop/web: spec.internalTrafficPolicy: \"Sideways\" is not known, taken as Cluster",
        "Service shop/web: spec.ports[0].port: 0 is not a port number",
        "Service shop/web: spec.ports[1].nodePort: 70000 is not a port number",
        "Service shop/web: spec.ports[2].protocol: \"ICMP\" is not a protocol",
    ];
    assert_eq!(problems(&parsed), expected);
    let service = parsed.value.unwrap();
    assert_eq!(service.cluster_ips.len(), 1);
    let ports: Vec<u16> = service.ports.iter().map(|port| port.port.get()).collect();
    assert_eq!(ports, [80, 82]);
}

#[test]
fn an_object_without_a_name_is_only_a_problem() {
    let parsed = parse(json!({"metadata": {}, "spec": {}}), kube::service);
    assert_eq!(
        problems(&parsed),
        ["Service (no name): metadata.name: is missing"]
    );
    assert_eq!(parsed.value, None);
}

#[test]
fn missing_conditions_have_their_defaults() {
    let slice = sound(slice(
        "IPv4",
        json!([{"name": "", "port": 8080}]),
        json!([
            {"addresses": ["10.244.0.2", "10.244.0.3"], "nodeName": "n1", "zone": "z1"},
            {"addresses": ["10.244.0.4"], "conditions": {"ready": false, "terminating": true}},
        ]),
    ));
    let [first, second] = &slice.endpoints[..] else {
        panic!("two endpoints")
    };
    assert_eq!(first.ip.to_string(), "10.244.0.2");
    assert_eq!(
        (first.ready, first.serving, first.terminating),
        (true, true, false)
    );
    assert_eq!((first.node.as_deref(), &first.hints), (Some("n1"), &None));
    assert_eq!(
        (second.ready, second.serving, second.terminating),
        (false, true, true)
    );
}

#[test]
fn hints_are_read() {
    let hints = json!({"forNodes": [{"name": "n1"}], "forZones": [{"name": "z1"}, {"name": "z2"}]});
    let endpoints = json!([{"addresses": ["fd00::2"], "hints": hints}]);
    let slice = sound(slice("IPv6", json!([]), endpoints));
    assert_eq!(slice.family, Family::V6);
    let hints = slice.endpoints[0].hints();
    assert_eq!((hints.nodes.len(), hints.zones.len()), (1, 2));
}

#[test]
fn slice_ports_without_name_or_number_mean_nothing_to_a_service() {
    let ports = json!([
        {"port": 80}, {"name": "any"}, {"name": "zero", "port": 0}, {"name": "web", "port": 8080},
    ]);
    let slice = sound(slice("IPv4", ports, json!([])));
    let names: Vec<&str> = slice.ports.iter().map(|port| &*port.name).collect();
    assert_eq!(names, ["web"]);
}

#[test]
fn slices_of_names_are_ignored_and_unlabelled_ones_reported() {
    let names = slice("FQDN", json!([]), json!([{"addresses": ["example.org"]}]));
    assert_eq!((names.value, names.problems), (None, vec![]));
    let object = json!({"metadata": {"name": "s", "namespace": "shop"}, "addressType": "IPv4", "endpoints": []});
    let unlabelled = parse(object, kube::slice);
    assert_eq!(unlabelled.value, None);
    assert_eq!(problems(&unlabelled).len(), 1);
}

#[test]
fn an_endpoint_of_the_wrong_family_is_left_out() {
    let endpoints =
        json!([{"addresses": ["fd00::2"]}, {"addresses": []}, {"addresses": ["10.0.0.1"]}]);
    let parsed = slice("IPv4", json!([]), endpoints);
    let expected = [
        "EndpointSlice shop/web-x: endpoints[0].addresses[0]: fd00::2 is not of the slice's address type",
        "EndpointSlice shop/web-x: endpoints[1].addresses[0]: is missing",
    ];
    assert_eq!(problems(&parsed), expected);
    assert_eq!(parsed.value.unwrap().endpoints.len(), 1);
}

#[test]
fn a_node_has_a_zone_and_may_be_leaving() {
    let node = |metadata: Value, spec: Value| -> Node {
        let addresses = json!([
            {"type": "Hostname", "address": "n1"},
            {"type": "InternalIP", "address": "172.30.0.11"},
            {"type": "ExternalIP", "address": "203.0.113.1"},
            {"type": "InternalIP", "address": "fd00::11"},
        ]);
        let status = json!({"addresses": addresses});
        let object = json!({"metadata": metadata, "spec": spec, "status": status});
        sound(parse(object, kube::node))
    };
    let zone = json!({"topology.kubernetes.io/zone": "z1"});
    let plain = node(json!({"name": "n1", "labels": zone}), json!({}));
    assert_eq!((plain.zone.as_deref(), plain.leaving), (Some("z1"), false));
    let ips: Vec<String> = plain.internal_ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["172.30.0.11", "fd00::11"]);
    let taint = json!({"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"});
    assert!(node(json!({"name": "n1"}), json!({"taints": [taint]})).leaving);
    let deleted = json!({"name": "n1", "deletionTimestamp": "2026-01-01T00:00:00Z"});
    assert!(node(deleted, json!({})).leaving);
}

#[test]
fn annotations_choose_algorithm_and_forwarding() {
    let service = |annotations: Value| {
        let metadata = json!({"namespace": "shop", "name": "web", "annotations": annotations});
        let object = json!({"metadata": metadata, "spec": {"clusterIP": "10.96.0.10"}});
        parse(object, kube::service)
    };
    let chosen = |service: Service| (service.algorithm, service.forwarding);
    assert_eq!(chosen(sound(service(Value::Null))), (None, None));
    let both = json!({
        "portolan.dev/load-balancing-algorithm": "maglev", "portolan.dev/forwarding-mode": "dsr",
    });
    let expected = (Some(Algorithm::Maglev), Some(Forwarding::Dsr));
    assert_eq!(chosen(sound(service(both))), expected);
    let plain = json!({
        "portolan.dev/load-balancing-algorithm": "random", "portolan.dev/forwarding-mode": "snat",
    });
    let expected = (Some(Algorithm::Random), Some(Forwarding::Snat));
    assert_eq!(chosen(sound(service(plain))), expected);
    let wrong = service(json!({"portolan.dev/forwarding-mode": "DSR"}));
    assert_eq!(
        problems(&wrong),
        [
            "Service shop/web: metadata.annotations[portolan.dev/forwarding-mode]: \"DSR\" is not known, the default holds"
        ]
    );
    assert_eq!(chosen(wrong.value.unwrap()), (None, None));
}

#[test]
fn a_slice_says_what_triggered_it_if_it_can() {
    let triggered = |text: &str| {
        let object = json!({
            "metadata": {
                "namespace": "shop", "name": "web-x", "labels": {"kubernetes.io/service-name": "web"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": text},
            },
            "addressType": "IPv4", "endpoints": [],
        });
        sound(parse(object, kube::slice)).triggered
    };
    let expected = UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
    assert_eq!(triggered("2023-11-14T22:13:20.25Z"), Some(expected));
    assert_eq!(triggered("yesterday"), None);
}

#[test]
fn service_cidrs_are_read() {
    let object = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.96.0.0/16", "x", "fd00::/108"]}});
    let parsed = parse(object, kube::service_cidr);
    assert_eq!(
        problems(&parsed),
        ["ServiceCIDR more: spec.cidrs[1]: \"x\" is not an address range"]
    );
    assert_eq!(parsed.value.unwrap().ranges.len(), 2);
}
