//! What a packet costs: the median time of one run of its program.
//!
//! Each run gets a fresh packet, since a translated one would take another way the second time. A single run's time
//! includes the measuring itself, which the first row shows.

use std::time::Duration;

use anyhow::Result;
use dataplane_ebpf::addr::Protocol;

use super::world::{TARGET, Way, World, node_port, service, v4, v6};
use super::writer::Writer;
use crate::frame::ARRIVING;

const RUNS: usize = 2_000;

/// Far above what any of them takes on an idle machine, so that only a mistake of another order fails.
const LIMIT: Duration = Duration::from_micros(10);

#[test]
fn a_packet_costs_little() {
    for addresses in [v4(), v6()] {
        let mut world = World::create(addresses, Protocol::TCP).expect("a node can be made");
        world
            .take_way(Way::Driver)
            .expect("a veth device takes the program");
        let (a, w) = (
            addresses,
            Writer {
                a: addresses,
                protocol: Protocol::TCP,
            },
        );
        let client = (a.client, 40000);
        let (local, remote) = (
            (a.node, node_port(service::LOCAL)),
            (a.node, node_port(service::REMOTE)),
        );
        for packet in [w.open(client, local), w.open(client, remote)] {
            world
                .run("ingress", &packet.bytes(), 1)
                .expect("the connection is opened");
        }
        world
            .run("pod_ingress", &w.open((a.second, 40000), remote).bytes(), 1)
            .expect("the connection is opened");
        for (name, hook, packet) in [
            ("not IP", "ingress", not_ip()),
            (
                "none of ours",
                "ingress",
                w.data(client, (a.node, 22)).bytes(),
            ),
            (
                "request, backend here",
                "ingress",
                w.data(client, local).bytes(),
            ),
            (
                "reply, backend here",
                "egress",
                w.data((a.here, TARGET), client).bytes(),
            ),
            (
                "request, backend elsewhere",
                "ingress",
                w.data(client, remote).bytes(),
            ),
            (
                "reply, backend elsewhere",
                "ingress",
                w.data((a.elsewhere, TARGET), (a.node, 40000)).bytes(),
            ),
            (
                "pod's, none of ours",
                "pod_ingress",
                w.data((a.second, 40000), (a.client, 443)).bytes(),
            ),
            (
                "pod's request",
                "pod_ingress",
                w.data((a.second, 40000), remote).bytes(),
            ),
            (
                "to a pod, none of ours",
                "egress",
                w.data((a.client, 443), (a.second, 40000)).bytes(),
            ),
            (
                "reply to a pod",
                "egress",
                w.data((a.elsewhere, TARGET), (a.second, 40000)).bytes(),
            ),
            ("not IP", "driver", not_ip()),
            (
                "none of ours",
                "driver",
                w.data(client, (a.node, 22)).bytes(),
            ),
            (
                "request, backend here",
                "driver",
                w.data(client, local).bytes(),
            ),
            (
                "request, backend elsewhere",
                "driver",
                w.data(client, remote).bytes(),
            ),
            (
                "reply, backend elsewhere",
                "driver",
                w.data((a.elsewhere, TARGET), (a.node, 40000)).bytes(),
            ),
        ] {
            let time = median(&world, hook, &packet).expect("the program runs");
            println!(
                "{} {hook:7} {name:27} {:5} ns",
                if a.node.is_ipv4() { "IPv4" } else { "IPv6" },
                time.as_nanos()
            );
            assert!(time < LIMIT, "{name} takes {time:?}");
        }
    }
}

/// An ARP packet: what a run costs before the program does anything.
fn not_ip() -> Vec<u8> {
    let mut bytes = ARRIVING.concat();
    bytes.extend([0x08, 0x06]);
    bytes.extend([0; 46]);
    bytes
}

fn median(world: &World, hook: &str, packet: &[u8]) -> Result<Duration> {
    let mut times = Vec::with_capacity(RUNS);
    world.namespace.run(|| {
        for _ in 0..RUNS {
            times.push(world.dataplane.run(hook, world.uplink, packet, 1)?.2);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    times.sort_unstable();
    Ok(times[RUNS / 2])
}
