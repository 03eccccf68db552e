//! Golden packets: what each hook makes of one packet after another, in both families, for TCP and UDP.
//!
//! A case is a list of steps on one dataplane; every case has a client port of its own. The expected packets are written
//! out by hand, never computed by the code under test.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use dataplane_ebpf::abi::{Backend, Node, Run, Service};
use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::drop::Drop;

use crate::dataplane::{Dataplane, Place};
use crate::frame::{Body, Frame, tcp};
use crate::net::Namespace;

/// `TCX_NEXT`.
const PASS: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

/// The services, by what they have.
mod service {
    /// One backend, on this node.
    pub(super) const LOCAL: u32 = 1;
    /// One backend, on another node.
    pub(super) const REMOTE: u32 = 2;
    /// No backend.
    pub(super) const EMPTY: u32 = 3;
    /// A backend elsewhere, and policies that allow only this node's.
    pub(super) const POLICY: u32 = 4;
    /// A backend here and one elsewhere, and policies that allow only this node's.
    pub(super) const POLICY_LOCAL: u32 = 5;
    /// For cases that change it.
    pub(super) const SCRATCH: u32 = 6;
}

/// The node port of a service.
const fn node_port(service: u32) -> u16 {
    30080 + service as u16
}

/// The cluster IP's port of a service.
const fn cluster_port(service: u32) -> u16 {
    80 + service as u16
}

/// Where the backends listen.
const TARGET: u16 = 8080;

mod backend {
    pub(super) const HERE: u32 = 1;
    pub(super) const ELSEWHERE: u32 = 2;
    /// The backends of the service that cases change.
    pub(super) const FIRST: u32 = 3;
    pub(super) const SECOND: u32 = 4;
}

/// The addresses of one family.
#[derive(Clone, Copy)]
struct Addresses {
    client: IpAddr,
    node: IpAddr,
    cluster_ip: IpAddr,
    other_ip: IpAddr,
    here: IpAddr,
    elsewhere: IpAddr,
    second: IpAddr,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("the tables hold addresses")
}

fn v4() -> Addresses {
    Addresses {
        client: ip("198.51.100.7"),
        node: ip("192.0.2.1"),
        cluster_ip: ip("10.96.0.10"),
        other_ip: ip("10.96.0.11"),
        here: ip("10.244.1.5"),
        elsewhere: ip("10.244.2.6"),
        second: ip("10.244.1.9"),
    }
}

fn v6() -> Addresses {
    Addresses {
        client: ip("2001:db8:51::7"),
        node: ip("2001:db8::1"),
        cluster_ip: ip("fd00:10:96::a"),
        other_ip: ip("fd00:10:96::b"),
        here: ip("fd00:10:244:1::5"),
        elsewhere: ip("fd00:10:244:2::6"),
        second: ip("fd00:10:244:1::9"),
    }
}

/// A node with an uplink, and the dataplane on it.
struct World {
    dataplane: Dataplane,
    namespace: Namespace,
    uplink: u32,
    addresses: Addresses,
    protocol: Protocol,
}

