//! The manifest by which the daemon comes to the nodes: objects that the API knows, and enough rights and no more.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::Path;

use clap::Parser;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Event, Node, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Resource;
use proxy::capabilities;
use proxy::cli::Cli;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const MANIFEST: &str = include_str!("../deploy/daemonset.yaml");

fn documents() -> Vec<Value> {
    let documents = serde_norway::Deserializer::from_str(MANIFEST);
    documents
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

/// The only object of its kind. What its type does not know would be lost on the way through it.
fn object<T: DeserializeOwned + Serialize>(kind: &str) -> T {
    let mut documents = documents();
    documents.retain(|document| document["kind"] == kind);
    assert_eq!(documents.len(), 1, "{kind}");
    let parsed: T = serde_json::from_value(documents[0].clone()).unwrap();
    assert_eq!(serde_json::to_value(&parsed).unwrap(), documents[0]);
    parsed
}

fn container() -> Container {
    let set: DaemonSet = object("DaemonSet");
    let pod = set.spec.unwrap().template.spec.unwrap();
    assert_eq!(pod.host_network, Some(true));
    pod.containers.into_iter().next().unwrap()
}

#[test]
fn every_object_is_of_a_type_that_the_api_knows() {
    object::<ConfigMap>("ConfigMap");
    object::<ServiceAccount>("ServiceAccount");
    object::<ClusterRole>("ClusterRole");
    object::<DaemonSet>("DaemonSet");
    let binding: ClusterRoleBinding = object("ClusterRoleBinding");
    assert_eq!(binding.role_ref.kind, "ClusterRole");
    assert_eq!(documents().len(), 5);
}

#[test]
fn the_role_allows_what_is_watched_and_written_and_nothing_else() {
    let role: ClusterRole = object("ClusterRole");
    let mut allowed = BTreeSet::new();
    for rule in role.rules.unwrap() {
        for group in rule.api_groups.unwrap() {
            for resource in rule.resources.as_deref().unwrap() {
                for verb in &rule.verbs {
                    allowed.insert((group.clone(), resource.clone(), verb.clone()));
                }
            }
        }
    }
    fn kind<K: Resource<DynamicType = ()>>() -> (String, String) {
        (K::group(&()).into_owned(), K::plural(&()).into_owned())
    }
    let watched = [
        kind::<Service>(),
        kind::<EndpointSlice>(),
        kind::<Node>(),
        kind::<ServiceCIDR>(),
    ];
    let written = [kind::<Event>()];
    let mut needed = BTreeSet::new();
    for (kinds, verbs) in [
        (&watched[..], &["get", "list", "watch"][..]),
        (&written, &["create"]),
    ] {
        for (group, resource) in kinds {
            let one = |verb: &&str| (group.clone(), resource.clone(), (*verb).to_owned());
            needed.extend(verbs.iter().map(one));
        }
    }
    assert_eq!(allowed, needed);
}

#[test]
fn the_container_has_the_rights_that_the_daemon_keeps() {
    let context = container().security_context.unwrap();
    assert_eq!(context.read_only_root_filesystem, Some(true));
    assert_eq!(context.privileged, None);
    // Runtimes deny writes to the pin directory otherwise.
    assert_eq!(context.app_armor_profile.unwrap().type_, "Unconfined");
    let rights = context.capabilities.unwrap();
    assert_eq!(rights.drop.unwrap(), ["ALL"]);
    let added: BTreeSet<String> = rights.add.unwrap().into_iter().collect();
    let daemon = capabilities::DAEMON.iter().map(ToString::to_string);
    let daemon = daemon.map(|right| right.trim_start_matches("CAP_").to_owned());
    let needed: BTreeSet<String> = daemon.chain(["SYS_ADMIN".to_owned()]).collect();
    assert_eq!(added, needed);
}

#[test]
fn the_flags_are_the_daemons_and_the_probes_ask_where_it_answers() {
    let container = container();
    let arguments = container.args.unwrap();
    let program = ["portolan-proxy".to_owned()];
    let cli = Cli::try_parse_from(program.iter().chain(&arguments)).unwrap();
    let port = i32::from(cli.config.healthz_bind_address.port());
    let ports = container.ports.unwrap();
    let healthz = ports
        .iter()
        .find(|port| port.name.as_deref() == Some("healthz"));
    assert_eq!(healthz.unwrap().container_port, port);
    let path = |probe: k8s_openapi::api::core::v1::Probe| probe.http_get.unwrap().path.unwrap();
    assert_eq!(path(container.liveness_probe.unwrap()), "/livez");
    assert_eq!(path(container.readiness_probe.unwrap()), "/healthz");
    let mounts: Vec<String> = container
        .volume_mounts
        .unwrap()
        .into_iter()
        .map(|mount| mount.mount_path)
        .collect();
    let bpf = cli.config.bpf_root.parent().unwrap();
    for needed in [cli.config.cgroup_root.as_path(), bpf] {
        assert!(mounts.iter().any(|mount| needed == Path::new(mount)));
    }
}
