//! Services that stand for a name outside the cluster (type ExternalName): where their names lead, and who may not be
//! reached that way.
//!
//! Whoever writes such a Service, or answers for its name in DNS, chooses whom the gateway connects to. So what matters is
//! not the name but each address that it leads to, and every one of them is judged again whenever anything changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use ipnetwork::IpNetwork;
use model::{ObjectName, ServiceName, World};

use crate::annotations::Reference;

/// Where clouds tell a machine of itself, credentials included, besides the link-local 169.254.169.254: Azure, Alibaba,
/// Oracle; AWS and Google over IPv6.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Settings of Services of type ExternalName.
#[derive(clap::Args, Debug, Clone, Default)]
#[group(skip)]
pub struct ExternalNameArgs {
    /// Serve Services of type ExternalName. Their names are looked up in DNS, and again when an answer expires. Whoever
    /// may write Services then has the gateway connect to whatever it can reach, but for addresses of loopback,
    /// link-local and multicast, of cloud metadata and of the API server. Without it: 503.
    #[arg(long)]
    pub allow_external_name: bool,

    /// Further ranges that such names may not lead to, those of Services and pods of the cluster perhaps.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub external_name_deny: Vec<IpNetwork>,

    /// Ranges that they may lead to all the same. The API server stays out of reach.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub external_name_except: Vec<IpNetwork>,

    /// Name servers to ask about them, for names that are complete, in place of those of /etc/resolv.conf with its search
    /// list.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub external_name_dns: Vec<SocketAddr>,
}

/// What looking up a name has come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolution {
    /// Where it leads, in order; the last good answer if looking it up fails now.
    pub addresses: Vec<IpAddr>,
    /// Why looking it up fails now, if it does.
    pub failure: Option<String>,
}

/// All names that Services in use stand for, and whom they may lead to.
#[derive(Debug, Default)]
pub struct Names {
    settings: ExternalNameArgs,
    /// Where the gateway itself reaches the API server.
    api: Vec<IpAddr>,
    known: BTreeMap<Box<str>, Resolution>,
    targets: BTreeMap<ServiceName, Targets>,
}

/// The ports of such a Service that lead to another one (`targetPort`), and to which.
pub type Targets = BTreeMap<NonZeroU16, NonZeroU16>;

/// What is wrong with where a name leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// It cannot be looked up, and why.
    Unresolved(String),
    /// It leads to these addresses, which nobody may reach that way.
    Refused(Vec<IpAddr>),
}

impl Names {
    /// No names yet, with the API server at the addresses `api` and wherever the cluster says.
    pub fn new(settings: ExternalNameArgs, api: Vec<IpAddr>) -> Self {
        Self {
            settings,
            api,
            known: BTreeMap::new(),
            targets: BTreeMap::new(),
        }
    }

    /// Whether such Services are served at all.
    pub fn are_allowed(&self) -> bool {
        self.settings.allow_external_name
    }

    /// Takes in what looking up `name` has come to.
    pub fn put(&mut self, name: Box<str>, resolution: Resolution) {
        self.known.insert(name, resolution);
    }

    /// Takes in to which ports those of `service` lead. Says whether that changed anything.
    pub fn put_targets(&mut self, service: ServiceName, targets: Targets) -> bool {
        let old = match targets.is_empty() {
            true => self.targets.remove(&service),
            false => self.targets.insert(service.clone(), targets),
        };
        old.as_ref() != self.targets.get(&service)
    }

    /// Forgets where ports lead of all Services but `wanted`.
    pub fn keep_targets(&mut self, wanted: &BTreeSet<ServiceName>) {
        self.targets.retain(|service, _| wanted.contains(service));
    }

    /// The port that `port` of `service` leads to. Nobody else looks at it: kube-proxy does not serve such Services.
    pub fn target(&self, service: &ServiceName, port: NonZeroU16) -> NonZeroU16 {
        let targets = self.targets.get(service);
        let target = targets.and_then(|targets| targets.get(&port));
        target.copied().unwrap_or(port)
    }

    /// Forgets all but `wanted`.
    pub fn keep(&mut self, wanted: &BTreeSet<Reference>) {
        self.known
            .retain(|name, _| wanted.contains(&Reference::ExternalName(name.clone())));
    }

    /// The names that have been looked up.
    pub fn known(&self) -> impl Iterator<Item = &str> {
        self.known.keys().map(AsRef::as_ref)
    }

    /// Whether `name` has been looked up.
    pub fn knows(&self, name: &str) -> bool {
        self.known.contains_key(name)
    }

    /// Where `name` leads that may be reached.
    pub fn addresses(&self, world: &World, name: &str) -> Vec<IpAddr> {
        let all = self.known.get(name).into_iter();
        let all = all.flat_map(|resolution| &resolution.addresses).copied();
        all.filter(|ip| !self.refuses(world, *ip)).collect()
    }

