//! System calls of real sockets under the cgroup hooks: what a program sees when it talks to a service.

mod affinity;
mod collisions;
mod marks;
mod ranges;
mod unallocated;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::Result;
use dataplane_ebpf::abi::{Backend, Node, NodeAddress, Run, Service, SocketKey};
use dataplane_ebpf::addr::{Family, Port, Protocol};
use dataplane_ebpf::drop::Drop;
use harness::{Namespace, socket_cookie};

use crate::cgroup::Cgroup;
use crate::dataplane::{Dataplane, Place};

const SERVICE: u32 = 1;
const NODE_PORT: u16 = 30080;

/// The addresses of one family. The backends' are on the loopback device, so every connection is also a hairpin.
#[derive(Clone, Copy)]
struct Addresses {
    cluster_ip: IpAddr,
    node: IpAddr,
    loopback: IpAddr,
    backends: [IpAddr; 3],
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("the tables hold addresses")
}

fn families() -> [Addresses; 2] {
    [
        Addresses {
            cluster_ip: ip("10.96.0.10"),
            node: ip("192.0.2.1"),
            loopback: ip("127.0.0.1"),
            backends: [ip("10.244.1.5"), ip("10.244.1.6"), ip("10.244.1.7")],
        },
        Addresses {
            cluster_ip: ip("fd00:10:96::a"),
            node: ip("2001:db8::1"),
            loopback: ip("::1"),
            backends: [
                ip("fd00:10:244:1::5"),
                ip("fd00:10:244:1::6"),
                ip("fd00:10:244:1::7"),
            ],
        },
    ]
}

fn family(a: Addresses) -> Family {
    Family::of(a.node.into())
}

/// A node whose processes, this one among them, are under the hooks.
struct World {
    dataplane: Dataplane,
    namespace: Namespace,
    _cgroup: Cgroup,
}

impl World {
    fn create() -> Result<Self> {
        let namespace = node_namespace()?;
        let cgroup = Cgroup::enter()?;
        let mut dataplane = Dataplane::load_for_sockets()?;
        cgroup.attach(&mut dataplane)?;
        dataplane.set_node(Node {
            netns_cookie: namespace.cookie()?,
            ..Node::default()
        })?;
        for a in families() {
            dataplane.add_node_address(a.node, 0)?;
            dataplane.add_node_address(a.loopback, NodeAddress::LOOPBACK)?;
        }
        Ok(Self {
            dataplane,
            namespace,
            _cgroup: cgroup,
        })
    }

    /// Makes the service have the first `count` backends of a family, listening at the ports given.
    fn publish(&mut self, a: Addresses, protocol: Protocol, ports: &[u16]) -> Result<()> {
        let ids: Vec<u32> = (1..).take(ports.len()).collect();
        for ((id, port), address) in ids.iter().zip(ports).zip(a.backends) {
            self.dataplane
                .set_backend(*id, (address, *port), protocol, Place::Here)?;
        }
        let run = self.dataplane.add_run(&ids)?;
        self.dataplane.set_service(SERVICE, run, run, 0)?;
        self.expose(a, protocol)
    }

    /// A TCP server at the first backend of a family, and its port.
    fn listen(&self, a: Addresses) -> (TcpListener, u16) {
        let listener = self
            .namespace
            .run(|| TcpListener::bind((a.backends[0], 0)))
            .expect("the address is ours");
        let port = listener.local_addr().expect("bound").port();
        (listener, port)
    }

    fn expose(&mut self, a: Addresses, protocol: Protocol) -> Result<()> {
        self.dataplane
            .add_cluster_ip(SERVICE, a.cluster_ip, 80, protocol)?;
        self.dataplane
            .add_node_port(SERVICE, family(a), NODE_PORT, protocol)
    }
}

fn node_namespace() -> Result<Namespace> {
    let namespace = Namespace::create()?;
    for a in families() {
        for address in a.backends.iter().chain([&a.node]) {
            let length = if address.is_ipv4() { 32 } else { 128 };
            namespace.ip(&format!("addr add {address}/{length} dev lo"))?;
        }
    }
    Ok(namespace)
}

/// The ways to write an address: as it is, and for IPv4 also as an IPv6 socket does.
fn spellings(address: IpAddr) -> Vec<IpAddr> {
    match address {
        IpAddr::V4(v4) => vec![address, IpAddr::V6(v4.to_ipv6_mapped())],
        IpAddr::V6(_) => vec![address],
    }
}

/// The wildcard address of the same family.
fn any(address: IpAddr) -> SocketAddr {
    let wildcard = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    wildcard.parse().expect("a wildcard address")
}

