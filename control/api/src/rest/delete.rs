//! DELETE of an object or a collection: at once, after a grace period, or when the last finalizer is gone.

use std::sync::Arc;

use bytes::Bytes;
use control_schema::Resource;
use control_store::{Entry, Expect, Query};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::filter::Selection;
use super::render::{self, Include, ListMeta};
use super::{Call, meta, read, write};
use crate::api::Api;
use crate::body;
use crate::error::{self, ApiError};
use crate::hooks;
use crate::object::{self, is_terminating, metadata, text};
use crate::query::{self, Params};
use crate::respond::{self, Answer};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const ATTEMPTS: usize = 16;

/// How an object is to be deleted.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) uid: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) dry_run: bool,
}

/// What becomes of what the object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl DeleteOptions {
    pub(crate) fn parse(params: &Params, body: &Value) -> Result<Self, ApiError> {
        let stated = |field: &str| {
            body.get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let precondition = |field: &str| {
            let value = body
                .pointer(&format!("/preconditions/{field}"))
                .and_then(Value::as_str);
            value.filter(|value| !value.is_empty()).map(str::to_owned)
        };
        let policy = Some(stated("propagationPolicy")).filter(|policy| !policy.is_empty());
        let policy = policy.unwrap_or_else(|| params.text("propagationPolicy").to_owned());
        let orphan = body.get("orphanDependents").and_then(Value::as_bool);
        let grace = body.get("gracePeriodSeconds").and_then(Value::as_i64);
        Ok(Self {
            grace: grace.map_or_else(
                || params.number("gracePeriodSeconds"),
                |grace| Ok(Some(grace)),
            )?,
            propagation: propagation(&policy, orphan)?,
            uid: precondition("uid"),
            revision: precondition("resourceVersion"),
            dry_run: query::dry_run(params)? || !object::items(body, "/dryRun").is_empty(),
        })
    }
}

fn propagation(
    policy: &str,
    orphan_dependents: Option<bool>,
) -> Result<Option<Propagation>, ApiError> {
    match (policy, orphan_dependents) {
        ("", None) => Ok(None),
        ("", Some(true)) | ("Orphan", None) => Ok(Some(Propagation::Orphan)),
        ("", Some(false)) | ("Background", None) => Ok(Some(Propagation::Background)),
        ("Foreground", None) => Ok(Some(Propagation::Foreground)),
        (other, None) => Err(ApiError::new(
            422,
            "Invalid",
            format!(
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {other:?}: supported \
                 values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
            ),
        )),
        _ => Err(ApiError::new(
            422,
            "Invalid",
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: \"\": orphanDependents and \
             deletionPropagation cannot be both set",
        )),
    }
}

/// What a deletion came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The object is gone; this was its last form.
    Gone(Bytes),
    /// It is marked and goes later.
    Marked(Bytes),
}

/// Deletes one object.
pub(crate) async fn delete(call: &Call<'_>) -> Result<Answer, ApiError> {
    let target = call.target;
    let options = DeleteOptions::parse(
        call.params,
        &body::optional_object(call.headers, &call.body)?,
    )?;
    hooks::check_deletion(target.res, &target.name)?;
    let outcome = remove(
        call.api,
        target.res,
        &target.namespace,
        &target.name,
        &options,
    )
    .await?;
    let bytes = match outcome {
        Outcome::Gone(last) if !answers_object(target.res) => {
            let last = object::decode(&last);
            let mut details = error::details(&target.name, target.res.group, target.res.plural);
            details.insert("uid".into(), object::uid(&last).into());
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
            return Ok(respond::value(StatusCode::OK, call.accept, &status));
        }
        Outcome::Gone(bytes) | Outcome::Marked(bytes) => bytes,
    };
    let shaped = render::one(target.res, call.accept, call.params, bytes);
    Ok(respond::bytes(StatusCode::OK, call.accept, shaped))
}

/// Whether deleting answers the object even when it is gone.
fn answers_object(res: &Resource) -> bool {
    res.group.is_empty() && matches!(res.plural, "pods" | "services" | "serviceaccounts")
}

