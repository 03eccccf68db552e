//! Session affinity of sockets: a network namespace is one client, as a pod has one address.

use std::net::{TcpListener, TcpStream, UdpSocket};

use dataplane_ebpf::abi::{AffinityKey, Backend, Service};
use dataplane_ebpf::addr::Protocol;
use harness::Namespace;

use super::{Addresses, SERVICE, World, any, families, port, udp};

/// How a test reaches the service.
#[derive(Clone, Copy, Debug)]
enum Way {
    Tcp,
    ConnectedUdp,
    UnconnectedUdp,
}

impl Way {
    const ALL: [Self; 3] = [Self::Tcp, Self::ConnectedUdp, Self::UnconnectedUdp];

    fn protocol(self) -> Protocol {
        match self {
            Self::Tcp => Protocol::TCP,
            _ => Protocol::UDP,
        }
    }
}

/// A server at each backend, of which one answers.
struct Servers {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl Servers {
    fn start(a: Addresses) -> Self {
        let tcp = a.backends.map(|ip| {
            let listener = TcpListener::bind((ip, 0)).expect("the address is ours");
            listener.set_nonblocking(true).expect("a socket");
            listener
        });
        let udp = a.backends.map(|ip| {
            let socket = udp((ip, 0));
            socket.set_nonblocking(true).expect("a socket");
            socket
        });
        Self {
            tcp: tcp.into(),
            udp: udp.into(),
        }
    }

    fn ports(&self, way: Way) -> Vec<u16> {
        let tcp = |listener: &TcpListener| listener.local_addr().expect("bound").port();
        match way {
            Way::Tcp => self.tcp.iter().map(tcp).collect(),
            _ => self.udp.iter().map(port).collect(),
        }
    }

    /// Which server a new socket reaches. On the loopback device a packet is there once the call that sends it returns.
    fn reached(&self, a: Addresses, way: Way) -> usize {
        let service = (a.cluster_ip, 80);
        let socket = udp(any(a.cluster_ip));
        match way {
            Way::Tcp => drop(TcpStream::connect(service).expect("the service answers")),
            Way::ConnectedUdp => {
                socket.connect(service).expect("the service answers");
                socket.send(b"ping").expect("the service answers");
            }
            Way::UnconnectedUdp => {
                let sent = socket.send_to(b"ping", service);
                sent.expect("the service answers");
            }
        }
        let tcp = self.tcp.iter().position(|server| server.accept().is_ok());
        let received = |server: &UdpSocket| server.recv_from(&mut [0; 64]).is_ok();
        let udp = self.udp.iter().position(received);
        tcp.or(udp).expect("a server is reached")
    }
}

/// Every service of the test, one after another, with its servers and its way.
fn for_every_way(mut check: impl FnMut(&mut World, &Servers, Addresses, Way)) {
    let mut world = World::create().expect("a node can be made");
    let ways = families()
        .into_iter()
        .flat_map(|a| Way::ALL.map(|way| (a, way)));
    for (generation, (a, way)) in (1..).zip(ways) {
        let servers = world.namespace.run(|| Servers::start(a));
        world
            .publish(a, way.protocol(), &servers.ports(way))
            .expect("maps can be written");
        change(&mut world, |service| {
            service.affinity_seconds = 10_800;
            service.affinity_generation = generation;
        });
        check(&mut world, &servers, a, way);
    }
}

fn change(world: &mut World, change: impl FnOnce(&mut Service)) {
    let changed = world.dataplane.change_service(SERVICE, change);
    changed.expect("maps can be written");
}

#[test]
fn sockets_of_a_namespace_are_held_to_one_backend_for_a_while() {
    for_every_way(|world, servers, a, way| {
        let cookie = world.namespace.cookie().expect("a namespace has one");
        let key = AffinityKey::namespace(SERVICE, cookie);
        let reached = |world: &World| world.namespace.run(|| servers.reached(a, way));
        let held = reached(world);
        assert!((0..20).all(|_| reached(world) == held), "{way:?}");

        // With its time over, any may be next. Forty times the same is one chance in 10^19.
        change(world, |service| service.affinity_seconds = 1);
        let is_held_again = (0..40).all(|_| {
            let aged = world.dataplane.age_affinity(&key, 3);
            aged.expect("the client is held");
            reached(world) == held
        });
        assert!(!is_held_again, "{way:?}");
    });
}

#[test]
fn sockets_move_on_when_their_backend_leaves_the_run() {
    for_every_way(|world, servers, a, way| {
        let reached = |world: &World| world.namespace.run(|| servers.reached(a, way));
        let held = reached(world);
        let id = u32::try_from(held).expect("small") + 1;
        let others: Vec<u32> = (1..=3).filter(|other| *other != id).collect();
        let run = world.dataplane.add_run(&others);
        let run = run.expect("maps can be written");
        change(world, |service| service.cluster = run);
        let left = world
            .dataplane
            .change_backend(id, |b| b.flags &= !Backend::IN_CLUSTER_RUN);
        left.expect("maps can be written");
        let next = reached(world);
        assert_ne!(next, held, "{way:?}");
        assert!((0..20).all(|_| reached(world) == next), "{way:?}");
    });
}

#[test]
fn another_namespace_is_another_client() {
    let pod = Namespace::create().expect("a namespace can be made");
    let cookie = pod.cookie().expect("a namespace has one");
    let key = AffinityKey::namespace(SERVICE, cookie);
    for_every_way(|world, servers, a, way| {
        world.namespace.run(|| servers.reached(a, way));
        let generation = |world: &mut World| {
            let affinity = world.dataplane.affinity(&key).expect("maps can be read");
            affinity.map(|affinity| affinity.affinity_generation)
        };
        let before = generation(world);
        // The pod has no route to the backend, but by then it is chosen.
        let (address, connected) = ((a.cluster_ip, 80), udp_in(&pod, a));
        pod.run(|| match way {
            Way::Tcp => TcpStream::connect(address).map(drop),
            Way::ConnectedUdp => connected.connect(address),
            Way::UnconnectedUdp => connected.send_to(b"ping", address).map(drop),
        })
        .expect_err("there is no route");
        assert_ne!(generation(world), before, "{way:?}");
    });
}

fn udp_in(namespace: &Namespace, a: Addresses) -> UdpSocket {
    namespace.run(|| udp(any(a.cluster_ip)))
}
