//! What kube-proxy would install for a cluster: its nftables and its iptables mode, rule by rule as it writes them.

use std::fmt::{self, Write as _};
use std::process::Command;

use anyhow::{Context as _, Result};
use harness::Namespace;

use crate::objects::{Cluster, POD_RANGE, PORT, TARGET};

/// A mode of kube-proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Nftables,
    Iptables,
}

impl Mode {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }

    /// What this machine lacks to have such rules, if anything.
    pub(crate) fn missing(self) -> Option<String> {
        let trial = Cluster {
            services: 1,
            endpoints: 2,
            real: Vec::new(),
            protocol: "tcp",
            node_ports: true,
        };
        let namespace = Namespace::create();
        let tried = namespace.and_then(|namespace| self.install(&namespace, &trial, "192.0.2.1"));
        tried.err().map(|error| format!("{error:#}"))
    }

    /// Installs the rules for `cluster` on a node.
    pub(crate) fn install(self, node: &Namespace, cluster: &Cluster, address: &str) -> Result<()> {
        // Writing to a string cannot fail.
        let (program, arguments, rules): (_, &[&str], _) = match self {
            Self::Nftables => ("nft", &["-f", "-"], nftables(cluster, address)),
            Self::Iptables => (iptables_restore(), &["--noflush"], iptables(cluster)),
        };
        let rules = rules.context("writing rules")?;
        node.command(program, arguments, &rules)
    }
}

/// The classic program if it is there: with the other, rules go through nftables, which makes them no faster.
fn iptables_restore() -> &'static str {
    let classic = "iptables-legacy-restore";
    let found = Command::new(classic).arg("--version").output();
    if found.is_ok_and(|output| output.status.success()) {
        classic
    } else {
        "iptables-restore"
    }
}

/// The table of kube-proxy's nftables mode.
fn nftables(cluster: &Cluster, address: &str) -> Result<String, fmt::Error> {
    let mut rules = String::from(NFTABLES_BASE);
    writeln!(
        rules,
        "add element ip kube-proxy nodeport-ips {{ {address} }}"
    )?;
    let protocol = cluster.protocol;
    for number in 0..cluster.services {
        let ip = cluster.cluster_ip(number);
        let name = nftables_name(cluster, number);
        let table = "ip kube-proxy";
        let mut choices = String::new();
        for (index, endpoint) in cluster.endpoints(number).into_iter().enumerate() {
            let chain = format!("endpoint-{name}__{endpoint}/{TARGET}");
            writeln!(
                rules,
                "add chain {table} {chain}\n\
                 add rule {table} {chain} ip saddr {endpoint} jump mark-for-masquerade\n\
                 add rule {table} {chain} meta l4proto {protocol} dnat to {endpoint}:{TARGET}"
            )?;
            let comma = if index == 0 { "" } else { " , " };
            write!(choices, "{comma}{index} : goto {chain}")?;
        }
        let count = cluster.endpoints;
        writeln!(
            rules,
            "add chain {table} service-{name}\n\
             add rule {table} service-{name} ip daddr {ip} ip saddr != {POD_RANGE} jump mark-for-masquerade\n\
             add rule {table} service-{name} numgen random mod {count} vmap {{ {choices} }}\n\
             add element {table} cluster-ips {{ {ip} }}\n\
             add element {table} service-ips {{ {ip} . {protocol} . {PORT} : goto service-{name} }}"
        )?;
        if let Some(port) = cluster.node_port(number) {
            writeln!(
                rules,
                "add chain {table} external-{name}\n\
                 add rule {table} external-{name} jump mark-for-masquerade\n\
                 add rule {table} external-{name} goto service-{name}\n\
                 add element {table} service-nodeports {{ {protocol} . {port} : goto external-{name} }}"
            )?;
        }
    }
    Ok(rules)
}

fn nftables_name(cluster: &Cluster, number: u32) -> String {
    let (namespace, name) = (cluster.namespace(number), cluster.name(number));
    format!(
        "{}-{namespace}/{name}/{}/http",
        hash(number, 8),
        cluster.protocol
    )
}

