//! PUT, and what every change of an existing object shares: optimistic concurrency, what may not change, generation, owners,
//! and the deletion that happens when the last finalizer goes.

use std::sync::Arc;

use bytes::Bytes;
use control_schema::{Resource, defaults, validation};
use control_store::{Entry, Expect};
use http::StatusCode;
use serde_json::Value;

use super::create::Creation;
use super::{Call, meta, read, render, write};
use crate::api::Api;
use crate::body;
use crate::error::ApiError;
use crate::hooks;
use crate::object::{self, text};
use crate::query::WriteOptions;
use crate::respond::{self, Answer};

/// How often a change that does not insist on a revision is tried again after losing a race.
const ATTEMPTS: usize = 16;

/// Replaces the object, or its status.
pub(crate) async fn put(call: &Call<'_>) -> Result<Answer, ApiError> {
    let target = call.target;
    let options = WriteOptions::parse(call.params, call.user_agent())?;
    let decoded = body::object(call.headers, &call.body)?;
    let mut object = decoded.object;
    meta::settle_type(&target.res.api_version(), target.res.kind, &mut object)?;
    meta::settle_name(&mut object, &target.name)?;
    meta::settle_namespace(target.res, &mut object, &target.namespace)?;
    let checked = write::check_fields(
        target.res,
        object,
        decoded.duplicates,
        options.field_validation,
    )?;

    let update = Update::of(call, &options);
    let exists = read::entry(call.api, target.res, &target.namespace, &target.name);
    let (code, bytes) = match exists {
        Err(_) if update.sub.is_none() && target.res.create_on_update => {
            let creation = Creation {
                api: call.api,
                user: call.user,
                res: target.res,
                options: &options,
            };
            (
                StatusCode::CREATED,
                creation.run(checked.object, &target.namespace).await?,
            )
        }
        Err(missing) => return Err(missing),
        Ok(_) => {
            update.must_insist(&checked.object)?;
            (
                StatusCode::OK,
                update.run(|_| Ok(checked.object.clone())).await?,
            )
        }
    };
    let shaped = render::one(target.res, call.accept, call.params, bytes);
    let mut answer = respond::bytes(code, call.accept, shaped);
    respond::warn(&mut answer, &checked.warnings);
    Ok(answer)
}

/// A change of one existing object.
pub(crate) struct Update<'a> {
    pub(crate) api: &'a Api,
    pub(crate) res: &'static Resource,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) sub: Option<&'static str>,
    pub(crate) options: &'a WriteOptions,
    /// The change records its owners itself, as apply does.
    pub(crate) tracked: bool,
}

impl<'a> Update<'a> {
    /// The update a request is for.
    pub(crate) fn of(call: &'a Call<'_>, options: &'a WriteOptions) -> Self {
        let target = call.target;
        Self {
            api: call.api,
            res: target.res,
            namespace: &target.namespace,
            name: &target.name,
            sub: call.sub(),
            options,
            tracked: false,
        }
    }

