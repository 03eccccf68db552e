//! The gateway: TLS with verification on, and rules that change while it serves.

use anyhow::{Result, ensure};
use harness::{Cluster, eventually, https};

use crate::Scenario;
use crate::services::{deploy, remove};

/// All scenarios of this file.
pub(crate) const ALL: &[Scenario] = &[
    (
        "the_samples_ingress_answers_with_a_verified_certificate",
        sample,
    ),
    (
        "a_new_ingress_is_served_and_a_deleted_one_is_not",
        coming_and_going,
    ),
    ("an_ingress_shows_the_gateways_address", status),
];

/// The sample's host.
const HOST: &str = "hello.portolan.test";

fn sample(cluster: &Cluster) -> Result<()> {
    let gateway = cluster.node_ip("node-1")?.to_string();
    let pods = cluster.pods("app=hello")?;
    let answer = eventually("the sample answers", || {
        https(cluster.host(), &cluster.ca(), HOST, &gateway, "/")
    })?;
    ensure!(
        pods.contains(&answer),
        "answered {answer:?}, not one of {pods:?}"
    );
    let other = https(
        cluster.host(),
        &cluster.ca(),
        "other.portolan.test",
        &gateway,
        "/",
    );
    ensure!(other.is_err(), "a name without a certificate was verified");
    Ok(())
}

fn coming_and_going(cluster: &Cluster) -> Result<()> {
    deploy(cluster, "routed", 1)?;
    cluster.apply(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: routed}\nspec:\n  ingressClassName: portolan\n  \
         rules:\n  - host: hello.portolan.test\n    http:\n      paths:\n      - path: /routed\n        pathType: Prefix\n        \
         backend: {service: {name: routed, port: {number: 80}}}",
    )?;
    let gateway = cluster.node_ip("node-1")?.to_string();
    let ask = |path: &str| https(cluster.host(), &cluster.ca(), HOST, &gateway, path);
    eventually("the new path leads to the new Service", || {
        let answer = ask("/routed")?;
        ensure!(answer.starts_with("routed-"), "answered by {answer}");
        Ok(())
    })?;
    ensure!(
        ask("/")?.starts_with("hello-"),
        "another Ingress of the same host changed the sample"
    );
    cluster.kubectl(&["delete", "ingress", "routed"])?;
    eventually("the path leads to the sample again", || {
        let answer = ask("/routed")?;
        ensure!(answer.starts_with("hello-"), "answered by {answer}");
        Ok(())
    })?;
    remove(cluster, "routed")
}

fn status(cluster: &Cluster) -> Result<()> {
    let gateway = cluster.node_ip("node-1")?.to_string();
    eventually("kubectl shows the address", || {
        let table = cluster.kubectl(&["get", "ingress", "hello"])?;
        ensure!(table.contains(&gateway), "{table}");
        Ok(())
    })
}
