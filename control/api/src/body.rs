//! Request bodies: read with a limit, and decoded to JSON values whatever their encoding.

use bytes::{Bytes, BytesMut};
use control_schema::{protobuf, strict};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use serde_json::Value;

use crate::error::ApiError;
use crate::yaml;

/// The largest body read.
pub(crate) const LIMIT: usize = 3 << 20;

/// The encodings read, as a 415 names them.
const OBJECTS: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const PATCHES: &str = "application/json-patch+json, application/merge-patch+json, \
                       application/strategic-merge-patch+json, application/apply-patch+yaml";

/// Reads a body of at most [`LIMIT`] bytes.
pub(crate) async fn read(mut body: Incoming) -> Result<Bytes, ApiError> {
    if body.size_hint().lower() > LIMIT as u64 {
        return Err(ApiError::too_large(LIMIT));
    }
    let mut out = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| ApiError::bad_request(format!("error reading the body: {error}")))?;
        if let Ok(data) = frame.into_data() {
            if out.len() + data.len() > LIMIT {
                return Err(ApiError::too_large(LIMIT));
            }
            out.extend_from_slice(&data);
        }
    }
    Ok(out.freeze())
}

/// A decoded object and the duplicate fields found on the way.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) object: Value,
    pub(crate) duplicates: Vec<String>,
}

/// Decodes an object. No content type means JSON.
pub(crate) fn object(headers: &HeaderMap, body: &[u8]) -> Result<Decoded, ApiError> {
    match media_type(headers) {
        "" | "application/json" => Ok(Decoded {
            object: json(body)?,
            duplicates: strict::duplicate_fields(body),
        }),
        "application/yaml" => Ok(Decoded {
            object: yaml_or_json(body)?,
            duplicates: Vec::new(),
        }),
        "application/vnd.kubernetes.protobuf" => {
            let object =
                protobuf::decode(body).map_err(|error| ApiError::bad_request(error.to_string()))?;
            Ok(Decoded {
                object,
                duplicates: Vec::new(),
            })
        }
        _ => Err(ApiError::unsupported_media_type(OBJECTS)),
    }
}

/// Decodes an object that may be left out, as the options of a deletion; none is null.
pub(crate) fn optional_object(headers: &HeaderMap, body: &[u8]) -> Result<Value, ApiError> {
    match body {
        [] => Ok(Value::Null),
        body => object(headers, body).map(|decoded| decoded.object),
    }
}

/// The kinds of patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// Decodes a patch.
pub(crate) fn patch(headers: &HeaderMap, body: &[u8]) -> Result<(PatchType, Decoded), ApiError> {
    let decoded = |object| Decoded {
        object,
        duplicates: Vec::new(),
    };
    match media_type(headers) {
        "application/json-patch+json" => Ok((PatchType::Json, decoded(json(body)?))),
        "application/merge-patch+json" => Ok((PatchType::Merge, decoded(json(body)?))),
        "application/strategic-merge-patch+json" => {
            Ok((PatchType::Strategic, decoded(json(body)?)))
        }
        "application/apply-patch+yaml" => Ok((PatchType::Apply, decoded(yaml_or_json(body)?))),
        _ => Err(ApiError::unsupported_media_type(PATCHES)),
    }
}

fn media_type(headers: &HeaderMap) -> &str {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

fn json(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type json): {error}"
        ))
    })
}

/// YAML, of which JSON is a part; the common case takes the fast way.
fn yaml_or_json(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body)
        .or_else(|_| yaml::parse(body))
        .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))
}
