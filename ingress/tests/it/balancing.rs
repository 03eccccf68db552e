//! Which endpoint a request goes to: sessions, load, ejection and limits.

use std::collections::BTreeSet;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::backend::{Backend, read_head};
use crate::client::{Answer, Http, get};
use crate::harness::{Gateway, annotated, eventually, ingress, service, service_of, slice};

/// Gets `/` at `a.org` with a cookie.
async fn get_with(gateway: &Gateway, cookie: &str) -> Answer {
    let request = Request::get("/")
        .header("host", "a.org")
        .header("cookie", cookie)
        .body(Full::default());
    let mut client = Http::connect(gateway.http).await;
    client.send(request.unwrap()).await.unwrap()
}

/// The cookie that an answer sets, without its attributes.
fn cookie(answer: &Answer) -> Option<String> {
    let field = answer.headers.get("set-cookie")?.to_str().unwrap();
    Some(field.split(';').next().unwrap().to_owned())
}

async fn three() -> [Backend; 3] {
    [
        Backend::echo("a").await,
        Backend::echo("b").await,
        Backend::echo("c").await,
    ]
}

#[tokio::test]
async fn clients_stay_at_their_endpoint_by_a_cookie() {
    let backends = three().await;
    for mode in ["balanced", "persistent"] {
        let annotations = [
            ("affinity", "cookie"),
            ("affinity-mode", mode),
            ("session-cookie-name", "route"),
            ("session-cookie-max-age", "60"),
        ];
        let mut objects = vec![annotated(
            ingress("i", &[("a.org", "/", "s")]),
            &annotations,
        )];
        let addresses = backends.each_ref().map(|backend| backend.address);
        objects.extend(service_of("s", &addresses));
        let gateway = Gateway::start(&objects, &[]);
        let mut seen = BTreeSet::new();
        for _ in 0..60 {
            let first = get(gateway.http, "a.org", "/").await;
            let field = first.headers["set-cookie"].to_str().unwrap();
            assert!(field.starts_with("route="), "{field}");
            assert!(field.ends_with("; Max-Age=60; Path=/; HttpOnly"), "{field}");
            let cookie = cookie(&first).unwrap();
            for _ in 0..3 {
                let again = get_with(&gateway, &format!("x=1; {cookie}")).await;
                assert_eq!(again.backend(), first.backend(), "{mode}");
                assert!(!again.headers.contains_key("set-cookie"));
            }
            seen.insert(first.backend());
        }
        assert_eq!(seen.len(), 3, "{mode}");
        // Another gateway knows the cookie, and nobody knows one that was made up.
        let other = Gateway::start(&objects, &[]);
        let first = get(gateway.http, "a.org", "/").await;
        let again = get_with(&other, &cookie(&first).unwrap()).await;
        assert_eq!(again.backend(), first.backend(), "{mode}");
        let forged = get_with(&other, "route=0123456789abcdef0123456789abcdef").await;
        assert!(forged.headers.contains_key("set-cookie"), "{mode}");
    }
}

#[tokio::test]
async fn requests_are_hashed_to_endpoints_by_what_is_asked_for() {
    let backends = three().await;
    let mut objects = vec![
        annotated(
            ingress("one", &[("one.org", "/", "s")]),
            &[("upstream-hash-by", "$arg_user")],
        ),
        annotated(
            ingress("few", &[("few.org", "/", "s")]),
            &[
                ("upstream-hash-by", "$host"),
                ("upstream-hash-by-subset", "true"),
                ("upstream-hash-by-subset-size", "2"),
            ],
        ),
    ];
    let addresses = backends.each_ref().map(|backend| backend.address);
    objects.extend(service_of("s", &addresses));
    let gateways = [(); 2].map(|()| Gateway::start(&objects, &[]));
    let mut seen = BTreeSet::new();
    for user in 0..30 {
        let target = format!("/{user}?user={user}");
        let first = get(gateways[0].http, "one.org", &target).await.backend();
        for gateway in &gateways {
            let target = format!("/?user={user}");
            assert_eq!(get(gateway.http, "one.org", &target).await.backend(), first);
        }
        seen.insert(first);
    }
    assert_eq!(seen.len(), 3);
    let mut few = BTreeSet::new();
    for number in 0..20 {
        let gateway = &gateways[number % 2];
        few.insert(get(gateway.http, "few.org", "/").await.backend());
    }
    assert_eq!(few.len(), 2);
}

