//! Requests from client to backend and back: routing, headers, bodies, connections, failures.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::backend::{Backend, read_head};
use crate::client::{Http, get, raw};
use crate::harness::{
    Gateway, PATIENCE, annotated, eventually, ingress, service, service_of, slice, slice_with,
};
use crate::one_route::gateway;

#[tokio::test]
async fn requests_are_routed_by_host_and_path() {
    let (one, two) = (Backend::echo("one").await, Backend::echo("two").await);
    let mut objects = vec![ingress(
        "i",
        &[
            ("a.org", "/", "one"),
            ("a.org", "/sub", "two"),
            ("*.b.org", "/", "two"),
        ],
    )];
    objects.extend(service_of("one", &[one.address]));
    objects.extend(service_of("two", &[two.address]));
    let gateway = Gateway::start(&objects, &[]);
    for (host, path, expected) in [
        ("a.org", "/", Some("one")),
        ("A.ORG:8080", "/x", Some("one")),
        // Row 14 of the path table.
        ("a.org", "/x?y=/sub", Some("one")),
        ("a.org", "/sub?x=/", Some("two")),
        ("a.org", "/sub/x", Some("two")),
        ("a.org", "/%73ub/../sub", Some("two")),
        ("a.org", "/sub%2Fx", Some("one")),
        ("x.b.org", "/", Some("two")),
        ("b.org", "/", None),
        ("x.y.b.org", "/", None),
        ("other", "/", None),
    ] {
        let answer = get(gateway.http, host, path).await;
        let found = (answer.status == StatusCode::OK).then(|| answer.backend());
        assert_eq!(found.as_deref(), expected, "{host}{path}");
        assert!(expected.is_some() || answer.status == StatusCode::NOT_FOUND);
    }
    let line = gateway.log_line(|line| line["host"] == "x.b.org").await;
    assert_eq!(line["status"], 200);
    assert_eq!(line["ingress"], "i");
    assert_eq!(line["service"], "two");
    assert_eq!(line["backend"], two.address.to_string());
    let line = gateway.log_line(|line| line["host"] == "other").await;
    assert_eq!(line["reason"], "no_route");
}

#[tokio::test]
async fn what_no_rule_is_for_goes_to_the_default_backend_of_the_gateway() {
    let (backend, default) = (Backend::echo("b").await, Backend::echo("default").await);
    let errors = [("custom-http-errors", "503")];
    let own = json!({"service": {"name": "s", "port": {"number": 80}}});
    let mut with_own = ingress("own", &[("own.org", "/x", "s")]);
    with_own["spec"]["defaultBackend"] = own;
    let mut objects = vec![
        ingress("i", &[("a.org", "/x", "s")]),
        annotated(ingress("e", &[("e.org", "/", "none")]), &errors),
        with_own,
    ];
    objects.extend(service_of("s", &[backend.address]));
    let flag = "--default-backend-service=default/d";
    let mut gateway = Gateway::start(&objects, &[flag]);
    let mut client = Http::connect(gateway.http).await;
    let answer = client.get("b.org", "/").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    // It need not be there from the beginning.
    for object in service_of("d", &[default.address]) {
        gateway.apply(object);
    }
    for (host, path, expected) in [
        ("a.org", "/x", "b"),
        ("a.org", "/y", "default"),
        ("b.org", "/y", "default"),
        ("own.org", "/y", "b"),
        ("e.org", "/y", "default"),
    ] {
        let answer = client.get(host, path).await;
        assert_eq!(answer.backend(), expected, "{host}{path}");
        let told = answer.json()["headers"]["x-code"].clone();
        let is_asked_for_an_error = host == "e.org";
        assert_eq!(told == json!(["503"]), is_asked_for_an_error, "{host}");
    }
    let line = gateway.log_line(|line| line["target"] == "/y" && line["host"] == "b.org");
    let line = line.await;
    assert_eq!(line["ingress"], json!(null));
    assert_eq!(
        (&line["namespace"], &line["service"]),
        (&json!("default"), &json!("d"))
    );
}

