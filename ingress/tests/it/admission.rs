//! The admission webhook, asked over TLS as an API server asks.

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use ingress::admission::PATH;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::api::{Api, CLASSES, INGRESSES, Program, free_port, of_class, our_class, own_address};
use crate::client::{Answer, Http, get, tls};
use crate::harness::{annotated, eventually, ingress};
use crate::tls::{Authority, authority};

/// The name that the API server knows the webhook by.
const NAME: &str = "portolan-ingress-admission.portolan-ingress.svc";

/// A gateway with a webhook.
struct Webhook {
    program: Program,
    address: SocketAddr,
    authority: Authority,
    folder: tempfile::TempDir,
}

impl Webhook {
    /// A gateway that serves `ingresses`, and has its certificate.
    async fn start(ingresses: &[Value]) -> Self {
        let webhook = Self::without_certificate(ingresses).await;
        webhook.renew(&webhook.authority);
        webhook
    }

    async fn without_certificate(ingresses: &[Value]) -> Self {
        let api = Api::start().await;
        api.put(CLASSES, our_class());
        for ingress in ingresses {
            api.put(INGRESSES, ingress.clone());
        }
        let folder = tempfile::tempdir().unwrap();
        let address = free_port(own_address()).await;
        let path = |name| folder.path().join(name).display().to_string();
        let arguments = [
            format!("--validating-webhook={address}"),
            format!("--validating-webhook-certificate={}", path("tls.crt")),
            format!("--validating-webhook-key={}", path("tls.key")),
        ];
        let program = Program::start(&api, &arguments.each_ref().map(String::as_str)).await;
        program.ready().await;
        eventually("the webhook", async || {
            TcpStream::connect(address).await.ok()
        })
        .await;
        Self {
            program,
            address,
            authority: authority(),
            folder,
        }
    }

    fn write(&self, name: &str, content: &str) {
        let path: &Path = self.folder.path();
        std::fs::write(path.join(name), content).unwrap();
    }

    /// Writes a certificate of `authority`.
    fn renew(&self, authority: &Authority) {
        let (chain, key) = authority.issue(&[NAME]);
        self.write("tls.crt", &chain);
        self.write("tls.key", &key);
    }

    /// Whether a client that trusts `root` alone can connect.
    async fn is_trusted_by(&self, root: &CertificateDer<'static>) -> bool {
        tls(self.address, NAME, root, b"http/1.1").await.is_ok()
    }

    async fn send(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
        let stream = tls(self.address, NAME, &self.authority.der(), b"http/1.1").await;
        let request = request.header("host", NAME);
        let request = request.body(Full::from(body.into())).unwrap();
        let sent = Http::over(stream.unwrap()).await.send(request).await;
        sent.unwrap()
    }

    /// What is answered when `object` is to take the place of `old`.
    async fn review(&self, operation: &str, object: &Value, old: &Value) -> Value {
        let review = review(operation, object, old);
        let request = Request::post(format!("{PATH}?timeout=5s"));
        let request = request.header("content-type", "application/json");
        let answer = self.send(request, review.to_string()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        assert_eq!(answer.headers["content-type"], "application/json");
        let answer = answer.json();
        assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(answer["kind"], "AdmissionReview");
        assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
        answer["response"].clone()
    }

    /// Why `object` may not be created.
    async fn refusal(&self, object: &Value) -> Option<String> {
        message(&self.review("CREATE", object, &Value::Null).await)
    }
}

/// A review as an API server sends it.
fn review(operation: &str, object: &Value, old: &Value) -> Value {
    let subject = if object.is_null() { old } else { object };
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "networking.k8s.io", "version": "v1", "kind": "Ingress"},
            "resource": {"group": "networking.k8s.io", "version": "v1", "resource": "ingresses"},
            "name": subject["metadata"]["name"],
            "namespace": "default",
            "operation": operation,
            "userInfo": {"username": "admin", "groups": ["system:authenticated"]},
            "object": object,
            "oldObject": old,
            "dryRun": false,
            "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        },
    })
}

/// Why the object was refused.
fn message(response: &Value) -> Option<String> {
    if response["allowed"] == true {
        assert_eq!(response["status"], Value::Null);
        return None;
    }
    assert_eq!(response["allowed"], false);
    assert_eq!(response["status"]["code"], 400);
    Some(response["status"]["message"].as_str().unwrap().to_owned())
}

