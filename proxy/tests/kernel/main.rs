//! The real programs and maps, with real sockets: what the daemon installs is what clients get, also after the daemon has
//! died and another one has taken over. Needs root; runs in network namespaces and a cgroup of its own.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

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
use dataplane_ebpf::abi::{Connection, LAYOUT_VERSION, Mac, maps};
use dataplane_ebpf::addr::{Addr, Port, Protocol as WireProtocol};
use dataplane_ebpf::flow::Flow;
use futures::TryStreamExt;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;
use proxy::attach::{self, Dataplane, Options};
use proxy::capabilities;
use proxy::devices::{self, Device, Devices};
use proxy::features::Features;
use proxy::inspect::dump;
use proxy::maps::{Conntrack, Swept};
use proxy::pins::MapSizes;
use rtnetlink::{LinkBridge, LinkUnspec};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

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

/// Attaches to no uplink, to another, and to both one that does not exist and one that does.
fn check_uplinks(place: &Place, dataplane: &mut Dataplane, devices: &Devices) {
    let pins = links(place);
    let nothing = dataplane.attach_devices(&Devices::default());
    assert!(nothing.is_empty(), "{nothing:?}");
    assert_eq!(links(place), pins, "without uplinks all stays attached");

    let other = Namespace::new();
    other.connect(
        "up1",
        "203.0.113.9".parse().unwrap(),
        "203.0.113.1".parse().unwrap(),
    );
    let other = Devices {
        uplinks: BTreeSet::from([Device {
            index: index("up1"),
            name: "up1".to_owned(),
        }]),
        ..Devices::default()
    };
    let failed = dataplane.attach_devices(&other);
    assert!(failed.is_empty(), "{failed:?}");
    let moved = links(place);
    assert!(moved.len() == pins.len() && moved != pins, "{moved:?}");
    let expected = usize::from(!place.features.tcx);
    assert_eq!((filters("up0"), filters("up1")), (0, expected));

    let gone = Device {
        index: u32::MAX / 2,
        name: "gone0".to_owned(),
    };
    let mut both = devices.clone();
    both.uplinks.insert(gone);
    // The kernel detaches a program some time after its link is gone, and takes no program twice.
    eventually(|| dataplane.attach_devices(&both).is_empty());
    assert_eq!(
        links(place),
        pins,
        "one that is gone does not hinder others"
    );
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
    netlink(async |_| devices::look(&["up0".to_owned()]).await.unwrap())
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
    check_uplinks(&place, &mut next.dataplane, &devices);
    drop(next);

    assert!(attach::cleanup(&place.bpf).unwrap());
    assert!(!attach::cleanup(&place.bpf).unwrap());
    assert_eq!(filters("up0"), 0);
    // The kernel detaches a program some time after the last name of its link is gone.
    eventually(|| ask(SERVICE).unwrap_err().kind() != ErrorKind::ConnectionRefused);
}

/// Pods' devices come and go, and are found also where they are ports of a bridge.
fn pods_come_and_go() {
    let (one, other) = (Namespace::new(), Namespace::new());
    let ends = (OUTSIDE.parse().unwrap(), TOWARDS_OUTSIDE.parse().unwrap());
    netlink(async |handle| {
        set_up(&handle, "lo").await;
        let shutdown = CancellationToken::new();
        let (sender, mut seen) = watch::channel(Devices::default());
        let following = devices::follow(Vec::new(), sender, shutdown.clone());
        let following = tokio::spawn(following);
        let mut expect = async |expected: &[&str]| {
            let arrived = seen.wait_for(|seen| {
                let names = seen.pods.iter().map(|device| &*device.name);
                names.eq(expected.iter().copied())
            });
            let arrived = tokio::time::timeout(Duration::from_secs(30), arrived).await;
            assert!(arrived.is_ok(), "expected {expected:?}");
        };
        one.link(&handle, "pod0", ends.0, ends.1).await;
        expect(&["pod0"]).await;
        other.link(&handle, "pod1", ends.0, ends.1).await;
        expect(&["pod0", "pod1"]).await;

        let bridge = LinkBridge::new("br0").up().build();
        handle.link().add(bridge).execute().await.unwrap();
        let port = LinkUnspec::new_with_index(index("pod1")).controller(index("br0"));
        handle.link().set(port.build()).execute().await.unwrap();
        let gone = handle.link().del(index("pod0"));
        gone.execute().await.unwrap();
        expect(&["pod1"]).await;
        let free = LinkUnspec::new_with_index(index("pod1")).nocontroller();
        handle.link().set(free.build()).execute().await.unwrap();
        let down = LinkUnspec::new_with_index(index("pod1")).down();
        handle.link().set(down.build()).execute().await.unwrap();
        expect(&[]).await;

        shutdown.cancel();
        following.await.unwrap();
    });
}

