//! Lets nodes and pods reach what the host reaches over IPv4, by masquerading on the host.
//!
//! IPv6 is left alone: forwarding it would make the host ignore its own router's advertisements.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::layout::Layout;

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Opens the way out. A host without nftables gets a cluster that only the host can reach, and is told so.
pub(crate) fn open(layout: &Layout) -> Result<()> {
    if let Err(error) = nft(&rules(layout)) {
        tracing::warn!(
            "pods and nodes cannot reach beyond this machine, so images can be loaded but not pulled: {error:#}"
        );
        return Ok(());
    }
    let before = fs::read_to_string(FORWARDING).with_context(|| format!("reading {FORWARDING}"))?;
    if before.trim() == "0" {
        fs::write(changed_mark(layout), b"").context("noting that forwarding was off")?;
        fs::write(FORWARDING, b"1").with_context(|| format!("writing {FORWARDING}"))?;
    }
    Ok(())
}

/// Leaves the host as [`open`] found it.
pub(crate) fn close(layout: &Layout) -> Result<()> {
    if changed_mark(layout).exists() {
        fs::write(FORWARDING, b"0").with_context(|| format!("writing {FORWARDING}"))?;
    }
    // Adding first makes deleting succeed whether the table was there or not.
    if let Err(error) = nft(&format!(
        "add table ip {0}\ndelete table ip {0}\n",
        table(layout)
    )) {
        tracing::debug!("no masquerading to remove: {error:#}");
    }
    Ok(())
}

fn changed_mark(layout: &Layout) -> PathBuf {
    layout.state_dir.join("forwarding-was-off")
}

fn table(layout: &Layout) -> String {
    format!("portolan-{}", layout.name)
}

/// What leaves the host from the cluster's own addresses takes the host's address.
fn rules(layout: &Layout) -> String {
    let sources = layout
        .cluster_cidrs
        .iter()
        .filter(|cidr| cidr.is_ipv4())
        .map(ToString::to_string);
    let sources: Vec<String> = sources.chain([layout.underlay_v4().to_string()]).collect();
    let (table, bridge) = (table(layout), layout.bridge());
    format!(
        "add table ip {table}\nflush table ip {table}\n\
         add chain ip {table} leaving {{ type nat hook postrouting priority srcnat; }}\n\
         add rule ip {table} leaving ip saddr {{ {} }} oifname != {bridge:?} masquerade\n",
        sources.join(", ")
    )
}

fn nft(script: &str) -> Result<()> {
    let mut command = Command::new("nft");
    command
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("running nft (package nftables)")?;
    child
        .stdin
        .take()
        .context("nft's standard input")?
        .write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "nft: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ipv4_sources_are_masqueraded() {
        let layout = Layout {
            name: "a".into(),
            state_dir: "/nowhere".into(),
            nodes: 1,
            api_port: 6443,
            cluster_cidrs: ["10.244.0.0/16", "fd00::/48"]
                .iter()
                .map(|cidr| cidr.parse().expect("a network"))
                .collect(),
            service_cidrs: vec![],
            insecure_registries: vec![],
        };
        let rules = rules(&layout);
        assert!(
            rules.contains(
                r#"ip saddr { 10.244.0.0/16, 172.30.0.0/24 } oifname != "pt-a" masquerade"#
            ),
            "{rules}"
        );
    }
}
