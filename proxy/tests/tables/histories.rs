//! Random histories: objects that come, change and go, events twice or never, lists, restarts and failing writes, in any
//! order. Whatever happened, the maps end up like those of a daemon that saw only the end; and at each step in between,
//! every run that clients can find is whole.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use model::{
    Algorithm, Endpoint, Event, Family, Forwarding, Hints, Kind, Node, ObjectName, Protocol,
    Service, ServicePort, Slice, SlicePort, TrafficPolicy,
};
use proptest::prelude::*;
use proxy::inspect::dump;
use proxy::maps::{Fake, Maps, Sizes, run_of};

use crate::daemon::{Daemon, LATER, Objects};

/// How many Services and slices there can be.
const SERVICES: u8 = 5;
const SLICES: u8 = 8;

/// Something that happens to the objects. The numbers' bits say what the object is like.
#[derive(Debug, Clone)]
enum Change {
    Service(u8, u32),
    ServiceGone(u8),
    Slice(u8, u8, u32),
    SliceGone(u8),
    Node(u8),
}

/// Something that happens to the daemon.
#[derive(Debug, Clone)]
enum Step {
    /// A change that is seen, once or twice.
    Seen(Change, bool),
    /// A change that the watch misses.
    Missed(Change),
    /// All Services are listed, or all slices.
    Relist(bool),
    /// The daemon ends, and another one lists the sources in this order.
    Restart([u8; 3]),
    /// From now on, one write in so many fails; none below two.
    Failing(u64),
    /// So many milliseconds pass.
    Wait(u16),
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..SERVICES, any::<u32>()).prop_map(|(n, bits)| Change::Service(n, bits)),
        1 => (0..SERVICES).prop_map(Change::ServiceGone),
        6 => (0..SLICES, 0..SERVICES, any::<u32>())
            .prop_map(|(n, owner, bits)| Change::Slice(n, owner, bits)),
        2 => (0..SLICES).prop_map(Change::SliceGone),
        1 => (0..4u8).prop_map(Change::Node),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (changes(), any::<bool>()).prop_map(|(change, twice)| Step::Seen(change, twice)),
        3 => changes().prop_map(Step::Missed),
        1 => any::<bool>().prop_map(Step::Relist),
        1 => Just([0, 1, 2]).prop_shuffle().prop_map(Step::Restart),
        2 => (0..6u64).prop_map(Step::Failing),
        3 => (0..3000u16).prop_map(Step::Wait),
    ]
}

/// The bit `number` of `bits`.
fn bit(bits: u32, number: u32) -> bool {
    bits >> number & 1 == 1
}

fn policy(is_local: bool) -> TrafficPolicy {
    match is_local {
        true => TrafficPolicy::Local,
        false => TrafficPolicy::Cluster,
    }
}

/// Two Services may claim the same addresses and ports, as foreign objects do.
fn service(number: u8, bits: u32) -> Service {
    let owner = if bit(bits, 0) && bit(bits, 1) {
        0
    } else {
        number
    };
    let v4 = |third| IpAddr::V4(Ipv4Addr::new(10, 96, third, owner));
    let v6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, owner.into()));
    let port = |name: &str, protocol, port: u16| ServicePort {
        name: name.into(),
        protocol,
        port: port.try_into().unwrap(),
        node_port: bit(bits, 2).then(|| (30_000 + port + u16::from(owner)).try_into().unwrap()),
        app_protocol: None,
    };
    let mut ports = vec![port("a", Protocol::Tcp, 80 + u16::from(bit(bits, 3)))];
    if bit(bits, 4) {
        ports.push(port("b", Protocol::Udp, 80));
    }
    if bit(bits, 5) && bit(bits, 6) {
        ports.clear();
    }
    Service {
        kind: if (bits >> 7) & 7 == 0 {
            Kind::Headless
        } else {
            Kind::Virtual
        },
        cluster_ips: match bit(bits, 10) {
            true => vec![v4(0), v6],
            false => vec![v4(0)],
        },
        external_ips: if bit(bits, 11) {
            vec![v4(1), v4(0)]
        } else {
            Vec::new()
        },
        load_balancer_ips: if bit(bits, 12) {
            vec![v4(2), v4(3)]
        } else {
            Vec::new()
        },
        source_ranges: match (bit(bits, 13), bit(bits, 14)) {
            (true, true) => vec!["192.168.0.0/16".parse().unwrap(), "::/0".parse().unwrap()],
            (true, false) => vec!["10.0.0.0/8".parse().unwrap()],
            _ => Vec::new(),
        },
        internal_policy: policy(bit(bits, 15)),
        external_policy: policy(bit(bits, 16)),
        affinity: bit(bits, 17).then(|| Duration::from_secs(60 + u64::from(bits >> 30))),
        forwarding: (bit(bits, 19) && bit(bits, 20)).then_some(Forwarding::Dsr),
        algorithm: (bit(bits, 18) && bit(bits, 19)).then_some(Algorithm::Maglev),
        ports,
        ..Service::new(name("s", number))
    }
}

