//! Addresses of the ServiceCIDRs that no service has.

use anyhow::Result;
use dataplane_ebpf::abi::{Node, Prefix};
use dataplane_ebpf::drop::Drop;

use super::Expected::{Dropped, Passed, Refused, Untouched};
use super::Step::{Change, Ingress, Pod};
use super::world::{self, TARGET, cluster_port, ip, service};
use super::writer::Writer;
use super::{Case, TCP_AND_UDP, check_all};
use crate::dataplane::Dataplane;

#[test]
fn an_address_that_no_service_has_is_dropped() {
    check_all(cases, &TCP_AND_UDP);
}

fn cases(w: Writer) -> Vec<Case> {
    let a = w.a;
    let (inside, beyond) = if a.node.is_ipv4() {
        (ip("10.111.255.255"), ip("10.112.0.0"))
    } else {
        (ip("fd00:10:96::ffff"), ip("fd00:10:96::1:0"))
    };
    let open = |port, to| w.open((a.client, port), to);
    let unknown = open(49005, (a.cluster_ip, 9));
    let to = (a.cluster_ip, cluster_port(service::LOCAL));
    vec![
        Case {
            name: "while the ServiceCIDRs are unknown",
            steps: vec![
                Ingress(open(49001, (inside, 80)).bytes(), Untouched),
                Pod(open(49001, (inside, 80)).bytes(), Untouched),
            ],
        },
        Case {
            name: "once they are known",
            steps: vec![
                Change(know),
                Ingress(
                    open(49002, (inside, 80)).bytes(),
                    Dropped(Drop::Unallocated),
                ),
                Pod(
                    open(49002, (inside, 80)).bytes(),
                    Dropped(Drop::Unallocated),
                ),
                Ingress(open(49003, (beyond, 80)).bytes(), Untouched),
                Ingress(
                    open(49004, to).bytes(),
                    Passed(open(49004, (a.here, TARGET))),
                ),
                Ingress(
                    unknown.bytes(),
                    Refused(Drop::UnknownPort, w.refusal(&unknown)),
                ),
            ],
        },
        Case {
            name: "a slot beyond the count means nothing",
            steps: vec![
                Change(|d| {
                    d.set_node(Node {
                        service_cidr_count: 0,
                        ..knowing()
                    })
                }),
                Ingress(open(49006, (inside, 80)).bytes(), Untouched),
            ],
        },
    ]
}

pub(super) fn know(dataplane: &mut Dataplane) -> Result<()> {
    dataplane.set_node(knowing())
}

/// A node that knows `192.0.2.128/25`, `10.96.0.0/12` and `fd00:10:96::/112`.
fn knowing() -> Node {
    let prefix = |address, mask| Prefix {
        address: ip(address).into(),
        mask: ip(mask).into(),
    };
    Node {
        service_cidr_count: 3,
        service_cidrs: [
            prefix("192.0.2.128", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff80"),
            prefix("10.96.0.0", "ffff:ffff:ffff:ffff:ffff:ffff:fff0:0"),
            prefix("fd00:10:96::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:0"),
            Prefix::default(),
        ],
        ..world::node()
    }
}
