//! The gateway as its own manifests run it: pods of a Deployment, without privileges, behind a Service.
//!
//! What the API server does not have is left out: the objects of RBAC, so the pods come with a kubeconfig and its rights, and
//! the disruption budget. The cluster's own gateway goes on beside them, so they serve a class of their own.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::{Cluster, eventually, get, program};
use serde_json::json;

use crate::Scenario;
use crate::images::{Image, run, scratch};
use crate::services::{deploy, remove};

/// All scenarios of this file.
pub(crate) const ALL: &[Scenario] = &[(
    "the_gateways_own_manifests_bring_up_pods_that_serve",
    manifests,
)];

const MANIFESTS: [&str; 2] = [
    include_str!("../../ingress/deploy/rbac.yaml"),
    include_str!("../../ingress/deploy/deployment.yaml"),
];

/// The kinds that the API server does not have.
const MISSING: [&str; 5] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "PodDisruptionBudget",
];

/// The name of the image, the namespace, and the class that is not the cluster's own gateway's.
const IMAGE: &str = "portolan.dev/portolan-ingress:v0.1.0";
const NAMESPACE: &str = "portolan-ingress";
const CLASS: &str = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: pods}\nspec: {controller: portolan.dev/pods}";

/// What is added to the manifest of the Deployment, and before what.
const CHANGES: [(&str, &str); 3] = [
    (
        "            - --admin-bind=",
        "            - --kubeconfig=/etc/api/kubeconfig\n            - --controller-class=portolan.dev/pods\n",
    ),
    (
        "            - name: run\n              mountPath:",
        "            - name: api\n              mountPath: /etc/api\n",
    ),
    (
        "        - name: admission\n          secret:",
        "        - name: api\n          secret:\n            secretName: api\n",
    ),
];

/// The load balancer's address, of those for documentation.
const ADDRESS: &str = "198.51.100.90";

fn manifests(cluster: &Cluster) -> Result<()> {
    load_image(cluster)?;
    deploy(cluster, "behind-pods", 1)?;
    for document in documents()? {
        cluster.apply(&document)?;
        if document.contains("kind: Namespace\n") {
            give_kubeconfig(cluster)?;
        }
    }
    cluster.apply(CLASS)?;
    cluster.apply(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: behind-pods}\nspec:\n  ingressClassName: pods\n  \
         rules:\n  - host: test\n    http:\n      paths:\n      - path: /\n        pathType: Prefix\n        backend: \
         {service: {name: behind-pods, port: {number: 80}}}",
    )?;
    let served = serves(cluster);
    cluster.kubectl(&["delete", "ingress", "behind-pods"])?;
    cluster.kubectl(&["delete", "ingressclass", "pods"])?;
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"])?;
    remove(cluster, "behind-pods")?;
    served
}

/// Both pods become ready, answer for the new Ingress, and write the load balancer's address to it.
fn serves(cluster: &Cluster) -> Result<()> {
    let rollout = ["-n", NAMESPACE, "rollout", "status", "--timeout=60s"];
    cluster.kubectl(&[&rollout[..], &["deployment/portolan-ingress"]].concat())?;
    let ready = ["-n", NAMESPACE, "deployment", "portolan-ingress"];
    let status = cluster.object(&ready)?["status"].clone();
    ensure!(status["readyReplicas"] == 2, "{status}");
    // Each node hands what comes from outside to its own pod.
    let service = cluster.object(&["-n", NAMESPACE, "service", "portolan-ingress"])?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64();
    let port = u16::try_from(port.context("the Service has no node port")?)?;
    for node in ["node-1", "node-2"] {
        let address = SocketAddr::new(cluster.node_ip(node)?, port);
        eventually(&format!("{node} answers through its pod"), || {
            let answer = get(cluster.host().name(), address)?;
            ensure!(answer.starts_with("behind-pods-"), "answered by {answer}");
            Ok(())
        })?;
    }
    let balanced = json!({"status": {"loadBalancer": {"ingress": [{"ip": ADDRESS}]}}});
    cluster.kubectl(&[
        "-n",
        NAMESPACE,
        "patch",
        "service",
        "portolan-ingress",
        "--subresource=status",
        "--type=merge",
        "-p",
        &balanced.to_string(),
    ])?;
    eventually("the Ingress shows the load balancer's address", || {
        let ingress = cluster.object(&["ingress", "behind-pods"])?;
        let shown = &ingress["status"]["loadBalancer"]["ingress"];
        ensure!(*shown == json!([{"ip": ADDRESS}]), "{shown}");
        Ok(())
    })
}

/// The documents of the manifests that the API server takes, with what the pods need besides.
fn documents() -> Result<Vec<String>> {
    let all = MANIFESTS.iter().flat_map(|file| file.split("\n---\n"));
    let is_there = |document: &&str| {
        let mut missing = MISSING.iter();
        !missing.any(|kind| document.contains(&format!("kind: {kind}\n")))
    };
    all.filter(is_there).map(changed).collect()
}

fn changed(document: &str) -> Result<String> {
    let mut document = document.to_owned();
    if document.contains("kind: Deployment\n") {
        for (before, addition) in CHANGES {
            ensure!(document.contains(before), "no {before:?} in {document}");
            document = document.replacen(before, &format!("{addition}{before}"), 1);
        }
    }
    Ok(document)
}

/// The rights of the cluster's own gateway.
fn give_kubeconfig(cluster: &Cluster) -> Result<()> {
    let file = cluster.state_dir().join("ingress.kubeconfig");
    let content = format!("--from-file=kubeconfig={}", file.display());
    let secret = ["-n", NAMESPACE, "create", "secret", "generic", "api"];
    cluster
        .kubectl(&[&secret[..], &[&content]].concat())
        .map(drop)
}

/// Makes an image of nothing but the gateway and the libraries it is linked with.
fn load_image(cluster: &Cluster) -> Result<()> {
    let dir = scratch(cluster, "gateway")?;
    let root = dir.join("root");
    let gateway = program("portolan-ingress");
    let linked = run(Command::new("ldd").arg(&gateway))?;
    // `name => /path (address)`, or a path alone for the loader.
    let words = linked.split_whitespace();
    let libraries = words.filter(|word| word.starts_with('/'));
    for library in libraries.map(Path::new) {
        copy(library, &root.join(library.strip_prefix("/")?))?;
    }
    copy(&gateway, &root.join("portolan-ingress"))?;
    let run_as = json!({"Entrypoint": ["/portolan-ingress"]});
    Image::pack(&dir, &root, &run_as)?.load(cluster, &dir, IMAGE)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder)?;
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    Ok(())
}
