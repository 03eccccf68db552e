//! Annotations over real sockets, as far as they concern routes as such.

use http::StatusCode;
use serde_json::json;

use crate::backend::Backend;
use crate::client::Http;
use crate::harness::{Gateway, annotated, ingress, secure_ingress, service_of};

/// Annotations by name.
type Given<'a> = &'a [(&'a str, &'a str)];

#[tokio::test]
async fn redirects_to_https_are_as_annotations_ask() {
    let backend = Backend::echo("b").await;
    let mut objects = vec![
        secure_ingress("plain", "plain.org", "s", "x"),
        annotated(
            secure_ingress("off", "off.org", "s", "x"),
            &[("ssl-redirect", "false")],
        ),
        annotated(
            ingress("on", &[("on.org", "/", "s")]),
            &[("force-ssl-redirect", "true")],
        ),
        annotated(
            ingress("odd", &[("odd.org", "/", "s")]),
            &[("force-ssl-redirect", "perhaps")],
        ),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &[]);
    let rows = [
        ("plain.org", 308),
        ("off.org", 200),
        ("on.org", 308),
        ("odd.org", 200),
    ];
    for (host, expected) in rows {
        let answer = Http::connect(gateway.http).await.get(host, "/x?y").await;
        assert_eq!(answer.status, expected, "{host}");
        if expected == 308 {
            assert_eq!(answer.headers["location"], format!("https://{host}/x?y"));
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_an_annotation_is_told_and_takes_no_route_away() {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let mut gateway = Gateway::start(&objects, &[]);
    let odd = annotated(
        ingress("i", &[("a.org", "/", "s")]),
        &[("server-snippet", "return 418;"), ("ssl-redirects", "true")],
    );
    let report = gateway.apply(odd).unwrap();
    let told: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    let expected = [
        "metadata.annotations[nginx.ingress.kubernetes.io/server-snippet]: text is never made part of a configuration; \
         portolan.dev/set-request-headers and its like, portolan.dev/return and portolan.dev/deny-paths do what snippets are mostly used for",
        "metadata.annotations[nginx.ingress.kubernetes.io/ssl-redirects]: no such annotation; is ssl-redirect meant?",
    ];
    assert_eq!(told, expected);
    let answer = Http::connect(gateway.http).await.get("a.org", "/").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["backend"], json!("b"));
}

/// A gateway with Ingress `i` of `a.org` with path `/` of the echo Service `s` and these annotations.
async fn start(annotations: &[(&str, &str)]) -> (Gateway, Backend) {
    start_at("/", annotations).await
}

/// The same with another path.
async fn start_at(path: &str, annotations: &[(&str, &str)]) -> (Gateway, Backend) {
    let backend = Backend::echo("b").await;
    let mut ingress = ingress("i", &[("a.org", path, "s")]);
    if path.contains(['(', '[']) {
        ingress["spec"]["rules"][0]["http"]["paths"][0]["pathType"] =
            json!("ImplementationSpecific");
    }
    let mut objects = vec![annotated(ingress, annotations)];
    objects.extend(service_of("s", &[backend.address]));
    (Gateway::start(&objects, &[]), backend)
}

/// Checks the target that the backend sees for `path`, or the status of our answer.
async fn check_rewrite(
    path: &str,
    annotations: &[(&str, &str)],
    rows: &[(&str, Result<&str, u16>)],
) {
    let (gateway, _backend) = start_at(path, annotations).await;
    for (target, expected) in rows {
        let answer = Http::connect(gateway.http).await.get("a.org", target).await;
        let found = match answer.status {
            StatusCode::OK => Ok(answer.json()["target"].as_str().unwrap().to_owned()),
            status => Err(status.as_u16()),
        };
        assert_eq!(
            found,
            expected.map(str::to_owned),
            "{path} {annotations:?} {target}"
        );
    }
}

#[tokio::test]
async fn a_target_without_groups_replaces_the_path_of_the_rule() {
    let rows: &[_] = &[
        ("/foo", Ok("/")),
        ("/foo/", Ok("/")),
        ("/foo/bar?x=y", Ok("/bar?x=y")),
        ("/foobar", Err(404)),
    ];
    check_rewrite("/foo", &[("rewrite-target", "/")], rows).await;
    let deeper: &[_] = &[("/foo/bar", Ok("/new/bar")), ("/foo", Ok("/new"))];
    check_rewrite("/foo/", &[("rewrite-target", "/new/")], deeper).await;
    check_rewrite(
        "/",
        &[("rewrite-target", "/new")],
        &[("/x", Ok("/new/x")), ("/", Ok("/new/"))],
    )
    .await;
}

#[tokio::test]
async fn the_prefix_of_the_first_versions_counts() {
    let backend = Backend::echo("b").await;
    let mut ingress = ingress("i", &[("a.org", "/foo", "s")]);
    ingress["metadata"]["annotations"]["ingress.kubernetes.io/rewrite-target"] = json!("/");
    let mut objects = vec![ingress];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &[]);
    let answer = Http::connect(gateway.http)
        .await
        .get("a.org", "/foo/bar")
        .await;
    assert_eq!(answer.json()["target"], "/bar");
}

#[tokio::test]
async fn a_target_with_groups_replaces_the_whole_path() {
    let rows: &[_] = &[
        ("/api", Ok("/")),
        ("/api/", Ok("/")),
        ("/api/v1/x?y=z", Ok("/v1/x?y=z")),
        ("/apis", Err(404)),
        ("/API/x", Err(404)),
        ("/api/a%2Fb", Ok("/a%2Fb")),
    ];
    check_rewrite("/api(/|$)(.*)", &[("rewrite-target", "/$2")], rows).await;
    // What the client adds must not lead out of where the target points.
    let escape: &[_] = &[
        ("/x../secret", Err(400)),
        ("/x/ok", Ok("/pub/ok")),
        ("/x..%2Fsecret", Ok("/pub/..%2Fsecret")),
    ];
    check_rewrite("/x(.*)", &[("rewrite-target", "/pub/$1")], escape).await;
}

#[tokio::test]
async fn nginxs_ways_are_there_for_those_who_ask() {
    let nginx = ("portolan.dev/compat", "nginx");
    let rows: &[_] = &[
        ("/foo", Ok("/new")),
        ("/FOO/bar?x", Ok("/new?x")),
        ("/foobar", Ok("/new")),
        ("/bar", Err(404)),
    ];
    check_rewrite("/foo", &[("rewrite-target", "/new"), nginx], rows).await;
    let (gateway, _backend) = start_at("/foo/", &[nginx]).await;
    let answer = Http::connect(gateway.http)
        .await
        .get("a.org", "/foo?x=y")
        .await;
    assert_eq!(answer.status, 301);
    assert_eq!(answer.headers["location"], "http://a.org/foo/?x=y");
}

#[tokio::test]
async fn an_expression_alone_rewrites_nothing() {
    let annotations = [("use-regex", "true"), ("x-forwarded-prefix", "/v$1")];
    let (gateway, _backend) = start_at("/v([0-9]+)", &annotations).await;
    let seen = Http::connect(gateway.http)
        .await
        .get("a.org", "/v12/x")
        .await
        .json();
    assert_eq!(seen["target"], "/v12/x");
    assert_eq!(seen["headers"]["x-forwarded-prefix"], json!(["/v12"]));
}

#[tokio::test]
async fn redirects_lead_where_annotations_say() {
    let host = "a.org";
    let rows: [(Given<'_>, &str, u16, &str); 7] = [
        (
            &[("permanent-redirect", "https://b.org$request_uri")],
            "/x?y",
            301,
            "https://b.org/x?y",
        ),
        (
            &[
                ("permanent-redirect", "https://b.org"),
                ("permanent-redirect-code", "308"),
            ],
            "/",
            308,
            "https://b.org",
        ),
        (
            &[("temporal-redirect", "$scheme://b.$host/c")],
            "/x",
            302,
            "http://b.a.org/c",
        ),
        (
            &[
                ("temporal-redirect", "https://b.org"),
                ("temporal-redirect-code", "307"),
            ],
            "/",
            307,
            "https://b.org",
        ),
        (
            &[("app-root", "/app?x=y")],
            "/",
            302,
            "http://a.org/app?x=y",
        ),
        (
            &[("app-root", "/app"), ("relative-redirects", "true")],
            "/",
            302,
            "/app",
        ),
        (
            &[
                ("force-ssl-redirect", "true"),
                ("preserve-trailing-slash", "true"),
            ],
            "/x/",
            308,
            "https://a.org/x/",
        ),
    ];
    for (annotations, target, status, location) in rows {
        let (gateway, backend) = start(annotations).await;
        let answer = Http::connect(gateway.http).await.get(host, target).await;
        assert_eq!(answer.status, status, "{annotations:?}");
        assert_eq!(answer.headers["location"], location, "{annotations:?}");
        assert_eq!(backend.requests(), 0, "{annotations:?}");
    }
    let (gateway, _backend) = start(&[("app-root", "/app")]).await;
    let answer = Http::connect(gateway.http).await.get(host, "/x").await;
    assert_eq!(answer.status, StatusCode::OK);
    let (gateway, _backend) = start(&[
        ("force-ssl-redirect", "true"),
        ("use-port-in-redirects", "true"),
    ])
    .await;
    let answer = Http::connect(gateway.http).await.get(host, "/x").await;
    assert_eq!(answer.headers["location"], "https://a.org:0/x");
}

#[tokio::test]
async fn the_host_with_www_is_redirected_to_the_one_without() {
    let (gateway, _backend) = start(&[("from-to-www-redirect", "true")]).await;
    let answer = Http::connect(gateway.http)
        .await
        .get("www.a.org", "/x?y")
        .await;
    assert_eq!(answer.status, 308);
    assert_eq!(answer.headers["location"], "http://a.org/x?y");
    let answer = Http::connect(gateway.http).await.get("a.org", "/x").await;
    assert_eq!(answer.status, StatusCode::OK);
    let answer = Http::connect(gateway.http)
        .await
        .get("wwww.a.org", "/x")
        .await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_alias_is_served_like_the_host() {
    let (gateway, _backend) = start(&[("server-alias", "alias.org")]).await;
    let answer = Http::connect(gateway.http)
        .await
        .get("alias.org", "/x")
        .await;
    assert_eq!(answer.json()["headers"]["host"], json!(["alias.org"]));
}

#[tokio::test]
async fn header_fields_are_changed_both_ways() {
    let (mut gateway, backend) = start(&[
        ("upstream-vhost", "inner.org"),
        ("connection-proxy-header", "close"),
        ("custom-headers", "default/fields"),
        ("portolan.dev/set-request-headers", "X-One: 1"),
        ("portolan.dev/remove-request-headers", "x-two"),
        ("portolan.dev/set-response-headers", "X-Frame-Options: DENY"),
        ("portolan.dev/remove-response-headers", "x-secret"),
    ])
    .await;
    let closed = Http::connect(gateway.http).await.get("a.org", "/").await;
    assert_eq!(
        closed.status,
        StatusCode::OK,
        "custom headers guard nothing"
    );
    let map = json!({
        "kind": "ConfigMap",
        "metadata": {"name": "fields", "namespace": "default"},
        "data": {"X-Custom": "yes"},
    });
    gateway.apply(map);
    let request = http::Request::get("/")
        .header("host", "a.org")
        .header("x-two", "2");
    let request = request.body(http_body_util::Full::default()).unwrap();
    let answer = Http::connect(gateway.http)
        .await
        .send(request)
        .await
        .unwrap();
    let seen = &answer.json()["headers"];
    assert_eq!(seen["host"], json!(["inner.org"]));
    assert_eq!(seen["x-forwarded-host"], json!(["a.org"]));
    assert_eq!(seen["x-one"], json!(["1"]));
    assert_eq!(seen["x-two"], json!(null));
    assert_eq!(seen["connection"], json!(["close"]));
    assert_eq!(answer.headers["x-custom"], "yes");
    assert_eq!(answer.headers["x-frame-options"], "DENY");
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn cookies_and_locations_are_made_to_fit_where_clients_see_them() {
    let response =
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://inner:8080/one/x\r\n\
        Refresh: 5; url=http://inner:8080/one/y\r\nX-Secret: 1\r\n\
        Set-Cookie: a=1; Path=/one/; Domain=inner; HttpOnly\r\nSet-Cookie: b=2; Path=/\r\n\r\n";
    let backend = Backend::script(response, false).await;
    let annotations = [
        ("proxy-redirect-from", "http://inner:8080/one/"),
        ("proxy-redirect-to", "https://$host/"),
        ("proxy-cookie-path", "/one/ /"),
        ("proxy-cookie-domain", "inner a.org"),
        ("portolan.dev/remove-response-headers", "x-secret"),
    ];
    let mut objects = vec![annotated(
        ingress("i", &[("a.org", "/", "s")]),
        &annotations,
    )];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &[]);
    let answer = Http::connect(gateway.http).await.get("a.org", "/").await;
    assert_eq!(answer.headers["location"], "https://a.org/x");
    assert_eq!(answer.headers["refresh"], "5; url=https://a.org/y");
    assert!(!answer.headers.contains_key("x-secret"));
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(
        cookies,
        ["a=1; Path=/; Domain=a.org; HttpOnly", "b=2; Path=/"]
    );
}

#[tokio::test]
async fn the_default_backend_stands_in_and_answers_in_place_of_errors() {
    const MISSING: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nmine";
    let (backend, fallback) = (
        Backend::script(MISSING, false).await,
        Backend::echo("fallback").await,
    );
    let errors = [("default-backend", "f"), ("custom-http-errors", "404,503")];
    let bare = [("custom-http-errors", "404,503")];
    let empty = [("default-backend", "f")];
    let mut objects = vec![
        annotated(ingress("errors", &[("errors.org", "/", "s")]), &errors),
        annotated(ingress("bare", &[("bare.org", "/", "s")]), &bare),
        annotated(ingress("empty", &[("empty.org", "/", "none")]), &empty),
        annotated(ingress("plain", &[("plain.org", "/", "s")]), &empty),
    ];
    objects.extend(service_of("s", &[backend.address]));
    objects.extend(service_of("f", &[fallback.address]));
    objects.extend(service_of("none", &[]));
    let gateway = Gateway::start(&objects, &[]);
    let mut client = Http::connect(gateway.http).await;
    let request = http::Request::post("/x?y")
        .header("host", "errors.org")
        .header("accept", "text/html");
    let request = request.body(http_body_util::Full::from("body")).unwrap();
    let seen = client.send(request).await.unwrap().json();
    assert_eq!(
        (&seen["backend"], &seen["method"], &seen["body"]),
        (&json!("fallback"), &json!("GET"), &json!(""))
    );
    for (name, value) in [
        ("x-code", "404"),
        ("x-format", "text/html"),
        ("x-original-uri", "/x?y"),
        ("x-namespace", "default"),
        ("x-ingress-name", "errors"),
        ("x-service-name", "s"),
    ] {
        assert_eq!(seen["headers"][name], json!([value]), "{name}");
    }
    let answer = client.get("bare.org", "/x").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(answer.body.contains("intercepted"), "{answer:?}");
    let seen = client.get("empty.org", "/x").await.json();
    assert_eq!(
        (&seen["backend"], &seen["target"]),
        (&json!("fallback"), &json!("/x"))
    );
    let answer = client.get("plain.org", "/x").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (StatusCode::NOT_FOUND, "mine")
    );
}

#[tokio::test]
async fn the_access_log_leaves_out_what_nobody_wants_in_it() {
    let backend = Backend::echo("b").await;
    let quiet = [("enable-access-log", "false")];
    let mut objects = vec![
        annotated(ingress("quiet", &[("quiet.org", "/", "s")]), &quiet),
        ingress("loud", &[("loud.org", "/", "s")]),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &[]);
    // One connection stays with one thread, whose lines are in order.
    let mut client = Http::connect(gateway.http).await;
    client.get("quiet.org", "/").await;
    client.get("loud.org", "/").await;
    let first = gateway.log_line(|_| true).await;
    assert_eq!(first["host"], "loud.org");
}
