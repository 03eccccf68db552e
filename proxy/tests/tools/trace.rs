//! What `trace` says against what the programs do: the real ones, run in the kernel on a packet, with the same maps.

use std::io::ErrorKind;
use std::thread;

use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use dataplane_ebpf::abi::{
    self, Affinity, AffinityKey, Backend, Connection, Kind, Node as Settings, NodeAddress, Prefix,
    Run, Service, maps,
};
use dataplane_ebpf::addr::{Addr, Port, Protocol};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;
use nix::sched::{CloneFlags, unshare};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::node::Node;
use crate::{addr, is_root};

const HERE: u8 = Backend::LOCAL | Backend::SERVING | RUNS;
const RUNS: u8 = Backend::IN_CLUSTER_RUN | Backend::IN_LOCAL_RUN;
const THERE: u8 = Backend::SERVING | Backend::IN_CLUSTER_RUN;

/// A node with a service of each kind.
struct World {
    node: Node,
}

/// Which program meets the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Ingress,
    Pod,
}

/// What a program did with a packet.
#[derive(Debug, PartialEq, Eq)]
enum Done {
    Translated { backend: u32, source: Addr },
    Stopped(&'static str),
    LeftAlone,
}

impl World {
    fn new() -> Self {
        let mut node = Node::small();
        for name in ["ingress", "pod_ingress"] {
            load(&mut node, name);
        }
        let mut world = Self { node };
        world.fill();
        world
    }

    fn fill(&mut self) {
        let node = &mut self.node;
        let mut settings = Settings {
            source_v4: addr("192.0.2.1"),
            netns_cookie: 1,
            seed: 42,
            first_port: 61_000,
            last_port: 65_535,
            service_cidr_count: 1,
            ..Settings::default()
        };
        settings.service_cidrs[0] = Prefix {
            address: addr("10.96.0.0"),
            // Of the mapped form: 96 bits and 16.
            mask: addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:0"),
        };
        node.array(maps::NODE).set(0, settings, 0).unwrap();
        let answers = NodeAddress { flags: 0 };
        node.let_through(addr("192.0.2.1"));
        let mut addresses = node.hash(maps::NODE_ADDRESSES);
        addresses.insert(addr("192.0.2.1"), answers, 0).unwrap();

        for (id, service, address, flags) in [
            (1, 1, "10.244.1.5", HERE),
            (2, 1, "10.244.2.6", THERE),
            (3, 1, "10.244.2.7", 0),
            (4, 3, "10.244.2.8", THERE),
            (5, 4, "10.244.1.9", HERE),
            (6, 5, "10.244.1.6", HERE),
            (7, 5, "10.244.1.7", HERE),
            (8, 6, "10.244.1.6", HERE),
            (9, 6, "10.244.2.9", THERE),
        ] {
            node.add_backend(id, service, address, flags);
        }
        node.add_service(1, "default/plain", &[1, 2], &[1]);
        node.add_service(2, "default/empty", &[], &[]);
        let elsewhere = node.add_run(&[4]);
        node.add_service(3, "default/elsewhere", &[4], &[]);
        let local = Service::INTERNAL_LOCAL | Service::EXTERNAL_LOCAL;
        node.set_service(3, elsewhere, Run::DROP, local);
        let one = node.add_run(&[5]);
        node.add_service(4, "default/restricted", &[], &[]);
        node.set_service(4, one, one, Service::SOURCE_RANGES);
        node.add_source_range(4, "198.51.100.0", 96 + 24);
        let table = node.add_run(&[6, 7, 7, 6, 6]);
        node.add_service(5, "default/maglev", &[], &[]);
        node.set_service(5, table, table, Service::MAGLEV);
        node.add_service(6, "default/sticky", &[8, 9], &[8]);
        for id in 1..=6u32 {
            let number = u8::try_from(id).unwrap();
            let (vip, balancer) = (format!("10.96.0.{number}"), format!("203.0.113.{number}"));
            node.add_frontend(id, &vip, 80, Kind::CLUSTER_IP);
            node.add_frontend(0, &vip, 0, Kind::ADDRESS);
            node.add_frontend(id, &balancer, 80, Kind::LOAD_BALANCER);
            node.add_node_port(id, 30_000 + u16::from(number));
        }
        self.stick(0, 0);
    }