const NFTABLES_BASE: &str = r#"
add table ip kube-proxy
add set ip kube-proxy cluster-ips { type ipv4_addr ; }
add set ip kube-proxy nodeport-ips { type ipv4_addr ; }
add map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; }
add chain ip kube-proxy cluster-ips-check
add chain ip kube-proxy filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }
add chain ip kube-proxy filter-output-pre-dnat { type filter hook output priority -110 ; }
add chain ip kube-proxy filter-forward { type filter hook forward priority 0 ; }
add chain ip kube-proxy filter-input { type filter hook input priority 0 ; }
add chain ip kube-proxy filter-output { type filter hook output priority 0 ; }
add chain ip kube-proxy firewall-check
add chain ip kube-proxy mark-for-masquerade
add chain ip kube-proxy masquerading
add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add chain ip kube-proxy nodeport-endpoints-check
add chain ip kube-proxy reject-chain
add chain ip kube-proxy services
add chain ip kube-proxy service-endpoints-check
add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject
add rule ip kube-proxy cluster-ips-check ip daddr { 10.96.0.0/12 } drop
add rule ip kube-proxy filter-prerouting-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-forward ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump cluster-ips-check
add rule ip kube-proxy filter-input ct state new jump nodeport-endpoints-check
add rule ip kube-proxy filter-input ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-output ct state new jump cluster-ips-check
add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000
add rule ip kube-proxy masquerading mark and 0x4000 == 0 return
add rule ip kube-proxy masquerading mark set mark xor 0x4000
add rule ip kube-proxy masquerading masquerade fully-random
add rule ip kube-proxy nat-output jump services
add rule ip kube-proxy nat-postrouting jump masquerading
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
add rule ip kube-proxy reject-chain reject
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
"#;

/// The filter and nat tables of kube-proxy's iptables mode.
fn iptables(cluster: &Cluster) -> Result<String, fmt::Error> {
    let (mut chains, mut services, mut node_ports, mut rest) =
        (String::new(), String::new(), String::new(), String::new());
    let protocol = cluster.protocol;
    for number in 0..cluster.services {
        let name = format!(
            "{}/{}:http",
            cluster.namespace(number),
            cluster.name(number)
        );
        let (ip, id) = (cluster.cluster_ip(number), hash(number, 16));
        let cluster_ip = format!(
            r#"-m comment --comment "{name} cluster IP" -m {protocol} -p {protocol} -d {ip} --dport {PORT}"#
        );
        writeln!(chains, ":KUBE-SVC-{id} - [0:0]")?;
        writeln!(services, "-A KUBE-SERVICES {cluster_ip} -j KUBE-SVC-{id}")?;
        writeln!(
            rest,
            "-A KUBE-SVC-{id} {cluster_ip} ! -s {POD_RANGE} -j KUBE-MARK-MASQ"
        )?;
        if let Some(port) = cluster.node_port(number) {
            writeln!(chains, ":KUBE-EXT-{id} - [0:0]")?;
            writeln!(
                node_ports,
                r#"-A KUBE-NODEPORTS -m comment --comment {name} -m {protocol} -p {protocol} --dport {port} -j KUBE-EXT-{id}"#
            )?;
            writeln!(
                rest,
                r#"-A KUBE-EXT-{id} -m comment --comment "masquerade traffic for {name} external destinations" -j KUBE-MARK-MASQ
-A KUBE-EXT-{id} -j KUBE-SVC-{id}"#
            )?;
        }
        let endpoints = cluster.endpoints(number);
        for (index, endpoint) in (0..).zip(&endpoints) {
            let sep = hash(number * cluster.endpoints + index, 15);
            let left = endpoints.len() - index as usize;
            // The last one takes what is left.
            let chance = match left {
                1 => String::new(),
                _ => format!(
                    "-m statistic --mode random --probability {:.10} ",
                    1.0 / left as f64
                ),
            };
            writeln!(chains, ":KUBE-SEP-{sep} - [0:0]")?;
            writeln!(
                rest,
                r#"-A KUBE-SVC-{id} -m comment --comment "{name} -> {endpoint}:{TARGET}" {chance}-j KUBE-SEP-{sep}
-A KUBE-SEP-{sep} -m comment --comment {name} -s {endpoint} -j KUBE-MARK-MASQ
-A KUBE-SEP-{sep} -m comment --comment {name} -m {protocol} -p {protocol} -j DNAT --to-destination {endpoint}:{TARGET}"#
            )?;
        }
    }
    Ok(format!(
        "{IPTABLES_FILTER}{IPTABLES_NAT_CHAINS}{chains}{services}{node_ports}{IPTABLES_NAT_RULES}{rest}COMMIT\n"
    ))
}

const IPTABLES_FILTER: &str = r#"*filter
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" -d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"#;

const IPTABLES_NAT_CHAINS: &str = r#"*nat
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
"#;

const IPTABLES_NAT_RULES: &str = r#"-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
"#;

/// Stands for the base32 hashes that kube-proxy names chains by, equally long.
fn hash(number: u32, length: usize) -> String {
    format!("{number:0length$}")
}
