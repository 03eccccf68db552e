//! `/token` of a service account: a signed token, bound to a pod if asked.

use control_schema::by_plural;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::body;
use crate::error::ApiError;
use crate::object::{self, child, text};
use crate::respond::{self, Answer};
use crate::rest::{self, Call};
use crate::token::{Bound, Claims, ISSUER, Reference};

const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;

/// Answers a TokenRequest.
pub(crate) fn token(call: &Call<'_>) -> Result<Answer, ApiError> {
    let target = call.target;
    let mut request = body::object(call.headers, &call.body)?.object;
    let account = rest::entry(call.api, target.res, &target.namespace, &target.name)?;
    let account = object::decode(&account.value);

    let seconds = request
        .pointer("/spec/expirationSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(DEFAULT_SECONDS);
    let problem = match seconds {
        seconds if seconds < MIN_SECONDS => Some("may not specify a duration less than 10 minutes"),
        seconds if seconds > MAX_SECONDS => {
            Some("may not specify a duration larger than 2^32 seconds")
        }
        _ => None,
    };
    if let Some(problem) = problem {
        let message = format!(
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: {seconds}: {problem}"
        );
        return Err(ApiError::new(422, "Invalid", message));
    }
    let now = Timestamp::now();
    let expires = now
        .saturating_add(SignedDuration::from_secs(seconds))
        .unwrap_or(now);
    let claims = Claims {
        aud: audiences(&request),
        exp: expires.as_second(),
        iat: now.as_second(),
        iss: ISSUER.into(),
        jti: uuid::Uuid::new_v4().to_string(),
        bound: bound(call, &account, &request)?,
        nbf: now.as_second(),
        sub: format!("system:serviceaccount:{}:{}", target.namespace, target.name),
    };
    let token = call
        .api
        .authenticator
        .tokens
        .sign(&claims)
        .map_err(ApiError::internal)?;
    complete(&mut request, &claims, seconds, token, expires);
    Ok(respond::value(StatusCode::CREATED, call.accept, &request))
}

fn audiences(request: &Value) -> Vec<String> {
    let asked: Vec<String> = object::items(request, "/spec/audiences")
        .iter()
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect();
    if asked.is_empty() {
        vec![ISSUER.into()]
    } else {
        asked
    }
}

/// What the token is bound to: the account, and the pod (and its node) it is asked for.
fn bound(call: &Call<'_>, account: &Value, request: &Value) -> Result<Bound, ApiError> {
    let namespace = call.target.namespace.clone();
    let serviceaccount = Reference {
        name: object::name(account).into(),
        uid: object::uid(account).into(),
    };
    let mut bound = Bound {
        namespace,
        node: None,
        pod: None,
        secret: None,
        serviceaccount,
    };
    let wanted = request
        .pointer("/spec/boundObjectRef")
        .filter(|reference| reference.is_object());
    let Some(wanted) = wanted else {
        return Ok(bound);
    };
    let (kind, name) = (text(wanted, "/kind"), text(wanted, "/name"));
    let plural = match kind {
        "Pod" => "pods",
        "Secret" => "secrets",
        _ => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount to {kind:?}"
            )));
        }
    };
    let res = by_plural("", "v1", plural).expect("the schema has pods and secrets");
    let entry = rest::entry(call.api, res, &bound.namespace, name)?;
    let object = object::decode(&entry.value);
    let (uid, expected) = (object::uid(&object), text(wanted, "/uid"));
    if !expected.is_empty() && uid != expected {
        let what = format!(
            "the UID in the bound object reference ({expected}) does not match the UID in record. The object might \
                            have been deleted and then recreated"
        );
        return Err(ApiError::conflict(res, name, what));
    }
    let reference = Reference {
        name: name.into(),
        uid: uid.into(),
    };
    if plural == "secrets" {
        bound.secret = Some(reference);
        return Ok(bound);
    }
    bound.pod = Some(reference);
    bound.node = node_of(call, text(&object, "/spec/nodeName"));
    Ok(bound)
}

fn node_of(call: &Call<'_>, name: &str) -> Option<Reference> {
    let nodes = by_plural("", "v1", "nodes")?;
    let entry = call.api.store.get(&object::key(nodes, "", name))?;
    Some(Reference {
        name: name.into(),
        uid: object::uid(&object::decode(&entry.value)).into(),
    })
}

fn complete(request: &mut Value, claims: &Claims, seconds: i64, token: String, expires: Timestamp) {
    object::set_type(request, "authentication.k8s.io/v1", "TokenRequest");
    let metadata = object::metadata(request);
    metadata.insert(
        "name".into(),
        claims.bound.serviceaccount.name.clone().into(),
    );
    metadata.insert("namespace".into(), claims.bound.namespace.clone().into());
    metadata.insert("creationTimestamp".into(), rest::now().into());
    let spec = child(request, "spec");
    spec.insert("audiences".into(), claims.aud.clone().into());
    spec.insert("expirationSeconds".into(), seconds.into());
    let status = child(request, "status");
    status.insert("token".into(), token.into());
    status.insert("expirationTimestamp".into(), rest::time(expires).into());
}