impl World {
    fn create(addresses: Addresses, protocol: Protocol) -> Result<Self> {
        let namespace = Namespace::create()?;
        namespace.ip("link add uplink type veth peer name wire
             link set wire up
             link set uplink up
             addr add 192.0.2.1/24 dev uplink
             addr add 2001:db8::1/64 dev uplink nodad
             route add default via 192.0.2.254
             route add 10.244.2.0/24 via 192.0.2.2
             -6 route add default via 2001:db8::fe
             -6 route add fd00:10:244:2::/64 via 2001:db8::2")?;
        namespace.set("ipv4/ip_forward", "1")?;
        namespace.set("ipv6/conf/all/forwarding", "1")?;
        let uplink = namespace.index("uplink")?;
        let mut world = Self {
            dataplane: Dataplane::load()?,
            namespace,
            uplink,
            addresses,
            protocol,
        };
        world.fill()?;
        Ok(world)
    }

    fn fill(&mut self) -> Result<()> {
        let (a, protocol, dataplane) = (self.addresses, self.protocol, &mut self.dataplane);
        dataplane.set_node(Node {
            source_v4: v4().node.into(),
            source_v6: v6().node.into(),
            netns_cookie: 1,
            seed: 42,
            first_port: 32768,
            last_port: 65535,
        })?;
        dataplane.add_node_address(a.node, 0)?;
        dataplane.set_backend(backend::HERE, (a.here, TARGET), protocol, Place::Here)?;
        dataplane.set_backend(
            backend::ELSEWHERE,
            (a.elsewhere, TARGET),
            protocol,
            Place::Elsewhere,
        )?;
        dataplane.set_backend(backend::FIRST, (a.here, TARGET), protocol, Place::Here)?;
        dataplane.set_backend(backend::SECOND, (a.second, TARGET), protocol, Place::Here)?;
        let here = dataplane.add_run(&[backend::HERE])?;
        let elsewhere = dataplane.add_run(&[backend::ELSEWHERE])?;
        let both = dataplane.add_run(&[backend::HERE, backend::ELSEWHERE])?;
        let first = dataplane.add_run(&[backend::FIRST])?;
        let policy = Service::INTERNAL_LOCAL | Service::EXTERNAL_LOCAL;
        for (id, cluster, local, flags) in [
            (service::LOCAL, here, here, 0),
            (service::REMOTE, elsewhere, Run::DROP, 0),
            (service::EMPTY, Run::REFUSE, Run::REFUSE, 0),
            (service::POLICY, elsewhere, Run::DROP, policy),
            (service::POLICY_LOCAL, both, here, policy),
            (service::SCRATCH, first, first, 0),
        ] {
            dataplane.set_service(id, cluster, local, flags)?;
            dataplane.add_node_port(id, node_port(id), protocol)?;
            dataplane.add_cluster_ip(id, a.cluster_ip, cluster_port(id), protocol)?;
            dataplane.add_cluster_ip(id, a.other_ip, cluster_port(id), protocol)?;
        }
        Ok(())
    }

    fn run(
        &self,
        hook: &str,
        packet: &[u8],
        repeat: u32,
    ) -> Result<(i32, Vec<u8>, std::time::Duration)> {
        self.namespace
            .run(|| self.dataplane.run(hook, self.uplink, packet, repeat))
    }
}

/// What a case consists of.
enum Step {
    /// A packet from the wire.
    Ingress(Vec<u8>, Expected),
    /// A packet to the wire.
    Egress(Vec<u8>, Expected),
    /// The daemon changes something.
    Change(fn(&mut Dataplane) -> Result<()>),
}

/// What becomes of a packet.
#[derive(Debug)]
enum Expected {
    /// It goes on as it came.
    Untouched,
    /// It goes to the stack, or to the wire, like this.
    Passed(Frame),
    /// It is sent on from here like this.
    Sent(Frame),
    /// It is dropped.
    Dropped(Drop),
    /// It is answered like this.
    Refused(Drop, Frame),
}

use Expected::{Dropped, Passed, Refused, Sent, Untouched};
use Step::{Change, Egress, Ingress};

struct Case {
    name: &'static str,
    steps: Vec<Step>,
}

/// Writes packets of one family and protocol.
#[derive(Clone, Copy)]
struct Writer {
    a: Addresses,
    protocol: Protocol,
}

impl Writer {
    fn body(self, source: u16, destination: u16, flags: u8, data: &[u8]) -> Body {
        let data = data.to_vec();
        if self.protocol == Protocol::UDP {
            return Body::Udp {
                source,
                destination,
                data,
            };
        }
        Body::Tcp {
            source,
            destination,
            sequence: 1000,
            acknowledgment: 2000,
            flags,
            data,
        }
    }

