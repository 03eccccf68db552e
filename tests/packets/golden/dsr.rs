//! Direct server return: what the node that a client's packets enter by tells the backend's node, and what that makes of
//! it.

use std::net::IpAddr;

use dataplane_ebpf::abi::{Kind, Service};
use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::checksum;
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

use super::world::{OTHER_NODE_MAC, OWN_MAC, TARGET, Way, World, backend, ip, node_port, service};
use super::writer::{Endpoint, Writer, forwarded};
use super::{PASS, REDIRECT, SHOT, TCP_AND_UDP, XDP_PASS, XDP_TX, show};
use crate::frame::{Frame, tcp};

/// The port of every service here.
const PORT: u16 = 443;

/// Addresses of a load balancer: two of services with direct server return, one of a service without.
struct Vips {
    first: IpAddr,
    second: IpAddr,
    plain: IpAddr,
}

fn vips(w: Writer) -> Vips {
    let [first, second, plain] = if w.a.node.is_ipv4() {
        ["192.0.2.81", "192.0.2.82", "192.0.2.83"]
    } else {
        ["2001:db8::81", "2001:db8::82", "2001:db8::83"]
    }
    .map(ip);
    Vips {
        first,
        second,
        plain,
    }
}

/// Nodes with services that have one backend each: the same one elsewhere, or the same one here.
fn worlds(backends: [u32; 3]) -> impl Iterator<Item = (World, Writer)> {
    World::each(&TCP_AND_UDP).map(move |(mut world, w)| {
        publish(&mut world, w, backends);
        (world, w)
    })
}

/// Nodes whose services have their backends here.
fn hosts() -> impl Iterator<Item = (World, Writer)> {
    worlds([backend::HERE, backend::FIRST, backend::SECOND])
}

const FIRST: u32 = 20;
const SECOND: u32 = 21;
const PLAIN: u32 = 22;

fn publish(world: &mut World, w: Writer, backends: [u32; 3]) {
    let vips = vips(w);
    let dataplane = &mut world.dataplane;
    for ((id, vip, flags), backend) in [
        (FIRST, vips.first, Service::DSR),
        (SECOND, vips.second, Service::DSR),
        (PLAIN, vips.plain, 0),
    ]
    .into_iter()
    .zip(backends)
    {
        let run = dataplane.add_run(&[backend]).expect("there is room");
        dataplane
            .set_service(id, run, run, flags)
            .expect("there is room");
        dataplane
            .add_frontend(id, Kind::LOAD_BALANCER, (vip, PORT), w.protocol)
            .expect("there is room");
        if backend != backend::ELSEWHERE {
            dataplane
                .add_local_backend(id, backend)
                .expect("there is room");
        }
    }
}

/// Nodes whose services have their backends elsewhere.
fn entries() -> impl Iterator<Item = (World, Writer)> {
    worlds([backend::ELSEWHERE; 3])
}

/// The packet with the option that names a frontend, written out as RFC 791 and RFC 8200 have it.
fn telling(frame: &Frame, (address, port): Endpoint) -> Vec<u8> {
    let mut bytes = frame.bytes();
    let port = port.to_be_bytes();
    match address {
        IpAddr::V4(address) => {
            let option = [&[0x9a, 8][..], &port, &address.octets()].concat();
            bytes.splice(34..34, option);
            bytes[14] += 2;
            add(&mut bytes[16..18], 8);
            bytes[24..26].fill(0);
            let sum = checksum::sum(&bytes[14..42]).checksum();
            bytes[24..26].copy_from_slice(&sum.to_ne_bytes());
        }
        IpAddr::V6(address) => {
            let header = [
                &[bytes[20], 2, 0x1b, 18][..],
                &address.octets(),
                &port,
                &[1, 0],
            ]
            .concat();
            bytes.splice(54..54, header);
            bytes[20] = 60;
            add(&mut bytes[18..20], 24);
        }
    }
    bytes
}

fn add(field: &mut [u8], bytes: u16) {
    let length = u16::from_be_bytes([field[0], field[1]]) + bytes;
    field.copy_from_slice(&length.to_be_bytes());
}

