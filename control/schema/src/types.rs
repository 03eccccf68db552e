//! The types objects are made of: fields, their JSON type, protobuf number, list type and patch keys.
//!
//! Read once from `data/types.txt`, which `generate/generate.py` makes from upstream's published schema. A line
//! `:core.v1.Probe` opens a type (`kind=` names a kind, `atomic` a struct that apply treats as one value); a line
//! `exec 1.1 @core.v1.ExecAction` is a field: name, protobuf number (`1.1`: field 1 of the message that JSON inlines from
//! field 1; `0`: not in protobuf), type (`@` reference, `[]` list, `{}` map), then attributes.

use std::collections::HashMap;
use std::sync::OnceLock;

/// What a JSON value must look like, and how protobuf spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A string.
    String,
    /// A boolean.
    Bool,
    /// An integer of 32 bits.
    Int32,
    /// An integer of 64 bits.
    Int64,
    /// Bytes, base64 in JSON.
    Bytes,
    /// RFC 3339 in whole seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// A number or a string like `100m`.
    Quantity,
    /// A number or a string.
    IntOrString,
    /// Any JSON object, raw bytes in protobuf.
    Raw,
    /// An object of another type.
    Object(TypeId),
    /// A list.
    List(Box<Shape>),
    /// A map with string keys.
    Map(Box<Shape>),
}

/// A type's position in the table.
pub(crate) type TypeId = u16;

/// How elements of a list are told apart by server-side apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum ListType {
    /// The list is one value.
    #[default]
    Atomic,
    /// Elements are scalars, each its own key.
    Set,
    /// Elements are objects with these key fields.
    Map(Vec<&'static str>),
}

/// A field of a type.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    /// Protobuf field number in the type's message, or in the message inlined at `inlined_at`.
    pub(crate) tag: u16,
    /// Number of the field whose message JSON inlines; 0 for a field of the type's own message.
    pub(crate) inlined_at: u16,
    pub(crate) shape: Shape,
    /// Always written, even when empty.
    pub(crate) required: bool,
    /// A zero is a value, not absence.
    pub(crate) pointer: bool,
    /// An object upstream holds by value: it is always there, if empty.
    pub(crate) by_value: bool,
    /// An object or map that server-side apply treats as one value.
    pub(crate) atomic: bool,
    pub(crate) list_type: ListType,
    /// Strategic merge: lists merge instead of replacing each other.
    pub(crate) patch_merge: bool,
    /// Strategic merge: field by which elements are matched.
    pub(crate) merge_key: Option<&'static str>,
}

/// A type: the fields of a JSON object.
#[derive(Debug, Default)]
pub(crate) struct Type {
    /// Name as `core.v1.PodSpec`.
    pub(crate) name: &'static str,
    id: TypeId,
    /// Server-side apply treats it as one value.
    pub(crate) atomic: bool,
    /// Sorted by name.
    pub(crate) fields: Vec<Field>,
}

impl Type {
    /// The field called `name`.
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.fields
            .binary_search_by(|f| f.name.cmp(name))
            .ok()
            .map(|i| &self.fields[i])
    }

    /// Its last name, as `PodSpec`.
    pub(crate) fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// Its name within the Go package, as `v1.PodSpec`.
    pub(crate) fn go_name(&self) -> &'static str {
        self.name
            .split_once('.')
            .map_or(self.name, |(_, name)| name)
    }

    /// The shape of its objects.
    pub(crate) fn shape(&self) -> Shape {
        Shape::Object(self.id)
    }
}

impl Shape {
    /// The shape of a list's elements.
    pub(crate) fn element(&self) -> Option<&Shape> {
        match self {
            Self::List(inner) => Some(inner),
            _ => None,
        }
    }
}

struct Table {
    types: Vec<Type>,
    kinds: HashMap<&'static str, TypeId>,
}

/// The type with this id.
pub(crate) fn get(id: TypeId) -> &'static Type {
    &table().types[usize::from(id)]
}

/// The type of a kind; `api_version` as `apps/v1`.
pub(crate) fn by_kind(api_version: &str, kind: &str) -> Option<&'static Type> {
    // Delete options travel under the version of the resource they delete.
    let name = if kind == "DeleteOptions" {
        "v1/DeleteOptions".to_owned()
    } else {
        format!("{api_version}/{kind}")
    };
    table().kinds.get(name.as_str()).map(|&id| get(id))
}

/// The type of a resource's objects.
pub(crate) fn of(res: &crate::Resource) -> Option<&'static Type> {
    by_kind(&res.api_version(), res.kind)
}

/// Every kind there is, with its version.
#[cfg(test)]
pub(crate) fn kinds() -> impl Iterator<Item = (&'static str, &'static str)> {
    table()
        .kinds
        .keys()
        .filter_map(|name| name.rsplit_once('/'))
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| parse(include_str!("../data/types.txt")))
}

