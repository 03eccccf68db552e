//! Real traffic: a client on the wire, a node with the dataplane on its uplink, two pods on it and a machine beside it.
//! The pods' sockets have no hooks, as those of a guest with a kernel of its own.
//!
//! ```text
//!   client 172.30.0.1 ──bridge──┬── node 172.30.0.11 ─┬── pod 10.244.1.5
//!                               │                     └── guest 10.244.3.7
//!                               └── machine 172.30.0.12, also 10.244.2.6
//! ```

mod bridge;
mod direct;
mod driver;
mod vlan;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Result;
use aya::programs::{SchedClassifier, TcAttachType};
use dataplane_ebpf::abi::{Node, Run};
use dataplane_ebpf::addr::{Family, Protocol};
use dataplane_ebpf::drop::Drop as Reason;
use harness::Namespace;

use crate::cgroup::take_turn;
use crate::dataplane::{Dataplane, Place};

const LOCAL: u32 = 1;
const REMOTE: u32 = 2;
const EMPTY: u32 = 3;
/// Its backend is a process of the node.
const PROCESS: u32 = 4;

const TARGET: u16 = 8080;

/// Long enough for a busy machine, also one that is emulated by another busy one.
const PATIENCE: Duration = Duration::from_secs(30);

/// What it takes to see that nobody answers.
const SHORT: Duration = Duration::from_millis(200);

#[derive(Clone, Copy)]
struct Addresses {
    client: IpAddr,
    node: IpAddr,
    cluster_ip: IpAddr,
    here: IpAddr,
    elsewhere: IpAddr,
    guest: IpAddr,
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
            guest: ip("10.244.3.7"),
        },
        Addresses {
            client: ip("fd00:172:30::1"),
            node: ip("fd00:172:30::11"),
            cluster_ip: ip("fd00:10:96::a"),
            here: ip("fd00:10:244:1::5"),
            elsewhere: ip("fd00:10:244:2::6"),
            guest: ip("fd00:10:244:3::7"),
        },
    ]
}

struct World {
    dataplane: Dataplane,
    client: Namespace,
    node: Namespace,
    pod: Namespace,
    guest: Namespace,
    machine: Namespace,
}

impl World {
    fn create() -> Result<Self> {
        let mut world = Self {
            dataplane: Dataplane::load()?,
            client: Namespace::create()?,
            node: Namespace::create()?,
            pod: Namespace::create()?,
            guest: Namespace::create()?,
            machine: Namespace::create()?,
        };
        world.connect()?;
        world.fill()?;
        world.attach()?;
        Ok(world)
    }

