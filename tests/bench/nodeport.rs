//! Packets of clients outside to a node port whose backend is on another node: what the node's processor can send on.
//!
//! ```text
//!   generator ── wire ═══ uplink, the node 192.0.2.1
//! ```
//!
//! Client and backend are both behind the wire, so what comes in by the uplink leaves by it. The generator is a program in
//! the kernel that puts frames on the wire on one processor; the same processor then does the node's work, and drops and
//! counts what comes back. So the time between two packets is all that one costs, generator and sink included; "dropped"
//! shows how much of it those take.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::Namespace;

use crate::daemon::{Daemon, Setting};
use crate::frames;
use crate::objects::{Cluster, Real};
use crate::report::{Cell, Figure, Table};
use crate::rules::Mode;
use crate::sandbox::Sandbox;
use crate::traffic;
use crate::xdp::{self, Count, Link, Program, Verdict};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const BACKENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 2, 2), Ipv4Addr::new(10, 244, 2, 3)];
/// Services with a node port, as many for all: a packet of a known flow meets only its connection.
const SERVICES: u32 = 1_000;
/// Frames that are put on the wire at once, which is as many as a device's driver takes in at once.
const BATCH: u32 = 64;
/// Frames sent by one system call.
const REPEAT: u32 = 1 << 16;

struct Scale {
    rounds: usize,
    time: Duration,
}

const FULL: Scale = Scale {
    rounds: 9,
    time: Duration::from_millis(400),
};

const QUICK: Scale = Scale {
    rounds: 3,
    time: Duration::from_millis(100),
};

/// What the node does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Drops it in the driver.
    Dropped,
    /// Sends it back from the driver as it is.
    Reflected,
    /// Our program at the driver.
    Driver,
    /// Without it, our programs behind the driver.
    Device,
    Rules(Mode),
}

struct Contestant {
    way: Way,
    generator: Program,
    wire: Namespace,
    count: Count,
    /// Nanoseconds a packet, one figure a round.
    samples: Vec<f64>,
    /// The share of packets that came back.
    back: Vec<f64>,
    _uplink: Option<Link>,
    _sink: Link,
    _node: Namespace,
    _daemon: Option<Daemon>,
}

pub(crate) fn measure(sandbox: &Sandbox, quick: bool) -> Result<Vec<Table>> {
    let scale = if quick { &QUICK } else { &FULL };
    let mut note = format!(
        "`measure l4 nodeport`: UDP over IPv4 in frames of 60 bytes from {} ports to one of {SERVICES} node ports whose \
         backends are on another node, on one processor; {} rounds in which the contestants take turns, {} ms each; median \
         (minimum–maximum).",
        xdp::FLOWS,
        scale.rounds,
        scale.time.as_millis()
    );
    let mut ways = vec![Way::Dropped, Way::Reflected, Way::Driver, Way::Device];
    for mode in [Mode::Nftables, Mode::Iptables] {
        match mode.missing() {
            None => ways.push(Way::Rules(mode)),
            Some(missing) => note += &format!(" No {} here: {missing}.", mode.name()),
        }
    }
    let contestants = ways.into_iter().map(|way| Contestant::create(sandbox, way));
    let mut contestants = contestants.collect::<Result<Vec<_>>>()?;
    for round in 0..=scale.rounds {
        for contestant in &mut contestants {
            // The first round opens the flows.
            contestant.measure(scale.time, round > 0)?;
        }
    }
    Ok(vec![table(note, &contestants)])
}

impl Way {
    fn name(self) -> String {
        match self {
            Self::Dropped => "dropped by XDP".to_owned(),
            Self::Reflected => "reflected by XDP".to_owned(),
            Self::Driver => "Portolan, XDP".to_owned(),
            Self::Device => "Portolan, tc".to_owned(),
            Self::Rules(mode) => mode.name().to_owned(),
        }
    }

    /// The program that takes the place at the uplink's driver. One that passes everything on makes the device read
    /// frames as a network card's driver does.
    fn at_driver(self) -> Option<Verdict> {
        match self {
            Self::Dropped => Some(Verdict::Drop),
            Self::Reflected => Some(Verdict::Transmit),
            Self::Driver => None,
            Self::Device | Self::Rules(_) => Some(Verdict::Pass),
        }
    }
}

