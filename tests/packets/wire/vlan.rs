//! Frames of a VLAN: the kernel shows them to the uplink's hook too, without their tag, before the VLAN's own device sees
//! them.

use std::os::fd::AsRawFd as _;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto};

use super::*;
use crate::cpu::stay_on_one_cpu;
use crate::frame::{Body, Frame};

const SERVICE: u32 = 1;
const PORT: u16 = 443;

/// Tags (IEEE 802.1Q): of VLAN 100, and of none but with a priority.
const TAGGED: u16 = 100;
const PRIORITY: u16 = 5 << 13;

/// The port of a client whose frames have this tag.
const fn port_of(tag: u16) -> u16 {
    if tag == TAGGED { 45001 } else { 45002 }
}

/// A node whose dataplane refuses the clients of a service on the uplink.
fn create() -> Result<(Dataplane, Namespace, Namespace)> {
    let mut dataplane = Dataplane::load()?;
    let (client, node) = (Namespace::create()?, Namespace::create()?);
    client.ip(&format!(
        "link add wire type veth peer name uplink address 02:00:00:00:00:01 netns {}
         link set wire up",
        node.path()
    ))?;
    node.ip("link set uplink up")?;
    dataplane.set_node(Node::default())?;
    dataplane.set_service(SERVICE, Run::REFUSE, Run::REFUSE, 0)?;
    for a in families() {
        dataplane.add_cluster_ip(SERVICE, a.cluster_ip, PORT, Protocol::UDP)?;
    }
    node.run(|| dataplane.attach("ingress", TcAttachType::Ingress, "uplink"))?;
    Ok((dataplane, client, node))
}

fn tagged(a: Addresses, tag: u16) -> Vec<u8> {
    let body = Body::Udp {
        source: port_of(tag),
        destination: PORT,
        data: b"ping".to_vec(),
    };
    let mut bytes = Frame::new(a.client, a.cluster_ip, body).bytes();
    bytes.splice(
        12..12,
        [0x81, 0, tag.to_be_bytes()[0], tag.to_be_bytes()[1]],
    );
    bytes
}

/// Sends a frame by the device `wire` of the calling thread's namespace.
fn send(frame: &[u8]) -> Result<()> {
    let devices = getifaddrs()?.filter(|device| device.interface_name == "wire");
    let address = devices.filter_map(|device| device.address?.as_link_addr().copied());
    let address: LinkAddr = address.last().expect("the device is there");
    let (family, kind) = (AddressFamily::Packet, SockType::Raw);
    let socket = nix::sys::socket::socket(family, kind, SockFlag::empty(), None)?;
    sendto(socket.as_raw_fd(), frame, &address, MsgFlags::empty())?;
    Ok(())
}

#[test]
fn frames_of_a_vlan_are_left_to_its_own_device() {
    let _turn = take_turn();
    let (dataplane, client, _node) = create().expect("the machines can be made");
    for (number, a) in families().into_iter().enumerate() {
        let sent = client.run(|| {
            // Frames that one CPU sends stay in order.
            stay_on_one_cpu();
            send(&tagged(a, TAGGED))?;
            send(&tagged(a, PRIORITY))
        });
        sent.expect("the device takes the frames");
        // What was sent first has arrived by then.
        let start = Instant::now();
        let drops = loop {
            let seen = dataplane.recent_drops().expect("maps can be read");
            if seen.len() > number {
                break seen;
            }
            assert!(start.elapsed() < PATIENCE, "nothing arrives");
        };
        assert!(
            drops
                .iter()
                .all(|drop| drop.flow.source_port.number() == port_of(PRIORITY)),
            "{drops:?}"
        );
    }
}
