//! Gateways that serve some namespaces only.

use serde_json::{Value, json};

use crate::api::{Api, CLASSES, INGRESSES, Program, SERVICES, SLICES, of_class, our_class};
use crate::backend::Backend;
use crate::client::get;
use crate::harness::{eventually, ingress, service, slice};

const NAMESPACES: &str = "/api/v1/namespaces";

/// `object` in `namespace`.
fn inside(mut object: Value, namespace: &str) -> Value {
    object["metadata"]["namespace"] = json!(namespace);
    object
}

/// The collection of one namespace that has the same objects as `collection`.
fn collection_of(collection: &str, namespace: &str) -> String {
    let (version, kind) = collection.rsplit_once('/').unwrap();
    format!("{version}/namespaces/{namespace}/{kind}")
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

#[tokio::test(flavor = "multi_thread")]
async fn one_namespace_is_watched_with_rights_in_it_alone() {
    let (api, backend) = (Api::start().await, Backend::echo("b").await);
    let plain = ingress("web", &[("a.org", "/", "s")]);
    api.put(&collection_of(INGRESSES, "team"), inside(plain, "team"));
    let classed = of_class(ingress("classed", &[("b.org", "/", "s")]), "portolan");
    api.put(&collection_of(INGRESSES, "team"), inside(classed, "team"));
    api.put(
        &collection_of(SERVICES, "team"),
        inside(service("s"), "team"),
    );
    let endpoints = slice("s", "s-1", backend.address);
    api.put(&collection_of(SLICES, "team"), inside(endpoints, "team"));
    let arguments = ["--watch-namespace=team", "--disable-ingress-classes"];
    let program = Program::start(&api, &arguments).await;
    program.ready().await;
    for host in ["a.org", "b.org"] {
        assert_eq!(get(program.http, host, "/").await.backend(), "b");
    }
    let requests = api.requests();
    let is_inside = |request: &&String| request.contains("/namespaces/team/");
    assert!(
        requests.iter().all(|request| is_inside(&request)),
        "{requests:?}"
    );
    program.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_are_looked_at_beside_one_namespace_unless_that_is_off() {
    let (api, backend) = (Api::start().await, Backend::echo("b").await);
    api.put(CLASSES, our_class());
    let classed = of_class(ingress("classed", &[("a.org", "/", "s")]), "ours");
    api.put(&collection_of(INGRESSES, "team"), inside(classed, "team"));
    api.put(
        &collection_of(SERVICES, "team"),
        inside(service("s"), "team"),
    );
    let endpoints = slice("s", "s-1", backend.address);
    api.put(&collection_of(SLICES, "team"), inside(endpoints, "team"));
    let program = Program::start(&api, &["--watch-namespace=team"]).await;
    program.ready().await;
    assert_eq!(get(program.http, "a.org", "/").await.backend(), "b");
    let requests = api.requests();
    let mut outside = requests
        .iter()
        .filter(|request| !request.contains("/namespaces/team/"));
    assert!(
        outside.all(|request| request.contains("/ingressclasses?")),
        "{requests:?}"
    );
    program.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_come_and_go_by_their_labels() {
    let (api, backend) = (Api::start().await, Backend::echo("b").await);
    for (name, host) in [("one", "one.org"), ("two", "two.org")] {
        // The API of the tests tells the objects of a collection by name alone.
        let service_name = format!("s-of-{name}");
        let object = ingress(name, &[(host, "/", &service_name)]);
        api.put(INGRESSES, inside(object, name));
        api.put(SERVICES, inside(service(&service_name), name));
        let endpoints = slice(&service_name, &format!("{name}-1"), backend.address);
        api.put(SLICES, inside(endpoints, name));
    }
    api.put(NAMESPACES, namespace("one"));
    let program = Program::start(&api, &["--watch-namespace-selector=team in (a, b)"]).await;
    program.ready().await;
    let status = async |host: &'static str| get(program.http, host, "/").await.status.as_u16();
    assert_eq!(
        (status("one.org").await, status("two.org").await),
        (200, 404)
    );
    let asked = |request: &String| {
        request.starts_with(&format!("GET {NAMESPACES}?"))
            && request.contains("labelSelector=team+in+%28a%2C+b%29")
    };
    assert!(api.requests().iter().any(asked), "{:?}", api.requests());
    // The API says that an object is gone which has the labels no longer.
    api.delete(NAMESPACES, namespace("one"));
    api.put(NAMESPACES, namespace("two"));
    eventually("the other namespace", async || {
        let both = (status("one.org").await, status("two.org").await);
        (both == (404, 200)).then_some(())
    })
    .await;
    program.end().await;
}
