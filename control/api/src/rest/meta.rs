//! What the server writes into `metadata`.

use control_schema::Resource;
use rand::Rng as _;
use serde_json::Value;

use crate::error::ApiError;
use crate::object::{self, metadata, text};

/// Letters of generated names: no vowels and no digits that look like one, so no words.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// What is left of a `generateName` when the suffix is added, so that the name is a label of 63.
const PREFIX_LENGTH: usize = 58;

/// The time as objects carry it: RFC 3339 with whole seconds.
pub(crate) fn now() -> String {
    at(jiff::Timestamp::now())
}

/// A time as objects carry it.
pub(crate) fn at(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Five random letters.
pub(crate) fn random_suffix() -> String {
    let mut random = rand::rng();
    (0..5)
        .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
        .collect()
}

/// A name from `metadata.generateName`.
pub(crate) fn generated_name(prefix: &str) -> String {
    let kept = prefix.len().min(PREFIX_LENGTH);
    let kept = (0..=kept)
        .rev()
        .find(|end| prefix.is_char_boundary(*end))
        .unwrap_or(0);
    format!("{}{}", &prefix[..kept], random_suffix())
}

/// Completes the namespace of a body, which may name none, or refuses another one.
pub(crate) fn settle_namespace(
    res: &Resource,
    object: &mut Value,
    namespace: &str,
) -> Result<(), ApiError> {
    if !res.namespaced {
        metadata(object).remove("namespace");
        return Ok(());
    }
    let given = text(object, "/metadata/namespace");
    if !given.is_empty() && given != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    metadata(object).insert("namespace".into(), namespace.into());
    Ok(())
}

/// Completes the type of a body, which may state none, or refuses another one.
pub(crate) fn settle_type(
    api_version: &str,
    kind: &str,
    object: &mut Value,
) -> Result<(), ApiError> {
    if !object.is_object() {
        return Err(ApiError::bad_request(
            "couldn't get version/kind; json parse error: the body is not an object",
        ));
    }
    let (given_version, given_kind) = object::type_of(object);
    if !given_kind.is_empty() && given_kind != kind {
        return Err(ApiError::bad_request(format!(
            "{given_kind} in version {given_version:?} cannot be handled as a {kind}: no kind {given_kind:?} is registered for \
             version {api_version:?}"
        )));
    }
    if !given_version.is_empty() && given_version != api_version {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({given_version}) does not match the expected API version ({api_version})"
        )));
    }
    object::set_type(object, api_version, kind);
    Ok(())
}

/// Refuses a body that names another object than the path.
pub(crate) fn settle_name(object: &mut Value, name: &str) -> Result<(), ApiError> {
    match object::name(object) {
        "" => {
            metadata(object).insert("name".into(), name.into());
            Ok(())
        }
        given if given == name => Ok(()),
        given => Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
    }
}

/// What a client may not choose about a new object.
pub(crate) fn begin_life(object: &mut Value) {
    let metadata = metadata(object);
    for key in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "resourceVersion",
        "generation",
    ] {
        metadata.remove(key);
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), now().into());
}

/// What an update may not change: the new object keeps it from the old.
pub(crate) fn carry_over(new: &mut Value, old: &Value) {
    let kept = old.get("metadata");
    let metadata = metadata(new);
    for key in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "namespace",
        "name",
        "generateName",
    ] {
        object::copy_member(metadata, kept, key);
    }
    metadata.remove("selfLink");
}

/// Adds one to `metadata.generation`.
pub(crate) fn next_generation(object: &mut Value, old: &Value) {
    let generation = old
        .pointer("/metadata/generation")
        .and_then(Value::as_i64)
        .unwrap_or(0)
        + 1;
    metadata(object).insert("generation".into(), generation.into());
}
