//! Places in an object, and what is wrong at them.

use serde_json::Value;

use super::Cause;
use super::names::Problems;

/// A value and its path.
#[derive(Debug, Clone)]
pub(super) struct At<'v> {
    pub(super) path: String,
    pub(super) value: &'v Value,
}

impl<'v> At<'v> {
    /// A whole object.
    pub(super) const fn root(value: &'v Value) -> Self {
        Self {
            path: String::new(),
            value,
        }
    }

    /// A field; null if there is none.
    pub(super) fn child(&self, name: &str) -> Self {
        let path = if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        };
        Self {
            path,
            value: &self.value[name],
        }
    }

    /// The value of a map, at upstream's path for it: `limits[cpu]`.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'v str, Self)> {
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(|(key, value)| {
            (
                key.as_str(),
                Self {
                    path: format!("{}[{key}]", self.path),
                    value,
                },
            )
        })
    }

    /// The elements of the list at a field.
    pub(super) fn items(&self, name: &str) -> Vec<Self> {
        let list = self.child(name);
        let items = list.value.as_array().into_iter().flatten().enumerate();
        items
            .map(|(i, value)| At {
                path: format!("{}[{i}]", list.path),
                value,
            })
            .collect()
    }

    /// Whether there is a value.
    pub(super) fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// The text; empty if there is none.
    pub(super) fn text(&self) -> &'v str {
        self.value.as_str().unwrap_or_default()
    }

    /// The number; 0 if there is none.
    pub(super) fn number(&self) -> i64 {
        self.value.as_i64().unwrap_or(0)
    }

    /// Whether it is `true`.
    pub(super) fn is_true(&self) -> bool {
        self.value.as_bool().unwrap_or(false)
    }

    /// How many elements or entries it has.
    pub(super) fn len(&self) -> usize {
        self.value
            .as_array()
            .map(Vec::len)
            .or_else(|| self.value.as_object().map(serde_json::Map::len))
            .unwrap_or(0)
    }

    /// Whether a text, list or map is missing or empty.
    pub(super) fn is_empty(&self) -> bool {
        self.text().is_empty() && self.len() == 0
    }
}

/// What is wrong with an object.
#[derive(Debug, Default)]
pub(super) struct Causes(Vec<Cause>);

impl Causes {
    pub(super) fn into_vec(self) -> Vec<Cause> {
        self.0
    }

    pub(super) fn required(&mut self, at: &At<'_>, detail: &str) {
        self.add(
            "FieldValueRequired",
            at,
            with("Required value".to_owned(), detail),
        );
    }

    pub(super) fn invalid(&mut self, at: &At<'_>, detail: &str) {
        self.invalid_value(at, at.value, detail);
    }

    /// With a value that is not the one at the place.
    pub(super) fn invalid_value(&mut self, at: &At<'_>, value: &Value, detail: &str) {
        self.add(
            "FieldValueInvalid",
            at,
            with(format!("Invalid value: {}", show(value)), detail),
        );
    }

    /// A cause for each problem.
    pub(super) fn invalid_all(&mut self, at: &At<'_>, problems: Problems) {
        for problem in problems {
            self.invalid(at, &problem);
        }
    }

    pub(super) fn duplicate(&mut self, at: &At<'_>, value: &Value) {
        self.add(
            "FieldValueDuplicate",
            at,
            format!("Duplicate value: {}", show(value)),
        );
    }

    pub(super) fn not_found(&mut self, at: &At<'_>) {
        self.add(
            "FieldValueNotFound",
            at,
            format!("Not found: {}", show(at.value)),
        );
    }

    pub(super) fn forbidden(&mut self, at: &At<'_>, detail: &str) {
        self.add(
            "FieldValueForbidden",
            at,
            with("Forbidden".to_owned(), detail),
        );
    }

    /// At most `limit` bytes.
    pub(super) fn too_long(&mut self, at: &At<'_>, limit: usize) {
        self.add(
            "FieldValueTooLong",
            at,
            format!("Too long: may not be more than {limit} bytes"),
        );
    }

    /// At most `limit` elements.
    pub(super) fn too_many(&mut self, at: &At<'_>, limit: usize) {
        self.add(
            "FieldValueTooMany",
            at,
            format!("Too many: {}: must have at most {limit} items", at.len()),
        );
    }

    /// One of these, which are sorted as upstream lists them.
    pub(super) fn one_of(&mut self, at: &At<'_>, supported: &[&str]) {
        if !supported.contains(&at.text()) {
            let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
            let message = format!(
                "Unsupported value: {}: supported values: {}",
                show(at.value),
                list.join(", ")
            );
            self.add("FieldValueNotSupported", at, message);
        }
    }

    /// One of these, if there is a value.
    pub(super) fn one_of_if_set(&mut self, at: &At<'_>, supported: &[&str]) {
        if !at.text().is_empty() {
            self.one_of(at, supported);
        }
    }

    /// There, and of that syntax.
    pub(super) fn required_and(&mut self, at: &At<'_>, check: impl Fn(&str) -> Problems) {
        if at.text().is_empty() {
            self.required(at, "");
        } else {
            self.invalid_all(at, check(at.text()));
        }
    }

    pub(super) fn not_negative(&mut self, at: &At<'_>) {
        if at.number() < 0 {
            self.invalid(at, "must be greater than or equal to 0");
        }
    }

    /// The same as before.
    pub(super) fn immutable(&mut self, at: &At<'_>, old: &At<'_>) {
        if at.value != old.value {
            self.invalid(at, "field is immutable");
        }
    }

    fn add(&mut self, reason: &'static str, at: &At<'_>, message: String) {
        self.0.push(Cause {
            reason,
            message,
            field: at.path.clone(),
        });
    }
}

fn with(message: String, detail: &str) -> String {
    if detail.is_empty() {
        message
    } else {
        format!("{message}: {detail}")
    }
}

/// A value as upstream prints it; a missing one is an empty text.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "\"\"".to_owned(),
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}
