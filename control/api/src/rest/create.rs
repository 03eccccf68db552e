//! POST on a collection.

use std::sync::Arc;

use bytes::Bytes;
use control_schema::{Resource, defaults, validation};
use control_store::{Entry, Expect};
use http::StatusCode;
use serde_json::Value;

use super::{Call, meta, render, write};
use crate::api::Api;
use crate::body;
use crate::error::ApiError;
use crate::hooks;
use crate::identity::User;
use crate::object::{self, metadata, text};
use crate::query::WriteOptions;
use crate::respond::{self, Answer};

/// How often a generated name that is taken is replaced by another.
const NAME_ATTEMPTS: usize = 8;

/// Creates the object in the body.
pub(crate) async fn create(call: &Call<'_>) -> Result<Answer, ApiError> {
    let target = call.target;
    let options = WriteOptions::parse(call.params, call.user_agent())?;
    let decoded = body::object(call.headers, &call.body)?;
    let mut object = decoded.object;
    meta::settle_type(&target.res.api_version(), target.res.kind, &mut object)?;
    let checked = write::check_fields(
        target.res,
        object,
        decoded.duplicates,
        options.field_validation,
    )?;
    let made = Creation {
        api: call.api,
        user: call.user,
        res: target.res,
        options: &options,
    };
    let bytes = made.run(checked.object, &target.namespace).await?;
    let shaped = render::one(target.res, call.accept, call.params, bytes);
    let mut answer = respond::bytes(StatusCode::CREATED, call.accept, shaped);
    respond::warn(&mut answer, &checked.warnings);
    Ok(answer)
}

/// A creation, by POST or by an update that may create.
pub(crate) struct Creation<'a> {
    pub(crate) api: &'a Api,
    pub(crate) user: &'a User,
    pub(crate) res: &'static Resource,
    pub(crate) options: &'a WriteOptions,
}

impl Creation<'_> {
    /// Creates an object whose fields were checked; returns its stored form.
    pub(crate) async fn run(&self, mut object: Value, namespace: &str) -> Result<Bytes, ApiError> {
        let generated = self.prepare(&mut object, namespace)?;
        write::track(self.res, None, &mut object, &self.options.manager, None);
        self.finish(object, generated).await
    }

    /// Creates an object that apply has made, its owners recorded already.
    pub(crate) async fn run_applied(
        &self,
        mut object: Value,
        namespace: &str,
    ) -> Result<Bytes, ApiError> {
        let generated = self.prepare(&mut object, namespace)?;
        self.finish(object, generated).await
    }

    /// Completes the object; returns whether its name was made up.
    fn prepare(&self, object: &mut Value, namespace: &str) -> Result<bool, ApiError> {
        let res = self.res;
        if !text(object, "/metadata/resourceVersion").is_empty() {
            return Err(ApiError::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        meta::settle_namespace(res, object, namespace)?;
        let generated = generate_name(object);
        meta::begin_life(object);
        reset(res, object);
        defaults::apply(res, object);
        hooks::namespace_allows_creation(self.api, res, object)?;
        hooks::admit(self.api, res, object, self.user)?;
        Ok(generated)
    }

    async fn finish(&self, mut object: Value, generated: bool) -> Result<Bytes, ApiError> {
        let res = self.res;
        let claim = hooks::allocate(self.api, res, &mut object, None)?;
        write::refuse_causes(res, &object, &validation::create(res, &object))?;
        if self.options.dry_run {
            let free = self.api.store.get(&key_of(res, &object)).is_none();
            let taken = || ApiError::already_exists(res, object::name(&object));
            return free
                .then(|| object::encode_unstored(&object))
                .ok_or_else(taken);
        }
        let entry = self.store(&mut object, generated).await?;
        claim.keep();
        Ok(entry.value.clone())
    }

    async fn store(&self, object: &mut Value, generated: bool) -> Result<Arc<Entry>, ApiError> {
        for _ in 0..NAME_ATTEMPTS {
            if let Ok(entry) = write::store(self.api, self.res, object, Expect::Absent).await? {
                return Ok(entry);
            }
            if !generated {
                break;
            }
            metadata(object).remove("name");
            generate_name(object);
        }
        Err(ApiError::already_exists(self.res, object::name(object)))
    }
}

/// A new object has no status but the default one, and is the first of its generations.
fn reset(res: &Resource, object: &mut Value) {
    if res.has_status {
        object::members(object).remove("status");
    }
    if res.generation {
        metadata(object).insert("generation".into(), 1.into());
    }
}

/// Makes up a name if there is none and a prefix for it.
fn generate_name(object: &mut Value) -> bool {
    let prefix = text(object, "/metadata/generateName");
    if prefix.is_empty() || !object::name(object).is_empty() {
        return false;
    }
    let name = meta::generated_name(prefix);
    metadata(object).insert("name".into(), name.into());
    true
}

fn key_of(res: &Resource, object: &Value) -> control_store::Key {
    object::key(
        res,
        text(object, "/metadata/namespace"),
        object::name(object),
    )
}
