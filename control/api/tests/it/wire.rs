//! Content negotiation, discovery, errors: what stands on the wire.

use http::Method;
use serde_json::json;

use crate::support::{Server, Wire, furnish};

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const V2BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

#[tokio::test]
async fn discovery_is_given_in_exactly_the_form_asked_for() {
    let server = Server::start().await;
    let wire = server.wire().await;
    for (accept, content_type, kind) in [
        (
            format!("{V2},{V2BETA1},application/json"),
            V2,
            "apidiscovery.k8s.io/v2",
        ),
        (
            format!("{V2BETA1},application/json"),
            V2BETA1,
            "apidiscovery.k8s.io/v2beta1",
        ),
        ("application/json".into(), "application/json", "v1"),
    ] {
        let answer = wire
            .send(Method::GET, "/apis", &[("accept", &accept)], "")
            .await;
        assert_eq!(answer.header("content-type"), content_type);
        assert_eq!(answer.json()["apiVersion"].as_str().unwrap_or("v1"), kind);
        assert_eq!(answer.header("vary"), "Accept");
        let again = [
            ("accept", accept.as_str()),
            ("if-none-match", answer.header("etag")),
        ];
        let again = wire.send(Method::GET, "/apis", &again, "").await;
        assert_eq!(
            (again.code, again.header("content-type")),
            (304, content_type)
        );
    }
    let classic = wire.get("/api/v1").await.json();
    let names: Vec<_> = classic["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"pods/eviction"), "{names:?}");
}

#[tokio::test]
async fn bodies_and_answers_that_cannot_be_are_refused_in_upstreams_words() {
    let server = Server::start().await;
    let wire = server.wire().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let object = json!({"metadata": {"name": "a"}}).to_string();
    let answer = wire
        .send(Method::POST, path, &[("content-type", "text/css")], object)
        .await;
    assert_eq!(
        answer.refusal(),
        "415 UnsupportedMediaType: the body of the request was in an unknown format - accepted media types include: \
         application/json, application/yaml, application/vnd.kubernetes.protobuf"
    );
    let answer = wire
        .send(Method::GET, path, &[("accept", "text/css")], "")
        .await;
    assert_eq!(answer.code, 406);
    let large = json!({"metadata": {"name": "a"}, "data": {"a": "x".repeat(4 << 20)}}).to_string();
    let answer = wire
        .send(
            Method::POST,
            path,
            &[("content-type", "application/json")],
            large,
        )
        .await;
    assert_eq!(
        answer.refusal(),
        "413 RequestEntityTooLarge: Request entity too large: limit is 3145728"
    );
    let answer = wire
        .post(
            path,
            json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}}),
        )
        .await;
    assert_eq!(answer.code, 400, "{}", answer.text);
    let answer = wire.get("/apis/nothing.example/v1/things").await;
    assert_eq!(
        (answer.code, answer.text.as_str()),
        (404, "404 page not found\n")
    );
    let answer = wire.send(Method::PUT, path, &[], "{}").await;
    assert_eq!(answer.code, 405);
}

