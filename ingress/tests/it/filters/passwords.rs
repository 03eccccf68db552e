//! Who enters by password.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{BASIC, basic, users};
use crate::backend::Backend;
use crate::client::Http;
use crate::harness::ingress;
use crate::one_route::{gateway, get};

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
