//! Spans of requests: what they say, which trace they belong to, who is told of it, and that nobody waits for them.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode as Verdict};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::api::{Api, CLASSES, INGRESSES, Program, SERVICES, SLICES, of_class, our_class};
use crate::backend::Backend;
use crate::client::{Answer, Http, get};
use crate::collector::{Collector, attribute, text};
use crate::harness::{
    Gateway, annotated, arguments, eventually, ingress, service, service_of, slice,
};
use crate::tls::authority;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const STATE: &str = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";

/// What has a gateway send its spans to `collector` at once.
fn exporting(collector: SocketAddr) -> Vec<String> {
    vec![
        format!("--otlp-collector-host={}", collector.ip()),
        format!("--otlp-collector-port={}", collector.port()),
        "--otel-schedule-delay-millis=1".to_owned(),
    ]
}

/// A gateway that traces everything, if `more` does not say otherwise.
fn tracing(objects: &[Value], collector: SocketAddr, more: &[&str]) -> Gateway {
    let exporting = exporting(collector);
    let mut arguments: Vec<&str> = exporting.iter().map(String::as_str).collect();
    arguments.push("--enable-opentelemetry");
    arguments.extend(more);
    Gateway::start(objects, &arguments)
}

/// Gets `path` at `a.org` with further fields.
async fn get_with(gateway: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(path).header("host", "a.org");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::<Bytes>::default()).unwrap();
    Http::connect(gateway).await.send(request).await.unwrap()
}

/// The one value of a field that an echoing backend saw.
fn seen(answer: &Answer, field: &str) -> Option<String> {
    let values = &answer.json()["headers"][field];
    let values = values.as_array()?;
    assert_eq!(values.len(), 1, "{values:?}");
    values[0].as_str().map(str::to_owned)
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `traceparent` says if `span` is the parent.
fn parent_header(span: &Span) -> String {
    format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id))
}

fn check(span: &Span, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(
            text(span, key).as_deref(),
            Some(*value),
            "{key} of {span:?}"
        );
    }
}

fn is_error(span: &Span) -> bool {
    let status = span.status.as_ref();
    status.is_some_and(|status| status.code == i32::from(Verdict::Error))
}

#[tokio::test]
async fn a_request_has_a_span_and_its_attempts_have_spans_beneath_it() {
    let collector = Collector::start().await;
    let closing = Backend::script(b"", true).await;
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/x", "s")])];
    objects.extend(service_of("s", &[closing.address, backend.address]));
    let gateway = tracing(&objects, collector.address(), &[]);
    // One of two requests is tried at the one that closes first.
    let mut answers = Vec::new();
    for path in ["/x/1?secret=1", "/x/2"] {
        answers.push(get_with(gateway.http, path, &[("user-agent", "u")]).await);
    }
    let (one, two) = (collector.path("/x/1").await, collector.path("/x/2").await);
    let (retried, answer) = match one.len() {
        3 => (one, &answers[0]),
        _ => (two, &answers[1]),
    };
    let [server, first, second] = &retried[..] else {
        panic!("not three spans: {retried:?}");
    };
    let port = gateway.http.port().to_string();
    assert_eq!(server.name, "GET /x");
    assert_eq!(server.parent_span_id, Vec::<u8>::new());
    check(
        server,
        &[
            ("http.request.method", "GET"),
            ("http.route", "/x"),
            ("url.scheme", "http"),
            ("server.address", "a.org"),
            ("client.address", "127.0.0.1"),
            ("user_agent.original", "u"),
            ("network.protocol.version", "1.1"),
            ("http.response.status_code", "200"),
            ("k8s.namespace.name", "default"),
            ("k8s.ingress.name", "i"),
            ("k8s.service.name", "s"),
        ],
    );
    assert_eq!(text(server, "error.type"), None);
    assert_ne!(text(server, "network.peer.port"), Some(port));
    assert!(!format!("{server:?}").contains("secret"), "{server:?}");
    for span in [first, second] {
        assert_eq!(span.kind, i32::from(SpanKind::Client));
        assert_eq!(span.name, "GET");
        assert_eq!(span.parent_span_id, server.span_id);
        assert!(span.start_time_unix_nano >= server.start_time_unix_nano);
        assert!(span.end_time_unix_nano <= server.end_time_unix_nano);
    }
    assert!(first.end_time_unix_nano <= second.start_time_unix_nano);
    check(first, &[("error.type", "backend_closed")]);
    assert!(is_error(first) && !is_error(second) && !is_error(server));
    assert_eq!(text(first, "http.request.resend_count"), None);
    let url = format!(
        "http://{}{}",
        backend.address,
        text(server, "url.path").unwrap()
    );
    check(
        second,
        &[
            ("url.full", &url),
            ("server.port", &backend.address.port().to_string()),
            ("http.response.status_code", "200"),
            ("http.request.resend_count", "1"),
            ("k8s.service.name", "s"),
        ],
    );
    // The backend was told of the attempt that it saw.
    assert_eq!(seen(answer, "traceparent"), Some(parent_header(second)));
    let resource = collector.resource();
    let name = attribute(&resource, "service.name");
    assert_eq!(name.as_deref(), Some("portolan-ingress"));
}

