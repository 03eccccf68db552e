//! The manifests in `deploy/`: the program understands them, and they grant what it asks for and nothing else.

use std::collections::BTreeSet;

use clap::Parser;
use ingress::config::IngressArgs;
use serde_json::{Value, json};

use crate::api::{Api, CLASSES, INGRESSES, Program, our_class};
use crate::harness::{eventually, secure_ingress};

const RBAC: &str = include_str!("../../deploy/rbac.yaml");
const DAEMON_SET: &str = include_str!("../../deploy/daemonset.yaml");
const ADMISSION: &str = include_str!("../../deploy/admission.yaml");
const DEPLOYMENT: &str = include_str!("../../deploy/deployment.yaml");

fn documents(manifest: &str) -> Vec<Value> {
    let documents = manifest.split("\n---\n");
    documents
        .map(|document| serde_norway::from_str(document).unwrap())
        .collect()
}

fn of_kind(manifest: &str, kind: &str) -> Vec<Value> {
    let mut all = documents(manifest);
    all.retain(|object| object["kind"] == kind);
    all
}

fn strings(value: &Value) -> Vec<String> {
    let values = value.as_array().into_iter().flatten();
    values
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

/// Every `verb group/resource` that the rules of `kind` grant.
fn granted(kind: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for object in of_kind(RBAC, kind) {
        for rule in object["rules"].as_array().unwrap() {
            for verb in strings(&rule["verbs"]) {
                for resource in strings(&rule["resources"]) {
                    let group = rule["apiGroups"][0].as_str().unwrap();
                    all.insert(format!("{verb} {group}/{resource}"));
                }
            }
        }
    }
    all
}

/// What an API server would ask the authorizer about a request.
fn right(request: &str) -> String {
    let (method, target) = request.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let group = match parts.remove(0) {
        "api" => "",
        _ => parts.remove(0),
    };
    // The version, then the namespace.
    parts.remove(0);
    if parts[0] == "namespaces" {
        parts.drain(..2);
    }
    let resource = match parts[..] {
        [resource, _, sub] => format!("{resource}/{sub}"),
        _ => parts[0].to_owned(),
    };
    let verb = match method {
        "GET" if query.contains("watch=true") => "watch",
        "GET" if parts.len() > 1 => "get",
        "GET" => "list",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        other => panic!("{other}"),
    };
    format!("{verb} {group}/{resource}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_are_those_that_the_program_uses() {
    let api = Api::start().await;
    api.secrets.send_replace(true);
    api.put(CLASSES, our_class());
    let mut object = secure_ingress("web", "a.org", "s", "cert");
    object["metadata"]["annotations"]["nginx.ingress.kubernetes.io/rewrite-target"] = json!("/$9");
    api.put(INGRESSES, object);
    let arguments = [
        "--publish-status-address=192.0.2.1",
        "--election-namespace=default",
        "--configmap=default/settings",
    ];
    let program = Program::start(&api, &arguments).await;
    program.ready().await;
    let optional = BTreeSet::from(["get /events", "patch /events"].map(str::to_owned));
    // The end of the file says how to grant these.
    let by_name = [
        "list /secrets",
        "watch /secrets",
        "list /configmaps",
        "watch /configmaps",
    ];
    let by_name = BTreeSet::from(by_name.map(str::to_owned));
    let expected: BTreeSet<_> = granted("ClusterRole")
        .union(&granted("Role"))
        .filter(|right| !optional.contains(*right))
        .chain(&by_name)
        .cloned()
        .collect();
    // The Lease is renewed at last.
    eventually("all rights to be used", async || {
        let used: BTreeSet<_> = api
            .requests()
            .iter()
            .map(|request| right(request))
            .collect();
        (used == expected).then_some(())
    })
    .await;
    assert!(optional.is_subset(&granted("ClusterRole")));
    program.end().await;
}

#[test]
fn no_secret_is_granted_to_all() {
    let all = granted("ClusterRole");
    assert!(
        !all.iter().any(|right| right.contains("secrets")),
        "{all:?}"
    );
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: IngressArgs,
}

#[test]
fn the_arguments_and_probes_are_those_of_the_program() {
    for (manifest, kind) in [(DAEMON_SET, "DaemonSet"), (DEPLOYMENT, "Deployment")] {
        let workload = &of_kind(manifest, kind)[0];
        let pod = &workload["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let arguments = strings(&container["args"]);
        let arguments = ["portolan-ingress".to_owned()].into_iter().chain(arguments);
        let Cli { args } = Cli::try_parse_from(arguments).unwrap_or_else(|error| panic!("{error}"));
        let drain = args.gateway.drain_timeout.as_secs();
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(grace > drain, "{kind}");
        let admin = &container["ports"][2];
        assert_eq!(admin["containerPort"], args.gateway.admin_bind.port());
        for (probe, path) in [("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")] {
            assert_eq!(container[probe]["httpGet"]["path"], path, "{kind}");
            assert_eq!(container[probe]["httpGet"]["port"], admin["name"], "{kind}");
        }
        let service_account = &of_kind(RBAC, "ServiceAccount")[0]["metadata"];
        assert_eq!(pod["serviceAccountName"], service_account["name"]);
        assert_eq!(
            workload["metadata"]["namespace"],
            service_account["namespace"]
        );
        let leases = &of_kind(RBAC, "Role")[0]["rules"][1]["resourceNames"];
        assert_eq!(*leases, json!([args.election_id]), "{kind}");
    }
}

#[test]
fn the_webhook_is_asked_where_it_is() {
    let workload = &of_kind(DEPLOYMENT, "Deployment")[0];
    let pod = &workload["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let arguments = strings(&container["args"]);
    let arguments = ["portolan-ingress".to_owned()].into_iter().chain(arguments);
    let Cli { args } = Cli::try_parse_from(arguments).unwrap_or_else(|error| panic!("{error}"));

    let configuration = &of_kind(ADMISSION, "ValidatingWebhookConfiguration")[0];
    let webhook = &configuration["webhooks"][0];
    assert_eq!(webhook["admissionReviewVersions"], json!(["v1"]));
    assert_eq!(webhook["sideEffects"], "None");
    let rule = &webhook["rules"][0];
    assert_eq!(rule["apiGroups"], json!(["networking.k8s.io"]));
    assert_eq!(rule["resources"], json!(["ingresses"]));
    assert_eq!(rule["operations"], json!(["CREATE", "UPDATE"]));
    let target = &webhook["clientConfig"]["service"];
    assert_eq!(target["path"], ingress::admission::PATH);

    let service = &of_kind(ADMISSION, "Service")[0];
    let (name, namespace) = (
        &service["metadata"]["name"],
        &service["metadata"]["namespace"],
    );
    assert_eq!((&target["name"], &target["namespace"]), (name, namespace));
    let labels = &workload["spec"]["template"]["metadata"]["labels"];
    assert_eq!(service["spec"]["selector"], *labels);
    let ports = container["ports"].as_array().unwrap().iter();
    let port = ports
        .rev()
        .find(|port| port["name"] == service["spec"]["ports"][0]["targetPort"]);
    let listens = args.admission.validating_webhook.unwrap();
    assert_eq!(port.unwrap()["containerPort"], listens.port());

    let certificate = &of_kind(ADMISSION, "Certificate")[0];
    let secret = &certificate["spec"]["secretName"];
    let volume = &pod["volumes"][1];
    assert_eq!(
        volume["secret"],
        json!({"secretName": secret, "optional": true})
    );
    let mount = &container["volumeMounts"][1];
    assert_eq!(mount["name"], volume["name"]);
    let folder = std::path::Path::new(mount["mountPath"].as_str().unwrap());
    for (file, key) in [
        (args.admission.validating_webhook_certificate, "tls.crt"),
        (args.admission.validating_webhook_key, "tls.key"),
    ] {
        assert_eq!(file.unwrap(), folder.join(key));
    }
    let host = format!(
        "{}.{}.svc",
        name.as_str().unwrap(),
        namespace.as_str().unwrap()
    );
    assert_eq!(certificate["spec"]["dnsNames"], json!([host]));
}
