//! The real programs and maps, with real sockets: what the daemon installs is what clients get, also after the daemon has
//! died and another one has taken over. Needs root; runs in network namespaces and a cgroup of its own.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod devices;
mod growth;
mod namespace;
#[path = "../node/mod.rs"]
mod node;
mod talk;
mod tools;
mod udp;
mod world;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData};
use dataplane_ebpf::OBJECT;
use dataplane_ebpf::abi::{Connection, LAYOUT_VERSION, maps};
use dataplane_ebpf::addr::{Addr, Port, Protocol as WireProtocol};
use dataplane_ebpf::flow::Flow;
use futures::TryStreamExt;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;
use proxy::attach::{self, Dataplane, Options};
use proxy::capabilities;
use proxy::devices::Devices;
use proxy::features::Features;
use proxy::inspect::dump;
use proxy::maps::{Conntrack, Swept};
use proxy::pins::MapSizes;

use namespace::{Namespace, index, netlink, set_up};
use node::{Daemon, Place};
use talk::{answers, as_stranger, ask, ask_datagram, both, eventually, serve};
use world::{
    BACKENDS, BACKENDS6, EMPTY, LOOPBACK, LOOPBACK6, NODE_PORT, NODE_PORT6, SERVICE, SERVICE6,
    events,
};

/// A client outside, and the node's address towards it.
const OUTSIDE: &str = "198.51.100.9";
const TOWARDS_OUTSIDE: &str = "198.51.100.1";

/// A loopback that is up, with the addresses of the node and of its pods, and an uplink to a machine outside.
fn build_network() -> Namespace {
    let outside = Namespace::new();
    outside.connect(
        "up0",
        OUTSIDE.parse().unwrap(),
        TOWARDS_OUTSIDE.parse().unwrap(),
    );
    netlink(async |handle| {
        set_up(&handle, "lo").await;
        let addresses = BACKENDS
            .iter()
            .chain(&BACKENDS6)
            .chain([&NODE_PORT, &NODE_PORT6]);
        let addresses = addresses.map(|text| text.parse::<SocketAddr>().unwrap().ip());
        for address in addresses {
            let length = if address.is_ipv4() { 32 } else { 128 };
            let added = handle.address().add(index("lo"), address, length);
            added.execute().await.unwrap();
        }
        let towards = TOWARDS_OUTSIDE.parse().unwrap();
        let added = handle.address().add(index("up0"), towards, 24);
        added.execute().await.unwrap();
    });
    // The kernel takes a moment to call an IPv6 address its own.
    let node = NODE_PORT6.parse::<SocketAddr>().unwrap().ip();
    eventually(|| look().addresses.iter().any(|address| address.ip == node));
    outside
}

fn dump_of(daemon: &Daemon) -> String {
    dump(daemon.reconciler.tables().maps()).unwrap()
}

/// The pins of all links and the records of all filters.
fn links(place: &Place) -> Vec<PathBuf> {
    let layout = place.bpf.join(format!("v{LAYOUT_VERSION}"));
    let mut links = Vec::new();
    for directory in ["links", "filters"] {
        let entries = fs::read_dir(layout.join(directory)).unwrap();
        links.extend(entries.map(|entry| entry.unwrap().path()));
    }
    links.sort();
    links
}

/// How many filters for what arrives by it `device` has.
fn filters(device: &str) -> usize {
    let device = i32::try_from(index(device)).unwrap();
    let found: Vec<_> = netlink(async |handle| {
        let request = handle.traffic_filter(device).get().ingress();
        request.execute().try_collect().await.unwrap()
    });
    // The kernel lists a filter's chain before the filter itself.
    found.len() / 2
}

/// Sweeps a connection that is used again while the sweep runs, and then one that is not.
fn check_sweep(place: &Place, conntrack: &mut Conntrack) {
    // Those of the clients before are over.
    conntrack.sweep(|_| true, |_, _| true).unwrap();
    let all = |_: &Connection| true;
    // Those of the clients before.
    conntrack.sweep(all, |_, _| true).unwrap();
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
    assert_eq!(conntrack.sweep(all, only_at_first).unwrap(), swept(2, 0));
    let none = conntrack.sweep(|_| false, |_, _| true);
    assert_eq!(none.unwrap(), swept(2, 0));
    assert_eq!(conntrack.sweep(all, |_, _| false).unwrap(), swept(2, 0));
    // Once a direction is gone, the other does not look expired by itself.
    let expired = |_: &Connection, other: Option<&Connection>| other.is_some();
    assert_eq!(conntrack.sweep(all, expired).unwrap(), swept(0, 2));
    assert_eq!(conntrack.sweep(all, |_, _| true).unwrap(), swept(0, 0));
}

fn look() -> Devices {
    netlink(async |_| proxy::devices::look(&["up0".to_owned()]).await.unwrap())
}