fn parse(text: &'static str) -> Table {
    let lines = || {
        text.lines()
            .filter(|l| !l.starts_with('#'))
            .map(|l| l.split(' ').collect::<Vec<_>>())
    };
    let names = lines().filter_map(|w| w[0].strip_prefix(':'));
    let ids: HashMap<&str, TypeId> = names.zip(0..).collect();
    let mut table = Table {
        types: Vec::with_capacity(ids.len()),
        kinds: HashMap::new(),
    };
    for words in lines() {
        match words[0].strip_prefix(':') {
            Some(name) => {
                table.kinds.extend(
                    words
                        .iter()
                        .filter_map(|w| w.strip_prefix("kind="))
                        .map(|k| (k, ids[name])),
                );
                table.types.push(Type {
                    name,
                    id: ids[name],
                    atomic: words.contains(&"atomic"),
                    fields: Vec::new(),
                });
            }
            None => {
                let fields = &mut table
                    .types
                    .last_mut()
                    .expect("the file begins with a type")
                    .fields;
                fields.push(field(&words, &ids));
            }
        }
    }
    for t in &mut table.types {
        t.fields.sort_by_key(|f| f.name);
        t.fields.shrink_to_fit();
    }
    table
}

fn field(words: &[&'static str], ids: &HashMap<&str, TypeId>) -> Field {
    let number = |n: &str| n.parse().expect("field numbers are numbers");
    let (inlined_at, tag) = words[1].split_once('.').unwrap_or(("0", words[1]));
    let attribute = |key: &str| {
        words[3..]
            .iter()
            .find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
    };
    Field {
        name: words[0],
        tag: number(tag),
        inlined_at: number(inlined_at),
        shape: shape(words[2], ids),
        required: words[3..].contains(&"required"),
        pointer: words[3..].contains(&"pointer"),
        by_value: words[3..].contains(&"value"),
        atomic: words[3..].contains(&"atomic"),
        list_type: attribute("list").map(list_type).unwrap_or_default(),
        // The other strategy, retainKeys, is for clients: they name the keys in the patch.
        patch_merge: attribute("patch").is_some_and(|p| p.split(',').any(|s| s == "merge")),
        merge_key: attribute("key"),
    }
}

fn list_type(text: &'static str) -> ListType {
    let mut words = text.split(',');
    match words.next() {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map(words.collect()),
        _ => ListType::Atomic,
    }
}

fn shape(text: &str, ids: &HashMap<&str, TypeId>) -> Shape {
    if let Some(inner) = text.strip_prefix("[]") {
        return Shape::List(Box::new(shape(inner, ids)));
    }
    if let Some(inner) = text.strip_prefix("{}") {
        return Shape::Map(Box::new(shape(inner, ids)));
    }
    match text {
        "string" => Shape::String,
        "bool" => Shape::Bool,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "bytes" => Shape::Bytes,
        "time" => Shape::Time,
        "microtime" => Shape::MicroTime,
        "quantity" => Shape::Quantity,
        "intorstring" => Shape::IntOrString,
        "raw" => Shape::Raw,
        name => Shape::Object(ids[name.trim_start_matches('@')]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(shape: &Shape) -> Option<&'static Type> {
        match shape {
            Shape::Object(id) => Some(get(*id)),
            _ => None,
        }
    }

    #[test]
    fn every_resource_and_subresource_kind_has_a_type() {
        for res in crate::resources() {
            assert!(of(res).is_some(), "{}", res.kind);
            for sub in res.subresources.iter().filter(|s| s.name != "exec") {
                let version = crate::resource::api_version(sub.group, sub.version);
                assert!(by_kind(&version, sub.kind).is_some(), "{}", sub.kind);
            }
        }
    }

    #[test]
    fn fields_carry_their_attributes() {
        let spec = by_kind("v1", "Pod")
            .and_then(|t| object(&t.field("spec")?.shape))
            .expect("pods have a spec");
        let containers = spec.field("containers").expect("pods have containers");
        assert!(containers.required && containers.patch_merge);
        assert_eq!(containers.merge_key, Some("name"));
        assert_eq!(containers.list_type, ListType::Map(vec!["name"]));
        let volumes = spec.field("volumes").expect("pods have volumes");
        assert!(volumes.patch_merge);
        let volume = volumes
            .shape
            .element()
            .and_then(object)
            .expect("volumes are objects");
        let secret = volume.field("secret").expect("secrets are volumes");
        assert_eq!((secret.inlined_at, secret.tag), (2, 6));
    }

    #[test]
    fn delete_options_are_known_in_every_version() {
        assert!(by_kind("apps/v1", "DeleteOptions").is_some());
    }
}
