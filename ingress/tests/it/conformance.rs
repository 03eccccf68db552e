//! The scenarios of ingress-controller-conformance (release 1.19), by their names, against the whole program: objects
//! come from an API, and each feature's background waits for the status, as the suite does.
//!
//! One thing is set that the suite leaves to the implementation: a host with a TLS section answers plain HTTP with a
//! redirect by default, and the suite wants an answer, so `host_rules` turns the redirect off by its annotation.

use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::api::{
    Api, CLASSES, INGRESSES, Program, SECRETS, SERVICES, SLICES, of_class, our_class,
};
use crate::backend::Backend;
use crate::client::{Answer, Http, get, tls};
use crate::harness::{annotated, eventually, ingress, service, slice};
use crate::tls::authority;

const ADDRESS: &str = "192.0.2.1";

/// A cluster with the gateway in it and one Ingress of our class.
struct Feature {
    api: Api,
    program: Program,
    _backends: Vec<Backend>,
}

impl Feature {
    /// A cluster with `object`, whose Services have a backend each, called like them. It is ready when the status of the
    /// object shows where it is exposed.
    async fn given(object: Value, services: &[&'static str]) -> Self {
        let (feature, name) = Self::without_background(of_class(object, "ours"), services).await;
        let exposed = json!([{"ip": ADDRESS}]);
        eventually("the address in the status", async || {
            let statuses = feature.api.statuses();
            let shown = |(ingress, status): &(String, Value)| {
                *ingress == name && status["loadBalancer"]["ingress"] == exposed
            };
            statuses.iter().any(shown).then_some(())
        })
        .await;
        feature
    }

    async fn without_background(object: Value, services: &[&'static str]) -> (Self, String) {
        let api = Api::start().await;
        api.secrets.send_replace(true);
        api.put(CLASSES, our_class());
        let mut backends = Vec::new();
        for name in services {
            let backend = Backend::echo(name).await;
            api.put(SERVICES, service(name));
            api.put(SLICES, slice(name, &format!("{name}-1"), backend.address));
            backends.push(backend);
        }
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        api.put(INGRESSES, object);
        let address = format!("--publish-status-address={ADDRESS}");
        let program = Program::start(&api, &[&address]).await;
        program.ready().await;
        let feature = Self {
            api,
            program,
            _backends: backends,
        };
        (feature, name)
    }

    async fn get(&self, host: &str, path: &str) -> Answer {
        get(self.program.http, host, path).await
    }

    /// The request is answered by `service`, which saw it as it was sent.
    async fn serves(&self, host: &str, path: &str, service: &str) {
        let answer = self.get(host, path).await;
        assert_eq!(answer.status, StatusCode::OK, "{host}{path}");
        let seen = answer.json();
        assert_eq!(seen["backend"], service, "{host}{path}");
        assert_eq!(seen["target"], path);
        assert_eq!(seen["headers"]["host"], json!([host]));
    }

    async fn refuses(&self, host: &str, path: &str) {
        let answer = self.get(host, path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{host}{path}");
    }
}

/// An Ingress without rules.
fn catch_all(name: &str, service: &str) -> Value {
    let mut object = ingress(name, &[]);
    let backend = json!({"service": {"name": service, "port": {"number": 80}}});
    object["spec"] = json!({"defaultBackend": backend});
    object
}

// default_backend.feature

mod default_backend {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_ingress_with_no_rules_should_send_all_requests_to_the_default_backend() {
        let object = catch_all("default-backend", "echo-service");
        let feature = Feature::given(object, &["echo-service"]).await;
        for (method, host, path) in [
            (Method::GET, "my-host", "/"),
            (Method::GET, "my-host", "/sub-path"),
            (Method::POST, "some-host", "/"),
            (Method::PUT, "", "/resource"),
            (Method::DELETE, "some-host", "/resource"),
            (Method::PATCH, "my-host", "/resource"),
        ] {
            // Without a host the suite asks for the address itself.
            let host = if host.is_empty() { ADDRESS } else { host };
            let request = Request::builder().method(method.clone()).uri(path);
            let request = request
                .header("host", host)
                .header("user-agent", "Go-http-client/1.1");
            let mut client = Http::connect(feature.program.http).await;
            let answer = client.send(request.body(Full::default()).unwrap()).await;
            let answer = answer.unwrap();
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(answer.version, http::Version::HTTP_11);
            for name in ["content-length", "content-type", "date", "server"] {
                assert!(answer.headers.contains_key(name), "{name} in {answer:?}");
            }
            let seen = answer.json();
            assert_eq!(seen["backend"], "echo-service");
            assert_eq!(seen["method"], method.as_str());
            assert_eq!(seen["target"], path);
            assert_eq!(seen["protocol"], "HTTP/1.1");
            let agent = &seen["headers"]["user-agent"];
            assert_eq!(*agent, json!(["Go-http-client/1.1"]));
        }
    }
}

// host_rules.feature

mod host_rules {
    use super::*;

    async fn given() -> Feature {
        let rules = [
            ("*.foo.com", "/", "wildcard-foo-com"),
            ("foo.bar.com", "/", "foo-bar-com"),
        ];
        let mut object = annotated(ingress("host-rules", &rules), &[("ssl-redirect", "false")]);
        object["spec"]["tls"] =
            json!([{"hosts": ["foo.bar.com"], "secretName": "conformance-tls"}]);
        Feature::given(object, &["wildcard-foo-com", "foo-bar-com"]).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_ingress_with_a_host_rule_should_send_tls_traffic_to_the_matching_backend_service() {
        let feature = given().await;
        let authority = authority();
        let secret = authority.secret("conformance-tls", &["foo.bar.com"]);
        feature.api.put(SECRETS, secret);
        let https = feature.program.https;
        // The client trusts this authority only, and verifies the name.
        let stream = eventually("the certificate", async || {
            tls(https, "foo.bar.com", &authority.der(), b"http/1.1")
                .await
                .ok()
        })
        .await;
        let answer = Http::over(stream).await.get("foo.bar.com", "/").await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.backend(), "foo-bar-com");
        assert_eq!(answer.json()["headers"]["host"], json!(["foo.bar.com"]));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_ingress_with_a_host_rule_should_send_traffic_to_the_matching_backend_service() {
        given()
            .await
            .serves("foo.bar.com", "/", "foo-bar-com")
            .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_ingress_with_a_host_rule_should_not_route_traffic_when_hostname_does_not_match() {
        given().await.refuses("subdomain.bar.com", "/").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_ingress_with_a_wildcard_host_rule_should_send_traffic_to_the_matching_backend_service()
     {
        let feature = given().await;
        feature.serves("bar.foo.com", "/", "wildcard-foo-com").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_ingress_with_a_wildcard_host_rule_should_not_route_traffic_matching_on_more_than_a_single_dns_label()
     {
        given().await.refuses("baz.bar.foo.com", "/").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_ingress_with_a_wildcard_host_rule_should_not_route_traffic_matching_no_dns_label() {
        given().await.refuses("foo.com", "/").await;
    }
}

// ingress_class.feature

mod ingress_class {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_ingress_with_an_invalid_ingress_class_should_not_send_traffic_to_the_matching_backend_service()
     {
        let object = ingress("test", &[("ingress-class", "/", "ingress-class-prefix")]);
        let object = of_class(object, "some-invalid-class-name");
        let (feature, _) = Feature::without_background(object, &["ingress-class-prefix"]).await;
        // One that is ours has its address, so the other has been passed over.
        let ours = of_class(
            ingress("ours", &[("ours", "/", "ingress-class-prefix")]),
            "ours",
        );
        feature.api.put(INGRESSES, ours);
        eventually("our own status", async || {
            let statuses = feature.api.statuses();
            statuses
                .iter()
                .any(|(name, _)| name == "ours")
                .then_some(())
        })
        .await;
        assert!(
            feature
                .api
                .statuses()
                .iter()
                .all(|(name, _)| name == "ours")
        );
        feature.refuses("ingress-class", "/").await;
    }
}

// load_balancing.feature

mod load_balancing {
    use super::*;
    use std::collections::BTreeSet;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_ingress_with_no_rules_should_send_all_requests_to_the_default_backend_and() {
        let object = catch_all("load-balancing", "echo-service");
        let feature = Feature::given(object, &[]).await;
        let names = ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9"];
        let mut pods = Vec::new();
        for name in names {
            let pod = Backend::echo(name).await;
            feature
                .api
                .put(SLICES, slice("echo-service", name, pod.address));
            pods.push(pod);
        }
        feature.api.put(SERVICES, service("echo-service"));
        eventually("the last pod", async || {
            let answer = feature.get("load-balancing", "/").await;
            (answer.status == StatusCode::OK && answer.backend() == "p9").then_some(())
        })
        .await;
        let mut seen = BTreeSet::new();
        for _ in 0..100 {
            let answer = feature.get("load-balancing", "/").await;
            assert_eq!(answer.status, StatusCode::OK);
            seen.insert(answer.backend());
        }
        assert_eq!(seen, names.map(str::to_owned).into());
    }
}

// path_rules.feature

mod path_rules {
    use super::*;

    async fn given() -> Feature {
        let path = |kind: &str, path: &str, service: &str| {
            let backend = json!({"service": {"name": service, "port": {"number": 80}}});
            json!({"path": path, "pathType": kind, "backend": backend})
        };
        let rule = |host: &str, paths: Value| json!({"host": host, "http": {"paths": paths}});
        let mut object = ingress("path-rules", &[]);
        object["spec"]["rules"] = json!([
            rule(
                "exact-path-rules",
                json!([path("Exact", "/foo", "foo-exact")])
            ),
            rule(
                "prefix-path-rules",
                json!([
                    path("Prefix", "/foo", "foo-prefix"),
                    path("Prefix", "/aaa/bbb", "aaa-slash-bbb-prefix"),
                    path("Prefix", "/aaa", "aaa-prefix"),
                ])
            ),
            rule(
                "mixed-path-rules",
                json!([
                    path("Prefix", "/foo", "foo-prefix"),
                    path("Exact", "/foo", "foo-exact"),
                ])
            ),
            rule(
                "trailing-slash-path-rules",
                json!([
                    path("Prefix", "/aaa/bbb/", "aaa-slash-bbb-slash-prefix"),
                    path("Exact", "/foo/", "foo-slash-exact"),
                ])
            ),
        ]);
        let services = [
            "foo-exact",
            "foo-prefix",
            "aaa-slash-bbb-prefix",
            "aaa-prefix",
            "aaa-slash-bbb-slash-prefix",
            "foo-slash-exact",
        ];
        Feature::given(object, &services).await
    }

    const EXACT: &str = "exact-path-rules";
    const PREFIX: &str = "prefix-path-rules";
    const SLASHES: &str = "trailing-slash-path-rules";

    #[tokio::test(flavor = "multi_thread")]
    async fn exact_path_rules_should_send_traffic_to_the_matching_backend_service() {
        given().await.serves(EXACT, "/foo", "foo-exact").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn exact_path_rules_should_not_match_requests_with_trailing_slash() {
        given().await.refuses(EXACT, "/foo/").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn exact_path_rules_should_be_case_sensitive() {
        given().await.refuses(EXACT, "/FOO").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn exact_path_rules_should_not_match_any_other_label() {
        given().await.refuses(EXACT, "/bar").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn prefix_path_rules_should_send_traffic_to_the_matching_backend_service() {
        given().await.serves(PREFIX, "/foo", "foo-prefix").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn prefix_path_rules_should_ignore_the_request_trailing_slash() {
        given().await.serves(PREFIX, "/foo/", "foo-prefix").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn prefix_path_rules_should_be_case_sensitive() {
        given().await.refuses(PREFIX, "/FOO").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn prefix_path_rules_should_match_multiple_labels_and_match_the_longest_path() {
        let feature = given().await;
        feature
            .serves(PREFIX, "/aaa/bbb", "aaa-slash-bbb-prefix")
            .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn prefix_path_rules_should_match_multiple_labels_match_the_longest_path_and_subpaths() {
        let feature = given().await;
        feature
            .serves(PREFIX, "/aaa/bbb/ccc", "aaa-slash-bbb-prefix")
            .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn prefix_path_rules_should_and_send_traffic_to_the_matching_backend_service() {
        given().await.serves(PREFIX, "/aaa/ccc", "aaa-prefix").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn prefix_path_rules_should_match_each_labels_string_prefix() {
        given().await.refuses(PREFIX, "/aaaccc").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn prefix_path_rules_should_ignore_the_request_trailing_slash_again() {
        given().await.serves(PREFIX, "/foo/", "foo-prefix").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn mixed_path_rules_should_send_traffic_to_the_matching_backend_where_exact_is_preferred()
    {
        given()
            .await
            .serves("mixed-path-rules", "/foo", "foo-exact")
            .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn trailing_slashes_in_a_prefix_path_rule_should_be_ignored() {
        let feature = given().await;
        feature
            .serves(SLASHES, "/aaa/bbb", "aaa-slash-bbb-slash-prefix")
            .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn trailing_slashes_in_a_prefix_path_rule_should_match_a_trailing_slash() {
        let feature = given().await;
        feature
            .serves(SLASHES, "/aaa/bbb/", "aaa-slash-bbb-slash-prefix")
            .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn trailing_slashes_in_an_exact_path_rule_should_not_match_requests_without_one() {
        given().await.refuses(SLASHES, "/foo").await;
    }
}