#[tokio::test]
async fn errors_name_what_they_are_about() {
    let server = Server::start().await;
    let wire = server.wire().await;
    let answer = wire
        .get("/apis/apps/v1/namespaces/default/deployments/web")
        .await;
    assert_eq!(
        answer.refusal(),
        "404 NotFound: deployments.apps \"web\" not found"
    );
    assert_eq!(
        answer.json()["details"],
        json!({"name": "web", "group": "apps", "kind": "deployments"})
    );

    let path = "/api/v1/namespaces/default/configmaps";
    let object = json!({"metadata": {"name": "a"}});
    assert_eq!(wire.post(path, object.clone()).await.code, 201);
    assert_eq!(
        wire.post(path, object).await.refusal(),
        "409 AlreadyExists: configmaps \"a\" already exists"
    );

    let missing = wire
        .post(
            "/api/v1/namespaces/nowhere/configmaps",
            json!({"metadata": {"name": "a"}}),
        )
        .await;
    assert_eq!(
        missing.refusal(),
        "404 NotFound: namespaces \"nowhere\" not found"
    );

    let answer = wire
        .get("/api/v1/pods?fieldSelector=spec.color%3Dred")
        .await;
    assert_eq!(answer.code, 400);
    assert!(
        answer
            .text
            .contains("field label not supported: spec.color"),
        "{}",
        answer.text
    );
    assert_eq!(wire.get("/api/v1/pods?resourceVersion=x").await.code, 400);
    let answer = wire.get("/api/v1/pods?resourceVersion=999999").await;
    assert_eq!(answer.code, 504);
    assert_eq!(
        answer.json()["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
}

#[tokio::test]
async fn strict_validation_refuses_and_the_default_warns() {
    let server = Server::start().await;
    let wire = server.wire().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let object = |name: &str| json!({"metadata": {"name": name}, "dta": {"a": "b"}});
    let answer = wire
        .post(&format!("{path}?fieldValidation=Strict"), object("a"))
        .await;
    assert_eq!(
        answer.refusal(),
        "400 BadRequest: ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown \
         field \"dta\""
    );
    let answer = wire.post(path, object("a")).await;
    assert_eq!(
        (answer.code, answer.header("warning")),
        (201, "299 - \"unknown field \\\"dta\\\"\"")
    );
    let answer = wire
        .post(&format!("{path}?fieldValidation=Ignore"), object("b"))
        .await;
    assert_eq!((answer.code, answer.header("warning")), (201, ""));
    assert!(answer.json().get("dta").is_none());
}

async fn with_config_maps(names: &[&str]) -> (Server, Wire) {
    let server = Server::start().await;
    let wire = server.wire().await;
    for name in names {
        let object = json!({"metadata": {"name": name, "labels": {"first": &name[..1]}}, "data": {"a": "b"}});
        assert_eq!(
            wire.post("/api/v1/namespaces/default/configmaps", object)
                .await
                .code,
            201
        );
    }
    (server, wire)
}

fn names(list: &serde_json::Value) -> Vec<&str> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_list_in_parts_is_one_list_at_one_revision() {
    let (_server, wire) = with_config_maps(&["a", "b", "c", "d", "e"]).await;
    let path = "/api/v1/configmaps?limit=2";
    let first = wire.get(path).await.json();
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (vec!["a", "b"], &json!(3))
    );
    assert!(
        first["items"][0].get("kind").is_none(),
        "items of a list do not repeat their type"
    );

    // What changes between the parts is not seen in them.
    wire.delete("/api/v1/namespaces/default/configmaps/c", json!({}))
        .await;
    wire.post(
        "/api/v1/namespaces/default/configmaps",
        json!({"metadata": {"name": "cc"}}),
    )
    .await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = wire.get(&format!("{path}&continue={token}")).await.json();
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = wire.get(&format!("{path}&continue={token}")).await.json();
    assert_eq!(
        (names(&third), third["metadata"].get("continue")),
        (vec!["e"], None)
    );

    let exact = first["metadata"]["resourceVersion"].as_str().unwrap();
    let then = wire
        .get(&format!(
            "/api/v1/configmaps?resourceVersion={exact}&resourceVersionMatch=Exact"
        ))
        .await
        .json();
    assert_eq!(names(&then), ["a", "b", "c", "d", "e"]);
    assert_eq!(
        wire.get("/api/v1/configmaps?continue=nonsense").await.code,
        400
    );
}

#[tokio::test]
async fn selectors_choose_by_labels_and_fields() {
    let (_server, wire) = with_config_maps(&["aa", "ab", "b"]).await;
    for (query, expected) in [
        ("labelSelector=first%3Da", vec!["aa", "ab"]),
        ("labelSelector=first%20in%20(b,c)", vec!["b"]),
        ("labelSelector=first!%3Da", vec!["b"]),
        ("labelSelector=!first", vec![]),
        ("fieldSelector=metadata.name%3Dab", vec!["ab"]),
        ("fieldSelector=metadata.namespace%3Dother", vec![]),
        ("labelSelector=first%3Da&limit=1", vec!["aa"]),
    ] {
        let list = wire
            .get(&format!("/api/v1/configmaps?{query}"))
            .await
            .json();
        assert_eq!(names(&list), expected, "{query}");
    }
}

#[tokio::test]
async fn tables_and_metadata_are_given_to_those_who_ask() {
    let (_server, wire) = with_config_maps(&["a", "b"]).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let path = "/api/v1/namespaces/default/configmaps";
    let table = wire
        .send(Method::GET, path, &[("accept", accept)], "")
        .await
        .json();
    assert_eq!(
        (table["kind"].as_str(), table["apiVersion"].as_str()),
        (Some("Table"), Some("meta.k8s.io/v1"))
    );
    let columns: Vec<_> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["Name", "Data", "Age"]);
    assert_eq!(table["rows"][0]["cells"][1], json!(1));
    assert_eq!(table["rows"][1]["object"]["kind"], "PartialObjectMetadata");

    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = wire
        .send(Method::GET, path, &[("accept", accept)], "")
        .await
        .json();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(names(&list), ["a", "b"]);
    assert!(list["items"][0].get("data").is_none());

    let yaml = wire
        .send(
            Method::GET,
            &format!("{path}/a"),
            &[("accept", "application/yaml")],
            "",
        )
        .await;
    assert_eq!(yaml.header("content-type"), "application/yaml");
    assert!(yaml.text.contains("\nkind: ConfigMap\n"), "{}", yaml.text);
}

