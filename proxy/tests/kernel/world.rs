//! The Services of the tests.

use std::net::{IpAddr, SocketAddr};

use model::{
    Endpoint, Event, Family, ObjectName, Protocol, Service, ServicePort, Slice, SlicePort,
};

pub(crate) const SERVICE: &str = "10.96.0.10:80";
pub(crate) const SERVICE6: &str = "[fd00:10:96::a]:80";
pub(crate) const EMPTY: &str = "10.96.0.11:80";
pub(crate) const BACKENDS: [&str; 2] = ["10.244.9.1:8080", "10.244.9.2:8080"];
pub(crate) const BACKENDS6: [&str; 1] = ["[fd00:10:244:9::1]:8080"];
/// Addresses and port of the node, where it answers with the first Service.
pub(crate) const NODE_PORT: &str = "192.0.2.7:30080";
pub(crate) const NODE_PORT6: &str = "[2001:db8::7]:30080";
pub(crate) const LOOPBACK: &str = "127.0.0.1:30080";
pub(crate) const LOOPBACK6: &str = "[::1]:30080";

pub(crate) fn service(name: &str, addresses: &[&str], node_port: Option<u16>) -> Service {
    let port = |name: &str, protocol| ServicePort {
        name: name.into(),
        protocol,
        port: 80.try_into().unwrap(),
        node_port: node_port.map(|port| port.try_into().unwrap()),
        app_protocol: None,
    };
    Service {
        cluster_ips: addresses
            .iter()
            .map(|text| text.parse::<SocketAddr>().unwrap().ip())
            .collect(),
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
        ..Service::new(ObjectName::new("default", name))
    }
}

pub(crate) fn slice(family: Family, backends: &[&str]) -> Slice {
    let port = |name: &str, protocol| SlicePort {
        name: name.into(),
        protocol,
        port: 8080.try_into().unwrap(),
    };
    let endpoint = |ip: IpAddr| Endpoint {
        ip,
        ready: true,
        serving: true,
        terminating: false,
        node: Some("here".into()),
        hints: None,
    };
    let ips = backends
        .iter()
        .map(|text| text.parse::<SocketAddr>().unwrap().ip());
    Slice {
        triggered: None,
        name: ObjectName::new("default", format!("web-{family:?}")),
        service: ObjectName::new("default", "web"),
        family,
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
        endpoints: ips.map(endpoint).collect(),
    }
}

pub(crate) fn events(backends: &[&str]) -> [Event; 3] {
    [
        Event::Services(vec![
            service("web", &[SERVICE, SERVICE6], Some(30080)),
            service("empty", &[EMPTY], None),
        ]),
        Event::Slices(vec![
            slice(Family::V4, backends),
            slice(Family::V6, &BACKENDS6),
        ]),
        Event::Node(None),
    ]
}
