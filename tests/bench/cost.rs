//! What the programs take for one packet, by each way through them: runs of `BPF_PROG_TEST_RUN` with the maps as a
//! daemon has filled them.
//!
//! Each run gets a fresh packet, since a translated one would take another way the second time. A single run's time
//! includes measuring it, which the ways of frames without IP show.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use harness::Namespace;
use nix::net::if_::if_nametoindex;

use crate::daemon::{Daemon, Setting};
use crate::frames::{ACK, End, SYN, not_ip, tcp};
use crate::objects::{Cluster, PORT, Real, TARGET};
use crate::report::{Cell, Figure, Table};
use crate::sandbox::Sandbox;
use crate::test_run::{Programs, Run};

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

const NOT_IP: &str = "not IP";
const FOREIGN: &str = "none of ours";

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
    /// Whether it is another packet afterwards: translated, or answered.
    changes: bool,
    samples: Vec<f64>,
}

struct World {
    programs: Programs,
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
    let mut ways = ways(&cluster)?;
    node.run(|| {
        let world = World {
            programs: Programs::load(&daemon.pins)?,
            uplink: if_nametoindex("uplink")?,
            pod: if_nametoindex("to-pod")?,
        };
        world.open(&cluster)?;
        for round in 0..scale.rounds {
            for way in &mut ways {
                world.measure(way, round * scale.runs..(round + 1) * scale.runs)?;
            }
        }
        Ok::<_, anyhow::Error>(())
    })?;
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
            changes: !matches!(name, NOT_IP | FOREIGN),
            samples: Vec::new(),
        });
    };
    let known = |from: End, to: End| Box::new(move |_| tcp(from, to, ACK));
    let new = |from: Ipv4Addr, to: End| Box::new(move |run| tcp((from, NEW + run), to, SYN));
    for program in ["driver", "ingress"] {
        add(program, NOT_IP, Box::new(|_| not_ip()));
        add(program, FOREIGN, known(client, (NODE, OTHER)));
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
    add("egress", NOT_IP, Box::new(|_| not_ip()));
    add("egress", FOREIGN, known((NODE, OTHER), client));
    add(
        "egress",
        "reply, backend here",
        known((HERE, TARGET), client),
    );
    add("pod_ingress", NOT_IP, Box::new(|_| not_ip()));
    add("pod_ingress", FOREIGN, known(pod, (CLIENT, OTHER)));
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
    /// Opens the connections that are to be known.
    fn open(&self, cluster: &Cluster) -> Result<()> {
        let port = |number| cluster.node_port(number).context("a node port");
        let (elsewhere, here) = (port(cluster.real())?, port(cluster.real() + 1)?);
        let ip = cluster.cluster_ip(cluster.real());
        for (program, client, service) in [
            ("ingress", CLIENT, (NODE, elsewhere)),
            ("ingress", CLIENT, (NODE, here)),
            ("pod_ingress", POD, (ip, PORT)),
        ] {
            let opened = self.run(program, &tcp((client, KNOWN), service, SYN))?;
            ensure!(
                opened.changed,
                "{program} opens no connection to {service:?}"
            );
        }
        Ok(())
    }

    /// Runs a way's program for each of the numbers.
    fn measure(&self, way: &mut Way, numbers: std::ops::Range<u16>) -> Result<()> {
        for number in numbers {
            let run = self.run(way.program, &(way.packet)(number))?;
            ensure!(
                run.changed == way.changes,
                "{}: {} goes another way: changed {}",
                way.program,
                way.name,
                run.changed
            );
            way.samples.push(run.nanoseconds);
        }
        Ok(())
    }

    fn run(&self, program: &str, packet: &[u8]) -> Result<Run> {
        let device = if program == "pod_ingress" {
            self.pod
        } else {
            self.uplink
        };
        self.programs.run(program, device, packet)
    }
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
