//! Settings in ingress-nginx's ConfigMap, as they take effect.

use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::api::{Api, CLASSES, CONFIG_MAPS, INGRESSES, Program, SERVICES, SLICES, our_class};
use crate::backend::Backend;
use crate::client::{Answer, get as get_from, raw};
use crate::harness::{Gateway, annotated, eventually, ingress, service_of};
use crate::one_route::{gateway, get, send};

const FLAG: &str = "--configmap=default/settings";

fn settings(entries: &[(&str, &str)]) -> Value {
    named("settings", entries)
}

fn named(name: &str, entries: &[(&str, &str)]) -> Value {
    let mut data = json!({});
    for (key, value) in entries {
        data[*key] = json!(value);
    }
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": data,
    })
}

/// Waits until an answer is as `expected`.
async fn until(gateway: &Gateway, fields: &[(&str, &str)], expected: impl Fn(&Answer) -> bool) {
    eventually("the setting", async || {
        expected(&get(gateway, fields).await).then_some(())
    })
    .await;
}

#[tokio::test]
async fn settings_take_effect_at_once_and_end_with_their_key() {
    let backend = Backend::echo("b").await;
    let more = named("more", &[("X-More", "1")]);
    let mut gateway = gateway(&backend, &[], &[more], &[FLAG]);
    let has = |name: &'static str, value: &'static str| {
        move |answer: &Answer| answer.headers.get(name).is_some_and(|found| found == value)
    };
    let is = |status: u16| move |answer: &Answer| answer.status == status;
    let sees = |name: &'static str| {
        move |answer: &Answer| {
            answer.status == 200 && answer.json()["headers"][name] == json!(["1"])
        }
    };
    type Expected = Box<dyn Fn(&Answer) -> bool>;
    type Case<'c> = (&'c [(&'c str, &'c str)], &'c [(&'c str, &'c str)], Expected);
    let cases: [Case<'_>; 14] = [
        (
            &[("block-cidrs", "127.0.0.0/8")],
            &[],
            Box::new(has("x-portolan-reason", "blocked")),
        ),
        (
            &[("block-user-agents", "~*CURL")],
            &[("user-agent", "curl/8")],
            Box::new(is(403)),
        ),
        (
            &[("block-referers", "evil")],
            &[("referer", "evil")],
            Box::new(is(403)),
        ),
        (
            &[("denylist-source-range", "127.0.0.1")],
            &[],
            Box::new(is(403)),
        ),
        (
            &[("whitelist-source-range", "10.0.0.0/8")],
            &[],
            Box::new(is(403)),
        ),
        (
            &[("global-auth-url", "http://127.0.0.1:1/")],
            &[],
            Box::new(is(500)),
        ),
        (
            &[
                ("force-ssl-redirect", "true"),
                ("http-redirect-code", "301"),
            ],
            &[],
            Box::new(has("location", "https://a.org/")),
        ),
        (
            &[("add-headers", "default/more")],
            &[],
            Box::new(has("x-more", "1")),
        ),
        (
            &[("proxy-set-headers", "default/more")],
            &[],
            Box::new(sees("x-more")),
        ),
        (
            &[("hide-headers", "content-type")],
            &[],
            Box::new(|answer| !answer.headers.contains_key("content-type")),
        ),
        (
            &[("enable-underscores-in-headers", "true")],
            &[("x_a", "1")],
            Box::new(sees("x_a")),
        ),
        (
            &[("use-forwarded-headers", "true")],
            &[("x-forwarded-host", "1")],
            Box::new(sees("x-forwarded-host")),
        ),
        (
            &[
                ("use-gzip", "true"),
                ("gzip-min-length", "1"),
                ("gzip-types", "application/json"),
            ],
            &[("accept-encoding", "gzip")],
            Box::new(has("content-encoding", "gzip")),
        ),
        (
            &[("keep-alive-requests", "1")],
            &[],
            Box::new(has("connection", "close")),
        ),
    ];
    for (entries, fields, expected) in cases {
        assert!(
            !expected(&get(&gateway, fields).await),
            "before {entries:?}"
        );
        let report = gateway.apply(settings(entries)).unwrap();
        assert_eq!(report.problems, [], "{entries:?}");
        until(&gateway, fields, &expected).await;
        gateway.apply(settings(&[]));
        until(&gateway, fields, |answer| !expected(answer)).await;
    }
}