#[tokio::test]
async fn what_fails_has_a_span_that_says_why() {
    let collector = Collector::start().await;
    let busy = Backend::script(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", false).await;
    let broken = Backend::script(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", true).await;
    let mut objects = vec![ingress(
        "i",
        &[
            ("a.org", "/busy", "busy"),
            ("a.org", "/broken", "broken"),
            ("a.org", "/gone", "gone"),
        ],
    )];
    objects.extend(service_of("busy", &[busy.address]));
    objects.extend(service_of("broken", &[broken.address]));
    let gateway = tracing(&objects, collector.address(), &[]);
    get(gateway.http, "a.org", "/busy").await;
    let spans = collector.path("/busy").await;
    let [server, client] = &spans[..] else {
        panic!("not two spans: {spans:?}");
    };
    for span in [server, client] {
        check(
            span,
            &[("http.response.status_code", "503"), ("error.type", "503")],
        );
        assert!(is_error(span));
    }
    let request = Request::get("/broken").header("host", "a.org");
    let request = request.body(Full::default()).unwrap();
    let broken = Http::connect(gateway.http).await.send(request).await;
    assert!(broken.is_err());
    let spans = collector.path("/broken").await;
    for span in &spans {
        check(
            span,
            &[
                ("http.response.status_code", "200"),
                ("error.type", "truncated"),
            ],
        );
        assert!(is_error(span));
    }
    assert_eq!(spans.len(), 2);
    // Nobody was asked for these.
    get(gateway.http, "a.org", "/gone").await;
    let spans = collector.path("/gone").await;
    assert_eq!(spans.len(), 1);
    check(
        &spans[0],
        &[("error.type", "no_backend"), ("http.route", "/gone")],
    );
    get(gateway.http, "b.org", "/none").await;
    let spans = collector.path("/none").await;
    assert_eq!(spans[0].name, "GET");
    check(&spans[0], &[("http.response.status_code", "404")]);
    assert!(!is_error(&spans[0]) && text(&spans[0], "http.route").is_none());
}

#[tokio::test]
async fn traces_of_clients_go_on_where_they_are_believed() {
    let collector = Collector::start().await;
    let backend = Backend::echo("b").await;
    let rules = |path| [("a.org", path, "s")];
    let wary = [("opentelemetry-trust-incoming-span", "false")];
    let mut objects = vec![
        ingress("trusting", &rules("/trusting")),
        annotated(ingress("wary", &rules("/wary")), &wary),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = tracing(&objects, collector.address(), &[]);
    let given = [("traceparent", PARENT), ("tracestate", STATE)];

    let answer = get_with(gateway.http, "/trusting/1", &given).await;
    let spans = collector.path("/trusting/1").await;
    assert_eq!(hex(&spans[0].trace_id), TRACE);
    assert_eq!(hex(&spans[0].parent_span_id), "b7ad6b7169203331");
    assert_eq!(spans[0].trace_state, STATE);
    assert_eq!(seen(&answer, "traceparent"), Some(parent_header(&spans[1])));
    assert_eq!(seen(&answer, "tracestate").as_deref(), Some(STATE));

    for (path, parent) in [("/wary", PARENT), ("/trusting/2", &PARENT[1..])] {
        let given = [("traceparent", parent), ("tracestate", STATE)];
        let answer = get_with(gateway.http, path, &given).await;
        let spans = collector.path(path).await;
        assert_ne!(hex(&spans[0].trace_id), TRACE, "{path}");
        assert_eq!(spans[0].parent_span_id, Vec::<u8>::new(), "{path}");
        assert_eq!(seen(&answer, "traceparent"), Some(parent_header(&spans[1])));
        assert_eq!(seen(&answer, "tracestate"), None, "{path}");
    }

    // What is noted badly costs only the notes.
    let given = [("traceparent", PARENT), ("tracestate", "no list")];
    let answer = get_with(gateway.http, "/trusting/3", &given).await;
    assert!(seen(&answer, "traceparent").unwrap().contains(TRACE));
    assert_eq!(seen(&answer, "tracestate"), None);

    // The same by the settings, and the other way round by the annotation.
    let believing = [("opentelemetry-trust-incoming-span", "true")];
    let mut objects = vec![
        ingress("wary", &rules("/wary")),
        annotated(ingress("trusting", &rules("/trusting")), &believing),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let more = ["--opentelemetry-trust-incoming-span=false"];
    let gateway = tracing(&objects, collector.address(), &more);
    for (path, is_believed) in [("/wary", false), ("/trusting", true)] {
        let answer = get_with(gateway.http, path, &[("traceparent", PARENT)]).await;
        let told = seen(&answer, "traceparent").unwrap();
        assert_eq!(told.contains(TRACE), is_believed, "{path}");
    }
}

#[tokio::test]
async fn ingresses_say_whether_requests_are_traced_and_what_spans_are_called() {
    let collector = Collector::start().await;
    let backend = Backend::echo("b").await;
    let rules = |path| [("a.org", path, "s")];
    let name = (
        "opentelemetry-operation-name",
        "$request_method at $service_name",
    );
    let mut objects = vec![
        ingress("none", &rules("/none")),
        annotated(
            ingress("on", &rules("/on")),
            &[("enable-opentelemetry", "true"), name],
        ),
        annotated(
            ingress("off", &rules("/off")),
            &[("enable-opentelemetry", "false")],
        ),
    ];
    objects.extend(service_of("s", &[backend.address]));
    for (is_general, traced) in [(false, ["/on"].as_slice()), (true, &["/on", "/none"])] {
        let exporting = exporting(collector.address());
        let mut arguments: Vec<&str> = exporting.iter().map(String::as_str).collect();
        arguments.push("--opentelemetry-operation-name=HTTP $uri");
        if is_general {
            arguments.push("--enable-opentelemetry");
        }
        let gateway = Gateway::start(&objects, &arguments);
        for path in ["/none", "/on", "/off"] {
            let answer = get(gateway.http, "a.org", path).await;
            let is_traced = traced.contains(&path);
            assert_eq!(seen(&answer, "traceparent").is_some(), is_traced, "{path}");
        }
        let metrics = &gateway.shared.metrics;
        let sent = 2 * traced.len() as u64;
        eventually("spans", async || {
            (metrics.spans_exported.get() == sent).then_some(())
        })
        .await;
    }
    assert_eq!(collector.path("/on").await[0].name, "GET at s");
    assert_eq!(collector.path("/none").await[0].name, "HTTP /none");
}

#[tokio::test]
async fn what_is_recorded_is_as_the_client_decided_or_a_share() {
    let collector = Collector::start().await;
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let by_share = [
        "--otel-sampler=TraceIdRatioBased",
        "--otel-sampler-ratio=0.5",
    ];
    let alone = "--otel-sampler-parent-based=false";
    // Programs that go by the id take those whose lower half is below the share of all.
    let low = format!("00-{}{:016x}-b7ad6b7169203331-0", "1".repeat(16), 1);
    let high = format!("00-{}{}-b7ad6b7169203331-0", "1".repeat(16), "f".repeat(16));
    let (yes, no) = (format!("{low}1"), format!("{low}0"));
    let (high_yes, high_no) = (format!("{high}1"), format!("{high}0"));
    let never = "--otel-sampler=AlwaysOff";
    let rows: [(&[&str], Option<&str>, bool); 11] = [
        (&[], None, true),
        (&[], Some(&no), false),
        (&[], Some(&yes), true),
        (&[alone], Some(&no), true),
        (&[never], None, false),
        (&[never], Some(&yes), true),
        (&[never, alone], Some(&yes), false),
        (&by_share, Some(&high_yes), true),
        (&by_share, Some(&no), false),
        (&[by_share[0], by_share[1], alone], Some(&no), true),
        (&[by_share[0], by_share[1], alone], Some(&high_no), false),
    ];
    for (more, parent, is_recorded) in rows {
        let gateway = tracing(&objects, collector.address(), more);
        let given: Vec<_> = parent
            .map(|parent| ("traceparent", parent))
            .into_iter()
            .collect();
        let answer = get_with(gateway.http, "/", &given).await;
        let told = seen(&answer, "traceparent").unwrap();
        let end = if is_recorded { "-01" } else { "-00" };
        assert!(told.ends_with(end), "{more:?} {parent:?}: {told}");
        // Whoever does not record still takes part.
        assert_ne!(Some(told.as_str()), parent);
        let line = gateway.log_line(|line| line["path"] == "/").await;
        let id = line["span_id"].as_str().unwrap();
        assert_eq!(told.contains(id), !is_recorded, "{told} is beneath {id}");
        if is_recorded {
            let spans = collector.request(|span| hex(&span.span_id) == id).await;
            assert_eq!(spans.len(), 2);
        } else {
            assert_eq!(gateway.shared.metrics.spans_exported.get(), 0);
        }
    }
}

#[tokio::test]
async fn lines_of_the_access_log_name_the_span() {
    let collector = Collector::start().await;
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = tracing(&objects, collector.address(), &[]);
    get_with(gateway.http, "/json", &[("traceparent", PARENT)]).await;
    let line = gateway.log_line(|line| line["target"] == "/json").await;
    let span = &collector.path("/json").await[0];
    assert_eq!(line["trace_id"], TRACE);
    assert_eq!(line["span_id"], hex(&span.span_id));

    let format = "--access-log-format=$request_uri|$opentelemetry_trace_id|$opentelemetry_span_id\
                  |$opentelemetry_context_traceparent|$opentelemetry_sampled";
    let gateway = tracing(&objects, collector.address(), &[format]);
    get_with(gateway.http, "/text", &[("traceparent", PARENT)]).await;
    let line = gateway.log_text(|line| line.starts_with("/text")).await;
    let span = &collector.path("/text").await[0];
    let expected = format!(
        "/text|{TRACE}|{}|{}|1",
        hex(&span.span_id),
        parent_header(span)
    );
    assert_eq!(line, expected);
    let gateway = Gateway::start(&objects, &[format]);
    get(gateway.http, "a.org", "/off").await;
    let line = gateway.log_text(|line| line.starts_with("/off")).await;
    assert_eq!(line, "/off|-|-|-|-");
}

#[tokio::test]
async fn a_question_about_a_request_has_a_span_which_the_service_is_told() {
    let collector = Collector::start().await;
    let backend = Backend::echo("b").await;
    let (told, mut heads) = tokio::sync::mpsc::unbounded_channel();
    let service = Backend::serve(move |mut stream, _| {
        let told = told.clone();
        async move {
            while let Some(head) = crate::backend::read_head(&mut stream).await {
                let status = match head.contains("x-want: no") {
                    true => "403 Forbidden",
                    false => "200 OK",
                };
                told.send(head).unwrap();
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let gone = Backend::echo("gone").await.address;
    let asking = |name, path, service: SocketAddr| {
        let url = format!("http://{service}/check?for=$request_uri");
        annotated(
            ingress(name, &[("a.org", path, "s")]),
            &[("auth-url", &url)],
        )
    };
    let mut objects = vec![
        asking("i", "/", service.address),
        asking("lost", "/lost", gone),
    ];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = tracing(&objects, collector.address(), &[]);
    for (path, want, status, answered) in [
        ("/in", "yes", 200, Some("200")),
        ("/out", "no", 403, Some("403")),
        ("/lost", "yes", 500, None),
    ] {
        let fields = [("traceparent", PARENT), ("x-want", want)];
        let answer = get_with(gateway.http, path, &fields).await;
        assert_eq!(answer.status, status, "{path}");
        let spans = collector.path(path).await;
        let (server, question) = (&spans[0], &spans[1]);
        assert_eq!(spans.len(), if status == 200 { 3 } else { 2 }, "{spans:?}");
        assert_eq!(question.kind, i32::from(SpanKind::Client));
        assert_eq!(question.parent_span_id, server.span_id);
        assert!(question.end_time_unix_nano <= server.end_time_unix_nano);
        assert_eq!(
            text(question, "http.response.status_code").as_deref(),
            answered
        );
        assert_eq!(is_error(question), status != 200);
        let asked = if answered.is_some() {
            service.address
        } else {
            gone
        };
        let url = format!("http://{asked}/check");
        check(
            question,
            &[("url.full", &url), ("server.address", "127.0.0.1")],
        );
        if answered.is_some() {
            let head = heads.recv().await.unwrap();
            let line = format!("traceparent: {}\r\n", parent_header(question));
            assert!(head.contains(&line), "{head}");
        } else {
            check(question, &[("error.type", "auth_failed")]);
        }
        // The backend belongs beneath its own span, not beneath the question's.
        if status == 200 {
            let seen = seen(&answer, "traceparent").unwrap();
            assert_eq!(seen, parent_header(&spans[2]));
        }
    }
}

#[tokio::test]
async fn a_collector_over_tls_must_prove_who_it_is() {
    let (trusted, other) = (authority(), authority());
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let file = trusted.file();
    let file = format!("--otlp-collector-ca-file={}", file.path().display());
    let more = ["--otlp-collector-tls", &file];
    for (authority, host, is_taken) in [
        (&trusted, "127.0.0.1", true),
        (&trusted, "elsewhere.org", false),
        (&other, "127.0.0.1", false),
    ] {
        let collector = Collector::over_tls(authority.acceptor(host, b"h2")).await;
        let gateway = tracing(&objects, collector.address(), &more);
        get_with(gateway.http, "/secret", &[]).await;
        let metrics = &gateway.shared.metrics;
        let counted = match is_taken {
            true => &metrics.spans_exported,
            false => &metrics.spans_refused,
        };
        eventually("spans", async || (counted.get() == 2).then_some(())).await;
        assert_eq!(collector.batches().is_empty(), !is_taken);
    }
    let missing = [
        more[0],
        "--otlp-collector-ca-file=/nowhere",
        "--otlp-collector-host=c",
    ];
    let settings = arguments(&missing).gateway.trace;
    let error = ingress::trace::start(&settings, Arc::default()).unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
}

#[tokio::test]
async fn a_mirror_is_told_of_the_request_s_span() {
    let collector = Collector::start().await;
    let backend = Backend::echo("b").await;
    let (told, mut heads) = tokio::sync::mpsc::unbounded_channel();
    let mirror = Backend::serve(move |mut stream, _| {
        let told = told.clone();
        async move {
            if let Some(head) = crate::backend::read_head(&mut stream).await {
                told.send(head).unwrap();
            }
        }
    })
    .await;
    let target = format!("http://{}$request_uri", mirror.address);
    let object = ingress("i", &[("a.org", "/", "s")]);
    let mut objects = vec![annotated(object, &[("mirror-target", &target)])];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = tracing(&objects, collector.address(), &[]);
    get_with(gateway.http, "/copied", &[("traceparent", PARENT)]).await;
    let head = heads.recv().await.unwrap();
    let spans = collector.path("/copied").await;
    assert!(head.contains(&parent_header(&spans[0])), "{head}");
}

#[tokio::test]
async fn a_collector_that_takes_nothing_costs_no_request() {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    // One is not there, the other never answers.
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for collector in [gone, silent.local_addr().unwrap()] {
        let more = ["--otel-max-queuesize=1", "--otel-max-export-batch-size=1"];
        let gateway = tracing(&objects, collector, &more);
        let mut client = Http::connect(gateway.http).await;
        for _ in 0..20 {
            assert_eq!(client.get("a.org", "/").await.status, StatusCode::OK);
        }
        let metrics = &gateway.shared.metrics;
        let lost = eventually("spans to be dropped", async || {
            let text = gateway.shared.scrape();
            let name = "portolan_ingress_spans_lost_total{reason=\"queue_full\"} ";
            let lost = text.lines().find_map(|line| line.strip_prefix(name))?;
            lost.parse::<u64>().ok().filter(|lost| *lost > 0)
        })
        .await;
        // What is with the exporter or waits for it is not lost yet.
        assert!(lost <= 40, "{lost}");
        assert_eq!(metrics.spans_exported.get(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_are_sent_at_the_end() {
    let (collector, backend) = (Collector::start().await, Backend::echo("b").await);
    let api = Api::start().await;
    api.put(CLASSES, our_class());
    let object = ingress("i", &[("a.org", "/", "s")]);
    api.put(INGRESSES, of_class(object, "ours"));
    api.put(SERVICES, service("s"));
    api.put(SLICES, slice("s", "s-1", backend.address));
    let mut arguments = exporting(collector.address());
    arguments.push("--otel-schedule-delay-millis=3600000".to_owned());
    arguments.push("--enable-opentelemetry".to_owned());
    arguments.push("--otel-service-name=edge".to_owned());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let program = Program::start(&api, &arguments).await;
    program.ready().await;
    get(program.http, "a.org", "/1").await;
    get(program.http, "a.org", "/2").await;
    assert_eq!(collector.batches(), Vec::<usize>::new());
    program.end().await;
    assert_eq!(collector.batches(), [4]);
    let name = attribute(&collector.resource(), "service.name");
    assert_eq!(name.as_deref(), Some("edge"));
}
