//! Maps that are full, and what clients notice of their growth: nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dataplane_ebpf::abi::{LAYOUT_VERSION, maps};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use proxy::attach::Options;
use proxy::attacher;
use proxy::devices::Devices;
use proxy::features::Features;
use proxy::health::Health;
use proxy::pins::MapSizes;
use proxy::rounds::Full;
use proxy::xdp::Xdp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::node::{Daemon, Place};
use crate::talk::{answers, as_stranger, ask, both, eventually, serve};
use crate::world::{BACKENDS, BACKENDS6, NODE_PORT, SERVICE, events};
use crate::{build_network, dump_of, links, look};

/// Every kind of map that grows.
const KINDS: [&str; 6] = [
    maps::SERVICES,
    maps::BACKENDS,
    maps::SLOTS,
    maps::FRONTENDS,
    maps::NODEPORTS,
    maps::SOURCE_RANGES,
];

fn start(place: &Place, devices: &Devices, services: u32) -> Daemon {
    let options = Options {
        sizes: MapSizes {
            services,
            ..MapSizes::default()
        },
        features: place.features,
        xdp: Xdp::Off,
    };
    Daemon::with(place, devices, options)
}

fn grow(daemon: &mut Daemon, map: &str) {
    let maps = daemon.dataplane.grow(map).unwrap();
    daemon.reconciler.grow(maps, Instant::now());
}

/// Repeats what it is told each time it is told something.
fn echo(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

/// Echoes at the only backend of a Service, in place of the server there.
fn serve_echo(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    stream.write_all(&buffer[..length]).unwrap();
                }
            });
        }
    });
}

/// Services that did not fit are there after a growth, with what was there before.
pub(crate) fn until_all_fit() {
    let place = Place::new(Features::probe());
    let _outside = build_network();
    let devices = look();
    BACKENDS.into_iter().chain(BACKENDS6).for_each(serve);
    let mut daemon = start(&place, &devices, 2);
    let now = Instant::now();
    daemon.reconciler.see_devices(devices.clone(), now);
    events(&BACKENDS)
        .into_iter()
        .for_each(|event| daemon.reconciler.see(event, now));
    assert!(daemon.reconciler.round(now).failed > 0);
    let tables = daemon.reconciler.tables_mut();
    assert_eq!(tables.take_full(), Some(maps::SERVICES));
    assert!(
        daemon.dataplane.grow(maps::SERVICES).is_err(),
        "this is as much as was allowed"
    );
    drop(daemon);

    let mut daemon = start(&place, &devices, 5);
    daemon.reconciler.see_devices(devices.clone(), now);
    events(&BACKENDS)
        .into_iter()
        .for_each(|event| daemon.reconciler.see(event, now));
    let mut rounds = 0;
    while daemon.reconciler.round(Instant::now()).failed > 0 && rounds < 2 {
        grow(&mut daemon, maps::SERVICES);
        rounds += 1;
    }
    assert_eq!(rounds, 2, "from two to four, and to five at most");
    drop(daemon);
    let mut daemon = start(&place, &devices, 64);
    daemon.reconciler.see_devices(devices.clone(), now);
    events(&BACKENDS)
        .into_iter()
        .for_each(|event| daemon.reconciler.see(event, now));
    while daemon.reconciler.round(Instant::now()).failed > 0 {
        let full = daemon.reconciler.tables_mut().take_full();
        grow(&mut daemon, full.unwrap());
    }
    assert_eq!(answers(SERVICE, ask, 40), both(&BACKENDS));
}

/// A growth that fails at its last step changes nothing: what is written afterwards has its effect, and the next growth
/// succeeds. The directory of the maps cannot be renamed while something is mounted on it.
pub(crate) fn that_fails(features: Features) {
    let place = Place::new(features);
    let _outside = build_network();
    BACKENDS.into_iter().for_each(serve);
    let mut daemon = Daemon::start(&place, &look());
    daemon.see(events(&BACKENDS));
    let maps = place.bpf.join(format!("v{LAYOUT_VERSION}/maps"));
    // The mounts belong to this thread, and end with it.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).unwrap();
    mount(Some(&maps), &maps, none, MsFlags::MS_BIND, none).unwrap();
    for map in [maps::SERVICES, maps::BACKENDS] {
        let error = daemon.dataplane.grow(map).err().unwrap();
        assert!(!error.is_fatal(), "{error:?}");
        assert!(error.to_string().contains("put in place"), "{error:?}");
    }
    daemon.see(events(&BACKENDS[1..]));
    assert_eq!(answers(SERVICE, ask, 20), both(&BACKENDS[1..]));
    assert_eq!(answers(NODE_PORT, ask, 20), both(&BACKENDS[1..]));
    umount(&maps).unwrap();
    grow(&mut daemon, maps::SERVICES);
    daemon.see(events(&BACKENDS[..1]));
    assert_eq!(answers(SERVICE, ask, 20), both(&BACKENDS[..1]));
}

