//! Server-side apply and the tracking of field owners in `metadata.managedFields`.
//!
//! Every manager owns a set of fields (`set`). Applying a configuration merges it into the live object (`walk`), takes
//! away what this manager applied before and nobody wants any more, and gives the manager what it names now; a field that
//! changes value while someone else owns it is a conflict, unless forced. Any other write gives its manager the fields
//! it changed. Lists are taken apart by key or value, as their type in the schema says.

use serde_json::{Map, Value};

use crate::{Resource, types};
use managers::{Managers, Operation};
use walk::Form;

mod element;
mod managers;
mod set;
mod walk;

#[cfg(test)]
mod tests;

/// One field that another manager owns with another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The owner, as upstream describes it: `"kubectl" using apps/v1`.
    pub manager: String,
    /// The field's path, as `.spec.replicas`.
    pub field: String,
}

/// Why a configuration could not be applied.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Fields are owned by others; 409 with a cause `FieldManagerConflict` each.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration makes no sense as one; 400.
    #[error("{0}")]
    Invalid(String),
}

/// Who writes, and what part of the object.
#[derive(Clone)]
struct Writer<'a> {
    manager: &'a str,
    operation: Operation,
    api_version: String,
    subresource: Option<&'a str>,
    now: &'a str,
}

/// Applies `config` as `manager` onto `live` and returns the merged object with its new managedFields.
///
/// `now` is the entry's time, in RFC 3339 with whole seconds. `live` is absent when the object is to be created.
pub fn apply(
    res: &Resource,
    live: Option<&Value>,
    config: &Value,
    manager: &str,
    force: bool,
    subresource: Option<&str>,
    now: &str,
) -> Result<Value, Error> {
    let Some(form) = types::of(res).map(Form::of_kind) else {
        return Ok(config.clone());
    };
    let empty = Value::Object(Map::new());
    let mut live = live.unwrap_or(&empty).clone();
    let mut owners = Managers::of(&live);
    let writer = Writer {
        manager,
        operation: Operation::Apply,
        api_version: res.api_version(),
        subresource,
        now,
    };
    if owners.is_empty() {
        owners.add_before_first_apply(&writer, walk::compare(form, &empty, &live).added);
    }
    remove_owners(&mut live);
    let config = own_part(res, config, subresource);
    let invalid = |bad: walk::BadList| Error::Invalid(bad.to_string());
    let wanted = walk::fields(form, &config).map_err(invalid)?;
    let merged = walk::merge(form, &live, &config).map_err(invalid)?;

    let before = owners.set_of(&writer).cloned();
    owners.replace(&writer, wanted);
    let mut new = merged;
    if let Some(before) = &before {
        walk::prune(form, &mut new, before, &owners.union());
    }
    let change = walk::compare(form, &live, &new);
    let conflicts = owners.conflicts(&writer, &change.modified.union(&change.added));
    if !conflicts.is_empty() && !force {
        return Err(Error::Conflicts(conflicts));
    }
    owners.lose(&writer, &change);
    owners.write(&mut new);
    Ok(new)
}

/// Records in `new` which fields `manager` set or changed by a create, update or patch of `old`.
pub fn track(
    res: &Resource,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    subresource: Option<&str>,
    now: &str,
) {
    let Some(form) = types::of(res).map(Form::of_kind) else {
        return;
    };
    let empty = Value::Object(Map::new());
    let mut old = old.unwrap_or(&empty).clone();
    // Clients that know nothing of owners do not erase them; an explicit `[{}]` does.
    let mut owners = match Managers::is_reset(new) {
        true => Managers::default(),
        false if Managers::of(new).is_empty() => Managers::of(&old),
        false => Managers::of(new),
    };
    remove_owners(&mut old);
    remove_owners(new);
    let writer = Writer {
        manager,
        operation: Operation::Update,
        api_version: res.api_version(),
        subresource,
        now,
    };
    let change = walk::compare(form, &old, new);
    owners.lose(&writer, &change);
    owners.gain(&writer, &change);
    owners.write(new);
}

/// The part of a configuration that a write of the object, or of its subresource, may change.
fn own_part(res: &Resource, config: &Value, subresource: Option<&str>) -> Value {
    let mut part = config.clone();
    if let Value::Object(part) = &mut part {
        match subresource {
            None if res.has_status => drop(part.remove("status")),
            Some("status") => {
                part.remove("spec");
                if let Some(Value::Object(metadata)) = part.get_mut("metadata") {
                    metadata.remove("labels");
                }
            }
            _ => {}
        }
    }
    remove_owners(&mut part);
    part
}

fn remove_owners(object: &mut Value) {
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.remove("managedFields");
    }
}

/// One line for one conflict, otherwise a list per manager.
fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            only.manager, only.field
        );
    }
    let mut managers: Vec<&str> = conflicts.iter().map(|c| c.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let of = |manager: &str| {
        let fields = conflicts
            .iter()
            .filter(|c| c.manager == manager)
            .map(|c| format!("- {}", c.field));
        format!(
            "conflicts with {manager}:\n{}",
            fields.collect::<Vec<_>>().join("\n")
        )
    };
    let lists: Vec<String> = managers.into_iter().map(of).collect();
    format!(
        "Apply failed with {} conflicts: {}",
        conflicts.len(),
        lists.join("\n")
    )
}
