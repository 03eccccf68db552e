//! The node that made-up packets meet, and the conversations they are part of.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use dataplane_ebpf::abi::{Node, Run};
use dataplane_ebpf::addr::{Family, Protocol};
use dataplane_ebpf::{Hook, PROGRAMS};
use harness::Namespace;

use super::judge::{Fate, Outcome};
use super::packet;
use super::reading::Tuple;
use crate::dataplane::{Dataplane, Place};

/// What each service has.
const LOCAL: u32 = 1;
const REMOTE: u32 = 2;
const EMPTY: u32 = 3;

const TARGET: u16 = 8080;

/// The addresses of one family.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    pub(super) client: IpAddr,
    /// A pod of this node.
    pod: IpAddr,
    pub(super) node: IpAddr,
    pub(super) cluster_ip: IpAddr,
    pub(super) here: IpAddr,
    pub(super) elsewhere: IpAddr,
}

pub(super) fn families() -> [Addresses; 2] {
    let family = |texts: [&str; 6]| {
        let [client, pod, node, cluster_ip, here, elsewhere] = texts.map(ip);
        Addresses {
            client,
            pod,
            node,
            cluster_ip,
            here,
            elsewhere,
        }
    };
    [
        family([
            "198.51.100.7",
            "10.244.1.7",
            "192.0.2.1",
            "10.96.0.10",
            "10.244.1.5",
            "10.244.2.6",
        ]),
        family([
            "2001:db8:51::7",
            "fd00:10:244:1::7",
            "2001:db8::1",
            "fd00:10:96::a",
            "fd00:10:244:1::5",
            "fd00:10:244:2::6",
        ]),
    ]
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("the tables hold addresses")
}

/// A conversation, or what looks like one.
pub(super) struct Talk {
    /// Where its first packet comes by.
    pub(super) hook: Hook,
    pub(super) asked: Tuple,
    /// Where the replies are translated.
    pub(super) reply_hook: Hook,
}

/// All talks of one family and protocol.
pub(super) fn talks(a: Addresses, protocol: u8) -> Vec<Talk> {
    let node = |service: u32| (a.node, 30080 + service as u16);
    let cluster = |service: u32| (a.cluster_ip, 80 + service as u16);
    let (client, pod) = ((a.client, 40000), (a.pod, 41000));
    let talk = |hook, source, destination, reply_hook| Talk {
        hook,
        asked: Tuple {
            protocol,
            source,
            destination,
        },
        reply_hook,
    };
    let mut talks = vec![
        talk(Hook::Ingress, client, node(LOCAL), Hook::Egress),
        talk(Hook::Ingress, client, node(REMOTE), Hook::Ingress),
        talk(Hook::Ingress, client, cluster(LOCAL), Hook::Egress),
        talk(Hook::Pod, pod, cluster(LOCAL), Hook::Egress),
        talk(Hook::Pod, pod, cluster(REMOTE), Hook::Egress),
        talk(Hook::Pod, pod, node(LOCAL), Hook::Egress),
        talk(Hook::Ingress, client, node(EMPTY), Hook::Egress),
        talk(Hook::Pod, pod, cluster(EMPTY), Hook::Egress),
        talk(Hook::Ingress, client, (a.cluster_ip, 9), Hook::Egress),
        talk(Hook::Ingress, client, (a.node, 22), Hook::Egress),
        talk(
            Hook::Ingress,
            client,
            (packet::stranger(a.node.is_ipv4()), 80),
            Hook::Egress,
        ),
        talk(
            Hook::Pod,
            (a.here, TARGET),
            (packet::stranger(a.node.is_ipv4()), 443),
            Hook::Egress,
        ),
    ];
    if let (IpAddr::V4(client), IpAddr::V4(node)) = (a.client, a.node) {
        // No such packet is legal on a wire, and none of it may be taken for an IPv4 packet.
        let (client, node) = (client.to_ipv6_mapped().into(), node.to_ipv6_mapped().into());
        talks.push(talk(
            Hook::Ingress,
            (client, 40000),
            (node, 30080 + LOCAL as u16),
            Hook::Egress,
        ));
    }
    talks
}

pub(super) struct World {
    dataplane: Dataplane,
    uplink: u32,
    to_pod: u32,
}