    /// Holds clients to their backends at service 6, and the client 198.51.100.9 since `ago` seconds to `backend`.
    fn stick(&mut self, backend: u32, ago: u32) {
        let mut services = self.node.array::<Service>(maps::SERVICES);
        let service = services.get(&6, 0).unwrap();
        let sticky = Service {
            affinity_seconds: 100,
            affinity_generation: 3,
            ..service
        };
        services.set(6, sticky, 0).unwrap();
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().tv_sec();
        let affinity = Affinity {
            backend,
            backend_generation: 5,
            affinity_generation: 3,
            since: u32::try_from(now).unwrap() - ago,
        };
        let key = AffinityKey::address(6, addr("198.51.100.9"));
        let mut held = self.node.hash(maps::AFFINITY);
        held.insert(key, affinity, 0).unwrap();
    }

    /// What `trace` says.
    fn trace(&self, hook: Hook, flow: &Flow) -> (Value, i32) {
        let end = |address: Addr, port: Port| format!("{address}:{port}");
        let (from, to) = (
            end(flow.source, flow.source_port),
            end(flow.destination, flow.destination_port),
        );
        let place: &[&str] = match hook {
            Hook::Ingress => &["--from", "outside"],
            Hook::Pod => &["--from", "pod", "--packet"],
        };
        let protocol = flow.protocol.to_string().to_lowercase();
        let command = ["trace", &from, &to, "--protocol", &protocol];
        self.node.json(&[&command, place].concat())
    }

    /// What the program does.
    fn run(&mut self, hook: Hook, flow: &Flow) -> Done {
        let before = self.drops();
        let name = match hook {
            Hook::Ingress => "ingress",
            Hook::Pod => "pod_ingress",
        };
        let program = self.node.ebpf.program(name).unwrap();
        let program: &SchedClassifier = program.try_into().unwrap();
        let packet = packet(flow);
        let mut out = vec![0; packet.len() + 256];
        let options = TestRunOptions {
            data_in: Some(&packet),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        program.test_run(options).unwrap();
        let after = self.drops();
        let connections = self.node.hash::<Flow, Connection>(maps::CONNTRACK);
        // A packet that is translated may still have nowhere to go: this node has no routes.
        if let Ok(connection) = connections.get(flow, 0) {
            return Done::Translated {
                backend: connection.backend,
                source: connection.to.source,
            };
        }
        let met = Drop::ALL.into_iter().zip(before.iter().zip(&after));
        let mut met = met.filter(|(_, (before, after))| before != after);
        met.next()
            .map_or(Done::LeftAlone, |(reason, _)| Done::Stopped(reason.name()))
    }

    fn drops(&mut self) -> Vec<u64> {
        let map = self.node.ebpf.map_mut(maps::DROPS).unwrap();
        let drops: aya::maps::PerCpuArray<_, u64> = map.try_into().unwrap();
        let count = |reason: Drop| drops.get(&(reason as u32), 0).unwrap().iter().sum();
        Drop::ALL.into_iter().map(count).collect()
    }

    /// The tool says first what the program then does.
    #[track_caller]
    fn check(&mut self, hook: Hook, flow: &Flow) -> Value {
        let (said, code) = self.trace(hook, flow);
        let done = self.run(hook, flow);
        let expected = match said["verdict"].as_str().unwrap() {
            "left-alone" => Done::LeftAlone,
            "refused" | "dropped" => {
                assert_eq!(code, 4);
                let reason = said["reason"].as_str().unwrap();
                let all = Drop::ALL.into_iter().map(Drop::name);
                Done::Stopped(all.into_iter().find(|name| *name == reason).unwrap())
            }
            _ => Done::Translated {
                backend: u32::try_from(said["backend"]["id"].as_u64().unwrap()).unwrap(),
                source: match said["source"].as_str().unwrap() {
                    "kept" => flow.source,
                    text => addr(text.split([',', ':']).next().unwrap()),
                },
            },
        };
        assert_eq!(expected, done, "{hook:?} {flow}\n{said:#}");
        said
    }

    /// Changes a backend's flags or generation.
    fn change_backend(&mut self, id: u32, change: impl FnOnce(&mut Backend)) {
        let mut backends = self.node.array::<Backend>(maps::BACKENDS);
        let mut backend = backends.get(&id, 0).unwrap();
        change(&mut backend);
        backends.set(id, backend, 0).unwrap();
    }
}

fn load(node: &mut Node, name: &str) {
    let program = node.ebpf.program_mut(name).unwrap();
    let program: &mut SchedClassifier = program.try_into().unwrap();
    for _ in 0..5 {
        match program.load() {
            // A signal interrupts the verifier.
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == ErrorKind::WouldBlock => {}
            loaded => return loaded.unwrap(),
        }
    }
    panic!("{name} is interrupted again and again");
}

/// The first packet of a conversation, as Ethernet from and to addresses of zeros, which are a loopback device's.
fn packet(flow: &Flow) -> Vec<u8> {
    let is_tcp = flow.protocol == Protocol::TCP;
    let mut packet = vec![0; 12];
    packet.extend([0x08, 0x00]);
    let length: u16 = if is_tcp { 40 } else { 28 };
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 0, 0, 0, 64, flow.protocol.number(), 0, 0]);
    for address in [flow.source, flow.destination] {
        header.extend(address.v4_word().to_ne_bytes());
    }
    let words = header
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(header);
    packet.extend(flow.source_port.number().to_be_bytes());
    packet.extend(flow.destination_port.number().to_be_bytes());
    if is_tcp {
        // Sequence and acknowledgment, five words of header, SYN, a window.
        packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    } else {
        packet.extend([0, 8, 0, 0]);
    }
    packet
}

