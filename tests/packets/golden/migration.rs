//! Taking over from another proxy: the connections that it translates are left to it.

use anyhow::Result;
use dataplane_ebpf::abi::{Connection, Node};
use dataplane_ebpf::addr::Protocol;

use super::Expected::{Passed, Untouched};
use super::Step::{Change, Egress, Ingress, Pod};
use super::world::{self, TARGET, World, cluster_port, node_port, service};
use super::writer::{Endpoint, Writer};
use super::{Case, Expected, Step, check_all};
use crate::dataplane::Dataplane;
use crate::frame::{Frame, tcp};

#[test]
fn tcp_connections_of_another_proxy_stay_its_own() {
    check_all(tcp_cases, &[Protocol::TCP]);
}

#[test]
fn udp_flows_are_taken_over_at_once() {
    check_all(udp_cases, &[Protocol::UDP]);
}

fn tcp_cases(w: Writer) -> Vec<Case> {
    let a = w.a;
    let to = (a.node, node_port(service::LOCAL));
    let here = (a.here, TARGET);
    let client = |port| (a.client, port);
    let data = |port, to| w.data(client(port), to);
    let open = |port, to| w.open(client(port), to);
    let flagged = |port, flags| w.flagged(client(port), to, flags);
    let one = |packet: Frame, expected: Expected| -> Step { Ingress(packet.bytes(), expected) };
    let pod = w.data(
        (a.second, 51_004),
        (a.cluster_ip, cluster_port(service::LOCAL)),
    );
    vec![
        Case {
            name: "before it is told",
            steps: vec![one(data(51_001, to), Passed(data(51_001, here)))],
        },
        Case {
            name: "during the migration",
            steps: vec![
                Change(begin),
                one(data(51_002, to), Untouched),
                // The other proxy has given the reply the service's address when it leaves.
                Egress(w.data(to, client(51_002)).bytes(), Untouched),
                one(data(51_002, to), Untouched),
                one(
                    w.error((a.router, a.node), &w.data(to, client(51_002)), None),
                    Untouched,
                ),
                Pod(pod.bytes(), Untouched),
                one(flagged(51_003, tcp::FIN | tcp::ACK), Untouched),
                one(open(51_005, to), Passed(open(51_005, here))),
                one(data(51_005, to), Passed(data(51_005, here))),
                one(data(51_006, (a.node, 22)), Untouched),
                one(data(51_001, to), Passed(data(51_001, here))),
            ],
        },
        Case {
            name: "after the migration",
            steps: vec![
                Change(end),
                one(data(51_002, to), Untouched),
                Pod(pod.bytes(), Untouched),
                one(data(51_007, to), Passed(data(51_007, here))),
                one(data(51_005, to), Passed(data(51_005, here))),
                one(open(51_002, to), Passed(open(51_002, here))),
                one(data(51_002, to), Passed(data(51_002, here))),
            ],
        },
    ]
}

fn udp_cases(w: Writer) -> Vec<Case> {
    let a = w.a;
    let data = |to| w.data((a.client, 51_001), to);
    let packet = data((a.node, node_port(service::LOCAL)));
    vec![Case {
        name: "during the migration",
        steps: vec![
            Change(begin),
            Ingress(packet.bytes(), Passed(data((a.here, TARGET)))),
        ],
    }]
}

fn begin(dataplane: &mut Dataplane) -> Result<()> {
    dataplane.set_node(Node {
        migration_end: u32::MAX,
        ..world::node()
    })
}

/// The first moment since boot is over.
fn end(dataplane: &mut Dataplane) -> Result<()> {
    dataplane.set_node(Node {
        migration_end: 1,
        ..world::node()
    })
}

/// Only what services would get is remembered, and the daemon can tell when it is over.
#[test]
fn connections_of_another_proxy_are_remembered_until_they_end() {
    for (mut world, w) in World::each(&[Protocol::TCP]) {
        let a = w.a;
        begin(&mut world.dataplane).expect("maps can be written");
        let client = (a.client, 51_010);
        let mut entry = |to: Endpoint, packet: Frame| {
            world.send(&packet);
            world.connection(&w.flow(client, to))
        };
        let stranger = (a.node, 22);
        assert_eq!(entry(stranger, w.data(client, stranger)), None);
        let to = (a.node, node_port(service::LOCAL));
        let flags = |entry: Option<Connection>| entry.expect("it is remembered").flags;
        assert_eq!(flags(entry(to, w.data(client, to))), Connection::FOREIGN);
        let reset = w.flagged(client, to, tcp::RST);
        assert_eq!(
            flags(entry(to, reset)),
            Connection::FOREIGN | Connection::RST
        );
    }
}
