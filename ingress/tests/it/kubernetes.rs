//! The whole program against a small Kubernetes API: lists, watches, status patches, Events.

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::api::{
    Api, CLASSES, INGRESSES, Program, SECRETS, SERVICES, SLICES, of_class, our_class,
};
use crate::backend::Backend;
use crate::client::get;
use crate::harness::{eventually, ingress, secure_ingress, service, slice};
use crate::tls::authority;

#[tokio::test(flavor = "multi_thread")]
async fn from_the_api_to_an_answer_and_back_to_the_api() {
    let backend = Backend::echo("b").await;
    let api = Api::start().await;
    api.put(CLASSES, our_class());
    api.put(
        INGRESSES,
        of_class(ingress("web", &[("a.org", "/", "s")]), "ours"),
    );
    api.put(
        INGRESSES,
        of_class(ingress("foreign", &[("f.org", "/", "s")]), "nginx"),
    );
    api.put(
        INGRESSES,
        of_class(secure_ingress("safe", "safe.org", "s", "cert"), "ours"),
    );
    api.put(SERVICES, service("s"));
    api.put(SLICES, slice("s", "s-1", backend.address));
    let addresses = "--publish-status-address=192.0.2.1,gateway.example";
    let program = Program::start(&api, &[addresses, "--clear-status-on-shutdown"]).await;

    // Nothing listens, and it says so, before everything has come, up to the last Secret that is named.
    let starting = eventually("the admin port", async || {
        TcpStream::connect(program.admin).await.ok()?;
        Some(get(program.admin, "admin", "/readyz").await)
    })
    .await;
    assert_eq!(
        (starting.status.as_u16(), starting.body.as_str()),
        (503, "starting\n")
    );
    assert!(TcpStream::connect(program.http).await.is_err());
    api.secrets.send_replace(true);
    program.ready().await;

    // The first answer is already the right one.
    assert_eq!(get(program.http, "a.org", "/").await.backend(), "b");
    assert_eq!(get(program.http, "f.org", "/").await.status, 404);
    let requests = api.requests();
    let of_secrets = requests
        .iter()
        .filter(|request| request.contains("/secrets"));
    let namespaced = format!("GET {SECRETS}?");
    for request in of_secrets {
        let is_named = request.contains("fieldSelector=metadata.name%3Dcert&");
        assert!(request.starts_with(&namespaced) && is_named, "{request}");
    }
    let event = eventually("an Event", async || api.event("SecretNotFound")).await;
    assert_eq!(event["involvedObject"]["name"], "safe");

    // The status is written, once, and only ours.
    eventually("the status", async || {
        (api.statuses().len() == 2).then_some(())
    })
    .await;
    let points = json!([{"ip": "192.0.2.1"}, {"hostname": "gateway.example"}]);
    let status = json!({"loadBalancer": {"ingress": points}});
    let of = |name: &str, status: &Value| (name.to_owned(), status.clone());
    assert_eq!(api.statuses(), [of("safe", &status), of("web", &status)]);

    // Changes arrive: a new rule, a Service that is not there, which is told where its owner looks.
    let more = ingress(
        "web",
        &[
            ("a.org", "/", "s"),
            ("new.org", "/", "s"),
            ("b.org", "/", "missing"),
        ],
    );
    let mut more = of_class(more, "ours");
    more["status"] = json!({"loadBalancer": {"ingress": points}});
    api.put(INGRESSES, more);
    eventually("the new rule", async || {
        (get(program.http, "new.org", "/").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(get(program.http, "b.org", "/").await.status, 503);
    let event = eventually("an Event", async || api.event("ServiceNotFound")).await;
    assert_eq!(event["involvedObject"]["uid"], "uid-of-web");
    assert_eq!(event["involvedObject"]["kind"], "Ingress");
    assert_eq!(event["metadata"]["namespace"], "default");
    assert_eq!(event["type"], "Warning");
    assert_eq!(
        event["message"],
        "spec.rules[2].http.paths[0].backend.service.name: Service default/missing does not exist; \
         requests are answered with 503"
    );
    let metrics = get(program.admin, "admin", "/metrics").await.body;
    assert!(
        metrics.contains("portolan_ingress_problems{reason=\"ServiceNotFound\"} 1"),
        "{metrics}"
    );

    // The Service appears, the endpoint goes.
    api.put(SERVICES, service("missing"));
    api.put(SLICES, slice("missing", "missing-1", backend.address));
    eventually("the Service", async || {
        (get(program.http, "b.org", "/").await.status == 200).then_some(())
    })
    .await;
    api.delete(SLICES, slice("s", "s-1", backend.address));
    eventually("the end of the endpoint", async || {
        (get(program.http, "a.org", "/").await.status == 503).then_some(())
    })
    .await;
    assert_eq!(api.statuses().len(), 2);

    // A Secret is served as soon as it is there.
    api.put(SECRETS, authority().secret("cert", &["safe.org"]));
    eventually("the certificate", async || {
        let metrics = get(program.admin, "admin", "/metrics").await.body;
        metrics.contains("secret_name=\"cert\"").then_some(())
    })
    .await;

    // The end is clean.
    program.end().await;
    let cleared = json!({"loadBalancer": {"ingress": []}});
    assert_eq!(
        api.statuses()[2..],
        [of("safe", &cleared), of("web", &cleared)]
    );
}
