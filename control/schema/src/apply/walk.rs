//! Walks over one or two objects along the schema: the fields set, the difference, the merger, the removal.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::element::Part;
pub(super) use super::element::{BadList, Form};
use super::set::Set;

/// What differs between two objects.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) added: Set,
    pub(super) modified: Set,
    pub(super) removed: Set,
}

/// The fields a configuration sets.
pub(super) fn fields(form: Form, value: &Value) -> Result<Set, BadList> {
    let mut set = Set::default();
    for part in form.parts(value)? {
        let is_empty = part.value.as_object().is_some_and(Map::is_empty);
        if set.reaches(&part.element) {
            return Err(BadList::repeats(&part.element));
        }
        if part.is_item || is_empty || part.form.is_leaf(part.value) {
            set.members.insert(part.element.clone());
        }
        let below = fields(part.form, part.value).map_err(|bad| bad.below(&part.element))?;
        set.insert_below(&part.element, below);
    }
    Ok(set)
}

/// Compares two objects.
pub(super) fn compare(form: Form, old: &Value, new: &Value) -> Change {
    let mut change = Change::default();
    // Stored objects have all their keys: validation saw to that.
    let (old, new) = (
        form.parts(old).unwrap_or_default(),
        form.parts(new).unwrap_or_default(),
    );
    let (in_old, in_new) = (Index::of(&old), Index::of(&new));
    for part in &new {
        match in_old.get(&part.element) {
            Some(before) => compare_part(before, part, &mut change),
            None if part.is_implied() => compare_part(&part.emptied(), part, &mut change),
            None => enter(part, &mut change.added),
        }
    }
    for part in old
        .iter()
        .filter(|part| in_new.get(&part.element).is_none())
    {
        if part.is_implied() {
            compare_part(part, &part.emptied(), &mut change);
        } else {
            enter(part, &mut change.removed);
        }
    }
    change
}

fn compare_part(old: &Part<'_>, new: &Part<'_>, change: &mut Change) {
    // Also for lists in which a key occurs twice: left alone, nothing in them has changed.
    if old.value == new.value {
        return;
    }
    if old.form.is_leaf(old.value) || new.form.is_leaf(new.value) {
        change.modified.members.insert(new.element.clone());
        return;
    }
    let below = compare(new.form, old.value, new.value);
    change.added.insert_below(&new.element, below.added);
    change.modified.insert_below(&new.element, below.modified);
    change.removed.insert_below(&new.element, below.removed);
}

/// Enters a part that only one side has, with all its parts.
fn enter(part: &Part<'_>, set: &mut Set) {
    set.members.insert(part.element.clone());
    let mut below = Set::default();
    for inner in part.form.parts(part.value).unwrap_or_default() {
        enter(&inner, &mut below);
    }
    set.insert_below(&part.element, below);
}

/// Parts by path element.
struct Index<'p, 'v>(HashMap<&'p str, &'p Part<'v>>);

impl<'p, 'v> Index<'p, 'v> {
    fn of(parts: &'p [Part<'v>]) -> Self {
        Self(
            parts
                .iter()
                .map(|part| (part.element.as_str(), part))
                .collect(),
        )
    }

    fn get(&self, element: &str) -> Option<&'p Part<'v>> {
        self.0.get(element).copied()
    }
}

// ---- Merging ----

/// Merges a configuration into the live object.
pub(super) fn merge(form: Form, live: &Value, config: &Value) -> Result<Value, BadList> {
    match (form, live, config) {
        (Form::Struct(_) | Form::Map(_), Value::Object(live), Value::Object(_)) => {
            let mut merged = live.clone();
            for part in form.parts(config)? {
                let key = field_name(&part.element);
                let value = merge_part(&part, live.get(key))?;
                merged.insert(key.to_owned(), value);
            }
            Ok(Value::Object(merged))
        }
        (Form::List(..) | Form::Set, Value::Array(_), Value::Array(_)) => {
            merge_lists(form, live, config)
        }
        _ => Ok(config.clone()),
    }
}

fn merge_part(part: &Part<'_>, live: Option<&Value>) -> Result<Value, BadList> {
    match live {
        Some(live) => merge(part.form, live, part.value).map_err(|bad| bad.below(&part.element)),
        None => Ok(part.value.clone()),
    }
}

/// Elements only the server has keep their place; those of the configuration come in its order.
fn merge_lists(form: Form, live: &Value, config: &Value) -> Result<Value, BadList> {
    let (live, config) = (form.parts(live).unwrap_or_default(), form.parts(config)?);
    let (in_live, in_config) = (Index::of(&live), Index::of(&config));
    let mut merged = Vec::with_capacity(live.len() + config.len());
    let mut wanted = config.iter();
    for part in &live {
        if in_config.get(&part.element).is_none() {
            merged.push(part.value.clone());
            continue;
        }
        // The place of one they share goes to the next one they share, after the new ones before it.
        for next in wanted.by_ref() {
            let shared = in_live.get(&next.element).map(|l| l.value);
            merged.push(merge_part(next, shared)?);
            if shared.is_some() {
                break;
            }
        }
    }
    for next in wanted {
        merged.push(next.value.clone());
    }
    Ok(Value::Array(merged))
}

// ---- Removing ----

/// Removes what `before` holds and `owned` does not reach.
pub(super) fn prune(form: Form, value: &mut Value, before: &Set, owned: &Set) {
    let parts = form.parts(value).unwrap_or_default();
    let parts: Vec<(String, Form)> = parts
        .into_iter()
        .map(|part| (part.element, part.form))
        .collect();
    let is_gone = |element: &str| before.reaches(element) && !owned.reaches(element);
    match value {
        Value::Object(map) => {
            for (element, form) in parts {
                let key = field_name(&element);
                if is_gone(&element) {
                    map.remove(key);
                } else if let Some(inner) = map.get_mut(key) {
                    prune_below(&element, form, inner, before, owned);
                }
            }
        }
        Value::Array(items) if items.len() == parts.len() => {
            let mut parts = parts.into_iter();
            items.retain_mut(|item| {
                let Some((element, form)) = parts.next() else {
                    return true;
                };
                prune_below(&element, form, item, before, owned);
                !is_gone(&element)
            });
        }
        _ => {}
    }
}

fn prune_below(element: &str, form: Form, value: &mut Value, before: &Set, owned: &Set) {
    if let Some(before) = before.children.get(element) {
        prune(
            form,
            value,
            before,
            owned.children.get(element).unwrap_or(&Set::default()),
        );
    }
}

/// The key a path element names, in an object.
fn field_name(element: &str) -> &str {
    element.strip_prefix("f:").unwrap_or(element)
}