/// A UDP socket that gives up receiving after a while.
fn udp(local: impl Into<SocketAddr>) -> UdpSocket {
    let socket = UdpSocket::bind(local.into()).expect("the address is ours");
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a time above zero");
    socket
}

fn port(socket: &UdpSocket) -> u16 {
    socket.local_addr().expect("bound").port()
}

/// Answers one datagram with `text`.
fn answer(server: &UdpSocket, text: &[u8]) {
    let (_, client) = server.recv_from(&mut [0; 64]).expect("a datagram arrives");
    server
        .send_to(text, client)
        .expect("the client can be answered");
}

/// The next datagram's sender and text.
fn receive(socket: &UdpSocket) -> (SocketAddr, Vec<u8>) {
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer).expect("an answer arrives");
    (from, buffer[..length].to_vec())
}

#[test]
fn tcp_reaches_a_backend_and_sees_the_service() {
    let mut world = World::create().expect("a node can be made");
    for a in families() {
        let (listener, target) = world.listen(a);
        world
            .publish(a, Protocol::TCP, &[target])
            .expect("maps can be written");
        let services = [
            (a.cluster_ip, 80),
            (a.node, NODE_PORT),
            (a.loopback, NODE_PORT),
        ];
        for (address, port) in services
            .into_iter()
            .flat_map(|(ip, port)| spellings(ip).into_iter().map(move |ip| (ip, port)))
        {
            let mut client = world
                .namespace
                .run(|| TcpStream::connect((address, port)))
                .expect("the service answers");
            assert_eq!(
                client.peer_addr().expect("connected"),
                SocketAddr::from((address, port))
            );
            let (mut served, _) = listener.accept().expect("the client waits");
            // The hook also runs for the server's socket, and must leave it alone.
            assert_eq!(
                served.peer_addr().expect("connected").port(),
                client.local_addr().expect("connected").port()
            );
            client.write_all(b"ping").expect("connected");
            let mut buffer = [0; 4];
            served.read_exact(&mut buffer).expect("connected");
            assert_eq!(&buffer, b"ping");
        }
    }
    assert_eq!(
        world
            .dataplane
            .stats(SERVICE)
            .expect("a service")
            .connections,
        9
    );
}

#[test]
fn datagrams_reach_a_backend_and_answers_come_from_the_service() {
    let mut world = World::create().expect("a node can be made");
    for a in families() {
        let server = world.namespace.run(|| udp((a.backends[0], 0)));
        world
            .publish(a, Protocol::UDP, &[port(&server)])
            .expect("maps can be written");
        for address in spellings(a.cluster_ip) {
            let service = SocketAddr::from((address, 80));
            let client = world.namespace.run(|| udp(any(address)));
            for text in [b"one", b"two"] {
                client
                    .send_to(b"ping", service)
                    .expect("the service takes datagrams");
                answer(&server, text);
                assert_eq!(receive(&client), (service, text.to_vec()));
            }
            let connected = world.namespace.run(|| udp(any(address)));
            connected
                .connect(service)
                .expect("the service takes datagrams");
            assert_eq!(connected.peer_addr().expect("connected"), service);
            connected
                .send(b"ping")
                .expect("the service takes datagrams");
            answer(&server, b"three");
            assert_eq!(receive(&connected), (service, b"three".to_vec()));
        }
    }
}

#[test]
fn an_unconnected_socket_stays_with_its_backend_until_that_is_gone() {
    let mut world = World::create().expect("a node can be made");
    for a in families() {
        let servers = a
            .backends
            .map(|address| world.namespace.run(|| udp((address, 0))));
        let ports = servers.each_ref().map(port);
        world
            .publish(a, Protocol::UDP, &ports)
            .expect("maps can be written");
        let service = SocketAddr::from((a.cluster_ip, 80));
        let client = world.namespace.run(|| udp(any(a.cluster_ip)));
        let served_by = |client: &UdpSocket| {
            client
                .send_to(b"ping", service)
                .expect("the service takes datagrams");
            let served = (0..3).cycle().take(3_000_000).find(|index| {
                servers[*index].set_nonblocking(true).expect("a socket");
                servers[*index].recv_from(&mut [0; 64]).is_ok()
            });
            served.expect("a server got it")
        };
        let first = served_by(&client);
        assert!((0..20).all(|_| served_by(&client) == first));

        let id = u32::try_from(first).expect("small") + 1;
        world
            .dataplane
            .change_backend(id, |b| b.flags &= !Backend::SERVING)
            .expect("maps can be written");
        let others: Vec<u32> = (1..=3).filter(|other| *other != id).collect();
        let run = world
            .dataplane
            .add_run(&others)
            .expect("maps can be written");
        world
            .dataplane
            .set_service(SERVICE, run, run, 0)
            .expect("maps can be written");
        let second = served_by(&client);
        assert_ne!(second, first, "it moved on");
        assert!((0..20).all(|_| served_by(&client) == second));
    }
}