fn flow(client: &str, port: u16, to: &str, to_port: u16, protocol: Protocol) -> Flow {
    let end = |text, port| (addr(text), Port::new(port));
    Flow::new(end(client, port), end(to, to_port), protocol)
}

fn tcp(client: &str, port: u16, to: &str, to_port: u16) -> Flow {
    flow(client, port, to, to_port, Protocol::TCP)
}

/// In a network namespace of its own, where nothing leads anywhere.
fn alone(test: fn(&mut World)) {
    if !is_root() {
        return;
    }
    let test = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test(&mut World::new());
    });
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn every_service_is_traced_as_the_programs_treat_it() {
    alone(|world| {
        for hook in [Hook::Ingress, Hook::Pod] {
            for service in 1..=7u8 {
                let vip = format!("10.96.0.{service}");
                let balancer = format!("203.0.113.{service}");
                let node_port = 30_000 + u16::from(service);
                // A client in the ranges, one that is not, and one that is a backend; with ports that may be kept and not.
                for (client, port) in [
                    ("198.51.100.9", 40_000),
                    ("203.0.113.200", 62_000),
                    ("10.244.1.5", 40_001),
                ] {
                    world.check(hook, &tcp(client, port, &vip, 80));
                    world.check(hook, &tcp(client, port, &balancer, 80));
                    world.check(hook, &tcp(client, port, "192.0.2.1", node_port));
                }
                world.check(hook, &tcp("198.51.100.9", 1, &vip, 81));
                world.check(hook, &tcp("198.51.100.9", 1, "192.0.2.2", node_port));
            }
        }
    });
}

#[test]
fn a_tracked_connection_is_traced_as_the_programs_treat_it() {
    alone(|world| {
        let flow = tcp("198.51.100.9", 40_000, "10.96.0.1", 80);
        let said = world.check(Hook::Ingress, &flow);
        let backend = said["backend"]["id"].as_u64().unwrap();
        let said = world.check(Hook::Ingress, &flow);
        assert_eq!(said["tracked"]["course"], "continue");
        let first = u32::try_from(backend).unwrap();
        world.change_backend(first, |backend| backend.flags &= !Backend::SERVING);
        let said = world.check(Hook::Ingress, &flow);
        assert_eq!(said["tracked"]["course"], "continue", "TCP stays");
        world.change_backend(first, |backend| backend.generation += 1);
        let said = world.check(Hook::Ingress, &flow);
        assert_eq!(said["tracked"]["course"], "begin");

        let mut connections = world.node.hash::<Flow, Connection>(maps::CONNTRACK);
        let mut foreign = connections.get(&flow, 0).unwrap();
        foreign.flags = Connection::FOREIGN;
        connections.insert(flow, foreign, 0).unwrap();
        let said = world.check(Hook::Ingress, &flow);
        assert_eq!(said["tracked"]["course"], "foreign");
    });
}

