//! Decisions over maps in memory. What the programs really do is compared with them in `proxy/tests/tools`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dataplane_ebpf::abi::{
    Affinity, AffinityKey, Backend, Connection, Frontend, Kind, Prefix, Run, Service,
};
use dataplane_ebpf::addr::{Port, Protocol};

use super::super::decision::Held;
use super::*;

/// Maps in memory.
#[derive(Default)]
struct Fake {
    now: u64,
    node: Node,
    node_addresses: BTreeMap<Addr, NodeAddress>,
    frontends: BTreeMap<FrontendKey, Frontend>,
    node_ports: BTreeMap<NodePortKey, Frontend>,
    services: BTreeMap<u32, Service>,
    slots: Vec<u32>,
    backends: BTreeMap<u32, Backend>,
    ranges: Vec<(u32, Addr)>,
    connections: BTreeMap<Flow, Connection>,
    affinities: BTreeMap<AffinityKey, Affinity>,
}

impl Snapshot for Fake {
    fn now(&self) -> u64 {
        self.now
    }

    fn node(&self) -> Result<Node, Error> {
        Ok(self.node)
    }

    fn node_address(&self, address: Addr) -> Result<Option<NodeAddress>, Error> {
        Ok(self.node_addresses.get(&address).copied())
    }

    fn frontend(&self, key: &FrontendKey) -> Result<Option<Frontend>, Error> {
        Ok(self.frontends.get(key).copied())
    }

    fn node_port(&self, key: &NodePortKey) -> Result<Option<Frontend>, Error> {
        Ok(self.node_ports.get(key).copied())
    }

    fn service(&self, id: u32) -> Result<Option<Service>, Error> {
        Ok(self.services.get(&id).copied())
    }

    fn name(&self, _: u32) -> Result<Option<String>, Error> {
        Ok(None)
    }

    fn run(&self, run: Run) -> Result<Vec<u32>, Error> {
        let slots = self.slots.iter().skip(run.base() as usize);
        Ok(slots.take(run.count() as usize).copied().collect())
    }

    fn backend(&self, id: u32) -> Result<Option<Backend>, Error> {
        Ok(self.backends.get(&id).copied())
    }

    fn backends(&self) -> Result<Vec<(u32, Backend)>, Error> {
        Ok(self
            .backends
            .iter()
            .map(|(id, backend)| (*id, *backend))
            .collect())
    }

    fn is_in_range(&self, service: u32, address: Addr) -> Result<bool, Error> {
        Ok(self.ranges.contains(&(service, address)))
    }

    fn connection(&self, flow: &Flow) -> Result<Option<Connection>, Error> {
        Ok(self.connections.get(flow).copied())
    }

    fn affinity(&self, key: &AffinityKey) -> Result<Option<Affinity>, Error> {
        Ok(self.affinities.get(key).copied())
    }
}

const CLIENT: &str = "203.0.113.9";
const VIP: &str = "10.96.0.10";
const BALANCER: &str = "203.0.113.80";
const NODE: &str = "192.0.2.1";
const HERE: u32 = 1;
const THERE: u32 = 2;
const SERVICE: u32 = 7;

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>()
        .expect("the tables hold addresses")
        .into()
}

fn flow(client: &str, to: &str, port: u16) -> Flow {
    let end = |text, port| (addr(text), Port::new(port));
    Flow::new(end(client, 40_000), end(to, port), Protocol::TCP)
}