fn warnings(response: &Value) -> Vec<&str> {
    let warnings = response["warnings"].as_array();
    let each = warnings.into_iter().flatten();
    each.map(|warning| warning.as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_not_be_done_is_refused_and_what_is_done_otherwise_is_told() {
    let webhook = Webhook::start(&[]).await;
    let plain = ingress("web", &[("a.org", "/", "missing")]);
    let bad_path = {
        let mut object = plain.clone();
        object["spec"]["rules"][0]["http"]["paths"][0]["path"] = json!("a");
        object
    };
    // The object, what the refusal says, and what the warnings say.
    let with = |name, value| annotated(plain.clone(), &[(name, value)]);
    let secret = [("auth-type", "basic"), ("auth-secret", "not-there-yet")];
    let secret = annotated(plain.clone(), &secret);
    let rows = [
        (plain.clone(), None, None),
        (with("ssl-redirect", "false"), None, None),
        (secret, None, None),
        (
            with("ssl-redirect", "perhaps"),
            Some("nginx.ingress.kubernetes.io/ssl-redirect: "),
            None,
        ),
        (
            with("server-snippet", "return 418;"),
            Some("nginx.ingress.kubernetes.io/server-snippet: "),
            None,
        ),
        (
            with("enable-modsecurity", "true"),
            Some("ModSecurity"),
            None,
        ),
        (
            with("allowlist-source-range", "localhost"),
            Some("allowlist-source-range: "),
            None,
        ),
        (
            with("backend-protocol", "FCGI"),
            Some("backend-protocol: "),
            None,
        ),
        (bad_path, Some("spec.rules[0].http.paths[0].path: "), None),
        (with("ssl-ciphers", "ALL"), None, Some("ssl-ciphers: ")),
        (
            with("enable-opentracing", "x"),
            None,
            Some("enable-opentracing: "),
        ),
        (with("limit-rps", "5"), None, Some("limit-rps: ")),
        (
            with("rewrite-target", "/"),
            None,
            Some("spec.rules[0].http.paths[0].path: ingress-nginx makes an expression"),
        ),
        (with("portolan.dev/request-timeout", "5s"), None, None),
        (with("portolan.dev/return", "503 closed"), None, None),
        (
            with("portolan.dev/return", "https://b.org"),
            Some("portolan.dev/return: "),
            None,
        ),
        (
            with("portolan.dev/deny-paths", "admin"),
            Some("portolan.dev/deny-paths: "),
            None,
        ),
    ];
    let (mut passed, mut refusals) = (0, 0);
    for (object, refused, warned) in rows {
        *(if refused.is_none() {
            &mut passed
        } else {
            &mut refusals
        }) += 1;
        let response = webhook.review("CREATE", &object, &Value::Null).await;
        let (message, warnings) = (message(&response), warnings(&response));
        let is_refused = match (&message, refused) {
            (Some(message), Some(expected)) => message.contains(expected),
            (message, expected) => message.is_none() && expected.is_none(),
        };
        assert!(is_refused, "{refused:?}: {response}");
        let is_warned = match warned {
            Some(expected) => warnings.iter().any(|warning| warning.contains(expected)),
            None => warnings.is_empty(),
        };
        assert!(is_warned, "{warned:?}: {response}");
    }
    // Of several faults all are told.
    let both = annotated(
        plain,
        &[("server-snippet", "x"), ("configuration-snippet", "x")],
    );
    let refusal = webhook.refusal(&both).await.unwrap();
    assert!(refusal.contains("server-snippet: ") && refusal.contains("; nginx.ingress"));
    refusals += 1;
    let metrics = get(webhook.program.admin, "admin", "/metrics").await.body;
    for (name, count) in [("check_success", passed), ("check_errors", refusals)] {
        let mut lines = metrics.lines();
        let name = format!("nginx_ingress_controller_{name}{{");
        let line = lines.find(|line| line.starts_with(&name)).unwrap();
        let end = format!("namespace=\"default\",ingress=\"web\"}} {count}");
        assert!(line.ends_with(&end), "{line}");
    }
    let took = "nginx_ingress_controller_admission_roundtrip_duration{";
    assert!(metrics.lines().any(|line| line.starts_with(took)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_ingress_has_is_refused() {
    let class = |object| of_class(object, "ours");
    let main = class(ingress(
        "main",
        &[("a.org", "/shop", "s"), ("b.org", "/", "s")],
    ));
    let canary = annotated(
        ingress("canary", &[("a.org", "/shop", "c")]),
        &[("canary", "true")],
    );
    let webhook = Webhook::start(&[main.clone(), class(canary.clone())]).await;
    let taken = ingress("other", &[("c.org", "/", "s"), ("a.org", "/shop", "s")]);
    assert_eq!(
        webhook.refusal(&taken).await.unwrap(),
        "spec.rules[1].http.paths[0].path: Prefix path /shop of host a.org is already taken by Ingress default/main, \
         which comes first"
    );
    // One that would win, being older, would take the path away.
    let mut older = taken.clone();
    older["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
    let before = ingress("other", &[("c.org", "/", "s")]);
    let response = webhook.review("UPDATE", &older, &before).await;
    assert!(message(&response).unwrap().contains("default/main"));
    // Who has lost already is told, and may change everything else.
    let mut changed = taken.clone();
    changed["metadata"]["labels"] = json!({"team": "x"});
    let response = webhook.review("UPDATE", &changed, &taken).await;
    assert_eq!((message(&response), warnings(&response).len()), (None, 1));

    let allowed = [
        main,
        ingress(
            "other",
            &[("a.org", "/shop/x", "s"), ("d.org", "/shop", "s")],
        ),
        canary.clone(),
        annotated(
            ingress("new", &[("b.org", "/", "c")]),
            &[("canary", "true")],
        ),
        annotated(
            ingress("early", &[("new.org", "/", "c")]),
            &[("canary", "true")],
        ),
    ];
    for object in allowed {
        assert_eq!(webhook.refusal(&object).await, None, "{object}");
    }
    let mut second = canary;
    second["metadata"]["name"] = json!("second");
    let refusal = webhook.refusal(&second).await.unwrap();
    assert!(refusal.contains("canary of Prefix path /shop at host a.org is already taken"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_or_on_its_way_out_is_allowed() {
    let webhook = Webhook::start(&[]).await;
    let bad = annotated(
        ingress("web", &[("a.org", "/", "s")]),
        &[("server-snippet", "x")],
    );
    assert!(webhook.refusal(&bad).await.is_some());
    assert!(
        webhook
            .refusal(&of_class(bad.clone(), "ours"))
            .await
            .is_some()
    );
    assert_eq!(
        webhook.refusal(&of_class(bad.clone(), "theirs")).await,
        None
    );
    let deleted = webhook.review("DELETE", &Value::Null, &bad).await;
    assert_eq!(message(&deleted), None);
    let mut leaving = bad.clone();
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(
        message(&webhook.review("UPDATE", &leaving, &Value::Null).await),
        None
    );
    // One that becomes ours is judged as if it were new.
    let theirs = of_class(bad.clone(), "theirs");
    let response = webhook.review("UPDATE", &bad, &theirs).await;
    assert!(message(&response).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_that_of_the_files_at_the_time() {
    let webhook = Webhook::without_certificate(&[]).await;
    let root = webhook.authority.der();
    assert!(!webhook.is_trusted_by(&root).await);
    webhook.renew(&webhook.authority);
    assert!(webhook.is_trusted_by(&root).await);
    // Half of a new pair changes nothing, nor does a missing file.
    let new = authority();
    let (chain, key) = new.issue(&[NAME]);
    webhook.write("tls.crt", &chain);
    assert!(webhook.is_trusted_by(&root).await);
    std::fs::remove_file(webhook.folder.path().join("tls.key")).unwrap();
    assert!(webhook.is_trusted_by(&root).await);
    webhook.write("tls.key", &key);
    assert!(webhook.is_trusted_by(&new.der()).await);
    assert!(!webhook.is_trusted_by(&root).await);
    assert_eq!(
        get(webhook.program.admin, "admin", "/readyz").await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_review_is_refused_and_harms_nobody() {
    let webhook = Webhook::start(&[]).await;
    let object = ingress("web", &[("a.org", "/", "s")]);
    let good = review("CREATE", &object, &Value::Null);
    let mut old = good.clone();
    old["apiVersion"] = json!("admission.k8s.io/v1beta1");
    let mut odd = good.clone();
    odd["request"]["object"]["spec"] = json!(1);
    let post = || Request::post(PATH);
    let rows = [
        (post(), String::new(), 400),
        (post(), "{".repeat(1 << 20), 400),
        (post(), old.to_string(), 400),
        (post(), odd.to_string(), 400),
        (post(), " ".repeat(5 << 20), 413),
        (Request::get(PATH), String::new(), 405),
        (Request::post("/"), good.to_string(), 404),
    ];
    for (request, body, expected) in rows {
        let answer = webhook.send(request, body).await;
        assert_eq!(answer.status.as_u16(), expected, "{}", answer.body);
    }
    // Those who say nothing take places, but not for good.
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(webhook.address).await.unwrap());
    }
    assert_eq!(webhook.refusal(&object).await, None);
    let mut end = [0];
    assert_eq!(silent[0].read(&mut end).await.unwrap_or(0), 0);
}