#[tokio::test]
async fn large_lists_are_compressed_for_those_who_ask() {
    let (_server, wire) = with_config_maps(&[]).await;
    let path = "/api/v1/namespaces/default/configmaps";
    for name in ["a", "b"] {
        wire.post(
            path,
            json!({"metadata": {"name": name}, "data": {"a": "x".repeat(100_000)}}),
        )
        .await;
    }
    let answer = wire
        .send(Method::GET, path, &[("accept-encoding", "gzip")], "")
        .await;
    assert_eq!(answer.header("content-encoding"), "gzip");
    let answer = wire.get(path).await;
    assert_eq!(
        (answer.header("content-encoding"), names(&answer.json())),
        ("", vec!["a", "b"])
    );
}

#[tokio::test]
async fn version_and_health_need_no_credentials_and_the_rest_does() {
    let server = Server::start().await;
    let nobody = Wire(server.client_with(None).await);
    for path in ["/version", "/version/", "/healthz", "/livez", "/readyz"] {
        assert_eq!(nobody.get(path).await.code, 200, "{path}");
    }
    assert_eq!(
        nobody.get("/api").await.refusal(),
        "403 Forbidden: forbidden: User \"system:anonymous\" cannot get path \"/api\""
    );
    assert_eq!(
        nobody
            .get("/api/v1/namespaces/default/pods")
            .await
            .refusal(),
        "403 Forbidden: pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the \
         namespace \"default\""
    );
    let stranger = Wire(server.client_with(Some("nonsense")).await);
    assert_eq!(
        stranger.get("/version").await.refusal(),
        "401 Unauthorized: Unauthorized"
    );
}

#[tokio::test]
async fn the_clusters_own_users_may_do_their_work_and_no_more() {
    let server = Server::start().await;
    furnish(&server.wire().await, "default").await;
    let node = Wire(
        server
            .client_as("system:node:node-1", &["system:nodes"])
            .await,
    );
    let proxy = Wire(server.client_as("system:kube-proxy", &[]).await);
    let ingress = Wire(server.client_as("portolan-ingress", &[]).await);
    let stranger = Wire(server.client_as("somebody", &[]).await);
    let made = node
        .post("/api/v1/nodes", json!({"metadata": {"name": "node-1"}}))
        .await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(
        proxy
            .get("/apis/discovery.k8s.io/v1/endpointslices")
            .await
            .code,
        200
    );
    assert_eq!(
        ingress
            .get("/apis/networking.k8s.io/v1/ingresses")
            .await
            .code,
        200
    );
    assert_eq!(
        proxy.get("/api/v1/secrets").await.refusal(),
        "403 Forbidden: secrets is forbidden: User \"system:kube-proxy\" cannot list resource \"secrets\" in API group \"\" \
         at the cluster scope"
    );
    assert_eq!(
        ingress
            .delete("/api/v1/namespaces/default/services/kubernetes", json!({}))
            .await
            .refusal(),
        "403 Forbidden: services \"kubernetes\" is forbidden: User \"portolan-ingress\" cannot delete resource \"services\" \
         in API group \"\" in the namespace \"default\""
    );
    let review = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(
        stranger.post(path, review.clone()).await.json()["status"]["allowed"],
        false
    );
    assert_eq!(
        node.post(path, review).await.json()["status"]["allowed"],
        true
    );
}

#[tokio::test]
async fn masters_may_speak_for_others_and_nobody_else() {
    let server = Server::start().await;
    let wire = server.wire().await;
    let headers = [
        ("impersonate-user", "system:kube-proxy"),
        ("impersonate-group", "ops"),
    ];
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = wire.send(Method::POST, path, &headers, "{}").await.json();
    assert_eq!(
        review["status"]["userInfo"]["groups"],
        json!(["ops", "system:authenticated"])
    );
    assert_eq!(
        wire.send(Method::GET, "/api/v1/secrets", &headers, "")
            .await
            .code,
        403
    );
    let proxy = Wire(server.client_as("system:kube-proxy", &[]).await);
    let refused = proxy
        .send(
            Method::GET,
            "/api/v1/nodes",
            &[("impersonate-user", "admin")],
            "",
        )
        .await;
    assert_eq!(
        refused.refusal(),
        "403 Forbidden: users \"admin\" is forbidden: User \"system:kube-proxy\" cannot impersonate resource \"users\" in API \
         group \"\" at the cluster scope"
    );
}
