//! Real traffic: a client on the wire, a node with the dataplane on its uplink, a pod on it and a machine beside it.
//!
//! ```text
//!   client 172.30.0.1 ──bridge──┬── node 172.30.0.11 ──── pod 10.244.1.5
//!                               └── machine 172.30.0.12, also 10.244.2.6
//! ```

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Result;
use aya::programs::{SchedClassifier, TcAttachType};
use dataplane_ebpf::abi::{Node, Run};
use dataplane_ebpf::addr::{Family, Protocol};

use crate::cgroup::take_turn;
use crate::dataplane::{Dataplane, Place};
use crate::net::Namespace;

const LOCAL: u32 = 1;
const REMOTE: u32 = 2;
const EMPTY: u32 = 3;

const TARGET: u16 = 8080;

/// Long enough for a busy machine, and far below what a lost packet would cost.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy)]
struct Addresses {
    client: IpAddr,
    node: IpAddr,
    cluster_ip: IpAddr,
    here: IpAddr,
    elsewhere: IpAddr,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("the tables hold addresses")
}

fn families() -> [Addresses; 2] {
    [
        Addresses {
            client: ip("172.30.0.1"),
            node: ip("172.30.0.11"),
            cluster_ip: ip("10.96.0.10"),
            here: ip("10.244.1.5"),
            elsewhere: ip("10.244.2.6"),
        },
        Addresses {
            client: ip("fd00:172:30::1"),
            node: ip("fd00:172:30::11"),
            cluster_ip: ip("fd00:10:96::a"),
            here: ip("fd00:10:244:1::5"),
            elsewhere: ip("fd00:10:244:2::6"),
        },
    ]
}

struct World {
    dataplane: Dataplane,
    client: Namespace,
    node: Namespace,
    pod: Namespace,
    machine: Namespace,
}

impl World {
    fn create() -> Result<Self> {
        let mut world = Self {
            dataplane: Dataplane::load()?,
            client: Namespace::create()?,
            node: Namespace::create()?,
            pod: Namespace::create()?,
            machine: Namespace::create()?,
        };
        world.connect()?;
        world.fill()?;
        world.attach()?;
        Ok(world)
    }

    fn connect(&self) -> Result<()> {
        let (node, pod, machine) = (self.node.path(), self.pod.path(), self.machine.path());
        self.client.ip(&format!(
            "link add wire type bridge
             link add to-node type veth peer name uplink netns {node}
             link add to-machine type veth peer name uplink netns {machine}
             link set to-node master wire
             link set to-machine master wire
             link set to-node up
             link set to-machine up
             link set wire up
             addr add 172.30.0.1/24 dev wire
             addr add fd00:172:30::1/64 dev wire nodad
             route add 10.96.0.0/16 via 172.30.0.11
             -6 route add fd00:10:96::/112 via fd00:172:30::11"
        ))?;
        self.node.set("ipv4/ip_forward", "1")?;
        self.node.set("ipv6/conf/all/forwarding", "1")?;
        self.node.ip(&format!(
            "link set uplink up
             addr add 172.30.0.11/24 dev uplink
             addr add fd00:172:30::11/64 dev uplink nodad
             link add to-pod type veth peer name eth0 netns {pod}
             link set to-pod up
             addr add 10.244.1.1/24 dev to-pod
             addr add fd00:10:244:1::1/64 dev to-pod nodad
             route add 10.244.2.0/24 via 172.30.0.12
             -6 route add fd00:10:244:2::/64 via fd00:172:30::12"
        ))?;
        self.pod.ip("link set eth0 up
             addr add 10.244.1.5/24 dev eth0
             addr add fd00:10:244:1::5/64 dev eth0 nodad
             route add default via 10.244.1.1
             -6 route add default via fd00:10:244:1::1")?;
        self.machine.ip("link set uplink up
             addr add 172.30.0.12/24 dev uplink
             addr add fd00:172:30::12/64 dev uplink nodad
             addr add 10.244.2.6/32 dev lo
             addr add fd00:10:244:2::6/128 dev lo")
    }

    fn fill(&mut self) -> Result<()> {
        let [v4, v6] = families();
        self.dataplane.set_node(Node {
            source_v4: v4.node.into(),
            source_v6: v6.node.into(),
            seed: 42,
            first_port: 32768,
            last_port: 65535,
            ..Node::default()
        })?;
        for (family, a) in (1..).zip(families()) {
            self.dataplane.add_node_address(a.node, 0)?;
            for protocol in [Protocol::TCP, Protocol::UDP] {
                // Backend ids, and services ids with them, are apart for each family and protocol.
                let base = family * 20 + u32::from(protocol.number() == 17) * 10;
                self.publish(a, protocol, base)?;
            }
        }
        Ok(())
    }

    fn publish(&mut self, a: Addresses, protocol: Protocol, base: u32) -> Result<()> {
        let dataplane = &mut self.dataplane;
        dataplane.set_backend(base + LOCAL, (a.here, TARGET), protocol, Place::Here)?;
        dataplane.set_backend(
            base + REMOTE,
            (a.elsewhere, TARGET),
            protocol,
            Place::Elsewhere,
        )?;
        for service in [LOCAL, REMOTE] {
            let run = dataplane.add_run(&[base + service])?;
            dataplane.set_service(base + service, run, run, 0)?;
        }
        dataplane.set_service(base + EMPTY, Run::REFUSE, Run::REFUSE, 0)?;
        for service in [LOCAL, REMOTE, EMPTY] {
            dataplane.add_cluster_ip(base + service, a.cluster_ip, port(80, service), protocol)?;
            // A family's node ports have the same numbers as the other one's, but lead to other services.
            let (family, node_port) = (Family::of(a.node.into()), port(30080, service));
            dataplane.add_node_port(base + service, family, node_port, protocol)?;
        }
        Ok(())
    }

    fn attach(&mut self) -> Result<()> {
        let Self {
            dataplane, node, ..
        } = self;
        node.run(|| {
            for (name, side) in [
                ("egress", TcAttachType::Egress),
                ("ingress", TcAttachType::Ingress),
            ] {
                let program = dataplane
                    .ebpf
                    .program_mut(name)
                    .expect("both programs are in the object file");
                <&mut SchedClassifier>::try_from(program)?.attach("uplink", side)?;
            }
            Ok(())
        })
    }

    /// The places a service with one backend can have it, with the backend's address and the client's as it sees it.
    fn places(&self, a: Addresses) -> [(u32, &Namespace, IpAddr, IpAddr); 2] {
        [
            (LOCAL, &self.pod, a.here, a.client),
            (REMOTE, &self.machine, a.elsewhere, a.node),
        ]
    }
}

fn port(base: u16, service: u32) -> u16 {
    base + u16::try_from(service).expect("service ids are small")
}

/// Both addresses of a service.
fn services(a: Addresses, service: u32) -> [SocketAddr; 2] {
    [
        (a.node, port(30080, service)).into(),
        (a.cluster_ip, port(80, service)).into(),
    ]
}

#[test]
fn tcp_from_outside_reaches_backends_here_and_elsewhere() {
    let _turn = take_turn();
    let world = World::create().expect("the machines can be made");
    for a in families() {
        for (service, host, backend, client_seen) in world.places(a) {
            let listener = host
                .run(|| TcpListener::bind((backend, TARGET)))
                .expect("the address is ours");
            for address in services(a, service) {
                let client = world
                    .client
                    .run(|| TcpStream::connect_timeout(&address, PATIENCE));
                let client = client.unwrap_or_else(|error| panic!("{address}: {error}"));
                let (served, seen) = listener.accept().expect("the client waits");
                assert_eq!(seen.ip(), client_seen, "{address}");
                echo(client, served);
            }
        }
    }
    assert_eq!(world.dataplane.drops().expect("maps can be read"), []);
}

/// Sends two megabytes there and back; large enough for segmentation offload.
fn echo(client: TcpStream, mut served: TcpStream) {
    let sent: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
    for socket in [&client, &served] {
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a time above zero");
    }
    let mut received = vec![0; sent.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; sent.len()];
            served.read_exact(&mut buffer).expect("everything arrives");
            served.write_all(&buffer).expect("connected");
        });
        scope.spawn(|| (&client).write_all(&sent).expect("connected"));
        (&client)
            .read_exact(&mut received)
            .expect("everything comes back");
    });
    assert!(sent == received, "the data comes back unchanged");
}

