//! What operators collect: lines of the access log in other formats, and series under ingress-nginx's names.

use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::json;

use crate::api::{Api, CLASSES, INGRESSES, Program, SERVICES, SLICES, of_class, our_class};
use crate::backend::Backend;
use crate::client::{Http, get};
use crate::harness::{Gateway, ingress, service, service_of, slice};

#[tokio::test]
async fn lines_of_the_access_log_look_as_the_operator_wants() {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/x", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &["--access-log-format=nginx"]);
    let answer = get(gateway.http, "a.org", "/x?q=1").await;
    assert_eq!(answer.status, StatusCode::OK);
    get(gateway.http, "b.org", "/").await;
    let length = answer.body.len();
    let served = gateway.log_text(|line| line.contains("/x")).await;
    let begins = "127.0.0.1 - - [";
    let request = format!("] \"GET /x?q=1 HTTP/1.1\" 200 {length} \"-\" \"-\" - 0.");
    let backend = format!(" [default-s] [-] {} {length} 0.", backend.address);
    assert!(served.starts_with(begins), "{served}");
    assert!(served.contains(&request), "{served}");
    assert!(served.contains(&backend), "{served}");
    // Nobody was asked for the other one.
    let refused = gateway.log_text(|line| line.contains(" 404 ")).await;
    assert!(refused.ends_with(" [-] [-] - - - - -"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn series_have_the_names_and_labels_of_ingress_nginx() {
    let backend = Backend::echo("b").await;
    let api = Api::start().await;
    api.secrets.send_replace(true);
    api.put(CLASSES, our_class());
    api.put(
        INGRESSES,
        of_class(ingress("web", &[("*.a.org", "/x", "s")]), "ours"),
    );
    api.put(SERVICES, service("s"));
    api.put(SLICES, slice("s", "s-1", backend.address));
    let program = Program::start(&api, &["--pod-name=p", "--election-namespace=n"]).await;
    program.ready().await;
    let answer = get(program.http, "w.a.org", "/x/y").await;
    assert_eq!(answer.status, StatusCode::OK);
    let metrics = get(program.admin, "admin", "/metrics").await.body;
    let gateway =
        r#"controller_class="portolan.dev/ingress",controller_namespace="n",controller_pod="p""#;
    let route =
        r#"canary="",namespace="default",ingress="web",service="s",host="*.a.org",path="/x""#;
    let size = answer.body.len();
    let outcome = r#",method="GET",status="200""#;
    for (name, labels, value) in [
        ("requests", "", "1"),
        ("request_duration_seconds_count", "", "1"),
        ("header_duration_seconds_count", "", "1"),
        ("response_duration_seconds_bucket", r#",le="+Inf""#, "1"),
        ("request_size_sum", "", "0"),
        ("response_size_sum", "", &size.to_string()),
    ] {
        let labels = format!("{route}{outcome}{labels}");
        let line = format!("nginx_ingress_controller_{name}{{{gateway},{labels}}} {value}");
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} in\n{metrics}"
        );
    }
    for line in [
        format!("nginx_ingress_controller_config_last_reload_successful{{{gateway}}} 1"),
        format!("nginx_ingress_controller_build_info{{{gateway},release=\"0.1.0\"}} 1"),
        format!("nginx_ingress_controller_nginx_process_resident_memory_bytes{{{gateway}}} "),
    ] {
        assert!(
            metrics.lines().any(|found| found.starts_with(&line)),
            "{line} in\n{metrics}"
        );
    }
    // Each series belongs to a family that says what it is.
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter();
        let base = base.fold(name, |name, end| name.strip_suffix(end).unwrap_or(name));
        let known = |name: &str| metrics.contains(&format!("# TYPE {name} "));
        assert!(known(name) || known(base), "{line}");
    }
}

/// Where nothing is traced, traces go through the gateway unbroken (W3C Trace Context, section 3.4).
#[tokio::test]
async fn trace_context_is_passed_on_as_it_came() {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let gateway = Gateway::start(&objects, &[]);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let state = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";
    let request = Request::get("/").header("host", "a.org");
    let request = request
        .header("traceparent", parent)
        .header("tracestate", state);
    let mut client = Http::connect(gateway.http).await;
    let answer = client.send(request.body(Full::default()).unwrap()).await;
    let seen = answer.unwrap().json();
    assert_eq!(seen["headers"]["traceparent"], json!([parent]));
    assert_eq!(seen["headers"]["tracestate"], json!([state]));
}