/// Deletes every selected object of a collection.
pub(crate) async fn delete_collection(call: &Call<'_>) -> Result<Answer, ApiError> {
    let target = call.target;
    let res = target.res;
    let options = DeleteOptions::parse(
        call.params,
        &body::optional_object(call.headers, &call.body)?,
    )?;
    let selection = Selection::parse(res, &target.namespace, call.params)?;
    let table = object::table(res);
    let query = Query {
        table: &table,
        scope: selection.scope(),
        ..Query::default()
    };
    let page = call.api.store.list(&query).map_err(ApiError::internal)?;
    let selected: Vec<Arc<Entry>> = page
        .entries
        .into_iter()
        .filter(|entry| selection.matches(entry))
        .collect();
    for entry in &selected {
        match remove(call.api, res, &entry.key.scope, &entry.key.name, &options).await {
            Err(error) if error.code != 404 => return Err(error),
            _ => {}
        }
    }
    let meta = ListMeta {
        revision: call.api.store.revision().0,
        ..ListMeta::default()
    };
    let body = render::list(
        res,
        call.accept.shape,
        Include::parse(call.params),
        &meta,
        &selected,
    );
    Ok(respond::bytes(StatusCode::OK, call.accept, body))
}

/// Deletes an object, or marks it to be deleted.
pub(crate) async fn remove(
    api: &Api,
    res: &'static Resource,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Outcome, ApiError> {
    for _ in 0..ATTEMPTS {
        let entry = read::entry(api, res, namespace, name)?;
        let old = object::decode(&entry.value);
        check_preconditions(res, &old, options)?;
        let new = marked(res, &old, options);
        let vanishes = hooks::may_vanish(res, &new);
        if options.dry_run {
            let bytes = object::encode_unstored(&new);
            return Ok(if vanishes {
                Outcome::Gone(bytes)
            } else {
                Outcome::Marked(bytes)
            });
        }
        if !vanishes && write::is_same(&old, &new) {
            return Ok(Outcome::Marked(entry.value.clone()));
        }
        let written = match vanishes {
            true => write::remove(api, res, &new, &entry)
                .await?
                .map(|entry| Outcome::Gone(entry.value.clone())),
            false => write::store(api, res, &new, Expect::At(entry.revision))
                .await?
                .map(|entry| Outcome::Marked(entry.value.clone())),
        };
        if let Ok(outcome) = written {
            return Ok(outcome);
        }
    }
    Err(ApiError::modified(res, name))
}

fn check_preconditions(
    res: &Resource,
    old: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let name = object::name(old);
    for (what, expected, actual) in [
        ("UID", &options.uid, object::uid(old)),
        (
            "ResourceVersion",
            &options.revision,
            text(old, "/metadata/resourceVersion"),
        ),
    ] {
        if let Some(expected) = expected.as_deref().filter(|expected| *expected != actual) {
            let text = format!(
                "Precondition failed: {what} in precondition: {expected}, {what} in object meta: {actual}"
            );
            return Err(ApiError::conflict(res, name, text));
        }
    }
    Ok(())
}

/// The object as it is while it waits for its deletion: times set, finalizers as the propagation wants them.
fn marked(res: &Resource, old: &Value, options: &DeleteOptions) -> Value {
    let mut new = old.clone();
    set_finalizers(&mut new, options.propagation);
    let grace = hooks::grace_period(res, old, options.grace);
    let pending = old
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    // A second deletion may shorten the wait, never lengthen it.
    if is_terminating(old) && pending.is_none_or(|pending| grace >= pending) {
        return new;
    }
    let start = match pending {
        Some(pending) => deletion_start(old, pending),
        None => Timestamp::now(),
    };
    let at = start
        .saturating_add(SignedDuration::from_secs(grace))
        .unwrap_or(start);
    let metadata = metadata(&mut new);
    metadata.insert("deletionTimestamp".into(), meta::at(at).into());
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    if res.generation {
        meta::next_generation(&mut new, old);
    }
    hooks::prepare_termination(res, &mut new);
    new
}

/// When the deletion that is under way was asked for.
fn deletion_start(old: &Value, pending: i64) -> Timestamp {
    let at = text(old, "/metadata/deletionTimestamp")
        .parse::<Timestamp>()
        .unwrap_or_else(|_| Timestamp::now());
    at.saturating_sub(SignedDuration::from_secs(pending))
        .unwrap_or(at)
}

fn set_finalizers(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else {
        return;
    };
    let mut finalizers: Vec<Value> = object::items(object, "/metadata/finalizers").to_vec();
    finalizers.retain(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND);
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND.into()),
        Propagation::Orphan => finalizers.push(ORPHAN.into()),
    }
    if finalizers.is_empty() {
        metadata(object).remove("finalizers");
    } else {
        metadata(object).insert("finalizers".into(), finalizers.into());
    }
}