#[track_caller]
fn becomes(world: &World, hook: &str, packet: &[u8], verdict: i32, wanted: &[u8]) {
    let (got, out, _) = world.run(hook, packet, 1).expect("the program runs");
    assert!(
        (got, &out[..]) == (verdict, wanted),
        "{hook}: {}\n  became {got} {} {out:02x?}\n  wanted {verdict} {} {wanted:02x?}",
        show(packet),
        show(&out),
        show(wanted)
    );
}

#[test]
fn the_backends_node_is_told_what_the_client_used() {
    for (world, w) in entries() {
        let (vip, elsewhere) = ((vips(w).first, PORT), (w.a.elsewhere, TARGET));
        let client = (w.a.client, 45001);
        let sent = |frame: Frame| forwarded(frame);
        let told = |frame: Frame| telling(&sent(frame), vip);
        // The second time, the packet was lost.
        for _ in 0..2 {
            let open = w.open(client, vip).bytes();
            becomes(
                &world,
                "ingress",
                &open,
                REDIRECT,
                &told(w.open(client, elsewhere)),
            );
        }
        let data = w.data(client, vip).bytes();
        let wanted = match w.protocol {
            Protocol::UDP => told(w.data(client, elsewhere)),
            _ => sent(w.data(client, elsewhere)).bytes(),
        };
        becomes(&world, "ingress", &data, REDIRECT, &wanted);
        assert_eq!(world.drops(), []);
        let stats = world.dataplane.stats(FIRST).expect("maps can be read");
        assert_eq!((stats.connections, stats.packets), (1, 3));
    }
}

/// With Maglev, another node that a client's packets come to chooses the same backend.
#[test]
fn a_connection_goes_on_by_a_node_that_does_not_know_it() {
    for (world, w) in entries().filter(|(_, w)| w.protocol == Protocol::TCP) {
        let (vip, elsewhere) = ((vips(w).first, PORT), (w.a.elsewhere, TARGET));
        let client = (w.a.client, 45002);
        let data = w.data(client, vip).bytes();
        let wanted = forwarded(w.data(client, elsewhere)).bytes();
        becomes(&world, "ingress", &data, REDIRECT, &wanted);
    }
}

#[test]
fn a_datagram_without_room_for_the_option_gets_the_nodes_address() {
    for (world, w) in entries().filter(|(_, w)| w.protocol == Protocol::UDP) {
        let (vip, elsewhere) = ((vips(w).first, PORT), (w.a.elsewhere, TARGET));
        let headers = if w.a.node.is_ipv4() { 28 } else { 48 };
        let full = |mut frame: Frame| {
            frame.body.data_mut().resize(1500 - headers, b'x');
            frame
        };
        // A flow begins with one.
        let (client, source) = ((w.a.client, 45003), (w.a.node, 45003));
        let packet = full(w.open(client, vip)).bytes();
        let wanted = forwarded(full(w.open(source, elsewhere))).bytes();
        becomes(&world, "ingress", &packet, REDIRECT, &wanted);
        let wanted = forwarded(w.open(source, elsewhere)).bytes();
        becomes(
            &world,
            "ingress",
            &w.open(client, vip).bytes(),
            REDIRECT,
            &wanted,
        );
        // One comes later: the backend's node knows the flow by then.
        let client = (w.a.client, 45004);
        let wanted = telling(&forwarded(w.open(client, elsewhere)), vip);
        becomes(
            &world,
            "ingress",
            &w.open(client, vip).bytes(),
            REDIRECT,
            &wanted,
        );
        let packet = full(w.open(client, vip)).bytes();
        let wanted = forwarded(full(w.open(client, elsewhere))).bytes();
        becomes(&world, "ingress", &packet, REDIRECT, &wanted);
    }
}

/// The backend could not tell the two connections apart by the client's address and port.
#[test]
fn a_client_that_uses_a_port_twice_gets_the_nodes_address() {
    for (world, w) in entries() {
        let (vips, elsewhere) = (vips(w), (w.a.elsewhere, TARGET));
        let (client, source) = ((w.a.client, 45005), (w.a.node, 45005));
        let (one, other) = ((vips.first, PORT), (vips.second, PORT));
        let wanted = telling(&forwarded(w.open(client, elsewhere)), one);
        becomes(
            &world,
            "ingress",
            &w.open(client, one).bytes(),
            REDIRECT,
            &wanted,
        );
        let wanted = forwarded(w.open(source, elsewhere)).bytes();
        becomes(
            &world,
            "ingress",
            &w.open(client, other).bytes(),
            REDIRECT,
            &wanted,
        );
    }
}