impl Contestant {
    fn create(sandbox: &Sandbox, way: Way) -> Result<Self> {
        let name = format!("nodeport-{}", way.name());
        let cluster = Cluster {
            services: SERVICES,
            endpoints: BACKENDS.len() as u32,
            real: vec![Real {
                endpoints: BACKENDS.to_vec(),
                are_here: false,
            }],
            protocol: "udp",
            node_ports: true,
        };
        let [wire, node] = [Namespace::create()?, Namespace::create()?];
        connect(&wire, &node)?;
        let pins = sandbox.bpffs(&format!("{name}.xdp"))?;
        let (sink, count) = xdp::sink(&pins.join("count"))?;
        let sink = sink.attach(&wire, "wire")?;
        let uplink = way
            .at_driver()
            .map(|verdict| xdp::always(verdict)?.attach(&node, "uplink"))
            .transpose()?;
        let mut daemon = None;
        match way {
            Way::Dropped | Way::Reflected => {}
            Way::Rules(mode) => mode.install(&node, &cluster, &NODE.to_string())?,
            Way::Driver | Way::Device => {
                let setting = Setting {
                    name: &name,
                    namespace: &node,
                    address: NODE,
                    cgroup: &sandbox.cgroup(&name)?,
                    cluster: &cluster,
                    at_driver: way == Way::Driver,
                };
                let mut started = Daemon::start(sandbox, &setting)?;
                started.wait(&cluster)?;
                daemon = Some(started);
            }
        }
        let port = cluster.node_port(cluster.real()).context("a node port")?;
        let frame = frames::udp((CLIENT, 0), (NODE, port));
        let device = wire.run(|| nix::net::if_::if_nametoindex("wire"))?;
        Ok(Self {
            way,
            generator: xdp::generator(&frame, device)?,
            wire,
            count,
            samples: Vec::new(),
            back: Vec::new(),
            _uplink: uplink,
            _sink: sink,
            _node: node,
            _daemon: daemon,
        })
    }

    fn measure(&mut self, time: Duration, counts: bool) -> Result<()> {
        let [processor, _] = traffic::processors()?;
        let (generator, before) = (&self.generator, self.count.get()?);
        let (sent, spent) = self.wire.run(|| {
            traffic::pin(processor)?;
            let begun = Instant::now();
            let mut sent = 0.0;
            while begun.elapsed() < time {
                // The program writes the frame; this only says how long it is.
                generator.run(&[0; 60], REPEAT, BATCH)?;
                sent += f64::from(REPEAT);
            }
            Ok::<_, anyhow::Error>((sent, begun.elapsed()))
        })?;
        ensure!(
            self.way == Way::Dropped || self.count.get()? > before,
            "{}: of {sent} packets none came back",
            self.way.name()
        );
        if counts {
            let back = (self.count.get()? - before) as f64;
            // Of what is dropped, nothing comes back, and what is lost was not sent on.
            let done = if self.way == Way::Dropped { sent } else { back };
            self.samples.push(spent.as_nanos() as f64 / done);
            self.back.push(100.0 * back / sent);
        }
        Ok(())
    }
}

fn connect(wire: &Namespace, node: &Namespace) -> Result<()> {
    let to_wire = wire.path();
    node.ip(&format!(
        "link add uplink address 02:00:00:00:00:01 type veth peer name wire address 02:00:00:00:00:02 netns {to_wire}
         link set uplink up
         addr add {NODE}/24 dev uplink
         neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev uplink nud permanent
         neigh add 192.0.2.254 lladdr 02:00:00:00:00:02 dev uplink nud permanent
         route add default via 192.0.2.254
         route add 10.244.2.0/24 via 192.0.2.2"
    ))?;
    wire.ip("link set wire up")?;
    for (variable, value) in [
        ("ip_forward", "1"),
        // What leaves the way it came is meant to.
        ("conf/all/send_redirects", "0"),
        ("conf/uplink/send_redirects", "0"),
        ("conf/all/rp_filter", "0"),
        ("conf/uplink/rp_filter", "0"),
    ] {
        node.set(&format!("ipv4/{variable}"), value)?;
    }
    Ok(())
}

fn table(note: String, contestants: &[Contestant]) -> Table {
    let mut table = Table::new(
        "Packets to a node port with its backend on another node",
        note,
        &[
            "node",
            "million packets/s",
            "ns/packet",
            "of it the node's",
            "rate to nftables'",
            "rate to the reflector's",
            "came back, %",
        ],
    );
    let of = |way: Way| contestants.iter().find(|contestant| contestant.way == way);
    for contestant in contestants {
        let samples = &contestant.samples;
        // Rates are to each other as times the other way round.
        let ratio = |way: Way| match of(way) {
            Some(other) => Cell::Figure(Figure::ratios(&other.samples, samples), 2),
            None => "–".into(),
        };
        let own = of(Way::Dropped).map(|dropped| {
            let both = samples.iter().zip(&dropped.samples);
            Figure::of(both.map(|(all, rest)| all - rest))
        });
        let rates = samples.iter().map(|nanoseconds| 1e3 / nanoseconds);
        table.add(vec![
            contestant.way.name().into(),
            Cell::Figure(Figure::of(rates), 2),
            Cell::Figure(Figure::of(samples.iter().copied()), 0),
            own.map_or("–".into(), |own| Cell::Figure(own, 0)),
            ratio(Way::Rules(Mode::Nftables)),
            ratio(Way::Reflected),
            Cell::Number(Figure::of(contestant.back.iter().copied()).median(), 1),
        ]);
    }
    table
}
