//! The subcommands: what a running gateway says about itself on its socket.

use std::os::unix::fs::PermissionsExt;

use clap::Parser;
use ingress::inspect::socket::{AskError, Question};
use serde_json::{Value, json};

use crate::api::{
    Api, CLASSES, INGRESSES, Program, SECRETS, SERVICES, SLICES, of_class, our_class,
};
use crate::backend::Backend;
use crate::client::get;
use crate::harness::{ingress, secure_ingress, service, slice};
use crate::tls::authority;

#[derive(clap::Parser)]
struct Cli {
    #[command(subcommand)]
    question: Question,
}

async fn ask(program: &Program, words: &[&str]) -> Result<String, AskError> {
    let socket = format!("--admin-socket={}", program.socket.display());
    let words = words.iter().copied();
    let all = ["portolan-ingress"]
        .into_iter()
        .chain(words)
        .chain([&*socket]);
    let Cli { question } = Cli::try_parse_from(all).unwrap_or_else(|error| panic!("{error}"));
    question.ask().await
}

async fn ask_json(program: &Program, words: &[&str]) -> Value {
    let words: Vec<_> = words.iter().copied().chain(["-o", "json"]).collect();
    serde_json::from_str(&ask(program, &words).await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_what_is_in_effect() {
    let backend = Backend::echo("b").await;
    let api = Api::start().await;
    api.secrets.send_replace(true);
    api.put(CLASSES, our_class());
    api.put(
        INGRESSES,
        of_class(secure_ingress("safe", "*.a.org", "s", "cert"), "ours"),
    );
    api.put(
        INGRESSES,
        of_class(ingress("web", &[("b.org", "/x", "missing")]), "ours"),
    );
    api.put(SERVICES, service("s"));
    api.put(SLICES, slice("s", "s-1", backend.address));
    api.put(SECRETS, authority().secret("cert", &["*.a.org"]));
    let program = Program::start(&api, &[]).await;
    program.ready().await;
    let mode = std::fs::metadata(&program.socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let routes = ask_json(&program, &["routes"]).await;
    assert_eq!(
        routes,
        json!([
            {
                "host": "*.a.org", "kind": "Prefix", "path": "/", "ingress": "default/safe", "service": "s",
                "endpoints": 1, "tls": true, "closed": false,
            },
            {
                "host": "b.org", "kind": "Prefix", "path": "/x", "ingress": "default/web", "service": "missing",
                "endpoints": null, "tls": false, "closed": false,
            },
        ])
    );
    let table = ask(&program, &["routes"]).await.unwrap();
    let cells = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let lines: Vec<_> = table.lines().map(cells).collect();
    assert_eq!(lines[0][..4], ["HOST", "KIND", "PATH", "INGRESS"]);
    let last = [
        "b.org",
        "Prefix",
        "/x",
        "default/web",
        "missing",
        "-",
        "no",
        "no",
    ];
    assert_eq!(lines[2], last);

    let upstreams = ask_json(&program, &["upstreams"]).await;
    assert_eq!(upstreams[0]["service"], "default/s");
    assert_eq!(upstreams[0]["address"], backend.address.to_string());
    assert_eq!(upstreams[0]["ejected"], false);

    let certs = ask_json(&program, &["certs"]).await;
    assert_eq!(certs[0]["host"], "(default)");
    assert_eq!(certs[1]["host"], "*.a.org");
    assert_eq!(certs[1]["secret"], "default/cert");
    assert_eq!(certs[1]["names"], json!(["*.a.org"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_explained_by_the_rule_and_the_answer_it_gets() {
    let backend = Backend::echo("b").await;
    let api = Api::start().await;
    api.secrets.send_replace(true);
    api.put(CLASSES, our_class());
    let rules = [("*.a.org", "/", "s"), ("b.org", "/x", "missing")];
    api.put(INGRESSES, of_class(ingress("web", &rules), "ours"));
    api.put(SERVICES, service("s"));
    api.put(SLICES, slice("s", "s-1", backend.address));
    let program = Program::start(&api, &[]).await;
    program.ready().await;

    // What is said is what happens.
    for (host, path, rules, rule, answer) in [
        ("w.a.org", "/q", json!("*.a.org"), json!("/"), Value::Null),
        (
            "W.A.org",
            "/%7Eq/../z",
            json!("*.a.org"),
            json!("/"),
            Value::Null,
        ),
        (
            "a.org",
            "/q",
            Value::Null,
            Value::Null,
            json!({"status": 404, "reason": "no_route"}),
        ),
        (
            "b.org",
            "/",
            json!("b.org"),
            Value::Null,
            json!({"status": 404, "reason": "no_route"}),
        ),
        (
            "b.org",
            "/x/y",
            json!("b.org"),
            json!("/x"),
            json!({"status": 503, "reason": "no_backend"}),
        ),
    ] {
        let url = format!("http://{host}{path}");
        let said = ask_json(&program, &["explain", &url]).await;
        assert_eq!(said["rules"], rules, "{url}");
        assert_eq!(said["rule"]["path"], rule, "{url}");
        assert_eq!(said["answer"], answer, "{url}");
        let happened = get(program.http, host, path).await;
        let status = answer["status"].as_u64().unwrap_or(200);
        assert_eq!(u64::from(happened.status.as_u16()), status, "{url}");
        let reason = happened.headers.get("x-portolan-reason");
        let reason = reason.map(|reason| reason.to_str().unwrap());
        assert_eq!(reason, answer["reason"].as_str(), "{url}");
        if status == 200 {
            assert_eq!(happened.json()["target"], said["path"], "{url}");
            assert_eq!(said["endpoints"][0]["address"], backend.address.to_string());
        }
    }
    let text = ask(&program, &["explain", "http://b.org/x"]).await.unwrap();
    assert!(
        text.contains("rule         Prefix /x of Ingress default/web\n"),
        "{text}"
    );
    assert!(text.ends_with("answer       503 no_backend\n"), "{text}");
    for bad in ["/only/a/path", "http://b.org/%00"] {
        let refused = ask(&program, &["explain", bad]).await;
        assert!(matches!(refused, Err(AskError::Refused(_))), "{refused:?}");
    }
}
