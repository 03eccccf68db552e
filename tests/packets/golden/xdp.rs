//! What the driver's program makes of frames: which it sends on and how, and which it leaves as they are.
//!
//! That a packet it leaves ends as if there were no such program, and that connections change between the hooks at any
//! packet, is what every other case here checks on the side (`Way`).

use dataplane_ebpf::addr::Protocol;

use super::world::{
    OTHER_NODE_MAC, OWN_MAC, ROUTER_MAC, TARGET, Way, World, cluster_port, node_port, service, v4,
};
use super::writer::{Writer, forwarded};
use super::{TCP_AND_UDP, XDP_PASS, XDP_TX, show};
use crate::frame::{ARRIVING, Frame};

/// `bpf_redirect` was called.
const XDP_REDIRECT: i32 = 4;

/// A second device's address, and that of the machine it leads to.
const SECOND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const BEHIND_SECOND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x12];

fn worlds() -> impl Iterator<Item = (World, Writer)> {
    World::each(&TCP_AND_UDP).map(|(mut world, w)| {
        world
            .take_way(Way::Driver)
            .expect("a veth device takes the program");
        (world, w)
    })
}

#[track_caller]
fn sends(world: &World, packet: &[u8], verdict: i32, ethernet: [[u8; 6]; 2], wanted: Frame) {
    let wanted = Frame { ethernet, ..wanted }.bytes();
    let (got, out, _) = world.run("driver", packet, 1).expect("the program runs");
    assert!(
        (got, &out) == (verdict, &wanted),
        "{}\n  became {got} {}\n  wanted {verdict} {}",
        show(packet),
        show(&out),
        show(&wanted)
    );
}

#[track_caller]
fn passes(world: &World, packet: &[u8]) {
    let (verdict, out, _) = world.run("driver", packet, 1).expect("the program runs");
    assert!(
        verdict == XDP_PASS && out == packet,
        "{}\n  became {verdict} {}",
        show(packet),
        show(&out)
    );
}

#[test]
fn a_connection_to_a_backend_elsewhere_never_leaves_the_driver() {
    for (world, w) in worlds() {
        let (a, elsewhere) = (w.a, (w.a.elsewhere, TARGET));
        let there = [OTHER_NODE_MAC, OWN_MAC];
        let back = [ROUTER_MAC, OWN_MAC];
        for (port, to) in [
            (40001, (a.node, node_port(service::REMOTE))),
            (40002, (a.cluster_ip, cluster_port(service::REMOTE))),
        ] {
            let (client, source) = ((a.client, port), (a.node, port));
            let request = w.open(client, to).bytes();
            sends(
                &world,
                &request,
                XDP_TX,
                there,
                forwarded(w.open(source, elsewhere)),
            );
            let reply = w.data(elsewhere, source).bytes();
            sends(&world, &reply, XDP_TX, back, forwarded(w.data(to, client)));
            let request = w.data(client, to).bytes();
            sends(
                &world,
                &request,
                XDP_TX,
                there,
                forwarded(w.data(source, elsewhere)),
            );
        }
        // Options stay where they are, and the ports behind them are found.
        let client = (a.client, 40003);
        let with_options = |frame: Frame| Frame {
            options: true,
            ..frame
        };
        let request = with_options(w.open(client, (a.node, node_port(service::REMOTE))));
        let wanted = with_options(forwarded(w.open((a.node, 40003), elsewhere)));
        sends(&world, &request.bytes(), XDP_TX, there, wanted);
        let stats = world
            .dataplane
            .stats(service::REMOTE)
            .expect("maps can be read");
        assert_eq!((stats.connections, stats.packets), (3, 7));
    }
}

#[test]
fn a_missing_udp_checksum_stays_missing_in_the_driver() {
    let w = Writer {
        a: v4(),
        protocol: Protocol::UDP,
    };
    let mut world = World::create(w.a, w.protocol).expect("a node can be made");
    world
        .take_way(Way::Driver)
        .expect("a veth device takes the program");
    let without = |frame: Frame| {
        let mut bytes = frame.bytes();
        bytes[14 + 20 + 6..14 + 20 + 8].fill(0);
        bytes
    };
    let request = w.open((w.a.client, 40001), (w.a.node, node_port(service::REMOTE)));
    let (verdict, out, _) = world
        .run("driver", &without(request), 1)
        .expect("the program runs");
    let wanted = Frame {
        ethernet: [OTHER_NODE_MAC, OWN_MAC],
        ..forwarded(w.open((w.a.node, 40001), (w.a.elsewhere, TARGET)))
    };
    assert_eq!((verdict, out), (XDP_TX, without(wanted)));
}

