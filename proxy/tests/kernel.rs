//! The real programs and maps, with real sockets: what the daemon installs is what clients get, also after the daemon has
//! died and another one has taken over. Needs root; runs in a network namespace and a cgroup of its own.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod node;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use dataplane_ebpf::abi::{Connection, LAYOUT_VERSION};
use dataplane_ebpf::addr::{Addr, Port, Protocol as WireProtocol};
use dataplane_ebpf::flow::Flow;
use model::{
    Endpoint, Event, Family, Hints, ObjectName, Protocol, Service, ServicePort, Slice, SlicePort,
};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;
use node::{Daemon, Place};
use proxy::attach::Dataplane;
use proxy::devices::{self, Device};
use proxy::inspect::dump;
use proxy::maps::{Conntrack, Swept};
use proxy::pins;
use rtnetlink::{LinkUnspec, LinkVeth};

const SERVICE: &str = "10.96.0.10:80";
const SERVICE6: &str = "[fd00:10:96::a]:80";
const EMPTY: &str = "10.96.0.11:80";
const BACKENDS: [&str; 2] = ["10.244.9.1:8080", "10.244.9.2:8080"];
const BACKENDS6: [&str; 1] = ["[fd00:10:244:9::1]:8080"];
/// Addresses and port of the node, where it answers with the first Service.
const NODE_PORT: &str = "192.0.2.7:30080";
const NODE_PORT6: &str = "[2001:db8::7]:30080";
const LOOPBACK: &str = "127.0.0.1:30080";
const LOOPBACK6: &str = "[::1]:30080";

/// A loopback that is up, with the addresses of the node and of its pods, and an uplink.
async fn build_network() {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    handle
        .link()
        .add(LinkVeth::new("up0", "peer0").build())
        .execute()
        .await
        .unwrap();
    for name in ["lo", "up0", "peer0"] {
        let index = nix::net::if_::if_nametoindex(name).unwrap();
        handle
            .link()
            .set(LinkUnspec::new_with_index(index).up().build())
            .execute()
            .await
            .unwrap();
    }
    let loopback = nix::net::if_::if_nametoindex("lo").unwrap();
    let addresses = BACKENDS
        .iter()
        .chain(&BACKENDS6)
        .chain([&NODE_PORT, &NODE_PORT6]);
    for address in addresses.map(|text| text.parse::<SocketAddr>().unwrap().ip()) {
        let length = if address.is_ipv4() { 32 } else { 128 };
        handle
            .address()
            .add(loopback, address, length)
            .execute()
            .await
            .unwrap();
    }
}

/// Answers each connection and each datagram with the address it reached.
fn serve(address: &'static str) {
    let tcp = TcpListener::bind(address).unwrap();
    let udp = UdpSocket::bind(address).unwrap();
    thread::spawn(move || {
        for stream in tcp.incoming() {
            stream.unwrap().write_all(address.as_bytes()).unwrap();
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = udp.recv_from(&mut buffer) {
            udp.send_to(address.as_bytes(), client).unwrap();
        }
    });
}

/// Who answers at `address` over TCP. The client must see the address it asked for.
fn ask(address: &str) -> io::Result<String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    assert_eq!(stream.peer_addr()?, address);
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Who answers at `address` over UDP from an unconnected socket, and from where.
fn ask_datagram(address: &str) -> io::Result<String> {
    let address: SocketAddr = address.parse().unwrap();
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.send_to(b"who", address)?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(from, address);
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time");
        thread::sleep(Duration::from_millis(10));
    }
}

/// All who answer within `attempts`.
fn answers(
    address: &str,
    ask: fn(&str) -> io::Result<String>,
    attempts: usize,
) -> BTreeSet<String> {
    (0..attempts).map(|_| ask(address).unwrap()).collect()
}

fn both(backends: &[&str]) -> BTreeSet<String> {
    backends.iter().map(ToString::to_string).collect()
}