    fn connect(&self) -> Result<()> {
        let (node, machine) = (self.node.path(), self.machine.path());
        let (pod, guest) = (self.pod.path(), self.guest.path());
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
             link add to-guest type veth peer name eth0 netns {guest}
             link set to-guest up
             addr add 10.244.3.1/24 dev to-guest
             addr add fd00:10:244:3::1/64 dev to-guest nodad
             route add 10.244.2.0/24 via 172.30.0.12
             -6 route add fd00:10:244:2::/64 via fd00:172:30::12"
        ))?;
        self.pod.ip("link set eth0 up
             addr add 10.244.1.5/24 dev eth0
             addr add fd00:10:244:1::5/64 dev eth0 nodad
             route add default via 10.244.1.1
             -6 route add default via fd00:10:244:1::1")?;
        self.guest.ip("link set eth0 up
             addr add 10.244.3.7/24 dev eth0
             addr add fd00:10:244:3::7/64 dev eth0 nodad
             route add default via 10.244.3.1
             -6 route add default via fd00:10:244:3::1")?;
        self.machine.ip("link set uplink up
             addr add 172.30.0.12/24 dev uplink
             addr add fd00:172:30::12/64 dev uplink nodad
             addr add 10.244.2.6/32 dev lo
             addr add fd00:10:244:2::6/128 dev lo
             route add 10.244.3.0/24 via 172.30.0.11
             -6 route add fd00:10:244:3::/64 via fd00:172:30::11")
    }

    fn fill(&mut self) -> Result<()> {
        self.set_node_flags(0)?;
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

    fn set_node_flags(&mut self, flags: u32) -> Result<()> {
        let [v4, v6] = families();
        self.dataplane.set_node(Node {
            source_v4: v4.node.into(),
            source_v6: v6.node.into(),
            seed: 42,
            first_port: 32768,
            last_port: 65535,
            flags,
            ..Node::default()
        })
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
        dataplane.set_backend(base + PROCESS, (a.node, TARGET), protocol, Place::Here)?;
        for service in [LOCAL, REMOTE, PROCESS] {
            let run = dataplane.add_run(&[base + service])?;
            dataplane.set_service(base + service, run, run, 0)?;
        }
        dataplane.set_service(base + EMPTY, Run::REFUSE, Run::REFUSE, 0)?;
        for service in [LOCAL, REMOTE, EMPTY, PROCESS] {
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
            for (name, side, device) in [
                ("egress", TcAttachType::Egress, "to-pod"),
                ("egress", TcAttachType::Egress, "to-guest"),
                ("egress", TcAttachType::Egress, "uplink"),
                ("pod_ingress", TcAttachType::Ingress, "to-pod"),
                ("pod_ingress", TcAttachType::Ingress, "to-guest"),
                ("ingress", TcAttachType::Ingress, "uplink"),
            ] {
                dataplane.attach(name, side, device)?;
            }
            Ok(())
        })
    }

    /// The places a service with one backend can have it, with the backend's address and the client's as it sees it.
    fn places(&self, a: Addresses) -> [(u32, &Namespace, IpAddr, IpAddr); 3] {
        [
            (LOCAL, &self.pod, a.here, a.client),
            (REMOTE, &self.machine, a.elsewhere, a.node),
            (PROCESS, &self.node, a.node, a.client),
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
            talk(
                &world.client,
                host,
                (backend, services(a, service)),
                client_seen,
            );
        }
    }
    assert_eq!(world.dataplane.drops().expect("maps can be read"), []);
}

/// Connects from `client` to each of a service's addresses, whose backend on `host` sees a connection of `seen`.
fn talk(
    client: &Namespace,
    host: &Namespace,
    (backend, addresses): (IpAddr, [SocketAddr; 2]),
    seen: IpAddr,
) {
    let listener = host
        .run(|| TcpListener::bind((backend, TARGET)))
        .expect("the address is ours");
    for address in addresses {
        let client = client.run(|| TcpStream::connect_timeout(&address, PATIENCE));
        let client = client.unwrap_or_else(|error| panic!("{address}: {error}"));
        let (served, peer) = listener.accept().expect("the client waits");
        assert_eq!(peer.ip(), seen, "{address}");
        echo(client, served);
    }
}

/// Sends two megabytes there and back; large enough for segmentation offload.
fn echo(client: TcpStream, mut served: TcpStream) {
    let sent: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
    // Whoever gives up leaves the other one writing.
    for socket in [&client, &served] {
        socket
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| socket.set_write_timeout(Some(PATIENCE)))
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
            let from = (&world.client, a.client);
            exchange(from, host, (backend, services(a, service)), client_seen);
        }
    }
    assert_eq!(world.dataplane.drops().expect("maps can be read"), []);
}

/// Sends datagrams from a client to each of a service's addresses, whose backend on `host` sees them come from `seen`.
fn exchange(
    (client, own): (&Namespace, IpAddr),
    host: &Namespace,
    (backend, addresses): (IpAddr, [SocketAddr; 2]),
    seen: IpAddr,
) {
    let server = host.run(|| socket(backend, TARGET));
    for address in addresses {
        let client = client.run(|| socket(own, 0));
        client.connect(address).expect("the service has a route");
        // The last is cut to pieces on its way, there and back.
        for text in [vec![1; 1], vec![2; 1000], vec![3; 8000]] {
            client.send(&text).expect("connected");
            let mut buffer = [0; 9000];
            let (length, peer) = server
                .recv_from(&mut buffer)
                .unwrap_or_else(|error| panic!("{} bytes to {address}: {error}", text.len()));
            assert_eq!(peer.ip(), seen, "{address}");
            assert!(
                buffer[..length] == text,
                "{} bytes to {address}",
                text.len()
            );
            server
                .send_to(&text, peer)
                .expect("the client can be answered");
            let length = client
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("{} bytes from {address}: {error}", text.len()));
            assert!(
                buffer[..length] == text,
                "{} bytes from {address}",
                text.len()
            );
        }
    }
}

/// The places a service with one backend can have it for a pod, with the backend's address and the pod's as it sees it.
fn places_for_pods(
    world: &World,
    a: Addresses,
) -> [(u32, &Namespace, &Namespace, IpAddr, IpAddr); 4] {
    let World {
        node,
        pod,
        guest,
        machine,
        ..
    } = world;
    [
        (LOCAL, guest, pod, a.here, a.guest),
        (LOCAL, pod, pod, a.here, a.node),
        (REMOTE, guest, machine, a.elsewhere, a.guest),
        (PROCESS, guest, node, a.node, a.guest),
    ]
}

#[test]
fn pods_without_socket_hooks_reach_services() {
    let _turn = take_turn();
    let mut world = World::create().expect("the machines can be made");
    for flags in [0, Node::THROUGH_STACK] {
        world.set_node_flags(flags).expect("maps can be written");
        for a in families() {
            for (service, client, host, backend, seen) in places_for_pods(&world, a) {
                let own = if std::ptr::eq(client, &world.pod) {
                    a.here
                } else {
                    a.guest
                };
                let to = (backend, services(a, service));
                talk(client, host, to, seen);
                exchange((client, own), host, to, seen);
            }
        }
    }
    assert_eq!(world.dataplane.drops().expect("maps can be read"), []);
}