#[test]
fn what_is_not_plain_is_left_to_the_hooks_behind() {
    for (world, w) in worlds() {
        let a = w.a;
        let remote = (a.node, node_port(service::REMOTE));
        let more_fragments = if a.node.is_ipv4() { 0x2000 } else { 1 };
        let open = |port, to| w.open((a.client, port), to);
        for frame in [
            open(41001, (a.node, node_port(service::LOCAL))),
            open(41002, (a.node, node_port(service::EMPTY))),
            open(41003, (a.node, node_port(service::POLICY))),
            open(41004, (a.cluster_ip, 9)),
            open(41005, (a.node, 22)),
            Frame {
                ttl: 1,
                ..open(41006, remote)
            },
            Frame {
                fragment: Some(more_fragments),
                ..open(41007, remote)
            },
            Frame {
                ethernet: [[2, 0, 0, 0, 0, 9], ARRIVING[1]],
                ..open(41008, remote)
            },
        ] {
            passes(&world, &frame.bytes());
        }
        let tagged = open(41009, remote).bytes();
        let tagged = [&tagged[..12], &[0x81, 0, 0, 5], &tagged[12..]].concat();
        passes(&world, &tagged);
        let cut_short = open(41010, remote).bytes();
        passes(&world, &cut_short[..cut_short.len() - 1]);
        assert_eq!(world.drops(), []);
    }
}

#[test]
fn a_way_that_is_not_known_is_left_to_the_hooks_behind() {
    for (world, w) in worlds() {
        let a = w.a;
        let request = w.open((a.client, 42001), (a.node, node_port(service::REMOTE)));
        let (next_hop, route) = if a.node.is_ipv4() {
            ("192.0.2.2", "route replace 10.244.2.0/24 via 192.0.2.2")
        } else {
            (
                "2001:db8::2",
                "-6 route replace fd00:10:244:2::/64 via 2001:db8::2",
            )
        };
        let set = |command: &str| {
            world
                .namespace
                .ip(command)
                .expect("the network can be changed")
        };
        // The path's MTU is below the packet's size.
        set(&format!("{route} mtu lock 1280"));
        let large = w.data((a.client, 42001), (a.node, node_port(service::REMOTE)));
        let mut large = large;
        large.body.data_mut().resize(1300, b'x');
        passes(&world, &large.bytes());
        set(route);
        set(&format!("neigh del {next_hop} dev uplink"));
        passes(&world, &request.bytes());
    }
}

#[test]
fn a_frame_leaves_by_another_device_only_if_that_takes_it() {
    for (mut world, w) in worlds() {
        let a = w.a;
        let to = (a.node, node_port(service::REMOTE));
        world
            .namespace
            .ip("link add second type veth peer name behind-second
                 link set second address 02:00:00:00:00:11
                 link set behind-second up
                 link set second up
                 addr add 192.0.3.1/24 dev second
                 addr add 2001:db8:3::1/64 dev second nodad
                 route replace 10.244.2.0/24 via 192.0.3.2
                 -6 route replace fd00:10:244:2::/64 via 2001:db8:3::2
                 neigh add 192.0.3.2 lladdr 02:00:00:00:00:12 dev second
                 neigh add 2001:db8:3::2 lladdr 02:00:00:00:00:12 dev second")
            .expect("a device can be made");
        passes(&world, &w.open((a.client, 43001), to).bytes());
        world
            .attach_driver("second", SECOND_MAC)
            .expect("a veth device takes the program");
        sends(
            &world,
            &w.open((a.client, 43002), to).bytes(),
            XDP_REDIRECT,
            [BEHIND_SECOND_MAC, SECOND_MAC],
            forwarded(w.open((a.node, 43002), (a.elsewhere, TARGET))),
        );
    }
}