/// RFC 9110 section 6.4.1. The length of what HEAD is about stays (9.3.2); a 304 may leave it out (8.6), and does.
#[tokio::test]
async fn answers_that_have_no_body_get_none_and_the_connection_goes_on() {
    let rows: [(&str, &[u8], &str); 3] = [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "5"),
        (
            "GET",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            "",
        ),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", ""),
    ];
    for (method, script, length) in rows {
        let backend = Backend::script(script, false).await;
        let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
        objects.extend(service_of("s", &[backend.address]));
        let gateway = Gateway::start(&objects, &["--workers=1"]);
        let one = format!("{method} / HTTP/1.1\r\nHost: a.org\r\n\r\n");
        let last = format!("{method} / HTTP/1.1\r\nHost: a.org\r\nConnection: close\r\n\r\n");
        let answers = raw(gateway.http, format!("{one}{last}").as_bytes()).await;
        let answers = answers.to_ascii_lowercase();
        let answers: Vec<&str> = answers.split_terminator("\r\n\r\n").collect();
        assert_eq!(answers.len(), 2, "{answers:?}");
        for answer in answers {
            let found = answer
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            assert_eq!(found.unwrap_or_default(), length, "{answer}");
            assert!(answer.starts_with("http/1.1 "), "{answer}");
        }
        assert_eq!((backend.requests(), backend.connections()), (2, 1));
    }
}

#[tokio::test]
async fn a_client_that_asks_whether_to_go_on_is_told_so() {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &[]);
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\
                 Connection: close\r\n\r\n";
    client.write_all(head).await.unwrap();
    let told = read_head(&mut client).await.unwrap();
    assert!(told.starts_with("HTTP/1.1 100 "), "{told}");
    client.write_all(b"body").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains(r#""body":"body""#), "{answer}");
}

#[tokio::test]
async fn backends_see_a_normal_target_and_honest_headers() {
    let backend = Backend::echo("b").await;
    let gateway = gateway(&backend, &[], &[], &[]);
    let request = Request::post("/x/../y%2fz/?q=%00")
        .header("host", "a.org:80")
        .header("connection", "x-secret")
        .header("x-secret", "1")
        .header("x_forwarded_for", "6.6.6.6")
        .header("x-forwarded-for", "6.6.6.6")
        .header("forwarded", "for=6.6.6.6")
        .header("x-request-id", "abc")
        .header("x-own", "1")
        .body(Full::from("hello"));
    let mut client = Http::connect(gateway.http).await;
    let seen = client.send(request.unwrap()).await.unwrap().json();
    let port = gateway.http.port().to_string();
    assert_eq!(seen["target"], "/y%2Fz/?q=%00");
    assert_eq!(seen["body"], "hello");
    assert_eq!(
        seen["headers"],
        json!({
            "content-length": ["5"],
            "host": ["a.org:80"],
            "x-forwarded-for": ["127.0.0.1"],
            "x-forwarded-host": ["a.org:80"],
            "x-forwarded-port": [port],
            "x-forwarded-proto": ["http"],
            "x-own": ["1"],
            "x-real-ip": ["127.0.0.1"],
            "x-request-id": ["abc"],
        })
    );
}

#[tokio::test]
async fn bodies_of_unknown_length_arrive_whole_even_with_get() {
    let backend = Backend::echo("b").await;
    let gateway = gateway(&backend, &[], &[], &[]);
    for method in ["GET", "POST", "DELETE"] {
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: a.org\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        );
        let answer = raw(gateway.http, request.as_bytes()).await;
        assert!(answer.contains(r#""body":"abcde""#), "{method}: {answer}");
    }
}

#[tokio::test]
async fn connections_to_backends_are_reused() {
    let backend = Backend::echo("b").await;
    let gateway = gateway(&backend, &[], &[], &["--workers=1"]);
    for _ in 0..10 {
        let mut client = Http::connect(gateway.http).await;
        for _ in 0..10 {
            assert_eq!(client.get("a.org", "/").await.status, StatusCode::OK);
        }
    }
    assert_eq!((backend.connections(), backend.requests()), (1, 100));
}

#[tokio::test]
async fn load_is_spread_over_all_endpoints() {
    let backends = [
        Backend::echo("a").await,
        Backend::echo("b").await,
        Backend::echo("c").await,
    ];
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of(
        "s",
        &backends.each_ref().map(|backend| backend.address),
    ));
    let gateway = Gateway::start(&objects, &[]);
    let mut client = Http::connect(gateway.http).await;
    for _ in 0..30 {
        client.get("a.org", "/").await;
    }
    assert_eq!(backends.map(|backend| backend.requests()), [10; 3]);
}

