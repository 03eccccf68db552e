//! The driver's program on a real device. On veth it takes senders that complete their checksums themselves, and a program
//! at the other end as well: without one, the kernel does not look at what comes there by XDP_TX (`veth_xdp_flush`).

use aya::programs::{Xdp, XdpMode};

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];

fn world() -> World {
    let mut world = World::create().expect("the machines can be made");
    for (machine, device) in [(&world.client, "wire"), (&world.machine, "uplink")] {
        machine
            .command("ethtool", &["-K", device, "tx", "off"], "")
            .expect("the program is there, and the device can do without");
    }
    let World {
        client,
        node,
        dataplane,
        ..
    } = &mut world;
    node.ip("link set uplink address 02:00:00:00:00:0b")
        .expect("a device's address can be changed");
    node.run(|| dataplane.attach_driver("uplink", MAC))
        .expect("a veth device takes the program");
    // Passes everything, since it does not know the device.
    let program = dataplane.ebpf.program_mut("driver");
    let program = program.expect("the program is in the object file");
    client
        .run(|| <&mut Xdp>::try_from(program)?.attach("to-node", XdpMode::Driver))
        .expect("a veth device takes the program");
    world
}

#[test]
fn clients_reach_backends_elsewhere_with_the_driver_alone() {
    let _turn = take_turn();
    let mut world = world();
    // The hook behind the driver resolves the neighbours, and sends on what was cut to pieces.
    for a in families() {
        let places = world.places(a);
        for (service, host, backend, seen) in places {
            let there = (backend, services(a, service));
            talk(&world.client, host, there, seen);
            exchange((&world.client, a.client), host, there, seen);
        }
    }
    let World {
        node, dataplane, ..
    } = &mut world;
    let ingress = dataplane.ebpf.program_mut("ingress");
    let ingress = ingress.expect("the program is in the object file");
    node.run(|| <&mut SchedClassifier>::try_from(ingress)?.unload())
        .expect("a program can be unloaded");
    for a in families() {
        let there = (a.elsewhere, services(a, REMOTE));
        talk(&world.client, &world.machine, there, a.node);
    }
    assert_eq!(world.dataplane.drops().expect("maps can be read"), []);
}
