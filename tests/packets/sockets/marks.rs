//! What the socket hooks leave for others to read: records of calls that failed, and marks of backends that connected
//! UDP sockets have.

use std::net::TcpStream;

use dataplane_ebpf::abi::Run;
use dataplane_ebpf::addr::{Addr, Port, Protocol};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

use super::{SERVICE, World, any, families, spellings, udp};

#[test]
fn a_failed_call_leaves_what_it_was_for() {
    let mut world = World::create().expect("a node can be made");
    for (a, protocol) in families()
        .into_iter()
        .flat_map(|a| [Protocol::TCP, Protocol::UDP].map(|protocol| (a, protocol)))
    {
        world.expose(a, protocol).expect("maps can be written");
        let set = world
            .dataplane
            .set_service(SERVICE, Run::DROP, Run::DROP, 0);
        set.expect("maps can be written");
        for address in spellings(a.cluster_ip) {
            let before = world.dataplane.stats(SERVICE).expect("a service").drops;
            let calls = world.namespace.run(|| {
                let socket = udp(any(address));
                match protocol {
                    Protocol::TCP => vec![TcpStream::connect((address, 80)).map(drop)],
                    _ => vec![
                        socket.connect((address, 80)),
                        socket.send_to(b"ping", (address, 80)).map(drop),
                    ],
                }
            });
            let count = calls.len();
            assert!(calls.iter().all(Result::is_err));
            let records = world.dataplane.recent_drops().expect("maps can be read");
            for record in &records[records.len() - count..] {
                let nowhere = (Addr::UNSPECIFIED, Port::NONE);
                let service = (a.cluster_ip.into(), Port::new(80));
                assert_eq!(record.flow, Flow::new(nowhere, service, protocol));
                assert_eq!(record.reason, Drop::NoPolicyBackend as u32);
                assert_eq!(record.device, 0);
            }
            let after = world.dataplane.stats(SERVICE).expect("a service").drops;
            assert_eq!(after - before, count as u64);
        }
    }
}

#[test]
fn a_backend_is_marked_when_a_udp_socket_is_connected_to_it() {
    for a in families() {
        for address in spellings(a.cluster_ip) {
            let mut world = World::create().expect("a node can be made");
            for protocol in [Protocol::TCP, Protocol::UDP] {
                let publish = world.publish(a, protocol, &[1]);
                publish.expect("maps can be written");
            }
            let socket = world.namespace.run(|| udp(any(address)));
            let mut is_marked = || {
                let marked = world.dataplane.is_udp_connected(1);
                marked.expect("maps can be read")
            };
            socket
                .send_to(b"ping", (address, 80))
                .expect("the service takes datagrams");
            world.namespace.run(|| {
                TcpStream::connect((address, 80)).expect_err("nobody listens");
            });
            assert!(!is_marked(), "only a connected UDP socket has to be found");
            socket
                .connect((address, 80))
                .expect("the service takes datagrams");
            assert!(is_marked(), "{address}");
        }
    }
}
