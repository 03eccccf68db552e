//! Bad input: each gives a clear message where a Kubernetes user looks for it, and everything else goes on.

use anyhow::{Result, ensure};
use harness::{Cluster, eventually, https};

use crate::Scenario;

/// All scenarios of this file.
pub(crate) const ALL: &[Scenario] = &[
    (
        "a_malformed_manifest_is_refused_with_the_field_named",
        malformed_manifest,
    ),
    ("an_unknown_image_shows_in_status_and_events", unknown_image),
    (
        "a_service_that_selects_nothing_shows_no_endpoints_and_refuses",
        selects_nothing,
    ),
    (
        "an_ingress_with_a_missing_service_or_secret_gets_an_event",
        dangling_ingress,
    ),
    (
        "a_certificate_that_does_not_fit_its_key_gets_an_event_and_the_sample_goes_on",
        mismatched_certificate,
    ),
];

fn malformed_manifest(cluster: &Cluster) -> Result<()> {
    let unknown =
        cluster.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {container: []}");
    contains(&refusal(unknown)?, &[r#"unknown field "spec.container""#])?;
    let nameless = cluster.apply(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec:\n  selector: {matchLabels: {a: b}}\n  \
         template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: i}]}}",
    );
    contains(
        &refusal(nameless)?,
        &[
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        ],
    )?;
    let unknown_kind = cluster.apply("apiVersion: v1\nkind: Pood\nmetadata: {name: x}");
    contains(&refusal(unknown_kind)?, &["no matches for kind \"Pood\""])
}

fn unknown_image(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["run", "imageless", "--image=127.0.0.1:1/nothing:v1"])?;
    eventually("the pod's status says so", || {
        let table = cluster.kubectl(&["get", "pod", "imageless"])?;
        ensure!(
            table.contains("ImagePullBackOff") || table.contains("ErrImagePull"),
            "{table}"
        );
        Ok(())
    })?;
    eventually("describe says why", || {
        contains(
            &cluster.kubectl(&["describe", "pod", "imageless"])?,
            &["Failed to pull image", "127.0.0.1:1/nothing:v1"],
        )
    })?;
    cluster
        .kubectl(&["delete", "pod", "imageless", "--grace-period=0", "--force"])
        .map(drop)
}

fn selects_nothing(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["create", "service", "clusterip", "lonely", "--tcp=80:80"])?;
    let address = cluster.cluster_ip("lonely")?;
    eventually("connections are refused", || {
        contains(
            &refusal(harness::get(cluster.host().name(), address))?,
            &["refused"],
        )
    })?;
    let described = cluster.kubectl(&["describe", "service", "lonely"])?;
    ensure!(
        described
            .lines()
            .any(|line| line.starts_with("Endpoints:") && !line.contains('.')),
        "{described}"
    );
    cluster.kubectl(&["delete", "service", "lonely"]).map(drop)
}

fn dangling_ingress(cluster: &Cluster) -> Result<()> {
    cluster.apply(&ingress(
        "dangling",
        "dangling.portolan.test",
        "no-such-secret",
        "no-such-service",
    ))?;
    eventually("events name both", || {
        let described = cluster.kubectl(&["describe", "ingress", "dangling"])?;
        contains(&events(&described), &["no-such-secret", "no-such-service"])
    })?;
    sample_answers(cluster)?;
    cluster
        .kubectl(&["delete", "ingress", "dangling"])
        .map(drop)
}

fn mismatched_certificate(cluster: &Cluster) -> Result<()> {
    let sample = cluster.object(&["secret", "hello-tls"])?;
    let other_key = std::fs::read(cluster.state_dir().join("nodes/node-1/kubelet.key"))?;
    let dir = cluster.state_dir().join("mismatch");
    std::fs::create_dir_all(&dir)?;
    let (crt, key) = (dir.join("tls.crt"), dir.join("tls.key"));
    let certificate = cluster.kubectl(&[
        "get",
        "secret",
        "hello-tls",
        "-o",
        r#"go-template={{index .data "tls.crt" | base64decode}}"#,
    ])?;
    ensure!(
        sample["type"] == "kubernetes.io/tls",
        "the sample's Secret is of type {}",
        sample["type"]
    );
    std::fs::write(&crt, certificate)?;
    std::fs::write(&key, other_key)?;
    cluster.kubectl(&[
        "create",
        "secret",
        "generic",
        "mismatched",
        "--type=kubernetes.io/tls",
        &format!("--from-file=tls.crt={}", crt.display()),
        &format!("--from-file=tls.key={}", key.display()),
    ])?;
    cluster.apply(&ingress(
        "mismatched",
        "mismatched.portolan.test",
        "mismatched",
        "hello",
    ))?;
    eventually("an event says that key and certificate differ", || {
        let described = cluster.kubectl(&["describe", "ingress", "mismatched"])?;
        contains(&events(&described), &["default/mismatched", "key"])
    })?;
    sample_answers(cluster)?;
    cluster
        .kubectl(&["delete", "ingress/mismatched", "secret/mismatched"])
        .map(drop)
}

fn ingress(name: &str, host: &str, secret: &str, service: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}}}\nspec:\n  ingressClassName: portolan\n  \
         tls: [{{hosts: [{host}], secretName: {secret}}}]\n  rules:\n  - host: {host}\n    http:\n      paths:\n      \
         - {{path: /, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}"
    )
}

fn sample_answers(cluster: &Cluster) -> Result<()> {
    let gateway = cluster.node_ip("node-1")?.to_string();
    https(
        cluster.host(),
        &cluster.ca(),
        "hello.portolan.test",
        &gateway,
        "/",
    )
    .map(drop)
}

fn events(described: &str) -> String {
    described
        .split_once("Events:")
        .map(|(_, events)| events.to_owned())
        .unwrap_or_default()
}

fn refusal<T: std::fmt::Debug>(result: Result<T>) -> Result<String> {
    match result {
        Ok(value) => anyhow::bail!("accepted: {value:?}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

fn contains(text: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(text.contains(part), "{part:?} is not in: {text}");
    }
    Ok(())
}
