//! Pods that connect to a cluster IP: what a connection costs to make and to use, against no service at all and against
//! kube-proxy's rules.
//!
//! ```text
//!   client pod 10.244.0.2 ── node ── server pod 10.244.1.2, also 10.244.1.3
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use harness::Namespace;

use crate::daemon::{Daemon, Setting};
use crate::objects::{Cluster, PORT, Real, TARGET};
use crate::report::{Cell, Figure, Table};
use crate::rules::Mode;
use crate::sandbox::Sandbox;
use crate::traffic::{self, Kind};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ENDPOINTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 1, 2), Ipv4Addr::new(10, 244, 1, 3)];

struct Scale {
    ours: &'static [u32],
    theirs: &'static [u32],
    rounds: usize,
    time: Duration,
}

const FULL: Scale = Scale {
    ours: &[1, 10_000, 100_000],
    theirs: &[1, 1_000, 10_000],
    rounds: 9,
    time: Duration::from_millis(250),
};

const QUICK: Scale = Scale {
    ours: &[1, 1_000],
    theirs: &[1, 100],
    rounds: 3,
    time: Duration::from_millis(50),
};

/// How a service is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Not at all: the client connects to the pod.
    Direct,
    Ours,
    Rules(Mode),
}

/// A node with two pods and one way to make services.
struct Contestant {
    name: String,
    client: Namespace,
    cgroup: PathBuf,
    target: SocketAddr,
    /// By [`Kind`], a figure a round.
    samples: [Vec<f64>; 4],
    _node: Namespace,
    _server: Namespace,
    _daemon: Option<Daemon>,
}

pub(crate) fn measure(sandbox: &Sandbox, quick: bool) -> Result<Vec<Table>> {
    let scale = if quick { &QUICK } else { &FULL };
    let mut note = format!(
        "`measure l4 clusterip`: TCP over IPv4 between two pods of one node; {} rounds in which the contestants take turns, \
         {} ms a figure; the ratio to \"direct\" of the same round, median (minimum–maximum). Rates are per second of \
         processor time, client's and server's together, on one processor; throughput is per second, on two.",
        scale.rounds,
        scale.time.as_millis()
    );
    let mut contestants = vec![Contestant::create(sandbox, Way::Direct, 1)?];
    for services in scale.ours {
        contestants.push(Contestant::create(sandbox, Way::Ours, *services)?);
    }
    for mode in [Mode::Nftables, Mode::Iptables] {
        if let Some(missing) = mode.missing() {
            note += &format!(" No {} here: {missing}.", mode.name());
            continue;
        }
        for services in scale.theirs {
            contestants.push(Contestant::create(sandbox, Way::Rules(mode), *services)?);
        }
    }
    for round in 0..=scale.rounds {
        for contestant in &mut contestants {
            // The first round warms up.
            contestant.measure(sandbox, scale.time, round > 0)?;
        }
    }
    Ok(vec![table(note, &contestants)])
}

impl Contestant {
    fn create(sandbox: &Sandbox, way: Way, services: u32) -> Result<Self> {
        let cluster = Cluster {
            services,
            endpoints: ENDPOINTS.len() as u32,
            real: vec![Real {
                endpoints: ENDPOINTS.to_vec(),
                are_here: true,
            }],
            protocol: "tcp",
            node_ports: false,
        };
        let name = match way {
            Way::Direct => "direct".to_owned(),
            Way::Ours => format!("Portolan, {services}"),
            Way::Rules(mode) => format!("{}, {services}", mode.name()),
        };
        let cgroup = sandbox.cgroup(&name)?;
        let [client, node, server] = [
            Namespace::create()?,
            Namespace::create()?,
            Namespace::create()?,
        ];
        connect(&client, &node, &server)?;
        traffic::serve(&server, TARGET)?;
        let mut daemon = None;
        match way {
            Way::Direct => {}
            Way::Rules(mode) => mode.install(&node, &cluster, &NODE.to_string())?,
            Way::Ours => {
                let setting = Setting {
                    name: &name,
                    namespace: &node,
                    address: NODE,
                    cgroup: &cgroup,
                    cluster: &cluster,
                    at_driver: false,
                };
                let mut started = Daemon::start(sandbox, &setting)?;
                started.wait(&cluster)?;
                daemon = Some(started);
            }
        }
        let target = match way {
            Way::Direct => (ENDPOINTS[0], TARGET),
            _ => (cluster.cluster_ip(cluster.real()), PORT),
        };
        Ok(Self {
            name,
            client,
            cgroup,
            target: target.into(),
            samples: Default::default(),
            _node: node,
            _server: server,
            _daemon: daemon,
        })
    }

    fn measure(&mut self, sandbox: &Sandbox, time: Duration, counts: bool) -> Result<()> {
        sandbox.enter(&self.cgroup)?;
        for kind in Kind::ALL {
            let figure = self
                .client
                .run(|| traffic::measure(kind, self.target, time))?;
            if counts {
                self.samples[kind as usize].push(figure);
            }
        }
        Ok(())
    }
}

fn connect(client: &Namespace, node: &Namespace, server: &Namespace) -> Result<()> {
    let (to_client, to_server) = (client.path(), server.path());
    node.set("ipv4/ip_forward", "1")?;
    node.ip(&format!(
        "link add uplink type veth peer name wire
         link set wire up
         link set uplink up
         addr add {NODE}/24 dev uplink
         route add default via 192.0.2.254
         link add to-client type veth peer name eth0 netns {to_client}
         link add to-server type veth peer name eth0 netns {to_server}
         link set to-client up
         link set to-server up
         addr add 10.244.0.1/24 dev to-client
         addr add 10.244.1.1/24 dev to-server"
    ))?;
    client.ip("link set eth0 up
         addr add 10.244.0.2/24 dev eth0
         route add default via 10.244.0.1")?;
    server.ip(&format!(
        "link set eth0 up
         addr add {}/24 dev eth0
         addr add {}/32 dev eth0
         route add default via 10.244.1.1",
        ENDPOINTS[0], ENDPOINTS[1]
    ))
}

fn table(note: String, contestants: &[Contestant]) -> Table {
    let mut table = Table::new(
        "Connections of pods to a cluster IP",
        note,
        &[
            "services",
            "connect + close",
            "connect + request + close",
            "requests/s on a connection",
            "throughput",
            "connects/s",
            "requests/s",
            "Gbit/s",
        ],
    );
    let Some(direct) = contestants.first() else {
        return table;
    };
    for contestant in contestants {
        let ratio = |kind: Kind| {
            let (own, other) = (
                &contestant.samples[kind as usize],
                &direct.samples[kind as usize],
            );
            Cell::Figure(Figure::ratios(own, other), 2)
        };
        let plain = |kind: Kind, decimals| {
            let samples = &contestant.samples[kind as usize];
            Cell::Number(Figure::of(samples.iter().copied()).median(), decimals)
        };
        table.add(vec![
            contestant.name.as_str().into(),
            ratio(Kind::Connect),
            ratio(Kind::Request),
            ratio(Kind::Exchange),
            ratio(Kind::Throughput),
            plain(Kind::Connect, 0),
            plain(Kind::Exchange, 0),
            plain(Kind::Throughput, 1),
        ]);
    }
    table
}