#[test]
fn a_backend_that_is_its_own_client_gets_the_nodes_address() {
    for (world, w) in entries() {
        let (vip, elsewhere) = ((vips(w).first, PORT), (w.a.elsewhere, TARGET));
        let packet = w.open((w.a.elsewhere, 45010), vip).bytes();
        let wanted = forwarded(w.open((w.a.node, 45010), elsewhere)).bytes();
        becomes(&world, "ingress", &packet, REDIRECT, &wanted);
    }
}

#[test]
fn node_ports_and_backends_here_are_served_as_without() {
    for (mut world, w) in entries() {
        let client = (w.a.client, 45006);
        let to = (w.a.node, node_port(service::REMOTE));
        world
            .dataplane
            .change_service(service::REMOTE, |service| service.flags |= Service::DSR)
            .expect("the service is there");
        let wanted = forwarded(w.open((w.a.node, 45006), (w.a.elsewhere, TARGET))).bytes();
        becomes(
            &world,
            "ingress",
            &w.open(client, to).bytes(),
            REDIRECT,
            &wanted,
        );
    }
    for (world, w) in hosts() {
        let client = (w.a.client, 45007);
        let packet = w.open(client, (vips(w).first, PORT)).bytes();
        let wanted = w.open(client, (w.a.here, TARGET)).bytes();
        becomes(&world, "ingress", &packet, PASS, &wanted);
    }
}

/// A connection that ends at the client and begins anew chooses its backend anew.
#[test]
fn a_client_that_ended_its_connection_begins_another() {
    for (mut world, w) in entries().filter(|(_, w)| w.protocol == Protocol::TCP) {
        let vip = (vips(w).first, PORT);
        let (client, source) = ((w.a.client, 45008), (w.a.node, 45008));
        let elsewhere = (w.a.elsewhere, TARGET);
        world.send(&w.open(client, vip));
        world.send(&w.flagged(client, vip, tcp::FIN | tcp::ACK));
        world
            .dataplane
            .change_service(FIRST, |service| service.flags = 0)
            .expect("the service is there");
        // What it holds to now is seen by the new connection alone.
        let wanted = forwarded(w.open(source, elsewhere)).bytes();
        becomes(
            &world,
            "ingress",
            &w.open(client, vip).bytes(),
            REDIRECT,
            &wanted,
        );
    }
}

#[test]
fn the_driver_leaves_telling_to_the_hook_behind() {
    for (mut world, w) in entries() {
        world
            .take_way(Way::Driver)
            .expect("a veth device takes the program");
        let (vip, elsewhere) = ((vips(w).first, PORT), (w.a.elsewhere, TARGET));
        let client = (w.a.client, 45009);
        let open = w.open(client, vip).bytes();
        becomes(&world, "driver", &open, XDP_PASS, &open);
        let wanted = telling(&forwarded(w.open(client, elsewhere)), vip);
        becomes(&world, "ingress", &open, REDIRECT, &wanted);
        becomes(&world, "driver", &open, XDP_PASS, &open);
        let data = w.data(client, vip).bytes();
        if w.protocol == Protocol::UDP {
            becomes(&world, "driver", &data, XDP_PASS, &data);
            continue;
        }
        let wanted = Frame {
            ethernet: [OTHER_NODE_MAC, OWN_MAC],
            ..forwarded(w.data(client, elsewhere))
        };
        becomes(&world, "driver", &data, XDP_TX, &wanted.bytes());
    }
}

