//! Paths that are about the API and its server, not about objects: discovery, OpenAPI, version, health, metrics.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use control_schema::{discovery, openapi};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::accept::{Accept, Shape};
use crate::api::Api;
use crate::error::ApiError;
use crate::query::Params;
use crate::respond::{self, Answer};
use crate::route::Discovery;

/// The Kubernetes version whose API this is.
const MINOR: &str = "36";

/// Answers a discovery document.
pub(crate) fn discovery(
    api: &Api,
    asked: &Discovery,
    request: &Request<Incoming>,
) -> Result<Answer, ApiError> {
    match asked {
        Discovery::Core => aggregated(request, discovery::Scope::Core, || {
            discovery::versions(&api.address)
        }),
        Discovery::Named => aggregated(request, discovery::Scope::Named, discovery::groups),
        Discovery::Group(group) => classic(request, discovery::group(group)),
        Discovery::Resources(group, version) => {
            classic(request, discovery::resource_list(group, version))
        }
    }
}

/// Gives the newest form the client understands, exactly: older clients misread newer documents.
fn aggregated(
    request: &Request<Incoming>,
    scope: discovery::Scope,
    plain: impl FnOnce() -> Value,
) -> Result<Answer, ApiError> {
    let accept = Accept::negotiate(request.headers(), |shape| {
        matches!(shape, Shape::Discovery(_) | Shape::Plain)
    })?;
    let document = match accept.shape {
        Shape::Discovery("v2") => discovery::api_v2(scope),
        Shape::Discovery(_) => discovery::api_v2beta1(scope),
        _ => plain(),
    };
    let mut answer = respond::value(StatusCode::OK, accept, &document);
    answer
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept"));
    Ok(tagged(request, answer, &document))
}

fn classic(request: &Request<Incoming>, document: Option<Value>) -> Result<Answer, ApiError> {
    let accept = Accept::plain(request.headers())?;
    Ok(match document {
        Some(document) => respond::value(StatusCode::OK, accept, &document),
        None => not_found(),
    })
}

/// Adds an ETag, and answers that nothing has changed to a client that has this one.
fn tagged(request: &Request<Incoming>, mut answer: Answer, document: &Value) -> Answer {
    let tag = format!("\"{:016x}\"", fingerprint(document.to_string().as_bytes()));
    let tag = HeaderValue::from_str(&tag).expect("hexadecimal digits are plain ASCII");
    if request.headers().get(IF_NONE_MATCH) == Some(&tag) {
        // The headers stay: caches put them over the ones they have.
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        *answer.body_mut() = respond::full(Bytes::new());
    }
    answer.headers_mut().insert(ETAG, tag);
    answer
}

/// FNV-1a: documents change only with the program, so nobody gains from a collision.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Answers any other path.
pub(crate) fn other(api: &Api, path: &str, request: &Request<Incoming>) -> Answer {
    match path {
        "/version" => respond::value(StatusCode::OK, Accept::JSON, &version()),
        "/healthz" | "/livez" => respond::text(StatusCode::OK, "ok"),
        "/readyz" if api.ready.load(Ordering::Relaxed) && !api.shutdown.is_cancelled() => {
            respond::text(StatusCode::OK, "ok")
        }
        "/readyz" => respond::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "[-]poststarthook failed: starting or stopping\n",
        ),
        "/metrics" => respond::text(StatusCode::OK, api.metrics.text(api.store.revision().0)),
        "/" => respond::value(StatusCode::OK, Accept::JSON, &paths()),
        "/openapi/v3" => respond::value(StatusCode::OK, Accept::JSON, &openapi::index()),
        "/openapi/v2" => openapi_v2(request),
        path => match path.strip_prefix("/openapi/v3/") {
            Some(document) => openapi_document(document, request),
            None => not_found(),
        },
    }
}

/// A document asked for by its hash never changes, and clients keep it on disk.
fn openapi_document(path: &str, request: &Request<Incoming>) -> Answer {
    let Some(document) = openapi::document(path) else {
        return not_found();
    };
    let mut answer = respond::value(StatusCode::OK, Accept::JSON, &document);
    let hash = openapi::hash(path).unwrap_or_default();
    if Params::parse(request.uri().query().unwrap_or_default()).text("hash") == hash {
        answer
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{hash}\"")) {
        answer.headers_mut().insert(ETAG, tag);
    }
    answer
}

/// Served as protobuf only: a client that wants JSON is told so.
fn openapi_v2(request: &Request<Incoming>) -> Answer {
    let accepted = request.headers().get_all(ACCEPT).iter();
    let wanted = |value: &HeaderValue| {
        value
            .to_str()
            .is_ok_and(|text| text.contains(openapi::V2_PROTOBUF_TYPE))
    };
    if !accepted.into_iter().any(wanted) {
        let text = format!("only {} is served\n", openapi::V2_PROTOBUF_TYPE);
        return respond::text(StatusCode::NOT_ACCEPTABLE, text);
    }
    let mut answer = respond::text(StatusCode::OK, openapi::V2_PROTOBUF);
    answer.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static(openapi::V2_PROTOBUF_ANSWER),
    );
    answer
}

fn not_found() -> Answer {
    respond::text(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn version() -> Value {
    json!({
        "major": "1", "minor": MINOR,
        "emulationMajor": "1", "emulationMinor": MINOR,
        "minCompatibilityMajor": "1", "minCompatibilityMinor": MINOR,
        "gitVersion": format!("v1.{MINOR}.0+portolan-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none",
        "compiler": "rustc", "platform": format!("linux/{}", platform()),
    })
}

/// The architecture in Go's words, which clients compare with.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn paths() -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
    for resource in control_schema::resources()
        .iter()
        .filter(|resource| !resource.group.is_empty())
    {
        for path in [
            format!("/apis/{}", resource.group),
            format!("/apis/{}", resource.api_version()),
        ] {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    paths.extend(
        [
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/readyz",
            "/version",
        ]
        .map(str::to_owned),
    );
    json!({"paths": paths})
}