/// What a socket hears from is found by the backend's address, which the table may have lost or another service may share.
#[test]
fn answers_come_from_the_service_addressed_last() {
    let mut world = World::create().expect("a node can be made");
    for a in families() {
        let server = world.namespace.run(|| udp((a.backends[0], 0)));
        world
            .publish(a, Protocol::UDP, &[port(&server)])
            .expect("maps can be written");
        let client = world.namespace.run(|| udp(any(a.cluster_ip)));
        let ask = |address, port| {
            let service = SocketAddr::from((address, port));
            client
                .send_to(b"ping", service)
                .expect("the service takes datagrams");
            answer(&server, b"pong");
            assert_eq!(receive(&client).0, service);
        };
        ask(a.cluster_ip, 80);
        ask(a.node, NODE_PORT);
        ask(a.cluster_ip, 80);
        let answers = SocketKey::new(
            socket_cookie(&client).expect("a socket"),
            a.backends[0].into(),
            Port::new(port(&server)),
            SocketKey::BACKEND,
        );
        let ask_after_eviction = |dataplane: &mut Dataplane| {
            dataplane
                .evict_peer(&answers)
                .expect("the entry can be removed");
            ask(a.cluster_ip, 80);
        };
        ask_after_eviction(&mut world.dataplane);
        world
            .dataplane
            .change_backend(1, |b| b.flags &= !Backend::SERVING)
            .expect("maps can be written");
        world
            .dataplane
            .set_service(SERVICE, Run::REFUSE, Run::REFUSE, 0)
            .expect("maps can be written");
        ask_after_eviction(&mut world.dataplane);
    }
}

#[test]
fn a_service_without_backends_refuses_at_once() {
    let mut world = World::create().expect("a node can be made");
    for a in families() {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            world.expose(a, protocol).expect("maps can be written");
        }
        for (run, kind) in [
            (Run::REFUSE, ErrorKind::ConnectionRefused),
            (Run::DROP, ErrorKind::HostUnreachable),
        ] {
            world
                .dataplane
                .set_service(SERVICE, run, run, 0)
                .expect("maps can be written");
            for (address, port) in [(a.cluster_ip, 80), (a.node, NODE_PORT)] {
                let (tcp, connected, sent) = world.namespace.run(|| {
                    let socket = udp(any(address));
                    let tcp = TcpStream::connect((address, port)).map(drop);
                    (
                        tcp,
                        socket.connect((address, port)),
                        socket.send_to(b"ping", (address, port)).map(drop),
                    )
                });
                for result in [tcp, connected, sent] {
                    assert_eq!(result.expect_err("nobody serves").kind(), kind);
                }
            }
        }
    }
    let drops = world.dataplane.drops().expect("maps can be read");
    assert_eq!(drops, [(Drop::NoBackend, 12), (Drop::NoPolicyBackend, 12)]);
}

#[test]
fn an_unknown_port_of_a_cluster_ip_is_refused() {
    let mut world = World::create().expect("a node can be made");
    for a in families() {
        world.expose(a, Protocol::TCP).expect("maps can be written");
        let refused = world
            .namespace
            .run(|| TcpStream::connect((a.cluster_ip, 81)))
            .map(drop);
        assert_eq!(
            refused.expect_err("nobody serves").kind(),
            ErrorKind::ConnectionRefused
        );
    }
    assert_eq!(
        world.dataplane.drops().expect("maps can be read"),
        [(Drop::UnknownPort, 2)]
    );
}

/// The internal policy binds a cluster IP's clients; the external one never binds clients on this node.
#[test]
fn policies_bind_local_clients_by_the_address_they_use() {
    let mut world = World::create().expect("a node can be made");
    for a in families() {
        let (_listener, target) = world.listen(a);
        world
            .publish(a, Protocol::TCP, &[target])
            .expect("maps can be written");
        let run = world.dataplane.add_run(&[1]).expect("maps can be written");
        let policy = Service::INTERNAL_LOCAL | Service::EXTERNAL_LOCAL;
        world
            .dataplane
            .set_service(SERVICE, run, Run::DROP, policy)
            .expect("maps can be written");
        let internal = world
            .namespace
            .run(|| TcpStream::connect((a.cluster_ip, 80)))
            .map(drop);
        assert_eq!(
            internal.expect_err("no backend is allowed").kind(),
            ErrorKind::HostUnreachable
        );
        world
            .namespace
            .run(|| TcpStream::connect((a.node, NODE_PORT)))
            .expect("the short cut");
    }
}