#[test]
fn a_backends_node_answers_with_the_services_address() {
    for (world, w) in hosts() {
        let (vip, here) = ((vips(w).first, PORT), (w.a.here, TARGET));
        let client = (w.a.client, 46001);
        // The second time, the packet or its answer was lost.
        for _ in 0..2 {
            let open = w.open(client, here);
            becomes(&world, "ingress", &telling(&open, vip), PASS, &open.bytes());
            let reply = w.data(here, client).bytes();
            becomes(&world, "egress", &reply, PASS, &w.data(vip, client).bytes());
        }
        let data = w.data(client, here).bytes();
        becomes(&world, "ingress", &data, PASS, &data);
        assert_eq!(world.drops(), []);
        // The client's packets may come straight to the backend's node, too.
        let open = w.open(client, vip).bytes();
        becomes(
            &world,
            "ingress",
            &open,
            PASS,
            &w.open(client, here).bytes(),
        );
    }
}

/// Otherwise whoever reaches a pod could make it answer as anybody.
#[test]
fn a_node_is_told_only_of_services_it_knows() {
    for (world, w) in hosts() {
        let (vips, here) = (vips(w), (w.a.here, TARGET));
        let open = w.open((w.a.client, 46002), here);
        let second = w.open((w.a.client, 46002), (w.a.second, TARGET));
        let nobody = (w.a.router, PORT);
        let node_port = (w.a.node, node_port(service::LOCAL));
        for packet in [
            telling(&open, nobody),
            telling(&open, node_port),
            telling(&open, (vips.first, PORT + 1)),
            // A service whose backends do not answer themselves.
            telling(&second, (vips.plain, PORT)),
            // Options that mean something else, or nothing.
            Frame {
                options: true,
                ..open.clone()
            }
            .bytes(),
        ] {
            becomes(&world, "ingress", &packet, PASS, &packet);
        }
        let mut another = telling(&open, (vips.first, PORT));
        let kind = if w.a.node.is_ipv4() { 34 } else { 56 };
        another[kind] ^= 1;
        becomes(&world, "ingress", &another, PASS, &another);
        // A connection's later packets tell nothing.
        let data = telling(&w.data((w.a.client, 46002), here), (vips.first, PORT));
        if w.protocol == Protocol::TCP {
            becomes(&world, "ingress", &data, PASS, &data);
        }
        // None of them left anything behind.
        let reply = w.data(here, (w.a.client, 46002)).bytes();
        becomes(&world, "egress", &reply, PASS, &reply);
    }
}

/// The backend would answer with its own address, of which the client knows nothing.
#[test]
fn what_is_told_of_an_unknown_backend_is_dropped() {
    for (mut world, w) in hosts() {
        let vip = (vips(w).first, PORT);
        let client = (w.a.client, 46004);
        let packet = telling(&w.open(client, (w.a.here, TARGET)), vip);
        // The service does not have this backend, or not yet.
        let second = telling(&w.open(client, (w.a.second, TARGET)), vip);
        is_dropped(&world, "ingress", &second, Drop::Inconsistent);
        // A client that the service is not for.
        let set = |flags| move |service: &mut Service| service.flags = flags;
        world
            .dataplane
            .change_service(FIRST, set(Service::DSR | Service::SOURCE_RANGES))
            .expect("the service is there");
        is_dropped(&world, "ingress", &packet, Drop::SourceRange);
        world
            .dataplane
            .change_service(FIRST, set(Service::DSR))
            .expect("the service is there");
        // The backend's id was given to another service.
        world
            .dataplane
            .change_backend(backend::HERE, |backend| backend.service = PLAIN)
            .expect("the backend is there");
        is_dropped(&world, "ingress", &packet, Drop::Inconsistent);
        // None of them left anything behind.
        let reply = w.data((w.a.here, TARGET), client).bytes();
        becomes(&world, "egress", &reply, PASS, &reply);
    }
}

#[track_caller]
fn is_dropped(world: &World, hook: &str, packet: &[u8], reason: Drop) {
    let count = || {
        let drops = world.drops();
        let counts = drops.into_iter().filter(|(dropped, _)| *dropped == reason);
        counts.map(|(_, count)| count).sum::<u64>()
    };
    let before = count();
    let (verdict, ..) = world.run(hook, packet, 1).expect("the program runs");
    assert_eq!((verdict, count()), (SHOT, before + 1), "{}", show(packet));
}

