//! Pods on one bridge, as most CNIs have them: they answer each other past the node's stack, and the programs are on the
//! bridge's ports.

use super::*;

/// Puts both pods on a bridge, and the guest into the pod's subnet.
fn bridge(world: &World) -> Result<()> {
    world.node.ip("link add bridge type bridge
         addr flush dev to-pod
         addr flush dev to-guest
         link set to-pod master bridge
         link set to-guest master bridge
         link set bridge up
         addr add 10.244.1.1/24 dev bridge
         addr add fd00:10:244:1::1/64 dev bridge nodad")?;
    world.guest.ip("addr flush dev eth0
         addr add 10.244.1.7/24 dev eth0
         addr add fd00:10:244:1::7/64 dev eth0 nodad
         route add default via 10.244.1.1
         -6 route replace default via fd00:10:244:1::1")?;
    world
        .pod
        .ip("-6 route replace default via fd00:10:244:1::1")?;
    world.machine.ip("route add 10.244.1.0/24 via 172.30.0.11
         -6 route add fd00:10:244:1::/64 via fd00:172:30::11")
}

#[test]
fn pods_on_a_bridge_reach_services() {
    let _turn = take_turn();
    let mut world = World::create().expect("the machines can be made");
    bridge(&world).expect("a bridge can be made");
    let guests = [ip("10.244.1.7"), ip("fd00:10:244:1::7")];
    for flags in [0, Node::THROUGH_STACK] {
        world.set_node_flags(flags).expect("maps can be written");
        for (a, guest) in families().into_iter().zip(guests) {
            for (service, client, host, backend, seen) in places_for_pods(&world, a) {
                let seen = if seen == a.guest { guest } else { seen };
                let own = if std::ptr::eq(client, &world.pod) {
                    a.here
                } else {
                    guest
                };
                let to = (backend, services(a, service));
                talk(client, host, to, seen);
                exchange((client, own), host, to, seen);
            }
            let to = (a.here, services(a, LOCAL));
            talk(&world.client, &world.pod, to, a.client);
            exchange((&world.client, a.client), &world.pod, to, a.client);
        }
    }
    assert_eq!(world.dataplane.drops().expect("maps can be read"), []);
}