/// A growth that can neither go on nor go back leaves some programs with other maps than the rest: whoever asked gets
/// none, the attacher ends and with it the daemon, and the next start puts everything in order. What stands in the place
/// of an attachment keeps programs from being exchanged, in both directions.
pub(crate) fn that_cannot_go_back(features: Features) {
    let place = Place::new(features);
    let outside = build_network();
    let devices = look();
    BACKENDS.into_iter().for_each(serve);
    let mut daemon = Daemon::start(&place, &devices);
    daemon.see(events(&BACKENDS));
    let pins = links(&place);
    let stolen = pins.iter().find(|pin| pin.ends_with("connect4")).unwrap();
    fs::remove_file(stolen).unwrap();
    fs::create_dir(stolen).unwrap();

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let Daemon { dataplane, .. } = daemon;
    runtime.block_on(async {
        let (_devices, devices_seen) = watch::channel(devices.clone());
        let (health, _health_seen) = watch::channel(Health::new());
        let (full, full_seen) = mpsc::channel(1);
        let (larger, grown) = oneshot::channel();
        let map = maps::BACKENDS;
        full.send(Full { map, larger }).await.ok().unwrap();
        let running = attacher::run(
            dataplane,
            devices_seen,
            health,
            full_seen,
            CancellationToken::new(),
        );
        let ended = tokio::time::timeout(Duration::from_secs(60), running).await;
        assert!(ended.is_ok(), "nobody puts it in order");
        assert!(grown.await.is_err(), "there are no larger maps");
    });

    fs::remove_dir(stolen).unwrap();
    let mut daemon = Daemon::start(&place, &devices);
    assert_eq!(links(&place), pins);
    daemon.see(events(&BACKENDS[1..]));
    assert_eq!(answers(SERVICE, ask, 20), both(&BACKENDS[1..]));
    let far = || answers(NODE_PORT, ask, 20);
    let far = as_stranger(&place, || outside.run(far));
    assert_eq!(far, both(&BACKENDS[1..]));
    grow(&mut daemon, maps::BACKENDS);
}

/// Connections that are open go on, and new ones succeed, while every kind of map grows; and after a daemon that died at
/// each step of it.
pub(crate) fn while_connected(features: Features) {
    let place = Place::new(features);
    let outside = build_network();
    let devices = look();
    serve_echo(BACKENDS[0]);
    let mut daemon = Daemon::start(&place, &devices);
    daemon.see(events(&BACKENDS[..1]));
    let (pins, before) = (links(&place), dump_of(&daemon));

    let mut near = TcpStream::connect(SERVICE).unwrap();
    let connect = || TcpStream::connect(NODE_PORT).unwrap();
    let mut far = as_stranger(&place, || outside.run(connect));
    for stream in [&near, &far] {
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
    }
    let (ended, opened) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let client = {
        let (ended, opened) = (ended.clone(), opened.clone());
        move || {
            while !ended.load(Ordering::Relaxed) {
                for address in [SERVICE, NODE_PORT] {
                    let mut stream = TcpStream::connect(address).unwrap();
                    assert_eq!(echo(&mut stream, "new"), "new");
                    opened.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    let clients = thread::spawn(client);
    let more_opened = || {
        let before = opened.load(Ordering::Relaxed);
        eventually(|| opened.load(Ordering::Relaxed) > before + 4);
    };

    for map in KINDS {
        more_opened();
        grow(&mut daemon, map);
        assert_eq!(echo(&mut near, map), map);
        assert_eq!(echo(&mut far, map), map);
        assert_eq!(dump_of(&daemon), before, "after {map} grew");
    }
    let next = place.bpf.join(format!("v{LAYOUT_VERSION}/maps-next"));
    for steps in 0..2 {
        let mut growth = daemon.dataplane.begin_growth(maps::BACKENDS).unwrap();
        if steps > 0 {
            daemon.dataplane.change_over(&mut growth).unwrap();
        }
        assert!(next.exists());
        more_opened();
        drop(growth);
        drop(daemon);
        assert_eq!(echo(&mut far, "alone"), "alone");
        daemon = Daemon::start(&place, &devices);
        assert!(!next.exists());
        assert_eq!(dump_of(&daemon), before, "after a death at step {steps}");
        assert_eq!(links(&place), pins);
        more_opened();
        assert_eq!(echo(&mut far, "adopted"), "adopted");
    }
    daemon.see(events(&BACKENDS[..1]));
    assert_eq!(echo(&mut near, "end"), "end");
    ended.store(true, Ordering::Relaxed);
    clients.join().unwrap();
}
