//! A key and a certificate for each daemon, each allowed no more than its user name and groups allow.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use control_api::pki::Pki;

use super::layout::{Layout, NodeLayout};

/// Writes what is missing and keeps what is there, so that a second `up` disturbs nobody.
pub(crate) fn write_all(layout: &Layout) -> Result<Pki> {
    let pki =
        Pki::open(&layout.server_dir()).context("opening the cluster's certificate authority")?;
    let kubeconfig = |path: &Path, user: &str, groups: &[&str]| {
        write_once(path, || {
            Ok(pki.client_kubeconfig(&layout.api_url(), user, groups)?)
        })
    };
    kubeconfig(&layout.kubeconfig(), "admin", &["system:masters"])?;
    kubeconfig(
        &layout.state_dir.join("proxy.kubeconfig"),
        "system:kube-proxy",
        &[],
    )?;
    kubeconfig(
        &layout.state_dir.join("ingress.kubeconfig"),
        "portolan-ingress",
        &[],
    )?;
    for node in layout.node_layouts() {
        let user = format!("system:node:{}", node.name);
        kubeconfig(&node.dir.join("kubeconfig"), &user, &["system:nodes"])?;
        write_serving_pair(&pki, &node)?;
    }
    Ok(pki)
}

/// The certificate with which a node agent answers the API server.
fn write_serving_pair(pki: &Pki, node: &NodeLayout) -> Result<()> {
    let (certificate, key) = (node.dir.join("kubelet.crt"), node.dir.join("kubelet.key"));
    if certificate.exists() && key.exists() {
        return Ok(());
    }
    let mut names = vec![node.name.clone()];
    names.extend(node.addresses.iter().map(ToString::to_string));
    let (certificate_pem, key_pem) =
        pki.serving_cert(&format!("system:node:{}", node.name), &names)?;
    write_private(&key, &key_pem)?;
    write_private(&certificate, &certificate_pem)
}

fn write_once(path: &Path, text: impl FnOnce() -> Result<String>) -> Result<()> {
    if path.exists() {
        Ok(())
    } else {
        write_private(path, &text()?)
    }
}

/// Only the owner may read it, from the first byte on.
fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    options.create(true).write(true).truncate(true).mode(0o600);
    let mut file = options
        .open(path)
        .with_context(|| format!("creating {}", path.display()))?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("writing {}", path.display()))
}
