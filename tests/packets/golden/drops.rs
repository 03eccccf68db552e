//! What is told about packets that are dropped: a count of the service, and a record of the packet.

use anyhow::Result;
use dataplane_ebpf::abi::{Backend, DropRecord, Node, Run, maps};
use dataplane_ebpf::addr::{Addr, Protocol};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;
use nix::time::{ClockId, clock_gettime};

use super::TCP_AND_UDP;
use super::world::{self, World, backend, cluster_port, node_port, service, v4};
use super::writer::Writer;
use crate::cpu::stay_on_one_cpu;
use crate::frame::Frame;

fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every kernel has this clock");
    u64::try_from(time.tv_sec() * 1_000_000_000 + time.tv_nsec()).expect("after boot")
}

/// The record that a packet leaves, without its time, which is checked.
fn record(world: &World, hook: &str, packet: &[u8]) -> (Drop, Flow, u32) {
    let start = now();
    world.run(hook, packet, 1).expect("the program runs");
    let records = world.dataplane.recent_drops().expect("maps can be read");
    let DropRecord {
        time,
        flow,
        reason,
        device,
    } = *records.last().expect("a packet was dropped");
    assert!((start..=now()).contains(&time), "{start} to {time}");
    let reason = Drop::ALL.into_iter().find(|r| *r as u32 == reason);
    (reason.expect("a known reason"), flow, device)
}

#[test]
fn a_dropped_packet_leaves_its_flow_device_time_and_reason() {
    for (world, w) in World::each(&TCP_AND_UDP) {
        let a = w.a;
        let client = (a.client, 52_001);
        let cluster = |id| (a.cluster_ip, cluster_port(id));
        let whole = |to, reason| {
            let packet = w.open(client, to).bytes();
            for hook in ["ingress", "pod_ingress"] {
                assert_eq!(
                    record(&world, hook, &packet),
                    (reason, w.flow(client, to), world.uplink)
                );
            }
        };
        whole(cluster(service::POLICY), Drop::NoPolicyBackend);
        whole(cluster(service::EMPTY), Drop::NoBackend);
        whole((a.cluster_ip, 9), Drop::UnknownPort);

        // What cannot be read goes at least somewhere.
        let mut long = w.open(client, cluster(service::LOCAL)).bytes();
        long[if a.node.is_ipv4() { 16 } else { 18 }] = 0x7f;
        let (reason, malformed, _) = record(&world, "ingress", &long);
        assert_eq!(reason, Drop::Malformed);
        assert_eq!(malformed.destination, a.cluster_ip.into());
    }
}

/// Each kind of drop after the service is known is the service's.
#[test]
fn a_service_counts_what_it_could_not_take() {
    for (mut world, w) in World::each(&TCP_AND_UDP) {
        let a = w.a;
        let drops = |world: &World, id| world.dataplane.stats(id).expect("a service").drops;
        let drop = |world: &World, id: u32, packet: Frame| {
            let before = drops(world, id);
            world.send(&packet);
            assert_eq!(drops(world, id), before + 1, "{packet:?}");
        };
        let node = |id| (a.node, node_port(id));
        let open = |port, id| w.open((a.client, port), node(id));
        drop(&world, service::EMPTY, open(52_001, service::EMPTY));
        drop(&world, service::POLICY, open(52_001, service::POLICY));
        let expired = Frame {
            ttl: 1,
            ..open(52_002, service::REMOTE)
        };
        drop(&world, service::REMOTE, expired);
        set(&mut world, |node| {
            (node.first_port, node.last_port) = (50_001, 50_001);
        });
        world.send(&open(52_003, service::REMOTE));
        drop(&world, service::REMOTE, open(52_004, service::REMOTE));
        set(&mut world, |node| {
            (node.source_v4, node.source_v6) = (Addr::UNSPECIFIED, Addr::UNSPECIFIED);
        });
        drop(&world, service::REMOTE, open(52_005, service::REMOTE));
        if w.protocol == Protocol::TCP {
            let data = w.data((a.client, 52_003), node(service::REMOTE));
            gone(&mut world).expect("maps can be written");
            world.send(&data);
            let client = w.flow((a.client, 52_003), node(service::REMOTE));
            let entry = world.connection(&client).expect("it is known");
            world.age(&[client], 2);
            world.age(&[entry.partner()], 3);
            drop(&world, service::REMOTE, data);
        }
    }
}

/// A flow that keeps a backend which does not serve any more, because there is no other, loses nothing.
#[test]
fn a_service_does_not_count_what_goes_on_without_a_choice() {
    for (mut world, w) in World::each(&[Protocol::UDP]) {
        let to = (w.a.node, node_port(service::SCRATCH));
        let packet = w.open((w.a.client, 52_006), to);
        assert_eq!(world.destination(&packet), w.a.here);
        let stop = |b: &mut Backend| b.flags &= !Backend::SERVING;
        let stopped = world.dataplane.change_backend(backend::FIRST, stop);
        stopped.expect("maps can be written");
        let emptied = world
            .dataplane
            .set_service(service::SCRATCH, Run::REFUSE, Run::REFUSE, 0);
        emptied.expect("maps can be written");
        assert_eq!(world.destination(&packet), w.a.here);
        let stats = world.dataplane.stats(service::SCRATCH).expect("a service");
        assert_eq!((stats.packets, stats.drops), (2, 0));
    }
}

fn set(world: &mut World, change: impl FnOnce(&mut Node)) {
    let mut node = world::node();
    change(&mut node);
    let set = world.dataplane.set_node(node);
    set.expect("maps can be written");
}

fn gone(world: &mut World) -> Result<()> {
    world
        .dataplane
        .change_backend(backend::ELSEWHERE, |b| b.generation += 1)
}

/// The records of a CPU are a circle: the newest stay.
#[test]
fn the_newest_records_stay() {
    let world = World::create(v4(), Protocol::TCP).expect("a node can be made");
    let w = Writer {
        a: v4(),
        protocol: Protocol::TCP,
    };
    let size = u16::try_from(maps::RECENT_DROPS_SIZE).expect("small");
    let to = (w.a.cluster_ip, cluster_port(service::POLICY));
    let dropped = 10_000..10_000 + 3 * size + 7;
    world.namespace.run(|| {
        stay_on_one_cpu();
        for port in dropped.clone() {
            let packet = w.open((w.a.client, port), to).bytes();
            let run = world.dataplane.run("ingress", world.uplink, &packet, 1);
            run.expect("the program runs");
        }
    });
    let records = world.dataplane.recent_drops().expect("maps can be read");
    let ports: Vec<u16> = records
        .iter()
        .map(|record| record.flow.source_port.number())
        .collect();
    let newest: Vec<u16> = dropped.skip(usize::from(2 * size + 7)).collect();
    assert_eq!(ports, newest);
}