    /// Refuses a replacement without a revision for kinds that want one.
    fn must_insist(&self, object: &Value) -> Result<(), ApiError> {
        if self.res.unconditional_update || !text(object, "/metadata/resourceVersion").is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid_field(
            self.res,
            self.name,
            "FieldValueInvalid",
            "metadata.resourceVersion",
            "Invalid value: 0: must be specified for an update".into(),
        ))
    }

    /// Computes the new object from the old and stores it; again with the newer old one if another writer came first,
    /// unless the new object insists on a revision. Returns the stored form.
    pub(crate) async fn run(
        &self,
        mut change: impl FnMut(&Value) -> Result<Value, ApiError>,
    ) -> Result<Bytes, ApiError> {
        for _ in 0..ATTEMPTS {
            let entry = read::entry(self.api, self.res, self.namespace, self.name)?;
            let old = object::decode(&entry.value);
            let new = change(&old)?;
            let insisted = text(&new, "/metadata/resourceVersion");
            if !insisted.is_empty() && insisted != entry.revision.to_string() {
                return Err(ApiError::modified(self.res, self.name));
            }
            if let Some(bytes) = self.attempt(&entry, &old, new).await? {
                return Ok(bytes);
            }
        }
        Err(ApiError::modified(self.res, self.name))
    }

    /// None: another writer came first.
    async fn attempt(
        &self,
        entry: &Arc<Entry>,
        old: &Value,
        mut new: Value,
    ) -> Result<Option<Bytes>, ApiError> {
        self.settle(old, &mut new)?;
        if write::is_same(old, &new) {
            return Ok(Some(entry.value.clone()));
        }
        let claim = match self.sub {
            None => hooks::allocate(self.api, self.res, &mut new, Some(old))?,
            Some(_) => hooks::Claim::none(),
        };
        self.validate(old, &new)?;
        if self.options.dry_run {
            return Ok(Some(object::encode_unstored(&new)));
        }
        let written = if hooks::may_vanish(self.res, &new) {
            write::remove(self.api, self.res, &new, entry).await?
        } else {
            write::store(self.api, self.res, &new, Expect::At(entry.revision)).await?
        };
        Ok(written.ok().map(|entry| {
            claim.keep();
            entry.value.clone()
        }))
    }

    /// Brings the new object into the form in which it may be stored.
    fn settle(&self, old: &Value, new: &mut Value) -> Result<(), ApiError> {
        self.check_identity(old, new)?;
        object::set_type(new, &self.res.api_version(), self.res.kind);
        meta::carry_over(new, old);
        self.keep_the_other_half(old, new);
        if self.sub.is_none() {
            defaults::drop_dependent(self.res, new, old);
        }
        defaults::apply(self.res, new);
        hooks::prepare_update(self.res, self.sub, new, old);
        if self.changes_spec() && self.res.generation && differs_beyond_status(old, new) {
            meta::next_generation(new, old);
        }
        if !self.tracked {
            write::track(self.res, Some(old), new, &self.options.manager, self.sub);
        }
        // So that comparing and answering a dry run see the revision the change is based on.
        let revision = old
            .pointer("/metadata/resourceVersion")
            .cloned()
            .unwrap_or_default();
        object::metadata(new).insert("resourceVersion".into(), revision);
        Ok(())
    }

    fn check_identity(&self, old: &Value, new: &Value) -> Result<(), ApiError> {
        let (expected, actual) = (object::uid(new), object::uid(old));
        if !expected.is_empty() && expected != actual {
            let what = format!(
                "Precondition failed: UID in precondition: {expected}, UID in object meta: {actual}"
            );
            return Err(ApiError::conflict(self.res, self.name, what));
        }
        let name = object::name(new);
        if !name.is_empty() && name != self.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                self.name
            )));
        }
        Ok(())
    }

    /// A write of the object leaves the status, a write of the status leaves the rest.
    fn keep_the_other_half(&self, old: &Value, new: &mut Value) {
        match self.sub {
            Some("status") => {
                let status = new.get("status").cloned();
                let metadata = new.get("metadata").cloned();
                *new = old.clone();
                let members = object::members(new);
                match status {
                    Some(status) => members.insert("status".into(), status),
                    None => members.remove("status"),
                };
                if let Some(mut metadata) = metadata {
                    let owners = old.get("metadata");
                    object::copy_member(object::members(&mut metadata), owners, "ownerReferences");
                    members.insert("metadata".into(), metadata);
                }
            }
            None if self.res.has_status => {
                object::copy_member(object::members(new), Some(old), "status")
            }
            _ => {}
        }
    }

    /// Whether the write is one of the spec, which makes a generation.
    fn changes_spec(&self) -> bool {
        matches!(self.sub, None | Some("scale"))
    }

    fn validate(&self, old: &Value, new: &Value) -> Result<(), ApiError> {
        let causes = match self.sub {
            Some("status") => validation::status_update(self.res, new, old),
            // It changes what no other update may, and has been checked where it was made.
            Some("binding") => Vec::new(),
            _ => validation::update(self.res, new, old),
        };
        write::refuse_causes(self.res, new, &causes)
    }
}

fn differs_beyond_status(old: &Value, new: &Value) -> bool {
    fn rest(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
        let skipped = ["metadata", "status", "apiVersion", "kind"];
        object
            .as_object()
            .into_iter()
            .flatten()
            .filter(move |(key, _)| !skipped.contains(&key.as_str()))
    }
    !rest(old).eq(rest(new))
}