    /// The packet that opens a flow.
    fn open(self, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Frame {
        let data: &[u8] = if self.protocol == Protocol::UDP {
            b"ping"
        } else {
            b""
        };
        Frame::new(
            source.0,
            destination.0,
            self.body(source.1, destination.1, tcp::SYN, data),
        )
    }

    /// A packet in the middle of a flow.
    fn data(self, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Frame {
        Frame::new(
            source.0,
            destination.0,
            self.body(source.1, destination.1, tcp::ACK, b"data"),
        )
    }

    /// A packet with the given TCP flags.
    fn flagged(self, source: (IpAddr, u16), destination: (IpAddr, u16), flags: u8) -> Frame {
        Frame::new(
            source.0,
            destination.0,
            self.body(source.1, destination.1, flags, b""),
        )
    }

    /// What refuses `packet`, which [`Self::open`] made.
    fn refusal(self, packet: &Frame) -> Frame {
        let body = match &packet.body {
            Body::Tcp {
                source,
                destination,
                ..
            } => Body::Tcp {
                source: *destination,
                destination: *source,
                sequence: 0,
                acknowledgment: 1001,
                flags: tcp::RST | tcp::ACK,
                data: vec![],
            },
            _ => {
                let v4 = packet.source.is_ipv4();
                let (kind, code, quoted) = if v4 { (3, 3, 28) } else { (1, 4, 48) };
                Body::Icmp {
                    kind,
                    code,
                    rest: 0,
                    data: packet.packet()[..quoted].to_vec(),
                }
            }
        };
        answer(packet, body)
    }
}

/// A packet back to the sender of `packet`, the way it came.
fn answer(packet: &Frame, body: Body) -> Frame {
    let [to, from] = packet.ethernet;
    Frame {
        ethernet: [from, to],
        ttl: 64,
        ..Frame::new(packet.destination, packet.source, body)
    }
}

fn forwarded(frame: Frame) -> Frame {
    Frame {
        ttl: frame.ttl - 1,
        ..frame
    }
}

/// The cases that hold for both protocols.
fn common(w: Writer) -> Vec<Case> {
    let a = w.a;
    let client = |port| (a.client, port);
    let (here, elsewhere) = ((a.here, TARGET), (a.elsewhere, TARGET));
    let node = |id| (a.node, node_port(id));
    let cluster = |id| (a.cluster_ip, cluster_port(id));
    let refused = |port, to, reason| {
        let packet = w.open(client(port), to);
        vec![Ingress(packet.bytes(), Refused(reason, w.refusal(&packet)))]
    };
    let one = |packet: Frame, expected| vec![Ingress(packet.bytes(), expected)];
    let local = |port, to| {
        vec![
            Ingress(
                w.open(client(port), to).bytes(),
                Passed(w.open(client(port), here)),
            ),
            Egress(
                w.data(here, client(port)).bytes(),
                Passed(w.data(to, client(port))),
            ),
            Ingress(
                w.data(client(port), to).bytes(),
                Passed(w.data(client(port), here)),
            ),
        ]
    };
    let remote = |port, to| {
        let source = (a.node, port);
        vec![
            Ingress(
                w.open(client(port), to).bytes(),
                Sent(forwarded(w.open(source, elsewhere))),
            ),
            Ingress(
                w.data(elsewhere, source).bytes(),
                Sent(forwarded(w.data(to, client(port)))),
            ),
            Ingress(
                w.data(client(port), to).bytes(),
                Sent(forwarded(w.data(source, elsewhere))),
            ),
        ]
    };
    vec![
        Case {
            name: "node port, backend here",
            steps: local(40001, node(service::LOCAL)),
        },
        Case {
            name: "node port, backend elsewhere",
            steps: remote(40002, node(service::REMOTE)),
        },
        Case {
            name: "cluster IP from outside, backend here",
            steps: local(40003, cluster(service::LOCAL)),
        },
        Case {
            name: "cluster IP from outside, backend elsewhere",
            steps: remote(40004, cluster(service::REMOTE)),
        },
        Case {
            name: "node port, local policy, backend here",
            steps: local(40005, node(service::POLICY_LOCAL)),
        },
        Case {
            name: "cluster IP, local policy, backend here",
            steps: local(40006, cluster(service::POLICY_LOCAL)),
        },
        Case {
            name: "node port, no backend",
            steps: refused(40007, node(service::EMPTY), Drop::NoBackend),
        },
        Case {
            name: "cluster IP, no backend",
            steps: refused(40008, cluster(service::EMPTY), Drop::NoBackend),
        },
        Case {
            name: "cluster IP, unknown port",
            steps: refused(40009, (a.cluster_ip, 9), Drop::UnknownPort),
        },
        Case {
            name: "node port, local policy, backend elsewhere",
            steps: one(
                w.open(client(40010), node(service::POLICY)),
                Dropped(Drop::NoPolicyBackend),
            ),
        },
        Case {
            name: "cluster IP, local policy, backend elsewhere",
            steps: one(
                w.open(client(40011), cluster(service::POLICY)),
                Dropped(Drop::NoPolicyBackend),
            ),
        },
        Case {
            name: "the node's own port",
            steps: one(w.open(client(40012), (a.node, 22)), Untouched),
        },
        Case {
            name: "node port of an address that is not the node's",
            steps: one(
                w.open(client(40013), (a.here, node_port(service::LOCAL))),
                Untouched,
            ),
        },
        Case {
            name: "another protocol",
            steps: one(
                Frame::new(
                    a.client,
                    a.cluster_ip,
                    Body::Other {
                        protocol: 132,
                        data: vec![0; 32],
                    },
                ),
                Untouched,
            ),
        },
        Case {
            name: "echo request",
            steps: one(
                Frame::new(
                    a.client,
                    a.node,
                    Body::Icmp {
                        kind: if a.node.is_ipv4() { 8 } else { 128 },
                        code: 0,
                        rest: 1,
                        data: vec![1; 8],
                    },
                ),
                Untouched,
            ),
        },
        Case {
            name: "first fragment",
            steps: one(
                Frame {
                    fragment: Some(more_fragments(a)),
                    ..w.open(client(40014), node(service::LOCAL))
                },
                Dropped(Drop::Fragment),
            ),
        },
        Case {
            name: "later fragment to a cluster IP",
            steps: one(
                Frame {
                    fragment: Some(offset(a)),
                    ..w.open(client(40015), cluster(service::LOCAL))
                },
                Dropped(Drop::Fragment),
            ),
        },
        Case {
            name: "later fragment to the node",
            steps: one(
                Frame {
                    fragment: Some(offset(a)),
                    ..w.open(client(40016), node(service::LOCAL))
                },
                Untouched,
            ),
        },
        Case {
            name: "a packet of ours that leaves without a connection",
            steps: vec![Egress(w.data(here, client(40017)).bytes(), Untouched)],
        },
        Case {
            name: "a reply of a local backend that arrives by wire",
            steps: vec![
                Ingress(
                    w.open(client(40018), node(service::LOCAL)).bytes(),
                    Passed(w.open(client(40018), here)),
                ),
                Ingress(w.data(here, client(40018)).bytes(), Untouched),
            ],
        },
        Case {
            name: "a packet of a connection the table has lost",
            steps: vec![
                Ingress(
                    w.data(client(40019), node(service::LOCAL)).bytes(),
                    Passed(w.data(client(40019), here)),
                ),
                Egress(
                    w.data(here, client(40019)).bytes(),
                    Passed(w.data(node(service::LOCAL), client(40019))),
                ),
            ],
        },
        Case {
            name: "time to live runs out",
            steps: one(
                Frame {
                    ttl: 1,
                    ..w.open(client(40020), node(service::REMOTE))
                },
                Dropped(Drop::Expired),
            ),
        },
    ]
}

fn more_fragments(a: Addresses) -> u16 {
    if a.node.is_ipv4() { 0x2000 } else { 1 }
}

fn offset(a: Addresses) -> u16 {
    if a.node.is_ipv4() { 100 } else { 800 }
}

/// Packets that lie about themselves.
fn malformed(w: Writer) -> Vec<Case> {
    let packet = w
        .open((w.a.client, 41001), (w.a.node, node_port(service::LOCAL)))
        .bytes();
    let header = if w.a.node.is_ipv4() { 20 } else { 40 };
    let dropped = |name, bytes| Case {
        name,
        steps: vec![Ingress(bytes, Dropped(Drop::Malformed))],
    };
    let mut long = packet.clone();
    let field = if w.a.node.is_ipv4() { 16 } else { 18 };
    long[field] = 0x7f;
    let mut cases = vec![dropped("a length beyond the packet", long)];
    // The IP header is right, and announces less than a transport header.
    let short = Frame::new(
        w.a.client,
        w.a.node,
        Body::Other {
            protocol: w.protocol.number(),
            data: packet[14 + header..14 + header + 6].to_vec(),
        },
    );
    cases.push(dropped("half a transport header", short.bytes()));
    if w.a.node.is_ipv4() {
        let mut tiny = packet;
        tiny[14] = 0x44;
        cases.push(dropped("a header length below the minimum", tiny));
    }
    cases
}

/// TCP's life and death.
fn tcp_only(w: Writer) -> Vec<Case> {
    let a = w.a;
    let to = (a.node, node_port(service::SCRATCH));
    let (here, second) = ((a.here, TARGET), (a.second, TARGET));
    let client = |port| (a.client, port);
    let reset = Frame::new(
        a.client,
        a.cluster_ip,
        w.body(42001, cluster_port(service::EMPTY), tcp::RST, b""),
    );
    let late = w.data(client(42002), to);
    let late_answer = Body::Tcp {
        source: to.1,
        destination: 42002,
        sequence: 2000,
        acknowledgment: 0,
        flags: tcp::RST,
        data: vec![],
    };
    vec![
        Case {
            name: "a reset is never answered",
            steps: vec![Ingress(reset.bytes(), Dropped(Drop::NoBackend))],
        },
        Case {
            name: "a connection stays with a backend that no longer serves, and is reset when it is gone",
            steps: vec![
                Ingress(
                    w.open(client(42002), to).bytes(),
                    Passed(w.open(client(42002), here)),
                ),
                Change(|d| d.change_backend(backend::FIRST, |b| b.flags &= !Backend::SERVING)),
                Change(|d| point_to(d, backend::SECOND)),
                Ingress(late.bytes(), Passed(w.data(client(42002), here))),
                Ingress(
                    w.open(client(42003), to).bytes(),
                    Passed(w.open(client(42003), second)),
                ),
                Change(|d| d.change_backend(backend::FIRST, |b| b.generation += 1)),
                Ingress(
                    late.bytes(),
                    Refused(Drop::BackendGone, answer(&late, late_answer)),
                ),
                Ingress(
                    w.open(client(42002), to).bytes(),
                    Passed(w.open(client(42002), second)),
                ),
                Change(restore),
            ],
        },
        Case {
            name: "a SYN sent again stays, one after the end chooses anew",
            steps: vec![
                Ingress(
                    w.open(client(42004), to).bytes(),
                    Passed(w.open(client(42004), here)),
                ),
                Change(|d| point_to(d, backend::SECOND)),
                Ingress(
                    w.open(client(42004), to).bytes(),
                    Passed(w.open(client(42004), here)),
                ),
                Ingress(
                    w.flagged(client(42004), to, tcp::FIN | tcp::ACK).bytes(),
                    Passed(w.flagged(client(42004), here, tcp::FIN | tcp::ACK)),
                ),
                Ingress(
                    w.open(client(42004), to).bytes(),
                    Passed(w.open(client(42004), here)),
                ),
                Egress(
                    w.flagged(here, client(42004), tcp::FIN | tcp::ACK).bytes(),
                    Passed(w.flagged(to, client(42004), tcp::FIN | tcp::ACK)),
                ),
                Ingress(
                    w.open(client(42004), to).bytes(),
                    Passed(w.open(client(42004), second)),
                ),
                Change(restore),
            ],
        },
    ]
}

/// UDP flows, which can move.
fn udp_only(w: Writer) -> Vec<Case> {
    let a = w.a;
    let to = (a.node, node_port(service::SCRATCH));
    let (here, second) = ((a.here, TARGET), (a.second, TARGET));
    let client = |port| (a.client, port);
    let passes = |port, backend| {
        Ingress(
            w.data(client(port), to).bytes(),
            Passed(w.data(client(port), backend)),
        )
    };
    let gone = w.open(client(43003), to);
    vec![
        Case {
            name: "a flow stays while policy and selection change, and moves when its backend no longer serves",
            steps: vec![
                passes(43001, here),
                Change(|d| point_to(d, backend::SECOND)),
                passes(43001, here),
                Change(|d| d.change_backend(backend::FIRST, |b| b.flags &= !Backend::SERVING)),
                passes(43001, second),
                Change(restore),
            ],
        },
        Case {
            name: "a flow keeps a backend that no longer serves when there is no other",
            steps: vec![
                passes(43002, here),
                Change(|d| d.change_backend(backend::FIRST, |b| b.flags &= !Backend::SERVING)),
                Change(|d| d.set_service(service::SCRATCH, Run::REFUSE, Run::REFUSE, 0)),
                passes(43002, here),
                Change(restore),
            ],
        },
        Case {
            name: "a flow whose backend is gone moves, or is refused when there is no other",
            steps: vec![
                passes(43003, here),
                Change(|d| d.change_backend(backend::FIRST, |b| b.generation += 1)),
                Change(|d| point_to(d, backend::SECOND)),
                passes(43003, second),
                Change(|d| d.change_backend(backend::SECOND, |b| b.generation += 1)),
                Change(|d| d.set_service(service::SCRATCH, Run::REFUSE, Run::REFUSE, 0)),
                Ingress(gone.bytes(), Refused(Drop::NoBackend, w.refusal(&gone))),
                Change(restore),
            ],
        },
    ]
}

/// Makes the scratch service have one backend.
fn point_to(dataplane: &mut Dataplane, id: u32) -> Result<()> {
    let run = dataplane.add_run(&[id])?;
    dataplane.set_service(service::SCRATCH, run, run, 0)
}

/// Undoes what a case changed.
fn restore(dataplane: &mut Dataplane) -> Result<()> {
    dataplane.change_backend(backend::FIRST, |b| b.flags |= Backend::SERVING)?;
    point_to(dataplane, backend::FIRST)
}

/// Runs a case's steps; an error shows the step with its packets decoded.
fn check(world: &mut World, case: &Case) -> Result<()> {
    for (number, step) in case.steps.iter().enumerate() {
        let (hook, packet, expected) = match step {
            Change(change) => {
                change(&mut world.dataplane)?;
                continue;
            }
            Ingress(packet, expected) => ("ingress", packet, expected),
            Egress(packet, expected) => ("egress", packet, expected),
        };
        check_packet(world, hook, packet, expected)
            .with_context(|| format!("{}, step {number}: {hook} of {}", case.name, show(packet)))?;
    }
    Ok(())
}

fn check_packet(world: &World, hook: &str, packet: &[u8], expected: &Expected) -> Result<()> {
    let before = world.dataplane.drops()?;
    let (verdict, out, _) = world.run(hook, packet, 1)?;
    let dropped = dropped_since(&before, &world.dataplane.drops()?);
    let (wanted_verdict, wanted_packet, wanted_drop) = match expected {
        Untouched => (PASS, Some(packet.to_vec()), None),
        Passed(frame) => (PASS, Some(frame.bytes()), None),
        Sent(frame) => (REDIRECT, Some(frame.bytes()), None),
        Dropped(reason) => (SHOT, None, Some(*reason)),
        Refused(reason, frame) => (REDIRECT, Some(frame.bytes()), Some(*reason)),
    };
    ensure!(
        verdict == wanted_verdict && dropped == wanted_drop,
        "verdict {verdict} and drop {dropped:?} with {}, wanted {expected:?}",
        show(&out)
    );
    if let Some(wanted) = wanted_packet {
        ensure!(
            out == wanted,
            "became {}\n  {out:02x?}\nwanted {}\n  {wanted:02x?}",
            show(&out),
            show(&wanted)
        );
    }
    Ok(())
}

/// The reason that was counted between two readings.
fn dropped_since(before: &[(Drop, u64)], after: &[(Drop, u64)]) -> Option<Drop> {
    let new = after.iter().find(|count| !before.contains(count));
    new.map(|(reason, _)| *reason)
}

fn show(packet: &[u8]) -> String {
    match Frame::decode(packet) {
        Ok(frame) => format!("{frame:?}"),
        Err(error) => format!("{error:#} in {packet:02x?}"),
    }
}

fn check_all(cases: fn(Writer) -> Vec<Case>, protocols: &[Protocol]) {
    for (addresses, protocol) in [v4(), v6()]
        .into_iter()
        .flat_map(|a| protocols.iter().map(move |p| (a, *p)))
    {
        let mut world = World::create(addresses, protocol).expect("a node can be made");
        for case in cases(Writer {
            a: addresses,
            protocol,
        }) {
            check(&mut world, &case).unwrap_or_else(|error| panic!("{error:?}"));
        }
    }
}

#[test]
fn requests_and_replies() {
    check_all(common, &[Protocol::TCP, Protocol::UDP]);
}

#[test]
fn malformed_packets_are_dropped_and_counted() {
    check_all(malformed, &[Protocol::TCP, Protocol::UDP]);
}

#[test]
fn tcp_connections_live_and_die() {
    check_all(tcp_only, &[Protocol::TCP]);
}

#[test]
fn udp_flows_move() {
    check_all(udp_only, &[Protocol::UDP]);
}