#[test]
fn datagrams_from_outside_reach_backends_here_and_elsewhere() {
    let _turn = take_turn();
    let world = World::create().expect("the machines can be made");
    for a in families() {
        for (service, host, backend, client_seen) in world.places(a) {
            let server = host.run(|| socket(backend, TARGET));
            for address in services(a, service) {
                let client = world.client.run(|| socket(a.client, 0));
                client.connect(address).expect("the service has a route");
                for text in [b"one", b"two"] {
                    client.send(text).expect("connected");
                    let mut buffer = [0; 64];
                    let (length, seen) =
                        server.recv_from(&mut buffer).expect("the datagram arrives");
                    assert_eq!(
                        (seen.ip(), &buffer[..length]),
                        (client_seen, &text[..]),
                        "{address}"
                    );
                    server
                        .send_to(b"answer", seen)
                        .expect("the client can be answered");
                    let length = client.recv(&mut buffer).expect("the answer arrives");
                    assert_eq!(&buffer[..length], b"answer");
                }
            }
        }
    }
    assert_eq!(world.dataplane.drops().expect("maps can be read"), []);
}

#[test]
fn a_service_without_backends_refuses_clients_outside_at_once() {
    let _turn = take_turn();
    let world = World::create().expect("the machines can be made");
    for address in families().into_iter().flat_map(|a| services(a, EMPTY)) {
        let start = Instant::now();
        let tcp = world
            .client
            .run(|| TcpStream::connect_timeout(&address, PATIENCE));
        assert_refused(tcp.map(drop), address);
        let udp = world.client.run(|| ping(address));
        assert_refused(udp.map(drop), address);
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{address} took {:?}",
            start.elapsed()
        );
    }
}

/// Nobody listens at the backend, whose own refusal comes back as the service's.
#[test]
fn a_backends_refusal_reaches_the_client() {
    let _turn = take_turn();
    let world = World::create().expect("the machines can be made");
    for a in families() {
        for address in [LOCAL, REMOTE]
            .into_iter()
            .flat_map(|service| services(a, service))
        {
            let tcp = world
                .client
                .run(|| TcpStream::connect_timeout(&address, PATIENCE));
            assert_refused(tcp.map(drop), address);
            let udp = world.client.run(|| ping(address));
            assert_refused(udp.map(drop), address);
        }
    }
}

fn assert_refused(result: std::io::Result<()>, address: SocketAddr) {
    let error = result.expect_err("nobody serves");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}");
}

/// Sends a datagram and waits for the answer.
fn ping(address: SocketAddr) -> std::io::Result<usize> {
    let socket = socket(
        if address.is_ipv4() {
            ip("0.0.0.0")
        } else {
            ip("::")
        },
        0,
    );
    socket.connect(address)?;
    socket.send(b"ping")?;
    socket.recv(&mut [0; 64])
}

fn socket(address: IpAddr, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((address, port)).expect("the address is ours");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("a time above zero");
    socket
}