/// A service with a backend here and one elsewhere, reached in every way.
fn world() -> Fake {
    let mut fake = Fake {
        now: 1000 << 30,
        slots: vec![HERE, THERE, HERE],
        ..Fake::default()
    };
    fake.node.source_v4 = addr(NODE);
    fake.node.first_port = 61_000;
    fake.node.last_port = 65_535;
    fake.node.netns_cookie = 1;
    fake.node.service_cidr_count = 1;
    fake.node.service_cidrs[0] = Prefix {
        address: addr("10.96.0.0"),
        mask: addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:0"),
    };
    let flags = |address, flags| (addr(address), NodeAddress { flags });
    fake.node_addresses = [flags(NODE, 0), flags("127.0.0.1", NodeAddress::LOOPBACK)].into();
    for (address, kind) in [(VIP, Kind::CLUSTER_IP), (BALANCER, Kind::LOAD_BALANCER)] {
        let key = FrontendKey::new(addr(address), Port::new(80), Protocol::TCP);
        fake.frontends.insert(key, Frontend::new(SERVICE, kind));
    }
    let whole = FrontendKey::whole_address(addr(VIP));
    fake.frontends
        .insert(whole, Frontend::new(0, Kind::ADDRESS));
    let key = NodePortKey::new(Port::new(30_080), Protocol::TCP, Family::V4);
    fake.node_ports
        .insert(key, Frontend::new(SERVICE, Kind::NODE_PORT));
    let service = Service {
        cluster: Run::new(0, 2),
        local: Run::new(2, 1),
        generation: 1,
        ..Service::default()
    };
    fake.services.insert(SERVICE, service);
    let runs = Backend::IN_CLUSTER_RUN | Backend::SERVING;
    let here = Backend::LOCAL | Backend::IN_LOCAL_RUN | runs;
    for (id, address, flags) in [(HERE, "10.244.1.5", here), (THERE, "10.244.2.6", runs)] {
        let backend = Backend {
            address: addr(address),
            port: Port::new(8080),
            protocol: Protocol::TCP,
            flags,
            generation: 5,
            service: SERVICE,
            reserved: 0,
        };
        fake.backends.insert(id, backend);
    }
    fake
}

fn service(fake: &mut Fake) -> &mut Service {
    fake.services.get_mut(&SERVICE).expect("the world has it")
}

fn decided(fake: &Fake, flow: &Flow, asker: Asker) -> Decision {
    decide(fake, flow, asker).expect("maps in memory can be read")
}

#[track_caller]
fn check(fake: &Fake, flow: &Flow, asker: Asker, expected: Verdict) {
    assert_eq!(decided(fake, flow, asker).verdict, expected);
}

use Asker::{NodePacket, NodeSocket, OutsidePacket, PodPacket, PodSocket};

#[test]
fn a_destination_leads_to_a_service_or_says_why_not() {
    let fake = world();
    let rule = |to, port, asker| decided(&fake, &flow(CLIENT, to, port), asker).rule;
    let service = |kind| Rule::Service(Frontend::new(SERVICE, kind));
    assert_eq!(rule(VIP, 80, OutsidePacket), service(Kind::CLUSTER_IP));
    assert_eq!(rule(VIP, 81, OutsidePacket), Rule::UnknownPort);
    assert_eq!(
        rule(BALANCER, 80, OutsidePacket),
        service(Kind::LOAD_BALANCER)
    );
    assert_eq!(rule(BALANCER, 81, OutsidePacket), Rule::Nothing);
    assert_eq!(rule("10.96.0.11", 80, OutsidePacket), Rule::Unallocated);
    assert_eq!(rule(NODE, 30_080, OutsidePacket), service(Kind::NODE_PORT));
    assert_eq!(rule(NODE, 30_081, OutsidePacket), Rule::Nothing);
    assert_eq!(
        rule("192.0.2.2", 30_080, NodeSocket),
        Rule::NodePortElsewhere
    );
    assert_eq!(
        rule("127.0.0.1", 30_080, NodeSocket),
        service(Kind::NODE_PORT)
    );
    assert_eq!(
        rule("127.0.0.1", 30_080, PodSocket),
        Rule::NodePortElsewhere
    );
}

#[test]
fn what_no_service_has_is_refused_dropped_or_left_alone() {
    let fake = world();
    let stopped = Verdict::Stopped;
    check(
        &fake,
        &flow(CLIENT, VIP, 81),
        PodSocket,
        stopped(Drop::UnknownPort),
    );
    check(
        &fake,
        &flow(CLIENT, "10.96.0.11", 1),
        PodSocket,
        stopped(Drop::Unallocated),
    );
    check(
        &fake,
        &flow(CLIENT, "192.0.2.9", 1),
        PodSocket,
        Verdict::LeftAlone,
    );
    check(&fake, &flow(NODE, VIP, 80), NodePacket, Verdict::LeftAlone);
}