fn scenario(features: Features) {
    let place = Place::new(features);
    let outside = build_network();
    let from_outside = |address: &'static str| {
        as_stranger(&place, || outside.run(move || answers(address, ask, 20)))
    };
    let devices = look();
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
    assert_eq!(from_outside(NODE_PORT), both(&BACKENDS));
    let start = Instant::now();
    assert_eq!(ask(EMPTY).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(
        ask(&SERVICE.replace(":80", ":81")).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    // A client that is not answered asks again after a second.
    assert!(
        start.elapsed() < Duration::from_secs(1),
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
    tools::check(&place, &outside);
    assert_eq!(from_outside(NODE_PORT), both(&BACKENDS), "without a daemon");

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
    assert_eq!(from_outside(NODE_PORT), both(&BACKENDS));
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
    devices::check_uplinks(&place, &mut next.dataplane, &devices);
    drop(next);

    assert!(attach::cleanup(&place.bpf).unwrap());
    assert!(!attach::cleanup(&place.bpf).unwrap());
    assert_eq!(filters("up0"), 0);
    // The kernel detaches a program some time after the last name of its link is gone.
    eventually(|| ask(SERVICE).unwrap_err().kind() != ErrorKind::ConnectionRefused);
}

fn options(place: &Place, xdp: &str) -> Options {
    Options {
        sizes: MapSizes::default(),
        features: place.features,
        xdp: xdp.parse().unwrap(),
    }
}

/// Maps that are not pinned are lost at the next start and the next growth. The programs keep only what means nothing then.
fn all_maps_are_pinned() {
    const PRIVATE: [&str; 4] = [".rodata", "NEXT_ANSWER", "NEXT_DROP", "WORK"];
    let place = Place::new(Features::probe());
    let loaded = Ebpf::load(OBJECT).unwrap();
    let names = loaded.maps().map(|(name, _)| name.to_owned());
    let expected: BTreeSet<String> = names
        .filter(|name| !PRIVATE.contains(&name.as_str()))
        .collect();
    drop(Dataplane::open(&place.bpf, &place.cgroup, options(&place, "off")).unwrap());
    let pins = fs::read_dir(place.bpf.join(format!("v{LAYOUT_VERSION}/maps"))).unwrap();
    let pinned = pins.map(|pin| pin.unwrap().file_name().into_string().unwrap());
    assert_eq!(pinned.collect::<BTreeSet<_>>(), expected);
}

/// A daemon with the rights that it keeps does all it has to do, and one without any of these does not start.
fn with_few_rights() {
    let place = Place::new(Features::probe());
    let _outside = build_network();
    let devices = look();
    BACKENDS.into_iter().chain(BACKENDS6).for_each(serve);
    // Rights belong to threads.
    let enough = || {
        capabilities::keep(&capabilities::DAEMON).unwrap();
        for _ in 0..2 {
            let mut daemon = Daemon::with(&place, &devices, options(&place, "up0"));
            daemon.see(events(&BACKENDS));
            assert_eq!(answers(SERVICE, ask, 20), both(&BACKENDS));
            let maps = daemon.dataplane.grow(maps::SERVICES).unwrap();
            daemon.reconciler.grow(maps, Instant::now());
            daemon.see(events(&BACKENDS[..1]));
            let mut conntrack = Conntrack::take(daemon.dataplane.programs()).unwrap();
            check_sweep(&place, &mut conntrack);
        }
    };
    thread::scope(|scope| scope.spawn(enough).join()).unwrap();

    for missing in capabilities::DAEMON {
        let mut others = capabilities::DAEMON.to_vec();
        others.retain(|right| *right != missing);
        let root = place.bpf.join("few");
        let started = || {
            capabilities::keep(&others).unwrap();
            Dataplane::open(&root, &place.cgroup, options(&place, "off"))?.attach_sockets()
        };
        let started = thread::scope(|scope| scope.spawn(started).join()).unwrap();
        assert!(started.is_err(), "without {missing}");
        attach::cleanup(&root).unwrap();
        fs::remove_dir(root).unwrap();
    }
}

/// Runs `scenario` in a network namespace of its own, if that is possible.
fn alone(scenario: impl FnOnce() + Send + 'static) {
    if !Uid::effective().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!(
            "skipped: this test needs root, for BPF programs, a network namespace and a cgroup"
        );
        return;
    }
    let scenario = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        scenario();
    };
    // The namespace belongs to a thread, and ends with it.
    if let Err(panic) = thread::spawn(scenario).join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn installed_services_work_and_outlive_the_daemon() {
    alone(|| scenario(Features::probe()));
}

#[test]
fn devices_of_pods_are_followed() {
    alone(devices::pods_come_and_go);
}

#[test]
fn programs_of_pods_go_with_their_devices() {
    alone(|| devices::pods_leave_nothing(Features { tcx: false }));
    alone(|| devices::pods_leave_nothing(Features::probe()));
}

#[test]
fn udp_sockets_connected_to_a_backend_that_is_gone_are_closed() {
    alone(|| udp::scenario(Features::probe()));
}

#[test]
fn maps_that_hold_anything_are_pinned() {
    alone(all_maps_are_pinned);
}

#[test]
fn drivers_have_their_program_where_they_can() {
    alone(devices::drivers);
}

#[test]
fn what_does_not_fit_is_installed_after_a_growth() {
    alone(growth::until_all_fit);
}

#[test]
fn clients_notice_nothing_of_a_growth() {
    alone(|| growth::while_connected(Features::probe()));
    alone(|| growth::while_connected(Features { tcx: false }));
}

#[test]
fn a_growth_that_fails_changes_nothing() {
    alone(|| growth::that_fails(Features::probe()));
    alone(|| growth::that_fails(Features { tcx: false }));
}

#[test]
fn a_growth_that_cannot_go_back_ends_the_daemon() {
    alone(|| growth::that_cannot_go_back(Features::probe()));
    alone(|| growth::that_cannot_go_back(Features { tcx: false }));
}

#[test]
fn the_daemon_needs_the_rights_that_it_keeps_and_no_others() {
    alone(with_few_rights);
}

#[test]
fn the_same_holds_on_kernels_without_tcx() {
    alone(|| scenario(Features { tcx: false }));
}
