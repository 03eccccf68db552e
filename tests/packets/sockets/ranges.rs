//! `loadBalancerSourceRanges` at the socket: of the node's own processes the address is known, of a pod's it is not.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use dataplane_ebpf::abi::{Kind, Node, Service};
use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::drop::Drop;
use harness::Namespace;

use super::{Addresses, SERVICE, World, any, families, ip, port, udp};

/// The load balancer's address and the node's prefix.
fn addresses(a: Addresses) -> (IpAddr, (IpAddr, u32)) {
    if a.node.is_ipv4() {
        (ip("203.0.113.80"), (ip("192.0.2.0"), 24))
    } else {
        (ip("2001:db8:113::80"), (ip("2001:db8::"), 64))
    }
}

/// A service with ranges, none yet, and a server of each protocol behind it.
fn restrict(world: &mut World, a: Addresses, protocol: Protocol, target: u16) {
    let (address, _) = addresses(a);
    let [v4, v6] = families();
    let publish = world.publish(a, protocol, &[target]);
    publish.expect("maps can be written");
    let dataplane = &mut world.dataplane;
    let node = Node {
        netns_cookie: world.namespace.cookie().expect("a namespace has one"),
        source_v4: v4.node.into(),
        source_v6: v6.node.into(),
        ..Node::default()
    };
    dataplane
        .set_node(node)
        .and_then(|()| {
            dataplane.add_frontend(SERVICE, Kind::LOAD_BALANCER, (address, 80), protocol)
        })
        .and_then(|()| dataplane.change_service(SERVICE, |s| s.flags = Service::SOURCE_RANGES))
        .expect("maps can be written");
}

#[test]
fn the_nodes_processes_use_its_address() {
    let mut world = World::create().expect("a node can be made");
    for a in families() {
        let (address, range) = addresses(a);
        let (_listener, target) = world.listen(a);
        let server = world.namespace.run(|| udp((a.backends[0], 0)));
        for (protocol, target) in [(Protocol::TCP, target), (Protocol::UDP, port(&server))] {
            restrict(&mut world, a, protocol, target);
            let call = |world: &World, address: SocketAddr| {
                world.namespace.run(|| match protocol {
                    Protocol::TCP => [TcpStream::connect(address).map(drop), Ok(())],
                    _ => {
                        let socket = udp(any(a.node));
                        let sent = socket.send_to(b"ping", address).map(drop);
                        [sent, socket.connect(address)]
                    }
                })
            };
            let shut_out = call(&world, (address, 80).into());
            let error = shut_out.into_iter().find_map(Result::err);
            assert_eq!(error.expect("shut out").kind(), ErrorKind::HostUnreachable);
            for result in call(&world, (a.cluster_ip, 80).into()) {
                result.expect("a cluster IP has no ranges");
            }
            world
                .dataplane
                .add_source_range(SERVICE, range)
                .expect("maps can be written");
            for result in call(&world, (address, 80).into()) {
                result.expect("the node is in the range");
            }
            world
                .dataplane
                .remove_source_range(SERVICE, range)
                .expect("maps can be written");
        }
    }
    // For each family, one of TCP and two of UDP.
    assert_eq!(
        world.dataplane.drops().expect("maps can be read"),
        [(Drop::SourceRange, 6)]
    );
}

/// A pod's packets meet the hook of its device, which sees its address: here a server in the pod stands for that.
#[test]
fn a_pods_calls_are_left_to_its_device() {
    let mut world = World::create().expect("a node can be made");
    let pod = Namespace::create().expect("a namespace can be made");
    for a in families() {
        let (address, _) = addresses(a);
        // Without looking for duplicates first, an address can be used at once.
        let rest = if address.is_ipv4() { "32" } else { "128 nodad" };
        pod.ip(&format!("addr add {address}/{rest} dev lo"))
            .expect("an address can be added");
        let own = pod.run(|| TcpListener::bind((address, 80)));
        let own = own.expect("the address is the pod's");
        restrict(&mut world, a, Protocol::TCP, 1);
        pod.run(|| TcpStream::connect((address, 80)))
            .expect("the pod's own server answers");
        drop(own);
        let server = pod.run(|| udp((address, 80)));
        restrict(&mut world, a, Protocol::UDP, 1);
        let client = pod.run(|| udp(any(address)));
        client
            .send_to(b"ping", (address, 80))
            .expect("the pod's own server takes it");
        super::answer(&server, b"pong");
        assert_eq!(super::receive(&client).0, (address, 80).into());
        client.connect((address, 80)).expect("it is let alone");
        client.send(b"ping").expect("connected");
        super::answer(&server, b"pong");
        assert_eq!(super::receive(&client).0, (address, 80).into());
    }
    assert_eq!(world.dataplane.drops().expect("maps can be read"), []);
}