#[test]
fn policies_choose_the_set_and_an_empty_one_the_verdict() {
    let mut fake = world();
    let (inside, outside) = (flow(CLIENT, VIP, 80), flow(CLIENT, NODE, 30_080));
    service(&mut fake).flags = Service::EXTERNAL_LOCAL;
    check(&fake, &outside, OutsidePacket, Verdict::Backend(HERE));
    check(&fake, &outside, NodeSocket, Verdict::OneOf);
    service(&mut fake).local = Run::DROP;
    check(
        &fake,
        &outside,
        OutsidePacket,
        Verdict::Stopped(Drop::NoPolicyBackend),
    );
    check(&fake, &outside, NodeSocket, Verdict::OneOf);
    check(&fake, &inside, PodSocket, Verdict::OneOf);
    service(&mut fake).flags = Service::INTERNAL_LOCAL;
    check(
        &fake,
        &inside,
        PodSocket,
        Verdict::Stopped(Drop::NoPolicyBackend),
    );
    service(&mut fake).local = Run::REFUSE;
    check(&fake, &inside, PodSocket, Verdict::Stopped(Drop::NoBackend));
}

#[test]
fn source_ranges_bind_clients_of_load_balancers_by_the_address_that_is_known() {
    let mut fake = world();
    service(&mut fake).flags = Service::SOURCE_RANGES;
    let (balanced, inside) = (flow(CLIENT, BALANCER, 80), flow(CLIENT, VIP, 80));
    let out_of_range = Verdict::Stopped(Drop::SourceRange);
    check(&fake, &balanced, OutsidePacket, out_of_range);
    check(&fake, &balanced, NodeSocket, out_of_range);
    check(&fake, &inside, NodeSocket, Verdict::OneOf);
    fake.ranges.push((SERVICE, addr(NODE)));
    check(&fake, &balanced, NodeSocket, Verdict::OneOf);
    check(&fake, &balanced, PodSocket, out_of_range);
    let decision = decided(&fake, &balanced, PodSocket);
    assert_eq!(decision.asker, PodPacket, "its device's hook decides");
    fake.ranges.push((SERVICE, addr(CLIENT)));
    let decision = decided(&fake, &balanced, PodSocket);
    assert!(matches!(decision.verdict, Verdict::Backend(_)));
}

#[test]
fn the_source_is_kept_where_replies_pass_here_anyway() {
    let mut fake = world();
    let flow = flow(CLIENT, VIP, 80);
    let source = |fake: &Fake, asker| decided(fake, &flow, asker).source;
    service(&mut fake).cluster = Run::new(0, 1);
    assert_eq!(source(&fake, OutsidePacket), Some(Source::Kept));
    assert_eq!(source(&fake, NodeSocket), Some(Source::Stack));
    service(&mut fake).cluster = Run::new(1, 1);
    let node = Source::Node(addr(NODE), false);
    assert_eq!(
        source(&fake, OutsidePacket),
        Some(node),
        "40000 is none of its ports"
    );
    assert_eq!(source(&fake, PodPacket), Some(Source::Kept));
    service(&mut fake).flags = Service::DSR;
    assert_eq!(source(&fake, OutsidePacket), Some(Source::Direct));
    assert_eq!(
        source(&fake, PodPacket),
        Some(Source::Kept),
        "only for clients outside"
    );
    let by_node_port = self::flow(CLIENT, NODE, 30_080);
    let decision = decided(&fake, &by_node_port, OutsidePacket);
    assert_eq!(decision.source, Some(node), "never at node ports");
    service(&mut fake).flags = 0;
    fake.node.source_v4 = Addr::UNSPECIFIED;
    check(
        &fake,
        &flow,
        OutsidePacket,
        Verdict::Stopped(Drop::NoSource),
    );
}

#[test]
fn a_pod_that_is_its_own_backend_does_not_see_itself_as_the_client() {
    let mut fake = world();
    service(&mut fake).cluster = Run::new(0, 1);
    let decision = decided(&fake, &flow("10.244.1.5", VIP, 80), PodPacket);
    assert_eq!(decision.source, Some(Source::Node(addr(NODE), false)));
}

