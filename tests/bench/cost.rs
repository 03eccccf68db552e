//! What the programs take for one packet, by each way through them: runs of `BPF_PROG_TEST_RUN` with the maps as a
//! daemon has filled them.
//!
//! Each run gets a fresh packet, since a translated one would take another way the second time. A single run's time
//! includes measuring it, which the ways of frames without IP show.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::{Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use dataplane_ebpf::{Hook, OBJECT, PROGRAMS};

use crate::daemon::{Daemon, Setting};
use crate::frames::{ACK, End, SYN, not_ip, tcp};
use crate::kernel;
use crate::namespace::Namespace;
use crate::objects::{Cluster, PORT, Real, TARGET};
use crate::report::{Cell, Figure, Table};
use crate::sandbox::Sandbox;

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const HERE: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 2);
/// A pod of this node that is a client.
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 9);

/// In the range of ports that are kept when a client's address is replaced, so that replies are known to come there.
const KNOWN: u16 = 64_000;
/// The first port of connections that are new.
const NEW: u16 = 61_000;
/// A port that the kernel's own stack would answer.
const OTHER: u16 = 22;

/// Rounds in which the ways take turns, and runs of each way in a round.
struct Scale {
    services: u32,
    rounds: u16,
    runs: u16,
}

const FULL: Scale = Scale {
    services: 10_000,
    rounds: 10,
    runs: 100,
};

const QUICK: Scale = Scale {
    services: 100,
    rounds: 3,
    runs: 50,
};

/// A way through the programs, and the packets that take it.
struct Way {
    program: &'static str,
    name: &'static str,
    /// The packet of a run, given a number that no other run has.
    packet: Box<dyn Fn(u16) -> Vec<u8> + Send + Sync>,
    samples: Vec<f64>,
}

struct World {
    programs: Ebpf,
    node: Namespace,
    uplink: u32,
    pod: u32,
}

pub(crate) fn measure(sandbox: &Sandbox, quick: bool) -> Result<Vec<Table>> {
    let scale = if quick { &QUICK } else { &FULL };
    let real = |endpoint, are_here| Real {
        endpoints: vec![endpoint],
        are_here,
    };
    let cluster = Cluster {
        services: scale.services,
        endpoints: 1,
        real: vec![real(ELSEWHERE, false), real(HERE, true)],
        protocol: "tcp",
        node_ports: true,
    };
    let node = Namespace::create()?;
    connect(&node)?;
    let cgroup = sandbox.cgroup("cost")?;
    let setting = Setting {
        name: "cost",
        namespace: &node,
        address: NODE,
        cgroup: &cgroup,
        cluster: &cluster,
        at_driver: true,
    };
    let mut daemon = Daemon::start(sandbox, &setting)?;
    daemon.wait(&cluster)?;
    let world = World::load(node, &daemon.pins)?;
    let mut ways = ways(&cluster)?;
    world.open(&cluster)?;
    for round in 0..scale.rounds {
        for way in &mut ways {
            world.run(way, round * scale.runs..(round + 1) * scale.runs)?;
        }
    }
    let note = format!(
        "`measure l4 cost`: `BPF_PROG_TEST_RUN` with TCP over IPv4 and {} Services, {} single runs each; median (5 % were \
         faster, 5 % slower). \"Net\" is without what a run of the same program takes for a frame that is not IP.",
        scale.services,
        scale.rounds * scale.runs
    );
    Ok(vec![table(note, &ways)])
}

/// A node with an uplink and a device towards pods; its neighbours are known.
fn connect(node: &Namespace) -> Result<()> {
    node.set("ipv4/ip_forward", "1")?;
    node.ip(&format!(
        "link add uplink address 02:00:00:00:00:01 type veth peer name wire address 02:00:00:00:00:02
         link set wire up
         link set uplink up
         addr add {NODE}/24 dev uplink
         neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev uplink nud permanent
         neigh add 192.0.2.254 lladdr 02:00:00:00:00:02 dev uplink nud permanent
         route add default via 192.0.2.254
         route add 10.244.2.0/24 via 192.0.2.2
         link add to-pod type veth peer name eth0
         link set eth0 up
         link set to-pod up
         addr add 10.244.1.1/24 dev to-pod
         neigh add {HERE} lladdr 02:00:00:00:00:05 dev to-pod nud permanent
         neigh add {POD} lladdr 02:00:00:00:00:06 dev to-pod nud permanent"
    ))
}

