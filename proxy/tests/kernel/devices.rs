//! Devices that come and go: the programs follow them.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use dataplane_ebpf::abi::{LAYOUT_VERSION, Mac};
use proxy::attach::Dataplane;
use proxy::devices::{self, Device, Devices};
use proxy::features::Features;
use rtnetlink::{LinkBridge, LinkUnspec};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::namespace::{Namespace, index, netlink, set_up};
use crate::node::{Daemon, Place};
use crate::talk::eventually;
use crate::{OUTSIDE, TOWARDS_OUTSIDE, build_network, filters, links, look, options};

/// Attaches to no uplink, to another, and to both one that does not exist and one that does.
pub(crate) fn check_uplinks(place: &Place, dataplane: &mut Dataplane, devices: &Devices) {
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

/// Pods' devices come and go, and are found also where they are ports of a bridge.
pub(crate) fn pods_come_and_go() {
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
pub(crate) fn pods_leave_nothing(features: Features) {
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

/// A driver that takes the program has it, by a link that the next daemon takes over, as long as it is wanted; one that
/// takes none does not keep the daemon from anything, and is asked again when its device comes back.
pub(crate) fn drivers() {
    let place = Place::new(Features::probe());
    let outside = build_network();
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

    let set_mtu = |mtu| {
        outside.run(move || {
            netlink(async |handle| {
                let link = LinkUnspec::new_with_index(index("eth0")).mtu(mtu).build();
                handle.link().set(link).execute().await.is_ok()
            })
        })
    };
    // Frames that do not fit a page (`veth_xdp_set`). While the program of before is not detached yet, they are refused.
    eventually(|| set_mtu(9000));
    let mut daemon = start("up0");
    assert_eq!(found(), without, "refused");
    assert!(set_mtu(1500));
    let mut down = devices.clone();
    down.uplinks.retain(|device| device.index != up0);
    let failed = daemon.dataplane.attach_devices(&down);
    assert!(failed.is_empty(), "{failed:?}");
    // The kernel detaches a program some time after its link is gone, and takes no program twice.
    eventually(|| daemon.dataplane.attach_devices(&devices).is_empty());
    assert_eq!(found().0, with.0, "asked again");
}