/// Endpoints are shared between slices, and may contradict each other.
fn slice(number: u8, owner: u8, bits: u32) -> Slice {
    let family = if bit(bits, 0) && bit(bits, 1) {
        Family::V6
    } else {
        Family::V4
    };
    let endpoint = |index: u32| {
        let own = bits >> (2 + 7 * index);
        let last = (own & 3) as u8;
        Endpoint {
            ip: match family {
                Family::V4 => Ipv4Addr::new(10, 244, 0, last).into(),
                Family::V6 => Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, last.into()).into(),
            },
            ready: bit(own, 2) || bit(own, 3),
            serving: bit(own, 3),
            terminating: bit(own, 4),
            node: bit(own, 5).then(|| if bit(own, 6) { "here" } else { "there" }.into()),
            hints: Some(Box::new(Hints {
                nodes: Vec::new(),
                zones: if bit(own, 6) {
                    vec!["z1".into()]
                } else {
                    Vec::new()
                },
            })),
        }
    };
    let port = |name: &str, protocol, port: u16| SlicePort {
        name: name.into(),
        protocol,
        port: port.try_into().unwrap(),
    };
    Slice {
        triggered: None,
        name: name("e", number),
        service: name("s", owner),
        family,
        ports: vec![
            port("a", Protocol::Tcp, 8080 + u16::from(bit(bits, 31))),
            port("b", Protocol::Udp, 8080),
        ],
        endpoints: (0..bits >> 30).map(endpoint).collect(),
    }
}

fn node(number: u8) -> Option<Node> {
    let zone = |zone: &str| Node {
        zone: Some(zone.into()),
        ..Node::default()
    };
    match number {
        0 => None,
        1 => Some(Node::default()),
        2 => Some(zone("z1")),
        _ => Some(zone("z2")),
    }
}

fn name(kind: &str, number: u8) -> ObjectName {
    ObjectName::new("d", format!("{kind}{number}"))
}

/// What is true, whether the daemon has seen it or not.
#[derive(Default, Clone)]
struct Truth {
    services: BTreeMap<u8, Service>,
    slices: BTreeMap<u8, Slice>,
    node: Option<Node>,
}

impl Truth {
    /// Makes `change` true; the event that tells of it.
    fn make(&mut self, change: &Change) -> Event {
        match *change {
            Change::Service(number, bits) => {
                let service = service(number, bits);
                self.services.insert(number, service.clone());
                Event::Service(service)
            }
            Change::ServiceGone(number) => {
                self.services.remove(&number);
                Event::ServiceGone(name("s", number))
            }
            Change::Slice(number, owner, bits) => {
                let slice = slice(number, owner, bits);
                self.slices.insert(number, slice.clone());
                Event::Slice(slice)
            }
            Change::SliceGone(number) => {
                self.slices.remove(&number);
                Event::SliceGone(name("e", number))
            }
            Change::Node(number) => {
                self.node = node(number);
                Event::Node(self.node.clone())
            }
        }
    }

    fn list(&self, source: u8) -> Event {
        match source {
            0 => Event::Services(self.services.values().cloned().collect()),
            1 => Event::Slices(self.slices.values().cloned().collect()),
            _ => Event::Node(self.node.clone()),
        }
    }
}

