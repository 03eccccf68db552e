//! Services with one and the same backend, used by sockets of one program at once.
//!
//! The kernel gives each connecting socket a port that is free towards the backend, since it is asked for the backend's
//! address by then. A port that a program has bound itself can be used towards a backend only once.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use dataplane_ebpf::addr::Protocol;
use nix::errno::Errno;
use nix::sys::socket::sockopt::ReuseAddr;
use nix::sys::socket::{self, SockFlag, SockType, SockaddrLike as _, SockaddrStorage};

use super::{Addresses, NODE_PORT, World, answer, any, families, port, receive, udp};

const OTHER_SERVICE: u32 = 2;

/// The addresses of two services.
fn services(a: Addresses) -> [SocketAddr; 4] {
    [
        (a.cluster_ip, 80).into(),
        (a.cluster_ip, 81).into(),
        (a.node, NODE_PORT).into(),
        (a.loopback, NODE_PORT).into(),
    ]
}

/// Makes both services have the backend that listens at `target`, each under an id of its own.
fn publish(world: &mut World, a: Addresses, protocol: Protocol, target: u16) {
    let publish = world.publish(a, protocol, &[target]);
    publish.expect("maps can be written");
    let dataplane = &mut world.dataplane;
    let place = crate::dataplane::Place::Here;
    dataplane
        .set_backend(2, (a.backends[0], target), protocol, place)
        .and_then(|()| dataplane.add_run(&[2]))
        .and_then(|run| dataplane.set_service(OTHER_SERVICE, run, run, 0))
        .and_then(|()| dataplane.add_cluster_ip(OTHER_SERVICE, a.cluster_ip, 81, protocol))
        .expect("maps can be written");
}

#[test]
fn connections_to_services_with_one_backend_are_apart() {
    let mut world = World::create().expect("a node can be made");
    // Few ports to choose from, so that two sockets would get the same if they could.
    world
        .namespace
        .set("ipv4/ip_local_port_range", "50000 50007")
        .expect("every namespace has a range of its own");
    for a in families() {
        let listener = world
            .namespace
            .run(|| TcpListener::bind((a.backends[0], 8080)));
        let listener = listener.expect("the address is ours");
        publish(&mut world, a, Protocol::TCP, 8080);
        let connect = |service: SocketAddr| {
            let client = world.namespace.run(|| TcpStream::connect(service));
            let client = client.expect("the service answers");
            let (served, _) = listener.accept().expect("the client waits");
            (service, client, served)
        };
        let connections = services(a).map(connect);
        for (number, (_, client, _)) in (0..).zip(&connections) {
            let mut client = client;
            client.write_all(&[number]).expect("connected");
        }
        for (number, (service, client, served)) in (0..).zip(&connections) {
            let (mut buffer, mut served) = ([0], served);
            served.read_exact(&mut buffer).expect("connected");
            assert_eq!(buffer, [number]);
            assert_eq!(client.peer_addr().expect("connected"), *service);
        }
    }
}

#[test]
fn datagrams_to_services_with_one_backend_are_apart() {
    let mut world = World::create().expect("a node can be made");
    for a in families() {
        let server = world.namespace.run(|| udp((a.backends[0], 0)));
        publish(&mut world, a, Protocol::UDP, port(&server));
        for is_connected in [true, false] {
            let open = |service| {
                let socket = world.namespace.run(|| udp(any(a.node)));
                if is_connected {
                    socket
                        .connect(service)
                        .expect("the service takes datagrams");
                }
                (service, socket)
            };
            let sockets = services(a).map(open);
            let send = |(service, socket): &(SocketAddr, UdpSocket)| {
                let sent = if is_connected {
                    socket.send(b"ping")
                } else {
                    socket.send_to(b"ping", service)
                };
                sent.expect("the service takes datagrams");
            };
            sockets.iter().for_each(send);
            for (service, _) in &sockets {
                answer(&server, service.to_string().as_bytes());
            }
            for (service, socket) in &sockets {
                let text = service.to_string().into_bytes();
                assert_eq!(receive(socket), (*service, text));
            }
        }
    }
}

/// Sharing a port with the first connection, the second would take its answers. It is refused instead.
#[test]
fn a_bound_port_is_used_once_towards_a_backend() {
    let mut world = World::create().expect("a node can be made");
    for a in families() {
        let (_listener, target) = world.listen(a);
        publish(&mut world, a, Protocol::TCP, target);
        let [one, other, ..] = services(a).map(SockaddrStorage::from);
        let connect = |port, service: &SockaddrStorage| {
            let socket = bound(a, port)?;
            socket::connect(socket.as_raw_fd(), service)?;
            Ok::<_, Errno>(socket)
        };
        world.namespace.run(|| {
            let first = connect(50_000, &one).expect("the service answers");
            let refused = connect(50_000, &other).expect_err("the port is used");
            assert_eq!(refused, Errno::EADDRNOTAVAIL);
            drop(first);
        });
    }
}

/// A TCP socket that is bound to `port`, and lets others be.
fn bound(a: Addresses, port: u16) -> nix::Result<OwnedFd> {
    let mut address = any(a.node);
    address.set_port(port);
    let address = SockaddrStorage::from(address);
    let family = address.family().expect("it is of a family");
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    socket::setsockopt(&socket, ReuseAddr, &true)?;
    socket::bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}
