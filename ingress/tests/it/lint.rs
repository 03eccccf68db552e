//! `lint` of a whole cluster.

use ingress::lint::command::{Error, LintArgs, run};
use serde_json::{Value, json};

use crate::api::{Api, CONFIG_MAPS, INGRESSES, of_class};
use crate::harness::{annotated, ingress};

fn arguments(kubeconfig: &tempfile::NamedTempFile) -> LintArgs {
    LintArgs {
        files: Vec::new(),
        cluster: true,
        configmap: None,
        kubeconfig: Some(kubeconfig.path().to_owned()),
        json: true,
        quiet: true,
    }
}

#[tokio::test]
async fn the_ingresses_of_a_cluster_are_looked_at_whatever_their_class() {
    let api = Api::start().await;
    let plain = ingress("plain", &[("a.org", "/", "missing")]);
    api.put(INGRESSES, plain);
    let kubeconfig = api.kubeconfig();
    let arguments = arguments(&kubeconfig);
    let mut out = Vec::new();
    let is_good = run(&arguments, &mut out).await.unwrap();
    assert_eq!((is_good, out.len()), (true, 0));

    let foreign = annotated(
        ingress("foreign", &[("b.org", "/", "s")]),
        &[("server-snippet", "x")],
    );
    api.put(INGRESSES, of_class(foreign, "nginx"));
    let is_good = run(&arguments, &mut out).await.unwrap();
    assert!(!is_good);
    let lines: Vec<Value> = std::str::from_utf8(&out)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["object"], "default/foreign");
    assert_eq!(lines[0]["verdict"], "refused");
    // It lists once each time, and asks for nothing else.
    assert_eq!(
        api.requests(),
        [format!("GET {INGRESSES}?"), format!("GET {INGRESSES}?")]
    );
}

#[tokio::test]
async fn the_settings_of_a_cluster_are_looked_at_where_they_are_named() {
    let api = Api::start().await;
    let kubeconfig = api.kubeconfig();
    let arguments = LintArgs {
        configmap: Some(model::ObjectName::new("default", "settings")),
        ..arguments(&kubeconfig)
    };
    let missing = run(&arguments, Vec::new()).await;
    assert!(matches!(missing, Err(Error::NoSettings(_))), "{missing:?}");
    let map = json!({
        "metadata": {"name": "settings", "namespace": "default"},
        "data": {"main-snippet": "x", "use-gzip": "true"},
    });
    api.put(CONFIG_MAPS, map);
    let mut out = Vec::new();
    assert!(!run(&arguments, &mut out).await.unwrap());
    let line: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(line["object"], "default/settings");
    assert_eq!(line["subject"], "main-snippet");
}

#[tokio::test]
async fn a_cluster_that_cannot_be_reached_is_an_error() {
    let api = Api::start().await;
    let kubeconfig = api.kubeconfig();
    std::fs::write(kubeconfig.path(), "{}").unwrap();
    let nowhere = run(&arguments(&kubeconfig), Vec::new()).await;
    assert!(matches!(nowhere, Err(Error::Client(_))), "{nowhere:?}");
}
