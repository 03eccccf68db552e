//! One request's way: who asks, for what, may they, and which part answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use crate::accept::Accept;
use crate::api::Api;
use crate::authorize::{self, Attributes};
use crate::body;
use crate::error::ApiError;
use crate::identity::User;
use crate::query::Params;
use crate::respond::{self, Answer};
use crate::rest::{self, Call};
use crate::route::{Route, Target};
use crate::{meta_paths, reviews, sub};

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers a request; `certificate` is the user of the connection's client certificate.
pub(crate) async fn handle(
    api: Arc<Api>,
    certificate: Option<Arc<User>>,
    request: Request<Incoming>,
) -> Answer {
    let began = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let answer = match answer(&api, certificate.as_deref(), request).await {
        Ok(answer) => answer,
        Err(error) => respond::error(&error),
    };
    let code = answer.status().as_u16();
    api.metrics.answered(code, began.elapsed());
    tracing::debug!(%method, path, code, micros = began.elapsed().as_micros(), "request");
    answer
}

async fn answer(
    api: &Arc<Api>,
    certificate: Option<&User>,
    request: Request<Incoming>,
) -> Result<Answer, ApiError> {
    let user = api
        .authenticator
        .acting_user(certificate, request.headers())?;
    let Some(route) = Route::parse(request.uri().path()) else {
        return Ok(respond::text(StatusCode::NOT_FOUND, "404 page not found\n"));
    };
    match route {
        Route::Resource(target) => resource(api, user, target, request).await,
        Route::Discovery(discovery) => {
            authorize_path(&user, &request)?;
            meta_paths::discovery(api, &discovery, &request)
        }
        Route::Other(path) => {
            authorize_path(&user, &request)?;
            Ok(meta_paths::other(api, &path, &request))
        }
    }
}

fn authorize_path(user: &User, request: &Request<Incoming>) -> Result<(), ApiError> {
    let verb = request.method().as_str().to_ascii_lowercase();
    let asked = authorize::Request::Path {
        verb: &verb,
        path: request.uri().path(),
    };
    if authorize::allows(user, &asked) {
        Ok(())
    } else {
        Err(authorize::refusal(user, &asked, None))
    }
}

async fn resource(
    api: &Arc<Api>,
    user: User,
    target: Target,
    request: Request<Incoming>,
) -> Result<Answer, ApiError> {
    let params = Params::parse(request.uri().query().unwrap_or_default());
    let verb = target.verb(request.method(), params.flag("watch"))?;
    authorize_resource(&user, verb, &target)?;
    if let Some(stream) = sub::stream_of(&target) {
        return stream.open(api, &target, &params, request).await;
    }
    let permit = admit(api, verb, request.method())?;
    let (parts, incoming) = request.into_parts();
    let body = tokio::time::timeout(BODY_TIMEOUT, body::read(incoming))
        .await
        .map_err(|_| slow_body())??;
    let accept = Accept::for_objects(&parts.headers)?;
    let call = Call {
        api,
        user: &user,
        target: &target,
        params: &params,
        headers: &parts.headers,
        accept,
        body,
    };
    let answer = dispatch(&call, verb).await;
    drop(permit);
    answer
}

async fn dispatch(call: &Call<'_>, verb: &str) -> Result<Answer, ApiError> {
    if !call.target.res.is_stored() {
        return reviews::create(call).await;
    }
    match (call.sub(), verb) {
        (Some("scale"), _) => sub::scale(call, verb).await,
        (Some("binding"), _) => sub::bind(call).await,
        (Some("eviction"), _) => sub::evict(call).await,
        (Some("token"), _) => sub::token(call),
        (_, "get") => rest::get(call),
        (_, "update") => rest::put(call).await,
        (_, "patch") => rest::patch(call).await,
        (None, "create") => rest::create(call).await,
        (None, "list") => rest::list(call),
        (None, "watch") => rest::watch(call),
        (None, "delete") => rest::delete(call).await,
        (None, "deletecollection") => rest::delete_collection(call).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn authorize_resource(user: &User, verb: &str, target: &Target) -> Result<(), ApiError> {
    let attributes = Attributes {
        verb,
        group: target.res.group,
        plural: target.res.plural,
        sub: target.sub.map_or("", |sub| sub.name),
        namespace: &target.namespace,
        name: &target.name,
    };
    let asked = authorize::Request::Resource(attributes);
    if authorize::allows(user, &asked) {
        Ok(())
    } else {
        Err(authorize::refusal(user, &asked, Some(target.res)))
    }
}

fn slow_body() -> ApiError {
    ApiError::new(
        504,
        "Timeout",
        "Timeout: request did not complete within requested timeout - context deadline exceeded",
    )
}

/// A place among the requests under way; watches, which last, take none.
fn admit(api: &Api, verb: &str, method: &Method) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
    if verb == "watch" {
        return Ok(None);
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let places = if reads { &api.readers } else { &api.writers };
    let busy = |_| ApiError::too_many_requests("too many requests, please try again later", 1);
    Arc::clone(places)
        .try_acquire_owned()
        .map(Some)
        .map_err(busy)
}

/// Whether the client asked to switch protocols.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(http::header::UPGRADE)
}