#[tokio::test]
async fn a_session_moves_for_good_only_if_asked_to() {
    for (moves, mode) in [
        ("false", "balanced"),
        ("true", "balanced"),
        ("false", "persistent"),
        ("true", "persistent"),
    ] {
        let annotations = [
            ("affinity", "cookie"),
            ("affinity-mode", mode),
            ("session-cookie-change-on-failure", moves),
        ];
        let (one, two) = (Backend::echo("one").await, Backend::echo("two").await);
        let mut objects = vec![annotated(
            ingress("i", &[("a.org", "/", "s")]),
            &annotations,
        )];
        objects.extend(service_of("s", &[one.address, two.address]));
        let gateway = Gateway::start(&objects, &["--workers=1", "--eject-after=0"]);
        let first = get(gateway.http, "a.org", "/").await;
        let session = cookie(&first).unwrap();
        let (gone, other) = match first.backend().as_str() {
            "one" => (one, two),
            _ => (two, one),
        };
        drop(gone);
        let answer = eventually("the endpoint to be gone", async || {
            let answer = get_with(&gateway, &session).await;
            (answer.status == StatusCode::OK && answer.backend() != first.backend())
                .then_some(answer)
        })
        .await;
        let moved = cookie(&answer);
        assert_eq!(moved.is_some(), moves == "true", "{mode}");
        if let Some(moved) = moved {
            let before = other.requests();
            let again = get_with(&gateway, &moved).await;
            assert_eq!(
                (again.backend(), other.requests()),
                (answer.backend(), before + 1)
            );
            assert_eq!(cookie(&again), None, "{mode}");
        }
    }
}

