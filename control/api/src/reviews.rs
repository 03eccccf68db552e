//! Resources that are only answered: who am I, may I, may they, whose token is this; and the old form of bindings.

use http::StatusCode;
use serde_json::{Value, json};

use crate::authorize::{self, Attributes, Request};
use crate::body;
use crate::error::ApiError;
use crate::identity::User;
use crate::object::{self, items, members, text};
use crate::respond::{self, Answer};
use crate::rest::Call;
use crate::sub;

/// Answers a review.
pub(crate) async fn create(call: &Call<'_>) -> Result<Answer, ApiError> {
    let res = call.target.res;
    let mut review = body::object(call.headers, &call.body)?.object;
    let status = match res.plural {
        "bindings" => return sub::bind_to(call, object::name(&review), &review).await,
        "selfsubjectreviews" => json!({"userInfo": call.user.info()}),
        "selfsubjectaccessreviews" => access(call.user, &review),
        "subjectaccessreviews" | "localsubjectaccessreviews" => access(&subject(&review), &review),
        "selfsubjectrulesreviews" => {
            json!({"resourceRules": [], "nonResourceRules": [], "incomplete": true,
            "evaluationError": "the authorization table does not support listing rules"})
        }
        "tokenreviews" => token(call, text(&review, "/spec/token")),
        _ => return Err(ApiError::method_not_allowed()),
    };
    object::set_type(&mut review, &res.api_version(), res.kind);
    object::metadata(&mut review)
        .entry("creationTimestamp")
        .or_insert(Value::Null);
    members(&mut review).insert("status".into(), status);
    Ok(respond::value(StatusCode::CREATED, call.accept, &review))
}

fn access(user: &User, review: &Value) -> Value {
    let asked = match review
        .pointer("/spec/resourceAttributes")
        .filter(|attributes| attributes.is_object())
    {
        Some(attributes) => Request::Resource(Attributes {
            verb: text(attributes, "/verb"),
            group: text(attributes, "/group"),
            plural: text(attributes, "/resource"),
            sub: text(attributes, "/subresource"),
            namespace: text(attributes, "/namespace"),
            name: text(attributes, "/name"),
        }),
        None => Request::Path {
            verb: text(review, "/spec/nonResourceAttributes/verb"),
            path: text(review, "/spec/nonResourceAttributes/path"),
        },
    };
    json!({"allowed": authorize::allows(user, &asked)})
}

/// The user a review is about.
fn subject(review: &Value) -> User {
    let groups = items(review, "/spec/groups")
        .iter()
        .filter_map(|group| group.as_str().map(str::to_owned))
        .collect();
    User {
        name: text(review, "/spec/user").into(),
        uid: text(review, "/spec/uid").into(),
        groups,
        extra: Vec::new(),
    }
}

fn token(call: &Call<'_>, token: &str) -> Value {
    match call.api.authenticator.token_user(token) {
        Some(user) => {
            json!({"authenticated": true, "user": user.info(), "audiences": [crate::token::ISSUER]})
        }
        None => json!({"authenticated": false, "user": {}, "error": "invalid bearer token"}),
    }
}