impl World {
    /// A node in `namespace`.
    pub(super) fn create(namespace: &Namespace) -> Result<Self> {
        namespace.ip("link add uplink type veth peer name wire
             link set uplink address 02:00:00:00:00:01
             link add to-pod type veth peer name eth0
             link set to-pod address 02:00:00:00:00:01
             link set wire up
             link set uplink up
             link set eth0 up
             link set to-pod up
             addr add 192.0.2.1/24 dev uplink
             addr add 2001:db8::1/64 dev uplink nodad
             addr add 10.244.1.1/24 dev to-pod
             addr add fd00:10:244:1::1/64 dev to-pod nodad
             route add default via 192.0.2.254
             route add 10.244.2.0/24 via 192.0.2.2
             -6 route add default via 2001:db8::fe
             -6 route add fd00:10:244:2::/64 via 2001:db8::2")?;
        namespace.set("ipv4/ip_forward", "1")?;
        namespace.set("ipv6/conf/all/forwarding", "1")?;
        let mut world = Self {
            dataplane: Dataplane::load()?,
            uplink: namespace.index("uplink")?,
            to_pod: namespace.index("to-pod")?,
        };
        for (number, a) in (0..).zip(families()) {
            world.dataplane.add_node_address(a.node, 0)?;
            for protocol in [Protocol::TCP, Protocol::UDP] {
                let base = number * 20 + u32::from(protocol == Protocol::UDP) * 10;
                world.fill(a, protocol, base)?;
            }
        }
        Ok(world)
    }

    fn fill(&mut self, a: Addresses, protocol: Protocol, base: u32) -> Result<()> {
        let dataplane = &mut self.dataplane;
        dataplane.set_backend(base + LOCAL, (a.here, TARGET), protocol, Place::Here)?;
        dataplane.set_backend(
            base + REMOTE,
            (a.elsewhere, TARGET),
            protocol,
            Place::Elsewhere,
        )?;
        for service in [LOCAL, REMOTE, EMPTY] {
            let run = match service {
                EMPTY => Run::REFUSE,
                _ => dataplane.add_run(&[base + service])?,
            };
            dataplane.set_service(base + service, run, run, 0)?;
            dataplane.add_cluster_ip(
                base + service,
                a.cluster_ip,
                80 + service as u16,
                protocol,
            )?;
            let family = Family::of(a.node.into());
            dataplane.add_node_port(base + service, family, 30080 + service as u16, protocol)?;
        }
        Ok(())
    }

    pub(super) fn set_flags(&mut self, flags: u32) -> Result<()> {
        let [v4, v6] = families();
        self.dataplane.set_node(Node {
            source_v4: v4.node.into(),
            source_v6: v6.node.into(),
            netns_cookie: 1,
            seed: 42,
            first_port: 32768,
            last_port: 65535,
            flags,
            ..Node::default()
        })
    }

    /// Runs the program of `hook` on `packet`. The calling thread is in the world's namespace.
    pub(super) fn run(&self, hook: Hook, packet: &[u8]) -> Result<Outcome> {
        let program = PROGRAMS.iter().find(|program| program.hook == hook);
        let program = program.context("every hook has a program")?;
        let before = self.drops()?;
        let mut out = vec![0; packet.len() + 256];
        let mut options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let loaded = self
            .dataplane
            .ebpf
            .program(program.name)
            .context("no such program")?;
        // `struct __sk_buff`, whose eleventh word is the device's index.
        let mut context = [0u8; 192];
        let device = if hook == Hook::Pod {
            self.to_pod
        } else {
            self.uplink
        };
        context[40..44].copy_from_slice(&device.to_ne_bytes());
        let result = if hook == Hook::Xdp {
            <&Xdp>::try_from(loaded)?.test_run(options)?
        } else {
            options.ctx_in = Some(&context);
            <&SchedClassifier>::try_from(loaded)?
                .test_run(options)
                .with_context(|| format!("{} bytes {packet:02x?}", packet.len()))?
        };
        let length = result.data_size_out as usize;
        out.truncate(length);
        Ok(Outcome {
            fate: Fate::of(hook, result.return_value as i32)
                .with_context(|| format!("{} says {}", program.name, result.return_value as i32))?,
            packet: out,
            drops: self.drops()? - before,
        })
    }

    fn drops(&self) -> Result<u64> {
        Ok(self.dataplane.drops()?.iter().map(|(_, count)| count).sum())
    }
}