#[test]
fn a_udp_flow_is_traced_as_the_programs_treat_it() {
    alone(|world| {
        let flow = flow("198.51.100.9", 40_000, "10.96.0.5", 80, Protocol::UDP);
        let key = abi::FrontendKey::new(flow.destination, flow.destination_port, Protocol::UDP);
        let frontend = abi::Frontend::new(5, Kind::CLUSTER_IP);
        let mut frontends = world.node.hash(maps::FRONTENDS);
        frontends.insert(key, frontend, 0).unwrap();
        let said = world.check(Hook::Ingress, &flow);
        let first = said["backend"]["id"].as_u64().unwrap();
        let other = 13 - first;
        // The daemon would take it out of the run too.
        let table = world.node.add_run(&[u32::try_from(other).unwrap()]);
        world.node.set_service(5, table, table, Service::MAGLEV);
        let said = world.check(Hook::Ingress, &flow);
        assert_eq!(said["tracked"]["course"], "continue", "it still serves");
        assert_eq!(said["backend"]["id"], first);
        let id = u32::try_from(first).unwrap();
        world.change_backend(id, |backend| backend.flags &= !Backend::SERVING);
        let said = world.check(Hook::Ingress, &flow);
        assert_eq!(said["tracked"]["course"], "move");
        assert_eq!(said["backend"]["id"], other);
    });
}

#[test]
fn affinity_is_traced_as_the_programs_treat_it() {
    alone(|world| {
        let mut port = 40_000;
        for backend in [8, 9] {
            for (ago, text) in [(10, "held to backend"), (200, "does not count")] {
                for _ in 0..4 {
                    port += 1;
                    world.stick(backend, ago);
                    let flow = tcp("198.51.100.9", port, "10.96.0.6", 80);
                    let said = world.check(Hook::Ingress, &flow);
                    let affinity = said["affinity"].as_str().unwrap();
                    assert!(affinity.contains(text), "{affinity}");
                }
            }
        }
        let said = world.check(Hook::Ingress, &tcp("198.51.100.8", 1, "10.96.0.6", 80));
        assert!(said["affinity"].as_str().unwrap().contains("none yet"));
    });
}

#[test]
fn a_trace_says_why_each_backend_is_chosen_or_not() {
    alone(|world| {
        let (said, code) = world
            .node
            .json(&["trace", "10.0.0.1:40000", "192.0.2.1:30001"]);
        assert_eq!(code, 0);
        assert_eq!(said["from"], "outside");
        assert_eq!(said["fromIsGuessed"], true);
        assert_eq!(said["rule"], "node-port");
        assert_eq!(said["service"]["name"], "default/plain");
        let backends = said["backends"].as_array().unwrap();
        let chosen = backends.iter().filter(|backend| backend["chosen"] == true);
        assert_eq!(chosen.count(), 1);
        assert_eq!(backends[2]["because"], "not serving");

        let (said, code) = world
            .node
            .json(&["trace", "10.0.0.1:40000", "192.0.2.1:30003"]);
        assert_eq!(code, 4);
        assert_eq!(said["set"], "local");
        assert_eq!(said["setBecause"], "externalTrafficPolicy is Local");
        assert_eq!(said["reason"], "no-policy-backend");
        let because = "on another node, and only this node's may be used";
        assert_eq!(said["backends"][0]["because"], because);
    });
}

#[test]
fn sockets_get_one_of_the_set_and_pods_are_judged_at_their_device_where_ranges_matter() {
    alone(|world| {
        let trace = |arguments: &[&str]| world.node.json(&[&["trace"], arguments].concat());
        let (said, _) = trace(&["192.0.2.1:1", "10.96.0.1:80"]);
        assert_eq!(said["from"], "node");
        assert_eq!(said["hook"], "connect");
        assert_eq!(said["verdict"], "random");
        let in_set = |backend: &&Value| backend["inSet"] == true;
        assert_eq!(
            said["backends"]
                .as_array()
                .unwrap()
                .iter()
                .filter(in_set)
                .count(),
            2
        );
        let (said, _) = trace(&["10.244.1.5:1", "203.0.113.3:80"]);
        assert_eq!(said["from"], "pod");
        assert_eq!(
            said["set"], "cluster",
            "a client on this node is not bound by it"
        );
        let (said, code) = trace(&["10.244.1.5:1", "203.0.113.4:80"]);
        assert_eq!(
            (&said["hook"], &said["reason"]),
            (&"pod_ingress".into(), &"source-range".into())
        );
        assert_eq!(code, 4);
        let (said, code) = trace(&["192.0.2.1:1", "203.0.113.4:80"]);
        assert_eq!(said["hook"], "connect");
        assert_eq!(said["inSourceRanges"], false);
        assert_eq!(code, 4);
        let text = world.node.text(&["trace", "192.0.2.1:1", "10.96.0.1:80"]);
        assert!(
            text.contains("verdict one of 2 backends at random\n"),
            "{text}"
        );
    });
}
