//! Requests that a canary takes.

use http::StatusCode;
use serde_json::{Value, json};

use crate::backend::Backend;
use crate::client::{Answer, Http};
use crate::harness::{annotated, ingress, service_of};
use crate::one_route::{gateway, get};

/// The Ingress `canary` for the same host and path as `i`, with its own Service.
fn canary(backend: &Backend, rules: &[(&str, &str)]) -> Vec<Value> {
    let annotations = [&[("canary", "true")], rules].concat();
    let mut objects = vec![annotated(
        ingress("canary", &[("a.org", "/", "c")]),
        &annotations,
    )];
    objects.extend(service_of("c", &[backend.address]));
    objects
}

#[tokio::test]
async fn a_canary_takes_what_its_rules_say() {
    let (main, new) = (Backend::echo("main").await, Backend::echo("new").await);
    let rules = [
        ("canary-by-header", "x-canary"),
        ("canary-by-cookie", "canary"),
        ("canary-weight", "50"),
    ];
    let gateway = gateway(&main, &[], &canary(&new, &rules), &[]);
    for (field, expected) in [
        (("x-canary", "always"), "new"),
        (("x-canary", "never"), "main"),
        (("cookie", "canary=always"), "new"),
        (("cookie", "canary=never"), "main"),
    ] {
        assert_eq!(
            get(&gateway, &[field]).await.backend(),
            expected,
            "{field:?}"
        );
    }
    let line = gateway.log_line(|line| line["service"] == "c").await;
    assert_eq!(line["ingress"], "canary");
    let mut client = Http::connect(gateway.http).await;
    for _ in 0..200 {
        client.get("a.org", "/").await;
    }
    // A chance of one half misses these bounds once in 10^12 times.
    assert!((50..=150).contains(&new.requests()), "{}", new.requests());
}

#[tokio::test]
async fn the_main_ingress_decides_all_but_where_requests_go() {
    let (main, new) = (Backend::echo("main").await, Backend::echo("new").await);
    let rules = [
        ("canary-weight", "100"),
        ("denylist-source-range", "127.0.0.0/8"),
    ];
    let objects = canary(&new, &rules);
    let open = gateway(&main, &[], &objects, &[]);
    assert_eq!(get(&open, &[]).await.backend(), "new");
    let shut = gateway(
        &main,
        &[("denylist-source-range", "127.0.0.0/8")],
        &objects,
        &[],
    );
    assert_eq!(get(&shut, &[]).await.status, 403);
}

#[tokio::test]
async fn a_canary_that_cannot_serve_or_has_nothing_to_hang_under_takes_nothing() {
    let (main, new) = (Backend::echo("main").await, Backend::echo("new").await);
    let mut objects = canary(&new, &[("canary-weight", "100")]);
    objects.retain(|object| object["kind"] != "EndpointSlice");
    let without_endpoints = gateway(&main, &[], &objects, &[]);
    assert_eq!(get(&without_endpoints, &[]).await.backend(), "main");
    let mut alone = canary(&new, &[("canary-weight", "100")]);
    alone[0]["spec"]["rules"][0]["host"] = json!("alone.org");
    let mut gateway = gateway(&main, &[], &alone[1..], &[]);
    let report = gateway.apply(alone[0].clone()).unwrap();
    let told: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "spec.rules[0].http.paths[0].path: is a canary, and no other Ingress has a path / of this kind at host alone.org"
        ]
    );
    let answer = Http::connect(gateway.http)
        .await
        .get("alone.org", "/")
        .await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    // It finds its place once there is one, and loses it again.
    gateway.apply(ingress("late", &[("alone.org", "/", "s")]));
    let answer = Http::connect(gateway.http)
        .await
        .get("alone.org", "/")
        .await;
    assert_eq!(answer.backend(), "new");
}

/// The cookie that `answer` sets, as it is sent back.
fn session(answer: &Answer) -> String {
    let cookie = answer.headers["set-cookie"].to_str().unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_session_stays_on_its_side_of_a_canary() {
    let (main, new) = (Backend::echo("main").await, Backend::echo("new").await);
    let rules = [("canary-by-header", "x-canary")];
    for mode in ["balanced", "persistent"] {
        let kept = [("affinity", "cookie"), ("affinity-mode", mode)];
        let gateway = gateway(&main, &kept, &canary(&new, &rules), &[]);
        for (word, expected, other) in [("always", "new", "never"), ("never", "main", "always")] {
            let first = get(&gateway, &[("x-canary", word)]).await;
            assert_eq!(first.backend(), expected);
            let fields = [("x-canary", other), ("cookie", &*session(&first))];
            let later = get(&gateway, &fields).await;
            assert_eq!(later.backend(), expected, "{mode} {word}");
            assert!(!later.headers.contains_key("set-cookie"), "{mode} {word}");
        }
    }
}

#[tokio::test]
async fn a_session_at_a_canary_is_not_one_at_the_next() {
    let (main, new) = (Backend::echo("main").await, Backend::echo("new").await);
    let rules = [("canary-by-header", "x-canary")];
    let mut objects = canary(&new, &rules);
    objects.extend(service_of("d", &[new.address]));
    let kept = [("affinity", "cookie")];
    let mut gateway = gateway(&main, &kept, &objects, &[]);
    let always = ("x-canary", "always");
    let cookie = session(&get(&gateway, &[always]).await);
    let fields = [always, ("cookie", &*cookie)];
    assert_eq!(get(&gateway, &fields).await.backend(), "new");
    let next = &mut objects[0]["spec"]["rules"][0]["http"]["paths"][0]["backend"];
    next["service"]["name"] = json!("d");
    gateway.apply(objects[0].clone());
    assert_eq!(get(&gateway, &[always]).await.backend(), "new");
    assert_eq!(get(&gateway, &fields).await.backend(), "main");
}

#[tokio::test]
async fn sessions_change_sides_where_that_is_asked_for() {
    let (main, new) = (Backend::echo("main").await, Backend::echo("new").await);
    let rules = [("canary-by-header", "x-canary")];
    let kept = [
        ("affinity", "cookie"),
        ("affinity-canary-behavior", "legacy"),
    ];
    let gateway = gateway(&main, &kept, &canary(&new, &rules), &[]);
    let cookie = session(&get(&gateway, &[("x-canary", "never")]).await);
    let fields = [("x-canary", "always"), ("cookie", &*cookie)];
    let answer = get(&gateway, &fields).await;
    assert_eq!(answer.backend(), "new");
    assert!(!answer.headers.contains_key("set-cookie"));
}
