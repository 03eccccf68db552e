//! PATCH: JSON patch, merge patch, strategic merge patch and apply, on an object or its status.

use bytes::Bytes;
use control_schema::patch::{self as patches, PatchError};
use control_schema::{Resource, apply};
use http::StatusCode;
use serde_json::Value;

use super::create::Creation;
use super::{Call, Update, meta, read, render, write};
use crate::body::{self, PatchType};
use crate::error::ApiError;
use crate::object;
use crate::query::WriteOptions;
use crate::respond::{self, Answer};

/// Changes the object by the patch in the body.
pub(crate) async fn patch(call: &Call<'_>) -> Result<Answer, ApiError> {
    let options = WriteOptions::parse(call.params, call.user_agent())?;
    let (kind, decoded) = body::patch(call.headers, &call.body)?;
    if kind == PatchType::Apply {
        return apply(call, &options, decoded.object).await;
    }
    if options.force {
        return Err(patch_options(
            "force: Forbidden: may not be specified for non-apply patch",
        ));
    }
    let target = call.target;
    let mut warnings = Vec::new();
    let bytes = Update::of(call, &options)
        .run(|old| {
            let patched = patched(target.res, kind, old, &decoded.object)?;
            let checked =
                write::check_fields(target.res, patched, Vec::new(), options.field_validation)?;
            warnings = checked.warnings;
            Ok(checked.object)
        })
        .await?;
    Ok(answer(call, StatusCode::OK, bytes, &warnings))
}

/// The object with a patch of any kind but apply.
pub(crate) fn patched(
    res: &Resource,
    kind: PatchType,
    object: &Value,
    patch: &Value,
) -> Result<Value, ApiError> {
    match kind {
        PatchType::Json => patches::json(object, patch).map_err(refused),
        PatchType::Merge => Ok(patches::merge(object, patch)),
        PatchType::Strategic | PatchType::Apply => {
            patches::strategic(res, object, patch).map_err(refused)
        }
    }
}

fn refused(error: PatchError) -> ApiError {
    let text = error.to_string();
    match error {
        PatchError::Invalid(_) => ApiError::bad_request(text),
        PatchError::Unprocessable(_) => ApiError::new(
            422,
            "Invalid",
            "the server rejected our request due to an error in our request",
        ),
        PatchError::TooLarge(_) | PatchError::CopiesTooMuch => {
            ApiError::new(413, "RequestEntityTooLarge", text)
        }
    }
}

fn patch_options(what: &str) -> ApiError {
    ApiError::new(
        422,
        "Invalid",
        format!("PatchOptions.meta.k8s.io \"\" is invalid: {what}"),
    )
}

/// Server-side apply: creates the object if there is none.
async fn apply(
    call: &Call<'_>,
    options: &WriteOptions,
    mut config: Value,
) -> Result<Answer, ApiError> {
    let target = call.target;
    if call.params.text("fieldManager").is_empty() {
        return Err(patch_options(
            "fieldManager: Required value: is required for apply patch",
        ));
    }
    meta::settle_type(&target.res.api_version(), target.res.kind, &mut config)?;
    meta::settle_name(&mut config, &target.name)?;
    meta::settle_namespace(target.res, &mut config, &target.namespace)?;
    if config
        .pointer("/metadata/managedFields")
        .is_some_and(|fields| !fields.is_null())
    {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let checked = write::check_fields(target.res, config, Vec::new(), options.field_validation)?;
    let merged = |live: Option<&Value>| {
        let (manager, force) = (&options.manager, options.force);
        apply::apply(
            target.res,
            live,
            &checked.object,
            manager,
            force,
            call.sub(),
            &super::now(),
        )
        .map_err(|error| apply_error(&error))
    };

    let exists = read::entry(call.api, target.res, &target.namespace, &target.name);
    let (code, bytes) = match exists {
        Err(missing) if call.sub().is_some() => return Err(missing),
        Err(_) => {
            let creation = Creation {
                api: call.api,
                user: call.user,
                res: target.res,
                options,
            };
            (
                StatusCode::CREATED,
                creation
                    .run_applied(merged(None)?, &target.namespace)
                    .await?,
            )
        }
        Ok(_) => {
            let update = Update {
                tracked: true,
                ..Update::of(call, options)
            };
            let insisted = object::text(&checked.object, "/metadata/resourceVersion").to_owned();
            let bytes = update.run(|live| {
                let mut new = merged(Some(live))?;
                object::metadata(&mut new)
                    .insert("resourceVersion".into(), insisted.clone().into());
                Ok(new)
            });
            (StatusCode::OK, bytes.await?)
        }
    };
    Ok(answer(call, code, bytes, &checked.warnings))
}

fn apply_error(error: &apply::Error) -> ApiError {
    match error {
        apply::Error::Conflicts(conflicts) => {
            ApiError::apply_conflicts(conflicts, error.to_string())
        }
        apply::Error::Invalid(text) => ApiError::bad_request(text),
    }
}

fn answer(call: &Call<'_>, code: StatusCode, bytes: Bytes, warnings: &[String]) -> Answer {
    let shaped = render::one(call.target.res, call.accept, call.params, bytes);
    let mut answer = respond::bytes(code, call.accept, shaped);
    respond::warn(&mut answer, warnings);
    answer
}