/// What pods' devices have goes with them.
fn pods_leave_nothing(features: Features) {
    let place = Place::new(features);
    let mut daemon = Daemon::start(&place, &Devices::default());
    let before = links(&place);
    let pod = Namespace::new();
    for round in 0..3 {
        pod.connect(
            "pod0",
            OUTSIDE.parse().unwrap(),
            TOWARDS_OUTSIDE.parse().unwrap(),
        );
        let with = look();
        assert_eq!(with.pods.len(), 1);
        let failed = daemon.dataplane.attach_devices(&with);
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(links(&place).len(), before.len() + 2, "in round {round}");
        assert_eq!(filters("pod0"), usize::from(!features.tcx));
        netlink(async |handle| {
            let gone = handle.link().del(index("pod0"));
            gone.execute().await.unwrap();
        });
        // Whoever is asked to attach to what is gone by now has nothing to complain about.
        let failed = daemon.dataplane.attach_devices(&with);
        assert!(failed.is_empty(), "{failed:?}");
        let failed = daemon.dataplane.attach_devices(&look());
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(links(&place), before, "in round {round}");
    }
}

fn options(place: &Place, xdp: &str) -> Options {
    Options {
        sizes: MapSizes::default(),
        features: place.features,
        xdp: xdp.parse().unwrap(),
    }
}

/// A driver that takes the program has it, by a link that the next daemon takes over, as long as it is wanted; one that
/// takes none does not keep the daemon from anything.
fn drivers() {
    let place = Place::new(Features::probe());
    let _outside = build_network();
    netlink(async |handle| {
        let bridge = LinkBridge::new("br0").up().build();
        handle.link().add(bridge).execute().await.unwrap();
    });
    let uplinks = ["up0".to_owned(), "br0".to_owned()];
    let devices = netlink(async |_| devices::look(&uplinks).await.unwrap());
    let start = |xdp: &str| Daemon::with(&place, &devices, options(&place, xdp));
    let found = || {
        let layout = place.bpf.join(format!("v{LAYOUT_VERSION}"));
        let map = Map::HashMap(MapData::from_pin(layout.join("maps/XDP_DEVICES")).unwrap());
        let map: HashMap<_, u32, Mac> = map.try_into().unwrap();
        let acting: Vec<u32> = map.keys().map(Result::unwrap).collect();
        let pins = fs::read_dir(layout.join("links")).unwrap();
        let pins = pins.map(|pin| pin.unwrap().file_name().into_string().unwrap());
        let pins: Vec<String> = pins.filter(|name| name.starts_with("driver")).collect();
        (pins, acting)
    };
    let up0 = index("up0");
    let with = (vec![format!("driver-{up0}")], vec![up0]);
    let without = (Vec::new(), Vec::new());
    for (xdp, expected) in [
        ("auto", &without),
        ("up0,br0", &with),
        ("up0", &with),
        ("off", &without),
    ] {
        drop(start(xdp));
        assert_eq!(found(), *expected, "{xdp}");
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
    alone(pods_come_and_go);
}

#[test]
fn programs_of_pods_go_with_their_devices() {
    alone(|| pods_leave_nothing(Features { tcx: false }));
    alone(|| pods_leave_nothing(Features::probe()));
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
    alone(drivers);
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