#[tokio::test]
async fn terminating_endpoints_serve_while_none_is_ready() {
    let (ready, leaving) = (Backend::echo("ready").await, Backend::echo("leaving").await);
    let terminating = json!({"ready": false, "serving": true, "terminating": true});
    let mut gateway = Gateway::start(
        &[
            ingress("i", &[("a.org", "/", "s")]),
            service("s"),
            slice("s", "ready", ready.address),
            slice_with("s", "leaving", leaving.address, terminating),
        ],
        &[],
    );
    for _ in 0..4 {
        assert_eq!(get(gateway.http, "a.org", "/").await.backend(), "ready");
    }
    gateway.delete_slice(slice("s", "ready", ready.address));
    assert_eq!(get(gateway.http, "a.org", "/").await.backend(), "leaving");
    gateway.delete_slice(slice("s", "leaving", leaving.address));
    let answer = get(gateway.http, "a.org", "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers["retry-after"], "1");
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over() {
    let backend = Backend::echo("b").await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let mut objects = vec![ingress(
        "i",
        &[("a.org", "/", "s"), ("dead.org", "/", "dead")],
    )];
    objects.extend(service_of("s", &[closed, backend.address]));
    objects.extend(service_of("dead", &[closed]));
    let gateway = Gateway::start(&objects, &[]);
    for _ in 0..4 {
        let request = Request::post("/")
            .header("host", "a.org")
            .body(Full::from("x"))
            .unwrap();
        let answer = Http::connect(gateway.http)
            .await
            .send(request)
            .await
            .unwrap();
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert_eq!(
        get(gateway.http, "dead.org", "/").await.status,
        StatusCode::BAD_GATEWAY
    );
    let line = gateway.log_line(|line| line["host"] == "dead.org").await;
    assert_eq!(
        (&line["reason"], &line["attempts"]),
        (&json!("connect_failed"), &json!(1))
    );
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_costs_no_request() {
    // Answers one request a connection without saying so, and closes as the next one comes.
    let backend = Backend::serve(async |mut stream, _| {
        if read_head(&mut stream).await.is_some() {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await
                .unwrap();
            read_head(&mut stream).await;
        }
    })
    .await;
    let gateway = gateway(&backend, &[], &[], &["--workers=1"]);
    for _ in 0..5 {
        assert_eq!(get(gateway.http, "a.org", "/").await.status, StatusCode::OK);
    }
    // What is not idempotent must not be sent twice.
    let request = Request::post("/")
        .header("host", "a.org")
        .body(Full::default())
        .unwrap();
    let answer = Http::connect(gateway.http)
        .await
        .send(request)
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn broken_backends_are_told_from_slow_ones() {
    let garbage = Backend::script(b"nonsense\r\n\r\n", true).await;
    let closes = Backend::script(b"", true).await;
    let silent = Backend::script(b"", false).await;
    let coded = Backend::script(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        true,
    )
    .await;
    let switches = Backend::script(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", true).await;
    let rows = [
        ("garbage.org", &garbage, 502, "bad_response"),
        ("closes.org", &closes, 502, "backend_closed"),
        ("silent.org", &silent, 504, "backend_timeout"),
        ("coded.org", &coded, 502, "bad_response"),
        ("switches.org", &switches, 502, "bad_response"),
    ];
    let mut objects = Vec::new();
    for (host, backend, ..) in rows {
        let name = host.strip_suffix(".org").unwrap();
        objects.push(ingress(name, &[(host, "/", name)]));
        objects.extend(service_of(name, &[backend.address]));
    }
    let gateway = Gateway::start(&objects, &["--backend-timeout=200ms"]);
    for (host, _, status, reason) in rows {
        assert_eq!(
            get(gateway.http, host, "/").await.status.as_u16(),
            status,
            "{host}"
        );
        let line = gateway.log_line(|line| line["host"] == host).await;
        assert_eq!(line["reason"], reason, "{host}");
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_never_looks_whole() {
    let sized = Backend::script(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", true).await;
    let chunked = Backend::script(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        true,
    )
    .await;
    let mut objects = vec![ingress(
        "i",
        &[("sized.org", "/", "sized"), ("chunked.org", "/", "chunked")],
    )];
    objects.extend(service_of("sized", &[sized.address]));
    objects.extend(service_of("chunked", &[chunked.address]));
    let gateway = Gateway::start(&objects, &[]);
    for host in ["sized.org", "chunked.org"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = raw(gateway.http, request.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("abc"),
            "{answer}"
        );
        assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
        let line = gateway.log_line(|line| line["host"] == host).await;
        assert_eq!(line["reason"], "truncated");
    }
}

#[tokio::test]
async fn an_early_answer_closes_the_backends_connection() {
    // Answers after the head, leaves the body unread.
    let early = Backend::script(
        b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n",
        false,
    )
    .await;
    let gateway = gateway(&early, &[], &[], &["--workers=1"]);
    let head = "POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 1000000\r\n\r\nsome";
    let answer = raw(gateway.http, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let answer = raw(gateway.http, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(early.connections(), 2);
}

#[tokio::test]
async fn a_client_that_pauses_its_body_gets_408() {
    let backend = Backend::echo("b").await;
    let gateway = gateway(&backend, &[], &[], &["--client-timeout=200ms"]);
    let answer = raw(
        gateway.http,
        b"POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 10\r\n\r\nabc",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(
        answer.to_lowercase().contains("connection: close"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_client_that_does_not_take_its_response_is_cut_off() {
    // Sends without end, and tells when it cannot any more.
    let (ended, mut end) = tokio::sync::mpsc::unbounded_channel();
    let flood = Backend::serve(move |mut stream, _| {
        let ended = ended.clone();
        async move {
            read_head(&mut stream).await;
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await);
            while stream.write_all(&[b'a'; 65_536]).await.is_ok() {}
            ended.send(()).unwrap();
        }
    })
    .await;
    let gateway = gateway(&flood, &[], &[], &["--client-timeout=1s"]);
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a.org\r\n\r\n")
        .await
        .unwrap();
    tokio::time::timeout(PATIENCE, end.recv())
        .await
        .unwrap()
        .unwrap();
    let line = gateway
        .log_line(|line| line["reason"] == "client_gone")
        .await;
    assert_eq!(line["status"], 200);
}

#[tokio::test]
async fn a_client_that_leaves_is_logged_and_its_backend_released() {
    let (started, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let silent = Backend::serve(move |mut stream, _| {
        let started = started.clone();
        async move {
            read_head(&mut stream).await;
            started.send("started").unwrap();
            // Ends when the gateway closes.
            assert!(stream.read_u8().await.is_err());
            started.send("closed").unwrap();
        }
    })
    .await;
    let gateway = gateway(&silent, &[], &[], &[]);
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a.org\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(seen.recv().await, Some("started"));
    drop(client);
    assert_eq!(seen.recv().await, Some("closed"));
    let line = gateway
        .log_line(|line| line["reason"] == "client_gone")
        .await;
    assert_eq!(line["status"], 499);
}

#[tokio::test]
async fn large_bodies_stream_both_ways_at_once() {
    // Sends back what it gets, as it gets it.
    let mirror = Backend::serve(async |mut stream, _| {
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.contains("content-length: 8000000\r\n"), "{head}");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n")
            .await
            .unwrap();
        let (mut read, mut write) = stream.split();
        drop(tokio::io::copy(&mut read, &mut write).await);
    })
    .await;
    let gateway = gateway(&mirror, &[], &[], &["--max-body-size=8m"]);
    let sent: Bytes = (0..8_000_000u32).map(|n| b'a' + (n % 23) as u8).collect();
    let request = Request::put("/")
        .header("host", "a.org")
        .body(Full::new(sent.clone()))
        .unwrap();
    let answer = Http::connect(gateway.http)
        .await
        .send(request)
        .await
        .unwrap();
    assert!(
        answer.body.as_bytes() == sent,
        "{} bytes came back",
        answer.body.len()
    );
    let line = gateway.log_line(|line| line["method"] == "PUT").await;
    assert_eq!(line["bytes_sent"], 8_000_000);
    assert_eq!(line["reason"], json!(null));
}

#[tokio::test]
async fn the_signal_to_stop_lets_requests_finish_and_closes_connections() {
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = Backend::serve(move |mut stream, requests| {
        let mut released = released.clone();
        async move {
            while read_head(&mut stream).await.is_some() {
                requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                released.wait_for(|released| *released).await.unwrap();
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await
                    .unwrap();
            }
        }
    })
    .await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[slow.address]));
    // One thread, so that what the idle connection has heard of the busy one has, too.
    let mut gateway = Gateway::start(&objects, &["--workers=1"]);
    let mut idle = TcpStream::connect(gateway.http).await.unwrap();
    let mut busy = TcpStream::connect(gateway.http).await.unwrap();
    busy.write_all(b"GET / HTTP/1.1\r\nHost: a.org\r\n\r\n")
        .await
        .unwrap();
    eventually("the request", async || (slow.requests() == 1).then_some(())).await;
    gateway.shutdown.cancel();
    // The idle one is closed at once, the busy one after its answer.
    assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0);
    release.send(true).unwrap();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"),
        "{answer}"
    );
    assert!(
        answer.to_lowercase().contains("connection: close"),
        "{answer}"
    );
    let finished = gateway.serving.take().unwrap().finished();
    tokio::time::timeout(Duration::from_secs(5), finished)
        .await
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(gateway.http).await.is_err());
}

#[tokio::test]
async fn http2_is_served_in_the_clear_to_those_who_know() {
    let backend = Backend::echo("b").await;
    let gateway = gateway(&backend, &[], &[], &[]);
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let mut client = Http::two_over(stream).await;
    let request = Request::post("http://a.org/x")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::from("body"))
        .unwrap();
    let seen = client.send(request).await.unwrap().json();
    assert_eq!(seen["target"], "/x");
    assert_eq!(seen["body"], "body");
    assert_eq!(seen["headers"]["host"], json!(["a.org"]));
    assert_eq!(seen["headers"]["cookie"], json!(["a=1; b=2"]));
    let request = Request::get("http://a.org/")
        .header("host", "b.org")
        .body(Full::default())
        .unwrap();
    let answer = client.send(request).await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn encoded_slashes_are_refused_where_that_is_wanted() {
    let backend = Backend::echo("b").await;
    let objects = [
        vec![ingress("i", &[("a.org", "/", "s")])],
        service_of("s", &[backend.address]),
    ]
    .concat();
    let strict = Gateway::start(&objects, &["--refuse-encoded-slashes"]);
    let usual = Gateway::start(&objects, &[]);
    for path in ["/a%2Fb", "/a%5cb"] {
        let refused = get(strict.http, "a.org", path).await;
        assert_eq!(refused.status, 400, "{path}");
        assert_eq!(refused.headers["x-portolan-reason"], "encoded_slash");
        assert_eq!(get(usual.http, "a.org", path).await.status, 200, "{path}");
    }
    assert_eq!(get(strict.http, "a.org", "/a%20b?c=%2F").await.status, 200);
}

#[tokio::test]
async fn a_host_that_lacks_a_path_is_left_where_that_is_wanted() {
    let (exact, wild, any) = (
        Backend::echo("exact").await,
        Backend::echo("wild").await,
        Backend::echo("any").await,
    );
    let rules = [
        ("a.org.test", "/one", "exact"),
        ("*.org.test", "/two", "wild"),
        ("", "/three", "any"),
    ];
    let mut objects = vec![ingress("i", &rules)];
    for (name, backend) in [("exact", &exact), ("wild", &wild), ("any", &any)] {
        objects.extend(service_of(name, &[backend.address]));
    }
    let falling = Gateway::start(&objects, &["--host-fall-through"]);
    let usual = Gateway::start(&objects, &[]);
    let rows = [
        ("a.org.test", "/one/x", Some("exact"), Some("exact")),
        ("a.org.test", "/two", None, Some("wild")),
        ("a.org.test", "/three", None, Some("any")),
        ("b.org.test", "/one", None, None),
        ("b.org.test", "/three", None, Some("any")),
        ("c.test", "/three", Some("any"), Some("any")),
        ("a.org.test", "/four", None, None),
    ];
    for (host, path, staying, leaving) in rows {
        for (gateway, expected) in [(&usual, staying), (&falling, leaving)] {
            let answer = get(gateway.http, host, path).await;
            let backend = (answer.status == 200).then(|| answer.backend());
            assert_eq!(backend.as_deref(), expected, "{host}{path}");
        }
    }
}