#[tokio::test]
async fn the_faster_and_the_less_busy_endpoints_get_more() {
    let slow = |pause| {
        Backend::serve(move |mut stream, requests| async move {
            while read_head(&mut stream).await.is_some() {
                requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                tokio::time::sleep(pause).await;
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                drop(stream.write_all(answer).await);
            }
        })
    };
    let slower = slow(Duration::from_millis(60)).await;
    let faster = slow(Duration::from_millis(2)).await;
    let mut objects = vec![
        annotated(
            ingress("e", &[("ewma.org", "/", "s")]),
            &[("load-balance", "ewma")],
        ),
        annotated(
            ingress("l", &[("least.org", "/", "s")]),
            &[("load-balance", "least_conn")],
        ),
    ];
    objects.extend(service_of("s", &[slower.address, faster.address]));
    let gateway = Gateway::start(&objects, &[]);
    for host in ["ewma.org", "least.org"] {
        let before = (slower.requests(), faster.requests());
        let clients = (0..4).map(|_| async {
            let mut client = Http::connect(gateway.http).await;
            for _ in 0..15 {
                assert_eq!(client.get(host, "/").await.status, StatusCode::OK);
            }
        });
        futures::future::join_all(clients).await;
        let (slower, faster) = (slower.requests() - before.0, faster.requests() - before.1);
        assert!(faster > 2 * slower, "{host}: {faster} to {slower}");
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_alone_by_all_routes_until_it_works() {
    let good = Backend::echo("good").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut objects = vec![
        ingress("i", &[("a.org", "/", "s")]),
        ingress("j", &[("b.org", "/", "s")]),
    ];
    objects.extend(service_of("s", &[address, good.address]));
    let gateway = Gateway::start(&objects, &["--eject-after=3", "--eject-for=2s"]);
    let attempts = async |host| {
        let target = format!("/{}", rand::random::<u64>());
        assert_eq!(
            get(gateway.http, host, &target).await.status,
            StatusCode::OK
        );
        gateway.log_line(|line| line["target"] == target).await["attempts"].clone()
    };
    let mut failed = 0;
    while failed < 3 {
        failed += attempts("a.org").await.as_i64().unwrap() - 1;
    }
    // The other route has not tried it, and does not have to.
    for _ in 0..3 {
        assert_eq!(attempts("b.org").await, 1);
    }
    let listener = TcpListener::bind(address).await.unwrap();
    let back = tokio::spawn(async move { listener.accept().await.is_ok() });
    eventually("a probe", async || {
        drop(
            tokio::time::timeout(Duration::from_millis(50), get(gateway.http, "b.org", "/")).await,
        );
        back.is_finished().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_busy_service_refuses_instead_of_piling_up() {
    let (release, released) = tokio::sync::watch::channel(false);
    let busy = Backend::serve(move |mut stream, requests| {
        let mut released = released.clone();
        async move {
            while read_head(&mut stream).await.is_some() {
                requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                released.wait_for(|released| *released).await.unwrap();
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        }
    })
    .await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[busy.address]));
    let gateway = Gateway::start(&objects, &["--max-requests-per-endpoint=2"]);
    let address = gateway.http;
    let waiting =
        [(); 2].map(|()| tokio::spawn(async move { get(address, "a.org", "/").await.status }));
    eventually("two requests", async || {
        (busy.requests() == 2).then_some(())
    })
    .await;
    let refused = get(gateway.http, "a.org", "/").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers.contains_key("retry-after"));
    assert!(refused.body.contains("overloaded"), "{}", refused.body);
    release.send(true).unwrap();
    for answer in waiting {
        assert_eq!(answer.await.unwrap(), StatusCode::OK);
    }
    eventually("room", async || {
        (get(gateway.http, "a.org", "/").await.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn endpoints_meant_for_the_zone_of_the_gateway_are_preferred_while_there_are_any() {
    let (near, far) = (Backend::echo("near").await, Backend::echo("far").await);
    let hinted = |backend: &Backend, zone| {
        let mut slice = slice("s", zone, backend.address);
        slice["endpoints"][0]["hints"] = json!({"forZones": [{"name": zone}]});
        slice
    };
    let objects = [
        ingress("i", &[("a.org", "/", "s")]),
        service("s"),
        hinted(&near, "here"),
        hinted(&far, "there"),
    ];
    let mut gateway = Gateway::start(&objects, &["--node-name=n", "--zone=here"]);
    for _ in 0..4 {
        assert_eq!(get(gateway.http, "a.org", "/").await.backend(), "near");
    }
    gateway.delete_slice(hinted(&near, "here"));
    assert_eq!(get(gateway.http, "a.org", "/").await.backend(), "far");
    // A gateway that does not know where it is takes all alike.
    let anywhere = Gateway::start(&objects, &[]);
    let mut seen = BTreeSet::new();
    for _ in 0..4 {
        seen.insert(get(anywhere.http, "a.org", "/").await.backend());
    }
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn a_service_is_reached_at_its_own_address_where_that_is_asked_for() {
    let (pod, address) = (Backend::echo("pod").await, Backend::echo("address").await);
    let port = address.address.port();
    let on_port = |mut ingress: Value| {
        let path = &mut ingress["spec"]["rules"][0]["http"]["paths"][0];
        path["backend"]["service"]["port"]["number"] = json!(port);
        ingress
    };
    let service = |name, ip: &str| {
        let mut service = service(name);
        service["spec"] = json!({"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": port}]});
        service
    };
    let by_address = |ingress| annotated(on_port(ingress), &[("service-upstream", "true")]);
    let mut gateway = Gateway::start(
        &[
            on_port(ingress("pod", &[("pod.org", "/", "s")])),
            by_address(ingress("address", &[("address.org", "/", "s")])),
            by_address(ingress("headless", &[("headless.org", "/", "headless")])),
            service("s", "127.0.0.1"),
            service("headless", "None"),
            slice("s", "s-1", pod.address),
            slice("headless", "headless-1", pod.address),
        ],
        &[],
    );
    for (host, expected) in [
        ("pod.org", "pod"),
        ("address.org", "address"),
        ("headless.org", "pod"),
    ] {
        assert_eq!(
            get(gateway.http, host, "/").await.backend(),
            expected,
            "{host}"
        );
    }
    // The address follows the Service.
    gateway.apply(service("s", "127.0.0.77"));
    assert_eq!(get(gateway.http, "address.org", "/").await.status, 502);
    assert_eq!(get(gateway.http, "pod.org", "/").await.backend(), "pod");
}
