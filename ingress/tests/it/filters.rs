//! What requests pass between route and backend: limits, guards, CORS, canaries, copies.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::backend::{Backend, read_head};
use crate::client::{Answer, Http};
use crate::harness::{Gateway, annotated, eventually, ingress, service_of};

/// A gateway where `a.org` leads to `backend` as `annotations` ask, with `more` objects and arguments.
fn gateway(
    backend: &Backend,
    annotations: &[(&str, &str)],
    more: &[Value],
    arguments: &[&str],
) -> Gateway {
    let mut objects = vec![annotated(ingress("i", &[("a.org", "/", "s")]), annotations)];
    objects.extend(service_of("s", &[backend.address]));
    objects.extend(more.iter().cloned());
    Gateway::start(&objects, arguments)
}

async fn send(gateway: &Gateway, method: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "a.org");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::<Bytes>::default()).unwrap();
    Http::connect(gateway.http)
        .await
        .send(request)
        .await
        .unwrap()
}

async fn get(gateway: &Gateway, fields: &[(&str, &str)]) -> Answer {
    send(gateway, "GET", "/", fields).await
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", STANDARD.encode(credentials))
}

/// The Secret `users` with the user `ann`, whose password is `pa55`.
fn users() -> Value {
    const FILE: &str = "ann:$2y$05$abcdefghijklmnopqrstuudf3HefogPKF0jsklyPu4pStEPtwqax6\n";
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "users", "namespace": "default"},
        "type": "Opaque",
        "data": {"auth": STANDARD.encode(FILE)},
    })
}

const BASIC: [(&str, &str); 3] = [
    ("auth-type", "basic"),
    ("auth-secret", "users"),
    ("auth-realm", "staff"),
];

// Addresses and limits.

