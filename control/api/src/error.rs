//! Refusals in upstream's words: every error of the API is a `Status` object whose message users read verbatim and whose
//! reason and code clients branch on.

use control_schema::Resource;
use control_schema::validation::{self, Cause};
use serde_json::{Map, Value, json};

/// A refusal, as the `Status` it becomes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) details: Map<String, Value>,
    /// `metadata.continue`, for an expired list that may be gone on with.
    pub(crate) resume: Option<String>,
}

impl ApiError {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Map::new(),
            resume: None,
        }
    }

    fn of(mut self, res: &Resource, name: &str) -> Self {
        self.details = details(name, res.group, res.plural);
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// `what` is the part after "is forbidden: ".
    pub(crate) fn forbidden(res: &Resource, name: &str, what: impl std::fmt::Display) -> Self {
        let message = match name {
            "" => format!("{} is forbidden: {what}", res.qualified_plural()),
            name => format!("{} {name:?} is forbidden: {what}", res.qualified_plural()),
        };
        Self::new(403, "Forbidden", message).of(res, name)
    }

    pub(crate) fn not_found(res: &Resource, name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{} {name:?} not found", res.qualified_plural()),
        )
        .of(res, name)
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    pub(crate) fn not_acceptable(accepted: &str) -> Self {
        Self::new(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {accepted}"),
        )
    }

    pub(crate) fn already_exists(res: &Resource, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!("{} {name:?} already exists", res.qualified_plural()),
        )
        .of(res, name)
    }

    pub(crate) fn conflict(res: &Resource, name: &str, what: impl std::fmt::Display) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {what}",
            res.qualified_plural()
        );
        Self::new(409, "Conflict", message).of(res, name)
    }

    pub(crate) fn modified(res: &Resource, name: &str) -> Self {
        let what = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(res, name, what)
    }

    pub(crate) fn apply_conflicts(
        conflicts: &[control_schema::apply::Conflict],
        message: String,
    ) -> Self {
        let causes: Vec<Value> = conflicts
            .iter()
            .map(|conflict| {
                let message = format!("conflict with {}", conflict.manager);
                json!({"reason": "FieldManagerConflict", "message": message, "field": conflict.field})
            })
            .collect();
        let mut error = Self::new(409, "Conflict", message);
        error.details.insert("causes".into(), causes.into());
        error
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    pub(crate) fn unsupported_media_type(accepted: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(crate) fn invalid(res: &Resource, name: &str, causes: &[Cause]) -> Self {
        let mut error = Self::new(422, "Invalid", validation::message(res, name, causes));
        error.details = details(name, res.group, res.kind);
        let causes: Vec<Value> = causes
            .iter()
            .map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}))
            .collect();
        error.details.insert("causes".into(), causes.into());
        error
    }

    /// An object refused for one field.
    pub(crate) fn invalid_field(
        res: &Resource,
        name: &str,
        reason: &'static str,
        field: &str,
        message: String,
    ) -> Self {
        Self::invalid(
            res,
            name,
            &[Cause {
                reason,
                message,
                field: field.to_owned(),
            }],
        )
    }

    pub(crate) fn too_many_requests(message: impl Into<String>, retry_after: u32) -> Self {
        let mut error = Self::new(429, "TooManyRequests", message);
        error
            .details
            .insert("retryAfterSeconds".into(), retry_after.into());
        error
    }

    pub(crate) fn internal(message: impl std::fmt::Display) -> Self {
        let mut error = Self::new(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        );
        error
            .details
            .insert("causes".into(), json!([{"message": message.to_string()}]));
        error
    }

    /// A resource version that has not happened yet.
    pub(crate) fn future_revision(requested: u64, current: u64) -> Self {
        let message =
            format!("Timeout: Too large resource version: {requested}, current: {current}");
        let mut error = Self::new(504, "Timeout", message);
        let causes =
            json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
        error.details.insert("causes".into(), causes);
        error.details.insert("retryAfterSeconds".into(), 1.into());
        error
    }

    /// Seconds after which the request may be tried again.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        self.details.get("retryAfterSeconds")?.as_u64()
    }

    /// The `Status` object.
    pub(crate) fn status(&self) -> Value {
        let metadata = match &self.resume {
            Some(token) => json!({"continue": token}),
            None => json!({}),
        };
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": self.details, "code": self.code,
        })
    }
}

impl From<control_store::WriteError> for ApiError {
    /// For failures of the store; a conflict is handled where the write is made and means nothing here.
    fn from(error: control_store::WriteError) -> Self {
        Self::internal(error)
    }
}

/// `details` naming an object; empty parts are left out.
pub(crate) fn details(name: &str, group: &str, kind: &str) -> Map<String, Value> {
    [("name", name), ("group", group), ("kind", kind)]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect()
}
