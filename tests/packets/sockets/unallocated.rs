//! Addresses of the ServiceCIDRs that no service has: a call to them fails, silently as a packet would.

use std::io::ErrorKind;
use std::net::TcpStream;

use dataplane_ebpf::abi::{Node, Prefix};
use dataplane_ebpf::drop::Drop;

use super::{World, any, families, ip, udp};

#[test]
fn calls_to_an_address_that_no_service_has_fail() {
    let mut world = World::create().expect("a node can be made");
    let prefix = |address, mask| Prefix {
        address: ip(address).into(),
        mask: ip(mask).into(),
    };
    let node = Node {
        service_cidr_count: 2,
        service_cidrs: [
            prefix("10.96.0.0", "ffff:ffff:ffff:ffff:ffff:ffff:fff0:0"),
            prefix("fd00:10:96::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:0"),
            Prefix::default(),
            Prefix::default(),
        ],
        ..Node::default()
    };
    world.dataplane.set_node(node).expect("maps can be written");
    for a in families() {
        let to = (a.cluster_ip, 80);
        let results = world.namespace.run(|| {
            let socket = udp(any(a.cluster_ip));
            [
                TcpStream::connect(to).map(drop),
                socket.connect(to),
                socket.send_to(b"ping", to).map(drop),
            ]
        });
        for result in results {
            let error = result.expect_err("nobody is there");
            assert_eq!(error.kind(), ErrorKind::HostUnreachable);
        }
        let outside = world.namespace.run(|| udp(any(a.node)));
        outside
            .connect((a.node, 80))
            .expect("only the hook could refuse");
    }
    assert_eq!(
        world.dataplane.drops().expect("maps can be read"),
        [(Drop::Unallocated, 6)]
    );
}
