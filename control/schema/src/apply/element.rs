//! What a value is made of, seen by apply: its parts, each under its path element.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::set::readable;
use crate::types::{self, Field, ListType, Shape, Type};

/// How apply treats a value.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// One value: a scalar, or something atomic.
    Leaf,
    /// The fields of a type.
    Struct(&'static Type),
    /// A map with keys of the user's choice.
    Map(&'static Shape),
    /// A list whose elements have keys.
    List(&'static Shape, &'static [&'static str]),
    /// A list of scalars that are their own keys.
    Set,
}

/// A part of a value.
pub(super) struct Part<'v> {
    /// Its path element.
    pub(super) element: String,
    pub(super) value: &'v Value,
    pub(super) form: Form,
    /// Upstream's objects always have it, if empty.
    always: bool,
    /// Owned along with anything in it: elements of lists, values of maps.
    pub(super) is_item: bool,
}

/// A list whose elements cannot be told apart.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{path}: {problem}")]
pub(super) struct BadList {
    path: String,
    problem: String,
}

impl BadList {
    fn lacks_key(index: usize, key: &str) -> Self {
        let problem = format!(
            "element {index}: associative list with keys has an element that omits key field {key:?} (and doesn't have \
             default value)"
        );
        Self {
            path: String::new(),
            problem,
        }
    }

    /// Two elements have the same key.
    pub(super) fn repeats(element: &str) -> Self {
        Self {
            path: String::new(),
            problem: format!("duplicate entries for key {}", readable(element)),
        }
    }

    /// The same, seen from one level up.
    pub(super) fn below(self, element: &str) -> Self {
        Self {
            path: format!("{}{}", readable(element), self.path),
            ..self
        }
    }
}

impl Part<'_> {
    /// Whether an object that lacks it has it all the same, empty, so that its presence is no change.
    pub(super) const fn is_implied(&self) -> bool {
        self.always && !self.form.is_leaf(self.value)
    }

    /// The same part without content.
    pub(super) fn emptied(&self) -> Part<'static> {
        static EMPTY: LazyLock<[Value; 2]> =
            LazyLock::new(|| [Value::Object(Map::new()), Value::Array(Vec::new())]);
        let value = &EMPTY[usize::from(self.value.is_array())];
        Part {
            element: self.element.clone(),
            value,
            form: self.form,
            always: self.always,
            is_item: self.is_item,
        }
    }
}

impl Form {
    /// The form of whole objects.
    pub(super) const fn of_kind(kind: &'static Type) -> Self {
        Self::Struct(kind)
    }

    /// The form of a field's value.
    fn of_field(field: &'static Field) -> Self {
        match (&field.shape, &field.list_type) {
            _ if field.atomic => Self::Leaf,
            (Shape::List(element), ListType::Map(keys)) => Self::List(element, keys),
            (Shape::List(_), ListType::Set) => Self::Set,
            (shape, _) => Self::of_shape(shape),
        }
    }

    /// The form of a value without attributes of its own.
    fn of_shape(shape: &'static Shape) -> Self {
        match shape {
            Shape::Object(id) if !types::get(*id).atomic => Self::Struct(types::get(*id)),
            Shape::Map(element) => Self::Map(element),
            _ => Self::Leaf,
        }
    }

    /// Whether a value of this form has parts.
    pub(super) const fn is_leaf(self, value: &Value) -> bool {
        !matches!(
            (self, value),
            (Self::Struct(_) | Self::Map(_), Value::Object(_))
                | (Self::List(..) | Self::Set, Value::Array(_))
        )
    }

    /// The parts of a value; leaves have none.
    pub(super) fn parts(self, value: &Value) -> Result<Vec<Part<'_>>, BadList> {
        match (self, value) {
            (Self::Struct(kind), Value::Object(map)) => Ok(fields(kind, map)),
            (Self::Map(element), Value::Object(map)) => Ok(values(element, map)),
            (Self::List(element, keys), Value::Array(items)) => elements(element, keys, items),
            (Self::Set, Value::Array(items)) => Ok(scalars(items)),
            _ => Ok(Vec::new()),
        }
    }
}

fn fields<'v>(kind: &'static Type, map: &'v Map<String, Value>) -> Vec<Part<'v>> {
    map.iter()
        .filter_map(|(name, value)| {
            let field = kind.field(name)?;
            let always = field.by_value
                || (field.required && matches!(field.shape, Shape::List(_) | Shape::Map(_)));
            Some(Part {
                element: format!("f:{name}"),
                value,
                form: Form::of_field(field),
                always,
                is_item: false,
            })
        })
        .collect()
}

fn values<'v>(element: &'static Shape, map: &'v Map<String, Value>) -> Vec<Part<'v>> {
    map.iter()
        .map(|(key, value)| Part {
            element: format!("f:{key}"),
            value,
            form: Form::of_shape(element),
            always: false,
            is_item: true,
        })
        .collect()
}

fn elements<'v>(
    element: &'static Shape,
    keys: &'static [&'static str],
    items: &'v [Value],
) -> Result<Vec<Part<'v>>, BadList> {
    let form = Form::of_shape(element);
    let parts = items.iter().enumerate().map(|(index, value)| {
        let element = keyed(keys, value).map_err(|key| BadList::lacks_key(index, key))?;
        Ok(Part {
            element,
            value,
            form,
            always: false,
            is_item: true,
        })
    });
    parts.collect()
}

fn scalars(items: &[Value]) -> Vec<Part<'_>> {
    let part = |value| Part {
        element: format!("v:{value}"),
        value,
        form: Form::Leaf,
        always: false,
        is_item: true,
    };
    items.iter().map(part).collect()
}

/// The path element of a list's item by its keys; the error is the key that is missing.
fn keyed(keys: &[&'static str], item: &Value) -> Result<String, &'static str> {
    let mut found = Map::new();
    for key in keys {
        let value = match item.get(key) {
            Some(value) => value.clone(),
            // The one key that has a default.
            None if *key == "protocol" => Value::from("TCP"),
            None => return Err(key),
        };
        found.insert((*key).to_owned(), value);
    }
    Ok(format!("k:{}", Value::Object(found)))
}
