//! Service account tokens and who their bearers are.

use serde_json::json;

use crate::support::{Server, Wire, furnish};

const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";
const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

#[tokio::test]
async fn a_token_stands_for_its_account_as_long_as_that_exists() {
    let server = Server::start().await;
    let wire = server.wire().await;
    furnish(&wire, "default").await;
    let made = wire
        .post(TOKEN, json!({"spec": {"expirationSeconds": 600}}))
        .await;
    assert_eq!(made.code, 201, "{}", made.text);
    let token = made.json()["status"]["token"].as_str().unwrap().to_owned();

    let bearer = Wire(server.client_with(Some(&token)).await);
    let review = bearer.post(REVIEW, json!({})).await.json();
    let user = &review["status"]["userInfo"];
    assert_eq!(user["username"], "system:serviceaccount:default:default");
    assert_eq!(
        user["groups"],
        json!([
            "system:serviceaccounts",
            "system:serviceaccounts:default",
            "system:authenticated"
        ])
    );
    assert_eq!(bearer.get("/api").await.code, 200);
    assert_eq!(bearer.get("/api/v1/pods").await.code, 403);
    let review = json!({"spec": {"token": token}});
    let review = wire
        .post("/apis/authentication.k8s.io/v1/tokenreviews", review)
        .await
        .json();
    assert_eq!(review["status"]["authenticated"], true);

    wire.delete(
        "/api/v1/namespaces/default/serviceaccounts/default",
        json!({}),
    )
    .await;
    assert_eq!(bearer.get("/api").await.code, 401);
}

#[tokio::test]
async fn a_token_bound_to_a_pod_dies_with_it() {
    let server = Server::start().await;
    let wire = server.wire().await;
    furnish(&wire, "default").await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod =
        json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(wire.post(pods, pod).await.code, 201);
    let bound =
        json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "a"}}});
    let token = wire.post(TOKEN, bound).await.json()["status"]["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let bearer = Wire(server.client_with(Some(&token)).await);
    let review = bearer.post(REVIEW, json!({})).await.json();
    assert_eq!(
        review["status"]["userInfo"]["extra"]["authentication.kubernetes.io/pod-name"],
        json!(["a"])
    );
    wire.delete(&format!("{pods}/a"), json!({})).await;
    assert_eq!(bearer.get("/api").await.code, 401);
}

#[tokio::test]
async fn a_token_is_not_made_for_too_short_a_time_or_nobody() {
    let server = Server::start().await;
    let wire = server.wire().await;
    furnish(&wire, "default").await;
    assert_eq!(
        wire.post(TOKEN, json!({"spec": {"expirationSeconds": 60}}))
            .await
            .refusal(),
        "422 Invalid: TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 60: may not \
         specify a duration less than 10 minutes"
    );
    let ghost = wire
        .post(
            "/api/v1/namespaces/default/serviceaccounts/ghost/token",
            json!({}),
        )
        .await;
    assert_eq!(
        ghost.refusal(),
        "404 NotFound: serviceaccounts \"ghost\" not found"
    );
}

#[tokio::test]
async fn static_tokens_come_from_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tokens.csv");
    std::fs::write(&file, "# comment\nsecret,root,1,\"system:masters,ops\"\n").unwrap();
    let server = Server::start_with(&["--token-auth-file", file.to_str().unwrap()]).await;
    let bearer = Wire(server.client_with(Some("secret")).await);
    let review = bearer.post(REVIEW, json!({})).await.json();
    assert_eq!(
        review["status"]["userInfo"]["groups"],
        json!(["system:masters", "ops", "system:authenticated"])
    );
    assert_eq!(bearer.get("/api/v1/pods").await.code, 200);
}
