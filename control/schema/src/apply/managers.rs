//! Who owns what: the entries of `metadata.managedFields`.

use serde_json::{Map, Value, json};

use super::set::Set;
use super::walk::Change;
use super::{Conflict, Writer};

/// More entries of other writes than this are merged into one.
const MAX_UPDATE_ENTRIES: usize = 10;

/// How a manager came to own its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    manager: String,
    operation: Operation,
    api_version: String,
    subresource: String,
    time: String,
    fields: Set,
}

/// The owners of an object's fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Managers(Vec<Entry>);

impl Managers {
    /// The owners an object names.
    pub(super) fn of(object: &Value) -> Self {
        let entries = object["metadata"]["managedFields"]
            .as_array()
            .into_iter()
            .flatten();
        Self(entries.filter_map(Entry::read).collect())
    }

    /// Whether the object asks to forget all owners, by one entry without content.
    pub(super) fn is_reset(object: &Value) -> bool {
        object["metadata"]["managedFields"] == json!([{}])
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields of a writer.
    pub(super) fn set_of(&self, writer: &Writer<'_>) -> Option<&Set> {
        self.0.iter().find(|e| e.is_of(writer)).map(|e| &e.fields)
    }

    /// All fields that have an owner.
    pub(super) fn union(&self) -> Set {
        self.0
            .iter()
            .fold(Set::default(), |all, entry| all.union(&entry.fields))
    }

    /// Gives the writer exactly these fields; its time changes only when they do.
    pub(super) fn replace(&mut self, writer: &Writer<'_>, fields: Set) {
        match self.0.iter_mut().find(|e| e.is_of(writer)) {
            // Fields that no one can own are not written, so they do not count.
            Some(entry) if without_identity(&fields) == entry.fields => entry.fields = fields,
            Some(entry) => {
                entry.fields = fields;
                writer.now.clone_into(&mut entry.time);
            }
            None => self.0.push(Entry::new(writer, fields)),
        }
    }

    /// Gives a manager of its own everything in an object that was made before owners were recorded.
    pub(super) fn add_before_first_apply(&mut self, writer: &Writer<'_>, fields: Set) {
        let fields = without_identity(&fields);
        if !fields.is_empty() {
            let operation = Operation::Update;
            let entry = Entry::new(
                &Writer {
                    manager: "before-first-apply",
                    operation,
                    ..writer.clone()
                },
                fields,
            );
            self.0.push(entry);
        }
    }

    /// Fields among `changed` that others own.
    pub(super) fn conflicts(&self, writer: &Writer<'_>, changed: &Set) -> Vec<Conflict> {
        let others = self.0.iter().filter(|e| !e.is_of(writer));
        others
            .flat_map(|entry| {
                let fields = entry.fields.intersection(changed).paths().into_iter();
                fields.map(|field| Conflict {
                    manager: entry.describe(),
                    field,
                })
            })
            .collect()
    }

    /// Takes from all others what the writer changed, and from everyone what is gone.
    pub(super) fn lose(&mut self, writer: &Writer<'_>, change: &Change) {
        let changed = change.modified.union(&change.added);
        for entry in &mut self.0 {
            if !entry.is_of(writer) {
                entry.fields = entry
                    .fields
                    .difference(&changed)
                    .difference(&change.removed);
            }
        }
    }

    /// Gives the writer what it changed.
    pub(super) fn gain(&mut self, writer: &Writer<'_>, change: &Change) {
        let before = self.set_of(writer).cloned().unwrap_or_default();
        let now = before
            .difference(&change.removed)
            .union(&change.modified)
            .union(&change.added);
        self.replace(writer, without_identity(&now));
    }

    /// Writes the owners into an object.
    pub(super) fn write(mut self, object: &mut Value) {
        for entry in &mut self.0 {
            entry.fields = without_identity(&entry.fields);
        }
        self.0.retain(|e| !e.fields.is_empty());
        self.limit();
        self.0.sort_by(|a, b| a.order().cmp(&b.order()));
        let entries: Vec<Value> = self.0.iter().map(Entry::to_json).collect();
        if entries.is_empty() {
            return;
        }
        if let Some(object) = object.as_object_mut()
            && let Value::Object(metadata) = object
                .entry("metadata")
                .or_insert_with(|| Value::Object(Map::new()))
        {
            metadata.insert("managedFields".to_owned(), Value::Array(entries));
        }
    }

    /// Merges the oldest entries of other writes.
    fn limit(&mut self) {
        let (mut updates, applies): (Vec<Entry>, Vec<Entry>) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|e| e.operation == Operation::Update);
        updates.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
        if updates.len() > MAX_UPDATE_ENTRIES {
            let ancient =
                updates
                    .drain(..=updates.len() - MAX_UPDATE_ENTRIES)
                    .reduce(|bucket, entry| Entry {
                        fields: bucket.fields.union(&entry.fields),
                        subresource: String::new(),
                        ..entry
                    });
            updates.extend(ancient.map(|entry| Entry {
                manager: "ancient-changes".to_owned(),
                ..entry
            }));
        }
        self.0 = applies;
        self.0.append(&mut updates);
    }
}

impl Entry {
    fn new(writer: &Writer<'_>, fields: Set) -> Self {
        Self {
            manager: writer.manager.to_owned(),
            operation: writer.operation,
            api_version: writer.api_version.clone(),
            subresource: writer.subresource.unwrap_or_default().to_owned(),
            time: writer.now.to_owned(),
            fields,
        }
    }

    fn read(json: &Value) -> Option<Self> {
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        let operation = match json["operation"].as_str()? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        Some(Self {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: Set::from_json(&json["fieldsV1"]),
        })
    }

    fn to_json(&self) -> Value {
        let mut json = json!({
            "manager": self.manager,
            "operation": format!("{:?}", self.operation),
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_json(),
        });
        if !self.time.is_empty() {
            json["time"] = json!(self.time);
        }
        if !self.subresource.is_empty() {
            json["subresource"] = json!(self.subresource);
        }
        json
    }

    fn is_of(&self, writer: &Writer<'_>) -> bool {
        self.manager == writer.manager
            && self.operation == writer.operation
            && self.api_version == writer.api_version
            && self.subresource == writer.subresource.unwrap_or_default()
    }

    /// Applied ones first, then by time.
    fn order(&self) -> (Operation, &str, &str, &str) {
        (self.operation, &self.time, &self.manager, &self.subresource)
    }

    /// As conflicts name it.
    fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        match (self.operation, self.time.as_str()) {
            (Operation::Apply, _) => text,
            (Operation::Update, "") => format!("{text} using {}", self.api_version),
            (Operation::Update, time) => format!("{text} using {} at {time}", self.api_version),
        }
    }
}

/// Without the fields that say what the object is, and those the server writes: no one owns them.
fn without_identity(fields: &Set) -> Set {
    const METADATA: [&str; 9] = [
        "f:name",
        "f:namespace",
        "f:creationTimestamp",
        "f:selfLink",
        "f:uid",
        "f:clusterName",
        "f:generation",
        "f:managedFields",
        "f:resourceVersion",
    ];
    let mut fields = fields.clone();
    for element in ["f:apiVersion", "f:kind", "f:metadata"] {
        fields.members.remove(element);
    }
    if let Some(mut metadata) = fields.children.remove("f:metadata") {
        metadata
            .members
            .retain(|element| !METADATA.contains(&element.as_str()));
        fields.insert_below("f:metadata", metadata);
    }
    fields
}