fn take(daemon: Daemon, truth: &mut Truth, step: &Step) -> Daemon {
    let mut daemon = daemon;
    match step {
        Step::Seen(change, twice) => {
            let event = truth.make(change);
            if *twice {
                daemon.see(event.clone());
            }
            daemon.see(event);
        }
        Step::Missed(change) => {
            truth.make(change);
        }
        Step::Relist(services) => daemon.see(truth.list(u8::from(!services))),
        Step::Restart(order) => {
            let now = daemon.now;
            daemon = daemon.restart();
            daemon.now = daemon.now.max(now);
            for source in order {
                daemon.see(truth.list(*source));
            }
        }
        Step::Failing(period) => {
            let period = *period;
            daemon.fail((period > 1).then(|| {
                Box::new(move |write: u64| write.is_multiple_of(period)) as Box<dyn Fn(u64) -> bool>
            }));
        }
        Step::Wait(milliseconds) => {
            daemon.now += Duration::from_millis((*milliseconds).into());
            daemon.reconciler.round(daemon.now);
        }
    }
    daemon
}

/// Every run that clients can find names only backends of its service that are in use.
fn assert_whole(maps: &Fake) {
    for (entry, frontend) in maps.entries().unwrap() {
        let service = maps.service(frontend.service).unwrap();
        if frontend.kind == dataplane_ebpf::abi::Kind::ADDRESS {
            continue;
        }
        for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
            for id in maps.slots(run_of(&service, policy)).unwrap() {
                let backend = maps.backend(id).unwrap();
                assert_eq!(
                    backend.service, frontend.service,
                    "{entry:?} {policy:?} {id}"
                );
                assert_ne!(backend.port, dataplane_ebpf::addr::Port::NONE);
            }
        }
    }
}

/// All that is in the maps, but for numbers that depend on the history.
fn resolved(maps: &Fake) -> String {
    let names: BTreeMap<u32, _> = maps.names().unwrap().into_iter().collect();
    let mut lines: Vec<String> = Vec::new();
    for (_, backend) in maps.backends().unwrap() {
        let owner = names.get(&backend.service).map(|name| name.text());
        let (address, port) = (backend.address, backend.port);
        let protocol = backend.protocol;
        lines.push(format!(
            "{owner:?} {protocol} {address} {port} {}",
            backend.flags
        ));
    }
    for (key, _) in maps.local_backends().unwrap() {
        let owner = names.get(&key.service).map(|name| name.text());
        lines.push(format!(
            "{owner:?} finds {} {} {}",
            key.protocol, key.address, key.port
        ));
    }
    lines.extend(names.values().map(|name| name.text().to_owned()));
    lines.sort();
    format!("{}{}", dump(maps).unwrap(), lines.join("\n"))
}

fn start() -> Daemon {
    Daemon::start(Fake::new(Sizes {
        services: 128,
        backends: 512,
        slots: 1 << 15,
    }))
}

fn check(steps: &[Step]) {
    let mut truth = Truth::default();
    let mut daemon = start();
    for source in 0..3 {
        daemon.see(truth.list(source));
    }
    for step in steps {
        daemon = take(daemon, &mut truth, step);
        assert_whole(daemon.reconciler.tables().maps());
    }
    daemon.fail(None);
    for source in 0..3 {
        daemon.see(truth.list(source));
    }
    daemon.now += LATER;
    daemon.settle();

    let mut fresh = start();
    fresh.see_all(&Objects {
        services: truth.services.values().cloned().collect(),
        slices: truth.slices.values().cloned().collect(),
        node: truth.node.clone(),
    });
    fresh.settle();
    let maps = |daemon: &Daemon| resolved(daemon.reconciler.tables().maps());
    assert_eq!(maps(&daemon), maps(&fresh));
    let usage = |daemon: &Daemon| daemon.reconciler.tables().usage();
    assert_eq!(usage(&daemon), usage(&fresh));
    assert_eq!(daemon.reconciler.behind_since(), None);

    daemon.see(Event::Services(Vec::new()));
    daemon.settle();
    daemon.assert_empty();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 800,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_history_ends_like_its_end_alone(steps in prop::collection::vec(steps(), 1..40)) {
        check(&steps);
    }
}