#[test]
fn affinity_holds_while_it_is_the_same_service_backend_and_set() {
    let mut fake = world();
    let flow = flow(CLIENT, VIP, 80);
    service(&mut fake).affinity_seconds = 60;
    service(&mut fake).affinity_generation = 2;
    let now = u32::try_from(fake.now / 1_000_000_000).expect("a small number");
    let held = Affinity {
        backend: THERE,
        backend_generation: 5,
        affinity_generation: 2,
        since: now - 10,
    };
    let by_address = AffinityKey::address(SERVICE, addr(CLIENT));
    let affinity = |fake: &Fake, asker| {
        let choice = decided(fake, &flow, asker).choice;
        choice.expect("there is a service").affinity
    };
    assert_eq!(affinity(&fake, OutsidePacket), Held::No);
    fake.affinities.insert(by_address, held);
    assert_eq!(affinity(&fake, OutsidePacket), Held::To(THERE, 50));
    check(&fake, &flow, OutsidePacket, Verdict::Backend(THERE));
    assert_eq!(
        affinity(&fake, NodeSocket),
        Held::No,
        "its key is the namespace"
    );
    assert_eq!(affinity(&fake, PodSocket), Held::Unknown);
    let by_namespace = AffinityKey::namespace(SERVICE, fake.node.netns_cookie);
    fake.affinities.insert(by_namespace, held);
    check(&fake, &flow, NodeSocket, Verdict::Backend(THERE));
    for stale in [
        Affinity {
            since: now - 61,
            ..held
        },
        Affinity {
            affinity_generation: 1,
            ..held
        },
        Affinity {
            backend_generation: 4,
            ..held
        },
    ] {
        fake.affinities.insert(by_address, stale);
        assert_eq!(affinity(&fake, OutsidePacket), Held::Stale);
    }
    fake.affinities.insert(by_address, held);
    service(&mut fake).flags = Service::INTERNAL_LOCAL;
    assert_eq!(
        affinity(&fake, OutsidePacket),
        Held::Stale,
        "it is not in the local set"
    );
}

#[test]
fn a_tracked_connection_goes_on_unless_it_is_over_or_its_backend_gone() {
    let mut fake = world();
    let client = flow(CLIENT, VIP, 80);
    let connection = Connection {
        to: flow(CLIENT, "10.244.1.5", 8080),
        service: SERVICE,
        service_generation: 1,
        backend: HERE,
        backend_generation: 5,
        seen: 1000,
        flags: 0,
    };
    let reply = Connection {
        to: client.reversed(),
        flags: Connection::REPLY,
        ..connection
    };
    fake.connections = [(client, connection), (connection.partner(), reply)].into();
    let course = |fake: &Fake, flow| decided(fake, flow, OutsidePacket).tracked.map(|t| t.course);
    assert_eq!(course(&fake, &client), Some(Course::Continue));
    check(&fake, &client, OutsidePacket, Verdict::Tracked);
    let reply_flow = connection.partner();
    assert_eq!(course(&fake, &reply_flow), Some(Course::Reply));
    let both = Connection::FIN;
    fake.connections.insert(
        client,
        Connection {
            flags: both,
            ..connection
        },
    );
    assert_eq!(
        course(&fake, &client),
        Some(Course::Continue),
        "half closed"
    );
    fake.connections.remove(&reply_flow);
    assert_eq!(
        course(&fake, &client),
        Some(Course::Begin),
        "as good as reset"
    );
    let gone = Connection {
        backend_generation: 4,
        ..connection
    };
    fake.connections.insert(client, gone);
    assert_eq!(course(&fake, &client), Some(Course::Begin));
    let foreign = Connection {
        flags: Connection::FOREIGN,
        ..connection
    };
    fake.connections.insert(client, foreign);
    assert_eq!(course(&fake, &client), Some(Course::Foreign));
    let begun = decided(&fake, &client, OutsidePacket).verdict;
    assert!(matches!(begun, Verdict::Backend(_)), "{begun:?}");
}