/// Whatever the node's netfilter rules say about packets that it forwards; a node that wants them to hold says so.
#[test]
fn clients_outside_reach_pods_past_the_forward_policy() {
    let _turn = take_turn();
    let mut world = World::create().expect("the machines can be made");
    if !drop_forwarded(&world.node).expect("nft runs if it is there") {
        eprintln!("not tested: there is no program nft");
        return;
    }
    for a in families() {
        for (service, host, backend, seen) in world.places(a) {
            let to = (backend, services(a, service));
            talk(&world.client, host, to, seen);
            exchange((&world.client, a.client), host, to, seen);
        }
    }
    world
        .set_node_flags(Node::THROUGH_STACK)
        .expect("maps can be written");
    for address in families().into_iter().flat_map(|a| services(a, LOCAL)) {
        let tcp = world
            .client
            .run(|| TcpStream::connect_timeout(&address, SHORT));
        assert_eq!(tcp.expect_err("dropped").kind(), ErrorKind::TimedOut);
    }
    assert_eq!(world.dataplane.drops().expect("maps can be read"), []);
}

/// Makes netfilter drop whatever is forwarded in `node`; `false` if this machine has no program for that.
fn drop_forwarded(node: &Namespace) -> Result<bool> {
    const RULES: &str = "add table inet test; \
        add chain inet test forward { type filter hook forward priority 0; policy drop; }";
    let is_missing = |error: &anyhow::Error| {
        let cause = error.root_cause().downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| cause.kind() == ErrorKind::NotFound)
    };
    match node.command("nft", &[RULES], "") {
        Err(error) if is_missing(&error) => Ok(false),
        result => result.map(|()| true),
    }
}

/// The links behind the node take less than the client and the backends think, who are told so and send again. (A route's
/// MTU holds for forwarded packets if it is locked.)
#[test]
fn tcp_finds_out_what_the_next_link_takes() {
    let _turn = take_turn();
    let world = World::create().expect("the machines can be made");
    world
        .node
        .ip("route add 10.244.1.5 dev to-pod mtu lock 1300
             route add 10.244.2.6 via 172.30.0.12 mtu lock 1300
             route add 172.30.0.1 dev uplink mtu lock 1300
             -6 route add fd00:10:244:1::5 dev to-pod mtu lock 1300
             -6 route add fd00:10:244:2::6 via fd00:172:30::12 mtu lock 1300
             -6 route add fd00:172:30::1 dev uplink mtu lock 1300")
        .expect("routes can be added");
    for a in families() {
        for (service, host, backend, client_seen) in world.places(a) {
            let to = (backend, services(a, service));
            talk(&world.client, host, to, client_seen);
        }
    }
    let drops = world.dataplane.drops().expect("maps can be read");
    assert!(
        matches!(*drops, [(Reason::TooBig, 1..)]),
        "only the first packets that are too big go no further: {drops:?}"
    );
}

#[test]
fn a_service_without_backends_refuses_clients_outside_and_pods_at_once() {
    let _turn = take_turn();
    let world = World::create().expect("the machines can be made");
    for address in families().into_iter().flat_map(|a| services(a, EMPTY)) {
        for client in [&world.client, &world.guest] {
            let connect = || TcpStream::connect_timeout(&address, PATIENCE).map(drop);
            assert_refused_at_once(|| client.run(connect), address);
            assert_refused_at_once(|| client.run(|| ping(address).map(drop)), address);
        }
    }
}

/// Refused sooner than a SYN is sent again (RFC 6298). On a busy machine a single call may take as long all the same, but
/// not all of some.
fn assert_refused_at_once(call: impl Fn() -> std::io::Result<()>, address: SocketAddr) {
    let is_at_once = || {
        let start = Instant::now();
        assert_refused(call(), address);
        start.elapsed() < Duration::from_secs(1)
    };
    assert!((0..5).any(|_| is_at_once()), "{address} takes its time");
}

/// Nobody listens at the backend, whose own refusal comes back as the service's.
#[test]
fn a_backends_refusal_reaches_the_client() {
    let _turn = take_turn();
    let world = World::create().expect("the machines can be made");
    for a in families() {
        let addresses = [LOCAL, REMOTE, PROCESS].map(|service| services(a, service));
        for address in addresses.concat() {
            for client in [&world.client, &world.guest] {
                let tcp = client.run(|| TcpStream::connect_timeout(&address, PATIENCE));
                assert_refused(tcp.map(drop), address);
                assert_refused(client.run(|| ping(address)).map(drop), address);
            }
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