/// All ways, in the order of the table.
fn ways(cluster: &Cluster) -> Result<Vec<Way>> {
    let port = |number| cluster.node_port(number).context("a node port");
    let (elsewhere, here) = (port(cluster.real())?, port(cluster.real() + 1)?);
    let (elsewhere, here) = ((NODE, elsewhere), (NODE, here));
    let ip = cluster.cluster_ip(cluster.real());
    let client = (CLIENT, KNOWN);
    let pod = (POD, KNOWN);
    let mut ways = Vec::new();
    let mut add = |program, name, packet: Box<dyn Fn(u16) -> Vec<u8> + Send + Sync>| {
        ways.push(Way {
            program,
            name,
            packet,
            samples: Vec::new(),
        });
    };
    let known = |from: End, to: End| Box::new(move |_| tcp(from, to, ACK));
    let new = |from: Ipv4Addr, to: End| Box::new(move |run| tcp((from, NEW + run), to, SYN));
    for program in ["driver", "ingress"] {
        add(program, "not IP", Box::new(|_| not_ip()));
        add(program, "none of ours", known(client, (NODE, OTHER)));
        add(
            program,
            "request, backend elsewhere",
            known(client, elsewhere),
        );
        add(
            program,
            "reply, backend elsewhere",
            known((ELSEWHERE, TARGET), (NODE, KNOWN)),
        );
        // Packets of one port each, so that those of the driver are not known at the device.
        let other = if program == "driver" {
            CLIENT
        } else {
            Ipv4Addr::new(198, 51, 100, 8)
        };
        add(
            program,
            "new connection, backend elsewhere",
            new(other, elsewhere),
        );
    }
    add("ingress", "request, backend here", known(client, here));
    add("ingress", "new connection, backend here", new(CLIENT, here));
    add(
        "ingress",
        "refused with a reset",
        new(CLIENT, (ip, PORT + 1)),
    );
    add("egress", "not IP", Box::new(|_| not_ip()));
    add("egress", "none of ours", known((NODE, OTHER), client));
    add(
        "egress",
        "reply, backend here",
        known((HERE, TARGET), client),
    );
    add("pod_ingress", "not IP", Box::new(|_| not_ip()));
    add("pod_ingress", "none of ours", known(pod, (CLIENT, OTHER)));
    add(
        "pod_ingress",
        "request, backend elsewhere",
        known(pod, (ip, PORT)),
    );
    add(
        "pod_ingress",
        "new connection, backend elsewhere",
        new(POD, (ip, PORT)),
    );
    Ok(ways)
}

impl World {
    /// Loads the programs once more, with the maps that the daemon has filled.
    fn load(node: Namespace, pins: &Path) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        let directory = kernel::directory(pins);
        let entries = fs::read_dir(&directory)?.collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> = entries
            .iter()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        for name in &names {
            loader.map_pin_path(name, directory.join(name));
        }
        let mut programs = loader.load(OBJECT).context("loading the programs")?;
        for program in PROGRAMS {
            let loaded = programs.program_mut(program.name).context("a program")?;
            match program.hook {
                Hook::Ingress | Hook::Egress | Hook::Pod => {
                    patiently(|| <&mut SchedClassifier>::try_from(&mut *loaded)?.load())?;
                }
                Hook::Xdp => patiently(|| <&mut Xdp>::try_from(&mut *loaded)?.load())?,
                Hook::SocketAddress | Hook::Socket => {}
            }
        }
        let index = |device| node.run(|| nix::net::if_::if_nametoindex(device));
        let (uplink, pod) = (index("uplink")?, index("to-pod")?);
        Ok(Self {
            programs,
            node,
            uplink,
            pod,
        })
    }

    /// Opens the connections that are to be known.
    fn open(&self, cluster: &Cluster) -> Result<()> {
        let port = |number| cluster.node_port(number).context("a node port");
        let ip = cluster.cluster_ip(cluster.real());
        for (program, packet) in [
            (
                "ingress",
                tcp((CLIENT, KNOWN), (NODE, port(cluster.real())?), SYN),
            ),
            (
                "ingress",
                tcp((CLIENT, KNOWN), (NODE, port(cluster.real() + 1)?), SYN),
            ),
            ("pod_ingress", tcp((POD, KNOWN), (ip, PORT), SYN)),
        ] {
            self.node.run(|| self.test(program, &packet))?;
        }
        Ok(())
    }

    /// Runs a way's program for each of the numbers.
    fn run(&self, way: &mut Way, numbers: std::ops::Range<u16>) -> Result<()> {
        let times = self.node.run(|| {
            numbers
                .map(|number| self.test(way.program, &(way.packet)(number)))
                .collect::<Result<Vec<f64>>>()
        })?;
        way.samples.extend(times);
        Ok(())
    }

    /// One run, in nanoseconds.
    fn test(&self, program: &str, packet: &[u8]) -> Result<f64> {
        let device = if program == "pod_ingress" {
            self.pod
        } else {
            self.uplink
        };
        let mut context = [0u8; 192];
        let mut put = |at: usize, word: u32| {
            context[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        };
        let loaded = self.programs.program(program).context("a program")?;
        let length = match loaded {
            Program::Xdp(_) => {
                // `struct xdp_md`: the end of the data, and the device.
                put(4, u32::try_from(packet.len())?);
                put(12, device);
                24
            }
            _ => {
                // `struct __sk_buff`, whose eleventh word is the device.
                put(40, device);
                192
            }
        };
        let mut out = vec![0; packet.len() + 256];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&context[..length]),
            ..TestRunOptions::new()
        };
        let result = match loaded {
            Program::Xdp(loaded) => loaded.test_run(options),
            Program::SchedClassifier(loaded) => loaded.test_run(options),
            _ => anyhow::bail!("{program} is no program for packets"),
        };
        let result = result.with_context(|| format!("running {program}"))?;
        Ok(result.duration.as_nanos() as f64)
    }
}

/// A signal interrupts the verifier with EAGAIN.
fn patiently(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<()> {
    for _ in 0..4 {
        if load().is_ok() {
            return Ok(());
        }
    }
    Ok(load()?)
}

fn table(note: String, ways: &[Way]) -> Table {
    let mut table = Table::new(
        "Nanoseconds a packet",
        note,
        &["program", "packet", "ns", "net"],
    );
    let figure = |way: &Way| Figure::of(way.samples.iter().copied()).within(0.9);
    for way in ways {
        let own = figure(way);
        let empty = ways.iter().find(|other| other.program == way.program);
        let net = empty.map_or(f64::NAN, |empty| own.median() - figure(empty).median());
        table.add(vec![
            way.program.into(),
            way.name.into(),
            Cell::Figure(own, 0),
            Cell::Number(net, 0),
        ]);
    }
    table
}