#[test]
fn a_pods_loopback_is_its_own() {
    let mut world = World::create().expect("a node can be made");
    let pod = Namespace::create().expect("a namespace can be made");
    for a in families() {
        world.expose(a, Protocol::TCP).expect("maps can be written");
        let own = pod
            .run(|| TcpListener::bind((a.loopback, NODE_PORT)))
            .expect("a pod may use any port");
        pod.run(|| TcpStream::connect((a.loopback, NODE_PORT)))
            .expect("its own server answers");
        drop(own);
    }
    assert_eq!(world.dataplane.drops().expect("maps can be read"), []);
}

#[test]
fn the_nodes_processes_cannot_take_a_node_port() {
    let mut world = World::create().expect("a node can be made");
    for a in families() {
        world.expose(a, Protocol::TCP).expect("maps can be written");
        let wildcard = any(a.node).ip();
        let taken = world
            .namespace
            .run(|| TcpListener::bind((wildcard, NODE_PORT)))
            .map(drop);
        assert_eq!(
            taken.expect_err("the port is taken").kind(),
            ErrorKind::AddrInUse
        );
        world
            .namespace
            .run(|| UdpSocket::bind((wildcard, NODE_PORT)))
            .expect("only TCP is taken");
        world
            .dataplane
            .remove_node_port(family(a), NODE_PORT, Protocol::TCP)
            .expect("maps can be written");
        world
            .namespace
            .run(|| TcpListener::bind((wildcard, NODE_PORT)))
            .expect("the port is free again");
    }
}

/// An IPv6 socket may serve IPv4 too, the other way round never.
#[test]
fn a_node_port_is_taken_for_the_sockets_that_could_serve_its_family() {
    let mut world = World::create().expect("a node can be made");
    let [v4, v6] = families();
    for (a, taken) in [(v4, vec![v4, v6]), (v6, vec![v6])] {
        world.expose(a, Protocol::TCP).expect("maps can be written");
        for wildcard in [v4, v6].map(|a| any(a.node).ip()) {
            let bound = world
                .namespace
                .run(|| TcpListener::bind((wildcard, NODE_PORT)))
                .map(drop);
            let expected = taken.iter().any(|a| any(a.node).ip() == wildcard);
            let found = bound.is_err_and(|error| error.kind() == ErrorKind::AddrInUse);
            assert_eq!(
                found,
                expected,
                "{wildcard} with a service of {}",
                family(a)
            );
        }
        world
            .dataplane
            .remove_node_port(family(a), NODE_PORT, Protocol::TCP)
            .expect("maps can be written");
    }
}

/// A node port leads to the services of the family that the client uses, whatever the other family's are.
#[test]
fn a_node_port_of_the_other_family_is_not_there() {
    let mut world = World::create().expect("a node can be made");
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let [v4, v6] = families();
        for (a, other) in [(v4, v6), (v6, v4)] {
            world.expose(a, protocol).expect("maps can be written");
            for address in [other.node, other.loopback].into_iter().flat_map(spellings) {
                world.namespace.run(|| {
                    let socket = udp(any(address));
                    match protocol {
                        Protocol::TCP => drop(TcpStream::connect((address, NODE_PORT))),
                        _ => socket
                            .connect((address, NODE_PORT))
                            .expect("only the hook could refuse"),
                    }
                });
            }
            world
                .dataplane
                .remove_node_port(family(a), NODE_PORT, protocol)
                .expect("maps can be written");
        }
    }
    // The service has no backend, so a call that met it would have been counted.
    assert_eq!(world.dataplane.drops().expect("maps can be read"), []);
}

/// With 600 connections, each of three backends gets 200 give or take 46: four standard deviations.
#[test]
fn connections_spread_over_all_backends() {
    let mut world = World::create().expect("a node can be made");
    let [a, _] = families();
    let listeners = a.backends.map(|address| {
        world
            .namespace
            .run(|| TcpListener::bind((address, 0)))
            .expect("the address is ours")
    });
    let ports = listeners
        .each_ref()
        .map(|listener| listener.local_addr().expect("bound").port());
    world
        .publish(a, Protocol::TCP, &ports)
        .expect("maps can be written");
    let mut counts = [0; 3];
    for listener in &listeners {
        listener.set_nonblocking(true).expect("a socket");
    }
    for _ in 0..600 {
        world
            .namespace
            .run(|| TcpStream::connect((a.cluster_ip, 80)))
            .expect("the service answers");
        let served = listeners
            .iter()
            .position(|listener| listener.accept().is_ok());
        counts[served.expect("a connection is accepted at once")] += 1;
    }
    assert!(
        counts.iter().all(|count| (154..=246).contains(count)),
        "{counts:?}"
    );
}