/// The option is no way around the services.
#[test]
fn a_packet_that_tells_of_nothing_is_served_as_any_other() {
    for (world, w) in hosts() {
        let nothing = (w.a.router, PORT);
        let client = (w.a.client, 46005);
        let telling = |to| telling(&w.open(client, to), nothing);
        becomes(
            &world,
            "ingress",
            &telling((vips(w).plain, PORT)),
            PASS,
            &telling((w.a.second, TARGET)),
        );
        world
            .run("ingress", &telling((w.a.cluster_ip, 9)), 1)
            .expect("the program runs");
        let drops = world.drops();
        assert_eq!(drops, [(Drop::UnknownPort, 1)]);
    }
}

/// A pod's word would be taken for a node's wherever the packet goes.
#[test]
fn a_pod_tells_nobody_anything() {
    for (world, w) in hosts() {
        let vip = (vips(w).first, PORT);
        let client = (w.a.client, 46006);
        for backend in [w.a.here, w.a.elsewhere] {
            let packet = telling(&w.open(client, (backend, TARGET)), vip);
            is_dropped(&world, "pod_ingress", &packet, Drop::Malformed);
        }
        let reply = w.data((w.a.here, TARGET), client).bytes();
        becomes(&world, "egress", &reply, PASS, &reply);
    }
}

/// When a known flow was last used.
fn seen(world: &mut World, flow: &Flow) -> u32 {
    world.connection(flow).expect("the flow is known").seen
}

#[test]
fn what_is_known_is_not_written_again() {
    for (mut world, w) in hosts().filter(|(_, w)| w.protocol == Protocol::UDP) {
        let (vips, here) = (vips(w), (w.a.here, TARGET));
        let client = (w.a.client, 46007);
        let open = w.open(client, here);
        let told = telling(&open, (vips.first, PORT));
        becomes(&world, "ingress", &told, PASS, &open.bytes());
        let (asks, answers) = (w.flow(client, here), w.flow(here, client));
        world.age(&[asks, answers], 10);
        let before = seen(&mut world, &answers);
        assert_eq!(seen(&mut world, &asks), before);
        becomes(&world, "ingress", &told, PASS, &open.bytes());
        assert!(seen(&mut world, &asks) >= before + 10);
        assert_eq!(seen(&mut world, &answers), before);
        // A client that goes on asking keeps its port, although nobody answers.
        world.age(&[answers], 120);
        let second = telling(&open, (vips.second, PORT));
        is_dropped(&world, "ingress", &second, Drop::NoPort);
    }
}

/// The nodes that the packets entered by do not know of each other.
#[test]
fn two_services_do_not_get_one_clients_port_at_once() {
    for (mut world, w) in hosts() {
        let (vips, here) = (vips(w), (w.a.here, TARGET));
        let client = (w.a.client, 46003);
        let (first, second) = ((vips.first, PORT), (vips.second, PORT));
        let open = w.open(client, here);
        becomes(
            &world,
            "ingress",
            &telling(&open, first),
            PASS,
            &open.bytes(),
        );
        let (verdict, ..) = world
            .run("ingress", &telling(&open, second), 1)
            .expect("the program runs");
        assert_eq!(verdict, SHOT);
        let drops = world.drops();
        assert_eq!(drops, [(Drop::NoPort, 1)]);
        let reply = w.data(here, client).bytes();
        becomes(
            &world,
            "egress",
            &reply,
            PASS,
            &w.data(first, client).bytes(),
        );
        // However long it has been silent, TCP goes on until both have ended it.
        world.age(&[w.flow(here, client), w.flow(client, here)], 120);
        if w.protocol == Protocol::TCP {
            let told = telling(&open, second);
            is_dropped(&world, "ingress", &told, Drop::NoPort);
            let end = w.flagged(here, client, tcp::FIN | tcp::ACK).bytes();
            let wanted = w.flagged(first, client, tcp::FIN | tcp::ACK).bytes();
            becomes(&world, "egress", &end, PASS, &wanted);
            is_dropped(&world, "ingress", &told, Drop::NoPort);
            let end = w.flagged(client, here, tcp::FIN | tcp::ACK).bytes();
            becomes(&world, "ingress", &end, PASS, &end);
        }
        becomes(
            &world,
            "ingress",
            &telling(&open, second),
            PASS,
            &open.bytes(),
        );
        becomes(
            &world,
            "egress",
            &reply,
            PASS,
            &w.data(second, client).bytes(),
        );
    }
}