fn service(name: &str, addresses: &[&str], node_port: Option<u16>) -> Service {
    let port = |name: &str, protocol| ServicePort {
        name: name.into(),
        protocol,
        port: 80.try_into().unwrap(),
        node_port: node_port.map(|port| port.try_into().unwrap()),
    };
    Service {
        cluster_ips: addresses
            .iter()
            .map(|text| text.parse::<SocketAddr>().unwrap().ip())
            .collect(),
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
        ..Service::new(ObjectName::new("default", name))
    }
}

fn slice(family: Family, backends: &[&str]) -> Slice {
    let port = |name: &str, protocol| SlicePort {
        name: name.into(),
        protocol,
        port: 8080.try_into().unwrap(),
    };
    let endpoint = |ip: IpAddr| Endpoint {
        ip,
        ready: true,
        serving: true,
        terminating: false,
        node: Some("here".into()),
        zone: None,
        hints: Hints::default(),
    };
    let ips = backends
        .iter()
        .map(|text| text.parse::<SocketAddr>().unwrap().ip());
    Slice {
        name: ObjectName::new("default", format!("web-{family:?}")),
        service: ObjectName::new("default", "web"),
        family,
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
        endpoints: ips.map(endpoint).collect(),
    }
}

fn events(backends: &[&str]) -> [Event; 3] {
    [
        Event::Services(vec![
            service("web", &[SERVICE, SERVICE6], Some(30080)),
            service("empty", &[EMPTY], None),
        ]),
        Event::Slices(vec![
            slice(Family::V4, backends),
            slice(Family::V6, &BACKENDS6),
        ]),
        Event::Node(None),
    ]
}

fn dump_of(daemon: &Daemon) -> String {
    dump(daemon.reconciler.tables().maps()).unwrap()
}

fn links(place: &Place) -> Vec<PathBuf> {
    let links = fs::read_dir(place.bpf.join(format!("v{LAYOUT_VERSION}/links"))).unwrap();
    let mut links: Vec<PathBuf> = links.map(|entry| entry.unwrap().path()).collect();
    links.sort();
    links
}

/// Attaches to no uplink, to another, and to both one that does not exist and one that does.
fn check_uplinks(place: &Place, dataplane: &mut Dataplane, uplinks: &BTreeSet<Device>) {
    let pins = links(place);
    let nothing = dataplane.attach_uplinks(&BTreeSet::new());
    assert!(nothing.is_empty(), "{nothing:?}");
    assert_eq!(links(place), pins, "without uplinks all stays attached");

    let peer = Device {
        index: nix::net::if_::if_nametoindex("peer0").unwrap(),
        name: "peer0".to_owned(),
    };
    let failed = dataplane.attach_uplinks(&BTreeSet::from([peer]));
    assert!(failed.is_empty(), "{failed:?}");
    let moved = links(place);
    assert!(moved.len() == pins.len() && moved != pins, "{moved:?}");

    let gone = Device {
        index: 0,
        name: "gone0".to_owned(),
    };
    let both = uplinks.iter().cloned().chain([gone]).collect();
    // The kernel detaches a program some time after its link is gone, and takes no program twice.
    eventually(|| dataplane.attach_uplinks(&both).len() == 2);
    assert_eq!(links(place), pins, "one that fails does not hinder others");
}

/// Sweeps a connection that is used again while the sweep runs, and then one that is not.
fn check_sweep(place: &Place, conntrack: &mut Conntrack) {
    let path = place.bpf.join(format!("v{LAYOUT_VERSION}/maps/CONNTRACK"));
    let map = Map::LruHashMap(MapData::from_pin(path).unwrap());
    let mut map: HashMap<_, Flow, Connection> = map.try_into().unwrap();
    let end = |port| (Addr::UNSPECIFIED, Port::new(port));
    let asked = Flow::new(end(1), end(2), WireProtocol::TCP);
    let sent = Flow::new(end(3), end(4), WireProtocol::TCP);
    for (key, to) in [(asked, sent), (sent.reversed(), asked.reversed())] {
        let connection = Connection {
            to,
            service: 0,
            service_generation: 0,
            backend: 0,
            backend_generation: 0,
            seen: 0,
            flags: 0,
        };
        map.insert(key, connection, 0).unwrap();
    }

    let looks = Cell::new(0);
    let only_at_first = |_: &Connection, _: Option<&Connection>| looks.replace(looks.get() + 1) < 2;
    let swept = |kept, removed| Swept { kept, removed };
    assert_eq!(conntrack.sweep(only_at_first).unwrap(), swept(2, 0));
    assert_eq!(conntrack.sweep(|_, _| false).unwrap(), swept(2, 0));
    // Once a direction is gone, the other does not look expired by itself.
    let expired = |_: &Connection, other: Option<&Connection>| other.is_some();
    assert_eq!(conntrack.sweep(expired).unwrap(), swept(0, 2));
    assert_eq!(conntrack.sweep(|_, _| true).unwrap(), swept(0, 0));
}