#[tokio::test]
async fn addresses_decide_who_enters() {
    let backend = Backend::echo("b").await;
    for (annotations, expected) in [
        (&[("allowlist-source-range", "127.0.0.0/8")][..], 200),
        (&[("whitelist-source-range", "10.0.0.0/8")], 403),
        (&[("denylist-source-range", "127.0.0.1")], 403),
        (
            &[
                ("allowlist-source-range", "127.0.0.0/8"),
                ("denylist-source-range", "127.0.0.1"),
            ],
            403,
        ),
        (&[("allowlist-source-range", "localhost")], 503),
    ] {
        let gateway = gateway(&backend, annotations, &[], &[]);
        assert_eq!(get(&gateway, &[]).await.status, expected, "{annotations:?}");
    }
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn behind_a_trusted_proxy_its_client_decides() {
    let backend = Backend::echo("b").await;
    let annotations = [("allowlist-source-range", "192.0.2.0/24")];
    let trusting = gateway(
        &backend,
        &annotations,
        &[],
        &["--trusted-proxies=127.0.0.0/8"],
    );
    let gateway = gateway(&backend, &annotations, &[], &[]);
    for (path, expected) in [
        ("192.0.2.1", 200),
        ("192.0.2.1, 1.1.1.1", 403),
        ("192.0.2.1, 127.0.0.2", 200),
    ] {
        let field = [("x-forwarded-for", path)];
        assert_eq!(get(&trusting, &field).await.status, expected, "{path}");
        assert_eq!(get(&gateway, &field).await.status, 403, "{path}");
    }
}

#[tokio::test]
async fn who_sends_too_much_is_told_when_to_try_again() {
    let backend = Backend::echo("b").await;
    let annotations = [("limit-rpm", "1"), ("limit-burst-multiplier", "2")];
    for (arguments, status) in [(&[][..], 429), (&["--limit-status-code=503"], 503)] {
        let before = backend.requests();
        let gateway = gateway(&backend, &annotations, &[], arguments);
        for _ in 0..3 {
            assert_eq!(get(&gateway, &[]).await.status, 200);
        }
        let answer = get(&gateway, &[]).await;
        assert_eq!(answer.status, status);
        let wait: u64 = answer.headers["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        assert_eq!(backend.requests() - before, 3);
        let line = gateway.log_line(|line| line["status"] == status).await;
        assert_eq!(line["reason"], "rate_limited");
    }
}

#[tokio::test]
async fn the_exempt_are_not_limited_and_a_change_elsewhere_gives_nobody_a_new_burst() {
    let backend = Backend::echo("b").await;
    let exempt = gateway(
        &backend,
        &[("limit-rpm", "1"), ("limit-whitelist", "127.0.0.0/8")],
        &[],
        &[],
    );
    for _ in 0..20 {
        assert_eq!(get(&exempt, &[]).await.status, 200);
    }
    let mut gateway = gateway(
        &backend,
        &[("limit-rpm", "1"), ("limit-burst-multiplier", "0")],
        &[],
        &[],
    );
    assert_eq!(get(&gateway, &[]).await.status, 200);
    gateway.apply(annotated(
        ingress("i", &[("a.org", "/", "s"), ("b.org", "/", "s")]),
        &[("limit-rpm", "1"), ("limit-burst-multiplier", "0")],
    ));
    assert_eq!(get(&gateway, &[]).await.status, 429);
}

#[tokio::test]
async fn requests_at_a_time_are_limited_until_their_answers_are_through() {
    // Answers are given out one for each permit.
    let (permits, waiting) = tokio::sync::watch::channel(0);
    let backend = Backend::serve(move |mut stream, requests| {
        let mut waiting = waiting.clone();
        async move {
            while read_head(&mut stream).await.is_some() {
                let number = requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let permitted = waiting
                    .wait_for(|permits| *permits > number)
                    .await
                    .map(drop);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                if permitted.is_err() || stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let gateway = gateway(&backend, &[("limit-connections", "1")], &[], &[]);
    let one = get(&gateway, &[]);
    let others = async {
        eventually("the first request", async || {
            (backend.requests() == 1).then_some(())
        })
        .await;
        assert_eq!(get(&gateway, &[]).await.status, 429);
        permits.send_replace(usize::MAX);
    };
    let (one, ()) = tokio::join!(one, others);
    assert_eq!(one.status, 200);
    eventually("the place to be free", async || {
        (get(&gateway, &[]).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn answers_are_no_faster_than_their_pace() {
    // A kilobyte is free and another one in advance, so the last two take two seconds.
    const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4096\r\n\r\n";
    let backend = Backend::serve(|mut stream, _| async move {
        while read_head(&mut stream).await.is_some() {
            let answer = [ANSWER.as_bytes(), &[b'x'; 4096]].concat();
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    })
    .await;
    let gateway = gateway(
        &backend,
        &[("limit-rate", "1"), ("limit-rate-after", "1")],
        &[],
        &[],
    );
    let started = Instant::now();
    let answer = get(&gateway, &[]).await;
    assert_eq!(answer.body, "x".repeat(4096));
    assert!(
        started.elapsed() >= Duration::from_millis(1900),
        "{:?}",
        started.elapsed()
    );
}

// Passwords and other services.

#[tokio::test]
async fn passwords_are_asked_for_and_not_handed_on() {
    let backend = Backend::echo("b").await;
    let gateway = gateway(&backend, &BASIC, &[users()], &[]);
    let right = basic("ann:pa55");
    for fields in [
        &[][..],
        &[("authorization", &*basic("ann:wrong"))],
        &[("authorization", "Bearer x")],
    ] {
        let answer = get(&gateway, fields).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers["www-authenticate"], "Basic realm=\"staff\"");
    }
    assert_eq!(backend.requests(), 0);
    let answer = get(&gateway, &[("authorization", &right), ("x-kept", "1")]).await;
    let headers = &answer.json()["headers"];
    assert_eq!(
        (&headers["authorization"], &headers["x-kept"]),
        (&Value::Null, &json!(["1"]))
    );
}

#[tokio::test]
async fn while_passwords_are_verified_everything_else_goes_on() {
    let backend = Backend::echo("b").await;
    // Some tenths of a second of work for each password.
    const COSTLY: &str = "ann:$2y$12$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u";
    let mut secret = users();
    secret["data"]["auth"] = json!(STANDARD.encode(COSTLY));
    let free = ingress("free", &[("free.org", "/", "s")]);
    let gateway = gateway(&backend, &BASIC, &[secret, free], &["--workers=1"]);
    let wrong = basic("ann:wrong");
    let mut client = Http::connect(gateway.http).await;
    let verified = async {
        assert_eq!(
            get(&gateway, &[("authorization", &wrong)]).await.status,
            401
        );
        Instant::now()
    };
    let others = async {
        for _ in 0..20 {
            assert_eq!(client.get("free.org", "/").await.status, 200);
        }
        Instant::now()
    };
    // The one thread serves them before it has the outcome.
    let (verified, others) = tokio::join!(verified, others);
    assert!(others < verified);
}

#[tokio::test]
async fn a_password_that_cannot_be_asked_for_closes_the_route() {
    let backend = Backend::echo("b").await;
    let mut gateway = gateway(&backend, &BASIC, &[], &[]);
    let right = basic("ann:pa55");
    assert_eq!(
        get(&gateway, &[("authorization", &right)]).await.status,
        503
    );
    gateway.apply(users());
    assert_eq!(get(&gateway, &[]).await.status, 401);
    assert_eq!(
        get(&gateway, &[("authorization", &right)]).await.status,
        200
    );
}

#[tokio::test]
async fn one_guard_is_enough_where_that_is_asked_for() {
    let backend = Backend::echo("b").await;
    let right = basic("ann:pa55");
    for (satisfy, allowed, password, expected) in [
        ("all", "127.0.0.0/8", true, 200),
        ("all", "127.0.0.0/8", false, 401),
        ("all", "10.0.0.0/8", true, 403),
        ("any", "127.0.0.0/8", false, 200),
        ("any", "10.0.0.0/8", true, 200),
        ("any", "10.0.0.0/8", false, 401),
    ] {
        let guards = [
            &BASIC[..],
            &[("satisfy", satisfy), ("allowlist-source-range", allowed)],
        ]
        .concat();
        let gateway = gateway(&backend, &guards, &[users()], &[]);
        let fields = [("authorization", &*right)];
        let answer = get(&gateway, &fields[..usize::from(password)]).await;
        assert_eq!(answer.status, expected, "{satisfy} {allowed} {password}");
    }
}

/// An authentication service that gives each request the answer that its `x-want` header asks for, and tells in
/// `x-user` what it was asked.
async fn authenticator() -> Backend {
    Backend::serve(|mut stream, requests| async move {
        while let Some(head) = read_head(&mut stream).await {
            requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let field = |name: &str| {
                let mut lines = head.lines().filter_map(|line| line.split_once(": "));
                lines.find(|(found, _)| *found == name).map_or("", |(_, value)| value).to_owned()
            };
            let line = head.lines().next().unwrap_or_default();
            let (want, told) = (field("x-want"), format!("{line} {}", field("x-original-url")));
            let status = if want.is_empty() { "200" } else { &want };
            let answer = format!(
                "HTTP/1.1 {status} X\r\ncontent-length: 2\r\nx-user: {told}\r\nset-cookie: seen=1\r\n\
                 www-authenticate: Custom\r\n\r\nok"
            );
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn another_service_says_who_enters() {
    let (backend, service) = (Backend::echo("b").await, authenticator().await);
    let url = format!("http://{}/check", service.address);
    let gateway = gateway(
        &backend,
        &[
            ("auth-url", &url),
            ("auth-response-headers", "X-User, X-None"),
        ],
        &[],
        &["--workers=1"],
    );
    let answer = get(&gateway, &[("x-user", "admin"), ("x-none", "admin")]).await;
    assert_eq!(
        (answer.status, &answer.headers["set-cookie"]),
        (StatusCode::OK, &"seen=1".parse().unwrap())
    );
    let headers = &answer.json()["headers"];
    assert_eq!(
        headers["x-user"],
        json!(["GET /check HTTP/1.1 http://a.org/"])
    );
    assert_eq!(headers["x-none"], Value::Null);
    for (want, expected) in [
        ("401", 401),
        ("403", 403),
        ("404", 500),
        ("302", 500),
        ("503", 500),
    ] {
        let answer = get(&gateway, &[("x-want", want)]).await;
        assert_eq!(answer.status, expected, "{want}");
        assert_eq!(
            answer.headers.contains_key("www-authenticate"),
            expected < 500,
            "{want}"
        );
    }
    assert_eq!(backend.requests(), 1);
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn without_the_service_nobody_enters() {
    let backend = Backend::echo("b").await;
    let gone = authenticator().await.address;
    let url = format!("http://{gone}/");
    let gateway = gateway(&backend, &[("auth-url", &url)], &[], &[]);
    assert_eq!(
        get(&gateway, &[]).await.status,
        StatusCode::INTERNAL_SERVER_ERROR
    );
    let line = gateway.log_line(|line| line["status"] == 500).await;
    assert_eq!(line["reason"], "auth_failed");
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn browsers_are_sent_to_sign_in() {
    let (backend, service) = (Backend::echo("b").await, authenticator().await);
    let url = format!("http://{}/", service.address);
    let gateway = gateway(
        &backend,
        &[("auth-url", &url), ("auth-signin", "https://$host/start")],
        &[],
        &[],
    );
    let answer = send(&gateway, "GET", "/x?y=1", &[("x-want", "401")]).await;
    assert_eq!(answer.status, StatusCode::FOUND);
    assert_eq!(
        answer.headers["location"],
        "https://a.org/start?rd=http://a.org%2Fx%3Fy%3D1"
    );
    assert_eq!(answer.headers["set-cookie"], "seen=1");
    assert_eq!(
        get(&gateway, &[("x-want", "403")]).await.status,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn answers_of_the_service_are_remembered_by_key() {
    let backend = Backend::echo("b").await;
    let service = Backend::script(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false).await;
    let url = format!("http://{}/", service.address);
    let annotations = [
        ("auth-url", &*url),
        ("auth-cache-key", "$cookie_session"),
        ("auth-cache-duration", "200 10m"),
    ];
    let gateway = gateway(&backend, &annotations, &[], &[]);
    for (session, asked) in [
        ("session=1", 1),
        ("session=1", 1),
        ("session=2", 2),
        ("session=1", 2),
    ] {
        assert_eq!(get(&gateway, &[("cookie", session)]).await.status, 200);
        assert_eq!(service.requests(), asked);
    }
}

#[tokio::test]
async fn what_is_asked_of_all_can_be_opted_out_of_or_replaced() {
    let (backend, service) = (Backend::echo("b").await, authenticator().await);
    let url = format!("--global-auth-url=http://{}/", service.address);
    let denied = [("x-want", "403")];
    let all = gateway(&backend, &[], &[], &[&url]);
    assert_eq!(get(&all, &denied).await.status, 403);
    assert_eq!(get(&all, &[]).await.status, 200);
    let out = gateway(&backend, &[("enable-global-auth", "false")], &[], &[&url]);
    assert_eq!(get(&out, &denied).await.status, 200);
    let other = Backend::script(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false).await;
    let own = format!("http://{}/", other.address);
    let own = gateway(&backend, &[("auth-url", &own)], &[], &[&url]);
    assert_eq!(get(&own, &denied).await.status, 200);
}

// CORS.

#[tokio::test]
async fn preflights_are_answered_before_anything_is_asked() {
    let backend = Backend::echo("b").await;
    let guarded = [
        &BASIC[..],
        &[
            ("enable-cors", "true"),
            ("cors-allow-origin", "https://b.org"),
            ("force-ssl-redirect", "true"),
        ],
    ]
    .concat();
    let gateway = gateway(&backend, &guarded, &[users()], &[]);
    let answer = send(&gateway, "OPTIONS", "/", &[("origin", "https://b.org")]).await;
    assert_eq!((answer.status, &*answer.body), (StatusCode::NO_CONTENT, ""));
    assert_eq!(
        answer.headers["access-control-allow-origin"],
        "https://b.org"
    );
    assert_eq!(answer.headers["access-control-allow-credentials"], "true");
    assert_eq!(answer.headers["access-control-max-age"], "1728000");
    let other = send(&gateway, "OPTIONS", "/", &[("origin", "https://evil.org")]).await;
    assert_eq!(other.status, StatusCode::PERMANENT_REDIRECT);
    assert!(!other.headers.contains_key("access-control-allow-origin"));
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn all_answers_are_marked_for_the_origin_ours_too() {
    let backend = Backend::script(
        b"HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\nvary: Accept\r\ncontent-length: 0\r\n\r\n",
        false,
    )
    .await;
    let annotations = [
        ("enable-cors", "true"),
        ("cors-allow-origin", "https://*.b.org"),
        ("denylist-source-range", "10.0.0.0/8"),
    ];
    let gateway = gateway(
        &backend,
        &annotations,
        &[],
        &["--trusted-proxies=127.0.0.0/8"],
    );
    for (client, status) in [("192.0.2.1", 200), ("10.0.0.1", 403)] {
        let fields = [("origin", "https://x.b.org"), ("x-forwarded-for", client)];
        let answer = get(&gateway, &fields).await;
        assert_eq!(answer.status, status);
        let allowed: Vec<_> = answer
            .headers
            .get_all("access-control-allow-origin")
            .iter()
            .collect();
        assert_eq!(allowed, ["https://x.b.org"]);
        let varies = answer
            .headers
            .get_all("vary")
            .iter()
            .any(|vary| vary == "Origin");
        assert!(varies);
    }
}

// Canaries and copies.

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

#[tokio::test]
async fn requests_are_copied_with_their_bodies_and_answered_by_the_backend_alone() {
    let backend = Backend::echo("b").await;
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let log = seen.clone();
    let mirror = Backend::serve(move |mut stream, requests| {
        let log = log.clone();
        async move {
            while let Some(head) = read_head(&mut stream).await {
                let mut body = [0; 5];
                if head.contains("content-length: 5") {
                    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut body)
                        .await
                        .unwrap();
                }
                log.lock()
                    .unwrap()
                    .push(format!("{head}{}", String::from_utf8_lossy(&body)));
                requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let answer = b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let target = format!("http://{}$request_uri", mirror.address);
    let gateway = gateway(
        &backend,
        &[("mirror-target", &target), ("mirror-host", "test.org")],
        &[],
        &[],
    );
    let request = Request::post("/x?y=1")
        .header("host", "a.org")
        .body(Full::from("hello"))
        .unwrap();
    let answer = Http::connect(gateway.http)
        .await
        .send(request)
        .await
        .unwrap();
    assert_eq!(
        (answer.status, &answer.json()["body"]),
        (StatusCode::OK, &json!("hello"))
    );
    eventually("the copy", async || (mirror.requests() == 1).then_some(())).await;
    let copy = seen.lock().unwrap()[0].clone();
    assert!(copy.starts_with("POST /x?y=1 HTTP/1.1\r\n"), "{copy}");
    assert!(
        copy.contains("host: test.org\r\n") && copy.ends_with("hello"),
        "{copy}"
    );
}

#[tokio::test]
async fn a_mirror_that_is_gone_harms_nobody() {
    let backend = Backend::echo("b").await;
    let gone = Backend::echo("gone").await.address;
    let target = format!("http://{gone}$request_uri");
    let gateway = gateway(&backend, &[("mirror-target", &target)], &[], &[]);
    for _ in 0..5 {
        assert_eq!(get(&gateway, &[]).await.status, 200);
    }
}

// What answers look like.

#[tokio::test]
async fn rules_for_acme_challenges_are_not_guarded() {
    let backend = Backend::echo("b").await;
    let mut guarded = annotated(
        ingress(
            "i",
            &[
                ("a.org", "/", "s"),
                ("a.org", "/.well-known/acme-challenge/x", "s"),
            ],
        ),
        &BASIC,
    );
    guarded["metadata"]["annotations"]["nginx.ingress.kubernetes.io/denylist-source-range"] =
        json!("10.0.0.0/8");
    let mut objects = vec![guarded, users()];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &["--trusted-proxies=127.0.0.0/8"]);
    let challenge = "/.well-known/acme-challenge/x";
    for (path, client, expected) in [
        ("/", "192.0.2.1", 401),
        (challenge, "192.0.2.1", 200),
        (challenge, "10.0.0.1", 403),
    ] {
        let answer = send(&gateway, "GET", path, &[("x-forwarded-for", client)]).await;
        assert_eq!(answer.status, expected, "{path} {client}");
    }
}

#[tokio::test]
async fn answers_are_compressed_as_client_and_operator_agree() {
    let backend = Backend::serve(|mut stream, _| async move {
        while read_head(&mut stream).await.is_some() {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 50000\r\netag: \"x\"\r\n\r\n";
            let answer = [head.as_bytes(), &b"hello".repeat(10_000)].concat();
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    })
    .await;
    let gateway = gateway(&backend, &[], &[], &["--compress=br,gzip"]);
    for (accepts, expected) in [
        ("gzip", Some("gzip")),
        ("gzip, br", Some("br")),
        ("zstd", None),
        ("", None),
    ] {
        let answer = get(&gateway, &[("accept-encoding", accepts)]).await;
        let coding = answer
            .headers
            .get("content-encoding")
            .map(|coding| coding.to_str().unwrap());
        assert_eq!(
            (answer.status, coding),
            (StatusCode::OK, expected),
            "{accepts}"
        );
        assert_eq!(answer.headers["vary"], "Accept-Encoding");
        assert_eq!(
            answer.headers["etag"],
            if expected.is_some() {
                "W/\"x\""
            } else {
                "\"x\""
            }
        );
        let plain = match coding {
            Some("gzip") => {
                std::io::read_to_string(flate2::read::GzDecoder::new(&answer.bytes[..])).unwrap()
            }
            Some(_) => {
                std::io::read_to_string(brotli::Decompressor::new(&answer.bytes[..], 4096)).unwrap()
            }
            None => answer.body,
        };
        assert_eq!(plain, "hello".repeat(10_000), "{accepts}");
        assert!(
            coding.is_none() || answer.bytes.len() < 5000,
            "{accepts}: {}",
            answer.bytes.len()
        );
    }
}

#[tokio::test]
async fn what_a_backend_sends_before_a_pause_is_not_held_back_to_be_compressed() {
    let (seen, waiting) = tokio::sync::watch::channel(false);
    let backend = Backend::serve(move |mut stream, _| {
        let mut waiting = waiting.clone();
        async move {
            read_head(&mut stream).await.unwrap();
            let head =
                b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
            stream.write_all(head).await.unwrap();
            // The rest comes only once the client has the beginning.
            waiting.wait_for(|seen| *seen).await.unwrap();
            stream.write_all(b"5\r\nworld\r\n0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let gateway = gateway(&backend, &[], &[], &["--compress=gzip"]);
    let mut stream = tokio::net::TcpStream::connect(gateway.http).await.unwrap();
    let request =
        b"GET / HTTP/1.1\r\nhost: a.org\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let head = read_head(&mut stream).await.unwrap();
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let mut body = Vec::new();
    let beginning = async {
        // The header of gzip, and then some.
        while body.len() < 20 {
            body.push(tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap());
        }
    };
    tokio::time::timeout(crate::harness::PATIENCE, beginning)
        .await
        .unwrap();
    seen.send_replace(true);
    tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut body)
        .await
        .unwrap();
    assert!(body.ends_with(b"0\r\n\r\n"));
}
