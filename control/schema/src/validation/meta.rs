//! Metadata: names, labels, annotations, owners, finalizers; and label selectors, which follow the same syntax.

use serde_json::Value;

use super::causes::{At, Causes};
use super::names::{self, Problems};
use crate::Resource;

/// All annotations of an object together, keys and values.
const ANNOTATIONS_LIMIT: usize = 256 << 10;

/// Checks the metadata of an object.
pub(super) fn object(res: &Resource, object: &At<'_>, causes: &mut Causes) {
    let metadata = object.child("metadata");
    let name = metadata.child("name");
    let syntax = name_syntax(res.kind);
    let prefix = metadata.child("generateName");
    if !prefix.is_empty() {
        // Something follows a trailing dash.
        let masked = prefix.text().strip_suffix('-').map(|p| format!("{p}a"));
        causes.invalid_all(&prefix, syntax(masked.as_deref().unwrap_or(prefix.text())));
    }
    if name.is_empty() {
        causes.required(&name, "name or generateName is required");
    } else {
        causes.invalid_all(&name, syntax(name.text()));
    }
    namespace(res, &metadata.child("namespace"), causes);
    labels(&metadata.child("labels"), causes);
    annotations(&metadata.child("annotations"), causes);
    owners(&metadata, causes);
    finalizers(&metadata, causes);
}

/// The syntax of a kind's names.
fn name_syntax(kind: &str) -> fn(&str) -> Problems {
    match kind {
        "Namespace" => names::dns_label,
        "Service" => names::dns_1035_label,
        _ => names::dns_subdomain,
    }
}

fn namespace(res: &Resource, namespace: &At<'_>, causes: &mut Causes) {
    if res.namespaced {
        causes.required_and(namespace, names::dns_label);
    } else if !namespace.is_empty() {
        causes.forbidden(namespace, "not allowed on this type");
    }
}

/// Checks the keys and values of labels.
pub(super) fn labels(labels: &At<'_>, causes: &mut Causes) {
    for (key, value) in labels.entries() {
        for problem in names::qualified_name(key) {
            causes.invalid_value(labels, &Value::from(key), &problem);
        }
        for problem in names::label_value(value.text()) {
            causes.invalid_value(labels, value.value, &problem);
        }
    }
}

fn annotations(annotations: &At<'_>, causes: &mut Causes) {
    let mut size = 0;
    for (key, value) in annotations.entries() {
        size += key.len() + value.text().len();
        for problem in names::qualified_name(&key.to_lowercase()) {
            causes.invalid_value(annotations, &Value::from(key), &problem);
        }
    }
    if size > ANNOTATIONS_LIMIT {
        causes.too_long(annotations, ANNOTATIONS_LIMIT);
    }
}

fn owners(metadata: &At<'_>, causes: &mut Causes) {
    let list = metadata.child("ownerReferences");
    let mut controller: Option<String> = None;
    for owner in metadata.items("ownerReferences") {
        let owner = At {
            path: list.path.clone(),
            ..owner
        };
        if owner.child("apiVersion").is_empty() {
            causes.invalid(&owner.child("apiVersion"), "version must not be empty");
        }
        for key in ["kind", "name", "uid"] {
            if owner.child(key).is_empty() {
                causes.invalid(&owner.child(key), "must not be empty");
            }
        }
        if owner.child("controller").is_true() {
            let this = format!(
                "{}/{}",
                owner.child("kind").text(),
                owner.child("name").text()
            );
            match &controller {
                None => controller = Some(this),
                Some(first) => causes.invalid(
                    &list,
                    &format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {this}"
                    ),
                ),
            }
        }
    }
}

fn finalizers(metadata: &At<'_>, causes: &mut Causes) {
    let list = metadata.child("finalizers");
    let all: Vec<At<'_>> = metadata.items("finalizers");
    for finalizer in &all {
        for problem in names::qualified_name(finalizer.text()) {
            causes.invalid_value(&list, finalizer.value, &problem);
        }
    }
    let has = |name: &str| all.iter().any(|f| f.text() == name);
    if has("orphan") && has("foregroundDeletion") {
        causes.invalid(
            &list,
            "finalizer foregroundDeletion and orphan cannot be both set",
        );
    }
}

/// Checks what may not change in metadata.
pub(super) fn update(res: &Resource, new: &At<'_>, old: &At<'_>, causes: &mut Causes) {
    let (metadata, before) = (new.child("metadata"), old.child("metadata"));
    for key in ["name", "namespace", "uid", "creationTimestamp"] {
        causes.immutable(&metadata.child(key), &before.child(key));
    }
    if before.child("deletionTimestamp").is_set() {
        no_new_finalizers(&metadata, &before, causes);
    }
    namespace(res, &metadata.child("namespace"), causes);
    labels(&metadata.child("labels"), causes);
    annotations(&metadata.child("annotations"), causes);
    owners(&metadata, causes);
    finalizers(&metadata, causes);
}

fn no_new_finalizers(new: &At<'_>, old: &At<'_>, causes: &mut Causes) {
    let before = old.items("finalizers");
    let is_new = |f: &At<'_>| !before.iter().any(|b| b.value == f.value);
    let added: Vec<String> = new
        .items("finalizers")
        .iter()
        .filter(|f| is_new(f))
        .map(|f| format!("{:?}", f.text()))
        .collect();
    if !added.is_empty() {
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        );
        causes.forbidden(&new.child("finalizers"), &detail);
    }
}

/// Checks the object form of a label selector.
pub(super) fn selector(selector: &At<'_>, causes: &mut Causes) {
    labels(&selector.child("matchLabels"), causes);
    for expression in selector.items("matchExpressions") {
        let values = expression.child("values");
        let operator = expression.child("operator");
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                causes.required(
                    &values,
                    "must be specified when `operator` is 'In' or 'NotIn'",
                );
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                causes.forbidden(
                    &values,
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => causes.invalid(&operator, "not a valid selector operator"),
        }
        let key = expression.child("key");
        causes.invalid_all(&key, names::qualified_name(key.text()));
        for value in expression.items("values") {
            causes.invalid_all(&value, names::label_value(value.text()));
        }
    }
}