#[tokio::test]
async fn bodies_logs_and_proxies_are_as_the_config_map_says() {
    let backend = Backend::echo("b").await;
    let mut gateway = gateway(&backend, &[], &[], &[FLAG]);
    gateway.apply(settings(&[
        ("proxy-body-size", "3"),
        ("log-format-upstream", "$request_method of $host: $status"),
        ("skip-access-log-urls", "/quiet,~^/still/"),
        ("use-proxy-protocol", "true"),
    ]));
    let request = |path: &str| {
        format!(
            "PROXY TCP4 192.0.2.7 198.51.100.1 50000 80\r\nPOST {path} HTTP/1.1\r\nHost: a.org\r\n\
             Content-Length: 4\r\nConnection: close\r\n\r\nabcd"
        )
    };
    eventually("the setting", async || {
        let answer = raw(gateway.http, request("/quiet").as_bytes()).await;
        answer.starts_with("HTTP/1.1 413").then_some(())
    })
    .await;
    raw(gateway.http, request("/still/too").as_bytes()).await;
    raw(gateway.http, request("/loud").as_bytes()).await;
    let lines = gateway.log_text(|line| line.starts_with("POST")).await;
    assert_eq!(lines, "POST of a.org: 413");
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn annotations_go_over_the_config_map_and_that_over_the_command_line() {
    let backend = Backend::echo("b").await;
    let own = annotated(
        ingress("own", &[("own.org", "/", "s")]),
        &[
            ("force-ssl-redirect", "false"),
            ("enable-global-auth", "false"),
        ],
    );
    let arguments = [FLAG, "--force-ssl-redirect", "--limit-status-code=503"];
    let mut gateway = gateway(
        &backend,
        &[("limit-rps", "1"), ("limit-burst-multiplier", "1")],
        &[own],
        &arguments,
    );
    let at = |host: &'static str| get_from(gateway.http, host, "/");
    assert_eq!(at("a.org").await.status, 308);
    assert_eq!(at("own.org").await.status, 200);
    let entries = [
        ("force-ssl-redirect", "true"),
        ("http-redirect-code", "302"),
        ("global-auth-url", "http://127.0.0.1:1/"),
    ];
    gateway.apply(settings(&entries));
    until(&gateway, &[], |answer| answer.status == 302).await;
    let at = |host: &'static str| get_from(gateway.http, host, "/");
    assert_eq!(at("own.org").await.status, 200);
    gateway.apply(settings(&[
        ("force-ssl-redirect", "false"),
        ("limit-req-status-code", "420"),
    ]));
    until(&gateway, &[], |answer| answer.status == 420).await;
}

#[tokio::test]
async fn the_last_good_list_stays_where_a_new_one_cannot_be_used() {
    let backend = Backend::echo("b").await;
    let mut gateway = gateway(&backend, &[], &[], &[FLAG]);
    gateway.apply(settings(&[("denylist-source-range", "127.0.0.0/8")]));
    until(&gateway, &[], |answer| answer.status == 403).await;
    let bad = [
        ("denylist-source-range", "localhost"),
        ("http-redirect-code", "307"),
        ("proxy-body-size", "x"),
    ];
    let report = gateway.apply(settings(&bad)).unwrap();
    let told: Vec<_> = report
        .problems
        .iter()
        .map(|problem| problem.field.as_str())
        .collect();
    assert_eq!(
        told,
        ["data[denylist-source-range]", "data[proxy-body-size]"]
    );
    assert_eq!(
        send(&gateway, "GET", "/", &[]).await.status,
        StatusCode::FORBIDDEN
    );
    gateway.apply(settings(&[]));
    until(&gateway, &[], |answer| answer.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_before_the_config_map_can_be_used() {
    let api = Api::start().await;
    let backend = Backend::echo("b").await;
    api.put(CLASSES, our_class());
    api.put(INGRESSES, ingress("web", &[("a.org", "/", "s")]));
    for object in service_of("s", &[backend.address]) {
        let collection = if object["kind"] == "Service" {
            SERVICES
        } else {
            SLICES
        };
        api.put(collection, object);
    }
    api.put(CONFIG_MAPS, settings(&[("block-cidrs", "everybody")]));
    let program = Program::start(&api, &[FLAG]).await;
    eventually("the ConfigMap to be watched", async || {
        let watched = |request: &String| {
            let is_named = request.contains("fieldSelector=metadata.name%3Dsettings&");
            request.starts_with(&format!("GET {CONFIG_MAPS}?"))
                && is_named
                && request.contains("watch=true")
        };
        api.requests().iter().any(watched).then_some(())
    })
    .await;
    let readiness = get_from(program.admin, "admin", "/readyz").await;
    assert_eq!(readiness.body, "starting\n");
    assert!(TcpStream::connect(program.http).await.is_err());
    api.put(
        CONFIG_MAPS,
        settings(&[
            ("block-cidrs", "192.0.2.0/24"),
            ("server-snippet", "return 418;"),
        ]),
    );
    program.ready().await;
    assert_eq!(get_from(program.http, "a.org", "/").await.status, 200);
    let event = eventually("an Event", async || api.event("InvalidSetting")).await;
    assert_eq!(event["involvedObject"]["kind"], "ConfigMap");
    assert_eq!(event["involvedObject"]["name"], "settings");
    let message = event["message"].as_str().unwrap();
    assert!(message.starts_with("data[server-snippet]: "), "{message}");
    api.put(CONFIG_MAPS, settings(&[("block-cidrs", "127.0.0.0/8")]));
    eventually("the setting", async || {
        let answer = get_from(program.http, "a.org", "/").await;
        (answer.status == 403).then_some(())
    })
    .await;
    api.delete(CONFIG_MAPS, settings(&[]));
    eventually("the end of the setting", async || {
        let answer = get_from(program.http, "a.org", "/").await;
        (answer.status == 200).then_some(())
    })
    .await;
    program.end().await;
}