fn scenario() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(build_network());
    let place = Place::new();
    let devices = runtime
        .block_on(devices::look(&["up0".to_owned()]))
        .unwrap();
    BACKENDS.into_iter().chain(BACKENDS6).for_each(serve);

    let mut daemon = Daemon::start(&place, &devices);
    daemon.see(events(&BACKENDS));
    assert_eq!(answers(SERVICE, ask, 40), both(&BACKENDS));
    assert_eq!(answers(SERVICE, ask_datagram, 40), both(&BACKENDS));
    assert_eq!(answers(SERVICE6, ask, 4), both(&BACKENDS6));
    assert_eq!(answers(SERVICE6, ask_datagram, 4), both(&BACKENDS6));
    assert_eq!(answers(NODE_PORT, ask, 40), both(&BACKENDS));
    assert_eq!(answers(NODE_PORT6, ask, 4), both(&BACKENDS6));
    assert_eq!(answers(NODE_PORT6, ask_datagram, 4), both(&BACKENDS6));
    assert_eq!(answers(LOOPBACK, ask, 40), both(&BACKENDS));
    assert_eq!(answers(LOOPBACK6, ask, 4), both(&BACKENDS6));
    let start = Instant::now();
    assert_eq!(ask(EMPTY).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(
        ask(&SERVICE.replace(":80", ":81")).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    assert!(
        start.elapsed() < Duration::from_millis(500),
        "refused after {:?}",
        start.elapsed()
    );
    check_sweep(
        &place,
        &mut Conntrack::take(daemon.dataplane.programs()).unwrap(),
    );

    let (text, pins) = (dump_of(&daemon), links(&place));
    drop(daemon);
    assert_eq!(
        answers(SERVICE, ask, 40),
        both(&BACKENDS),
        "without a daemon"
    );

    let other = place.bpf.join("other");
    fs::create_dir_all(other.join("maps")).unwrap();
    let mut next = Daemon::start(&place, &devices);
    assert!(other.exists(), "another layout goes only when all is in");
    assert_eq!(
        dump_of(&next),
        text,
        "after a restart, before the first list"
    );
    assert_eq!(links(&place), pins);
    assert_eq!(
        answers(SERVICE, ask, 40),
        both(&BACKENDS),
        "with an empty new daemon"
    );
    next.see(events(&BACKENDS[..1]));
    next.dataplane.remove_other_layouts().unwrap();
    assert!(!other.exists());
    assert_eq!(
        answers(SERVICE, ask, 20),
        both(&BACKENDS[..1]),
        "after a backend went"
    );
    next.see(events(&[]));
    assert_eq!(
        ask(SERVICE).unwrap_err().kind(),
        ErrorKind::ConnectionRefused,
        "after the last went"
    );
    check_uplinks(&place, &mut next.dataplane, &devices.uplinks);
    drop(next);

    assert!(pins::cleanup(&place.bpf).unwrap());
    assert!(!pins::cleanup(&place.bpf).unwrap());
    // The kernel detaches a program some time after the last name of its link is gone.
    eventually(|| ask(SERVICE).unwrap_err().kind() != ErrorKind::ConnectionRefused);
}

#[test]
fn installed_services_work_and_outlive_the_daemon() {
    if !Uid::effective().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!(
            "skipped: this test needs root, for BPF programs, a network namespace and a cgroup"
        );
        return;
    }
    // The namespace belongs to a thread, and ends with it.
    if let Err(panic) = thread::spawn(scenario).join() {
        std::panic::resume_unwind(panic);
    }
}
