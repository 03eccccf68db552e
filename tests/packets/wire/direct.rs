//! Direct server return between two real nodes: the client's packets pass the node they enter by, the answers do not.
//!
//! ```text
//!   client 172.30.0.1 ──bridge──┬── entry 172.30.0.11
//!                               └── node 172.30.0.12 ──── pod 10.244.2.6
//! ```

use dataplane_ebpf::abi::{Kind, Service};

use super::*;

const SERVICE: u32 = 1;
const PORT: u16 = 443;

/// A node with the dataplane on its uplink.
struct Host {
    namespace: Namespace,
    dataplane: Dataplane,
}

struct Cluster {
    client: Namespace,
    entry: Host,
    node: Host,
    pod: Namespace,
}

/// The addresses of one family: the client, the two nodes, the service and the pod.
struct Places {
    client: IpAddr,
    nodes: [IpAddr; 2],
    vip: IpAddr,
    pod: IpAddr,
}

fn places() -> [Places; 2] {
    [
        Places {
            client: ip("172.30.0.1"),
            nodes: [ip("172.30.0.11"), ip("172.30.0.12")],
            vip: ip("172.30.1.80"),
            pod: ip("10.244.2.6"),
        },
        Places {
            client: ip("fd00:172:30::1"),
            nodes: [ip("fd00:172:30::11"), ip("fd00:172:30::12")],
            vip: ip("fd00:172:31::80"),
            pod: ip("fd00:10:244:2::6"),
        },
    ]
}

impl Host {
    fn create(number: usize, place: Place) -> Result<Self> {
        let mut host = Self {
            namespace: Namespace::create()?,
            dataplane: Dataplane::load()?,
        };
        let [v4, v6] = places();
        host.dataplane.set_node(Node {
            source_v4: v4.nodes[number].into(),
            source_v6: v6.nodes[number].into(),
            seed: 42,
            first_port: 32768,
            last_port: 65535,
            ..Node::default()
        })?;
        for (family, p) in (0..).zip([v4, v6]) {
            for (id, protocol) in (family * 2 + SERVICE..).zip([Protocol::TCP, Protocol::UDP]) {
                host.publish(id, protocol, &p, place)?;
            }
        }
        Ok(host)
    }

    fn publish(&mut self, id: u32, protocol: Protocol, p: &Places, place: Place) -> Result<()> {
        let dataplane = &mut self.dataplane;
        dataplane.set_backend(id, (p.pod, TARGET), protocol, place)?;
        let run = dataplane.add_run(&[id])?;
        dataplane.set_service(id, run, run, Service::DSR)?;
        if place == Place::Here {
            dataplane.add_local_backend(id, id)?;
        }
        dataplane.add_frontend(id, Kind::LOAD_BALANCER, (p.vip, PORT), protocol)
    }

    fn attach(&mut self, hooks: &[(&str, TcAttachType, &str)]) -> Result<()> {
        let Self {
            namespace,
            dataplane,
        } = self;
        namespace.set("ipv4/ip_forward", "1")?;
        namespace.set("ipv6/conf/all/forwarding", "1")?;
        namespace.run(|| {
            for (name, side, device) in hooks {
                dataplane.attach(name, *side, device)?;
            }
            Ok(())
        })
    }

    /// The bytes that its uplink has received and sent.
    fn traffic(&self) -> (u64, u64) {
        let devices = self
            .namespace
            .run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))
            .expect("the kernel counts");
        let line = devices
            .lines()
            .find_map(|line| line.trim().strip_prefix("uplink:"))
            .expect("the device is there");
        let counts: Vec<u64> = line
            .split_whitespace()
            .map(|count| count.parse().expect("a number"))
            .collect();
        (counts[0], counts[8])
    }
}

impl Cluster {
    fn create() -> Result<Self> {
        let mut cluster = Self {
            client: Namespace::create()?,
            entry: Host::create(0, Place::Elsewhere)?,
            node: Host::create(1, Place::Here)?,
            pod: Namespace::create()?,
        };
        cluster.connect()?;
        let ingress = ("ingress", TcAttachType::Ingress, "uplink");
        let egress = ("egress", TcAttachType::Egress, "uplink");
        cluster.entry.attach(&[egress, ingress])?;
        cluster.node.attach(&[
            egress,
            ("egress", TcAttachType::Egress, "to-pod"),
            ("pod_ingress", TcAttachType::Ingress, "to-pod"),
            ingress,
        ])?;
        Ok(cluster)
    }

    fn connect(&self) -> Result<()> {
        let (entry, node) = (self.entry.namespace.path(), self.node.namespace.path());
        let pod = self.pod.path();
        self.client.ip(&format!(
            "link add wire type bridge
             link add to-entry type veth peer name uplink netns {entry}
             link add to-node type veth peer name uplink netns {node}
             link set to-entry master wire
             link set to-node master wire
             link set to-entry up
             link set to-node up
             link set wire up
             addr add 172.30.0.1/24 dev wire
             addr add fd00:172:30::1/64 dev wire nodad
             route add 172.30.1.80 via 172.30.0.11
             -6 route add fd00:172:31::80 via fd00:172:30::11"
        ))?;
        self.entry.namespace.ip("link set uplink up
             addr add 172.30.0.11/24 dev uplink
             addr add fd00:172:30::11/64 dev uplink nodad
             route add 10.244.2.0/24 via 172.30.0.12
             -6 route add fd00:10:244:2::/64 via fd00:172:30::12")?;
        self.node.namespace.ip(&format!(
            "link set uplink up
             addr add 172.30.0.12/24 dev uplink
             addr add fd00:172:30::12/64 dev uplink nodad
             link add to-pod type veth peer name eth0 netns {pod}
             link set to-pod up
             addr add 10.244.2.1/24 dev to-pod
             addr add fd00:10:244:2::1/64 dev to-pod nodad"
        ))?;
        self.pod.ip("link set eth0 up
             addr add 10.244.2.6/24 dev eth0
             addr add fd00:10:244:2::6/64 dev eth0 nodad
             route add default via 10.244.2.1
             -6 route add default via fd00:10:244:2::1")
    }
}

#[test]
fn answers_do_not_pass_the_node_that_the_client_addressed() {
    let _turn = take_turn();
    let cluster = Cluster::create().expect("the machines can be made");
    for p in places() {
        let there = (p.pod, [(p.vip, PORT).into(); 2]);
        let before = cluster.entry.traffic();
        // Twice two megabytes each way.
        talk(&cluster.client, &cluster.pod, there, p.client);
        let after = cluster.entry.traffic();
        for passed in [after.0 - before.0, after.1 - before.1] {
            assert!(
                (4_000_000..5_000_000).contains(&passed),
                "{passed} bytes passed {}",
                p.nodes[0]
            );
        }
        exchange((&cluster.client, p.client), &cluster.pod, there, p.client);
    }
    for host in [&cluster.entry, &cluster.node] {
        assert_eq!(host.dataplane.drops().expect("maps can be read"), []);
    }
}