    /// What is wrong with where `name` leads, if anything is.
    pub fn doubt(&self, world: &World, name: &str) -> Option<Doubt> {
        let resolution = self.known.get(name)?;
        if let Some(why) = &resolution.failure {
            return Some(Doubt::Unresolved(why.clone()));
        }
        let refused = resolution.addresses.iter().copied();
        let refused: Vec<IpAddr> = refused.filter(|ip| self.refuses(world, *ip)).collect();
        (!refused.is_empty()).then_some(Doubt::Refused(refused))
    }

    fn refuses(&self, world: &World, ip: IpAddr) -> bool {
        let meant = meant(ip);
        let is_in = |ranges: &[IpNetwork]| ranges.iter().any(|range| range.contains(meant));
        let is_api = self.api.contains(&meant) || is_api_server(world, meant);
        let is_refused = is_special(meant) || is_in(&self.settings.external_name_deny);
        is_api || is_refused && !is_in(&self.settings.external_name_except)
    }
}

/// The Service by which pods reach the API server.
pub fn api_service() -> ObjectName {
    ObjectName::new("default", "kubernetes")
}

fn is_api_server(world: &World, ip: IpAddr) -> bool {
    let name = api_service();
    let service = world.service(&name);
    let endpoints = world.slices(&name).flat_map(|slice| &slice.endpoints);
    service.is_some_and(|service| service.cluster_ips.contains(&ip))
        || endpoints
            .map(|endpoint| endpoint.ip)
            .any(|other| other == ip)
}

/// The IPv4 address that is reached by `ip` where that is one of IPv6 that stands for one: mapped (RFC 4291 section
/// 2.5.5.2), of NAT64 (RFC 6052 section 2.1) or of 6to4 (RFC 3056 section 2). Else `ip` itself.
fn meant(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip.to_canonical() else {
        return ip.to_canonical();
    };
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::from([a, b, c, d])
    };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => v4(high, low),
        _ => ip,
    }
}

/// Whether `ip` is nobody's backend: this host or network (0.0.0.0/8 and, of IPv6, the unspecified, loopback and
/// IPv4-compatible addresses), loopback, link-local, multicast, broadcast, or where clouds keep metadata.
fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.octets()[0] == 0
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
                || METADATA_V4.contains(&ip)
        }
        IpAddr::V6(ip) => {
            ip.segments()[..6] == [0; 6]
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || METADATA_V6.contains(&ip)
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use model::Event;
    use serde_json::json;

    const NAME: &str = "a.example";

    /// A cluster whose API server is at 10.96.0.1 and, itself, at 10.0.0.5.
    fn world() -> World {
        let service = json!({
            "metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 443}]},
        });
        let labels = json!({"kubernetes.io/service-name": "kubernetes"});
        let slice = json!({
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.5"]}],
            "ports": [{"name": "", "port": 6443, "protocol": "TCP"}],
        });
        let mut world = World::new("");
        let service = model::kube::service(&serde_json::from_value(service).unwrap());
        world.apply(Event::Service(service.value.unwrap()));
        let slice = model::kube::slice(&serde_json::from_value(slice).unwrap());
        world.apply(Event::Slice(slice.value.unwrap()));
        world
    }

    fn ranges(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Which of `addresses` are left of a name that leads to them all.
    fn reached(names: &mut Names, addresses: &[&str]) -> Vec<String> {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        let resolution = Resolution {
            addresses,
            failure: None,
        };
        names.put(NAME.into(), resolution);
        let reached = names.addresses(&world(), NAME);
        reached.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_do_not_lead_to_the_gateway_its_cloud_or_the_api_server() {
        let refused = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.9",
            "169.254.169.254",
            "169.254.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "10.96.0.1",
            "10.0.0.5",
            "192.0.2.7",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.96.0.1",
            "::ffff:192.0.2.7",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
        ];
        let mut names = Names::new(
            ExternalNameArgs::default(),
            vec!["192.0.2.7".parse().unwrap()],
        );
        assert_eq!(reached(&mut names, &refused), [""; 0]);
        let Some(Doubt::Refused(all)) = names.doubt(&world(), NAME) else {
            panic!("nothing is said");
        };
        assert_eq!(all.len(), refused.len());
        let fine = [
            "192.0.2.1",
            "10.96.0.2",
            "10.0.0.6",
            "2001:db8::1",
            "fd00::1",
        ];
        assert_eq!(reached(&mut names, &fine), fine);
        assert_eq!(names.doubt(&world(), NAME), None);
    }

    #[test]
    fn operators_refuse_more_and_make_exceptions_but_not_of_the_api_server() {
        let settings = ExternalNameArgs {
            external_name_deny: ranges(&["10.0.0.0/8", "fd00::/8"]),
            external_name_except: ranges(&["127.0.0.0/8", "10.96.0.0/16"]),
            ..ExternalNameArgs::default()
        };
        let mut names = Names::new(settings, vec!["127.0.0.9".parse().unwrap()]);
        let all = [
            "10.1.1.1",
            "10.96.0.1",
            "10.96.0.2",
            "127.0.0.1",
            "127.0.0.9",
            "::ffff:10.1.1.1",
            "fd00::1",
            "192.0.2.1",
        ];
        let expected = ["10.96.0.2", "127.0.0.1", "192.0.2.1"];
        assert_eq!(reached(&mut names, &all), expected);
    }
}
