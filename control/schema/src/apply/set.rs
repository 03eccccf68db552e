//! Sets of fields, as `fieldsV1` writes them.
//!
//! A path is a sequence of elements, each in its written form: `f:name` (a field or key of a map), `k:{"name":"a"}` (the
//! element of a list with these keys), `v:"x"` (the element of a list with this value).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// A set of paths, as a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Set {
    /// Elements whose path ends here.
    pub(super) members: BTreeSet<String>,
    /// Elements with paths that go on; never empty sets.
    pub(super) children: BTreeMap<String, Set>,
}

impl Set {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    /// Whether it holds the element or anything below it.
    pub(super) fn reaches(&self, element: &str) -> bool {
        self.members.contains(element) || self.children.contains_key(element)
    }

    /// Puts paths below an element; no paths are not noted.
    pub(super) fn insert_below(&mut self, element: &str, below: Set) {
        if !below.is_empty() {
            self.children.insert(element.to_owned(), below);
        }
    }

    /// Paths in either.
    pub(super) fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        union.members.extend(other.members.iter().cloned());
        for (element, theirs) in &other.children {
            let ours = union.children.entry(element.clone()).or_default();
            *ours = ours.union(theirs);
        }
        union
    }

    /// Paths in both.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        let mut common = Self {
            members: self.members.intersection(&other.members).cloned().collect(),
            ..Self::default()
        };
        for (element, ours) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                common.insert_below(element, ours.intersection(theirs));
            }
        }
        common
    }

    /// Paths in this one only.
    pub(super) fn difference(&self, other: &Self) -> Self {
        let mut rest = Self {
            members: self.members.difference(&other.members).cloned().collect(),
            ..Self::default()
        };
        for (element, ours) in &self.children {
            let left = match other.children.get(element) {
                Some(theirs) => ours.difference(theirs),
                None => ours.clone(),
            };
            rest.insert_below(element, left);
        }
        rest
    }

    /// All paths as people read them: `.spec.containers[name="a"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        paths.extend(
            self.members
                .iter()
                .map(|element| format!("{prefix}{}", readable(element))),
        );
        for (element, below) in &self.children {
            below.collect(&format!("{prefix}{}", readable(element)), paths);
        }
    }

    /// The value of `fieldsV1`.
    pub(super) fn to_json(&self) -> Value {
        let mut json: Map<String, Value> = self
            .children
            .iter()
            .map(|(element, below)| (element.clone(), below.to_json()))
            .collect();
        for element in &self.members {
            let entry = json
                .entry(element.clone())
                .or_insert_with(|| Value::Object(Map::new()));
            if let (Value::Object(entry), true) = (entry, self.children.contains_key(element)) {
                entry.insert(".".to_owned(), Value::Object(Map::new()));
            }
        }
        Value::Object(json)
    }

    /// Reads `fieldsV1`; what is not an object reads as the empty set.
    pub(super) fn from_json(json: &Value) -> Self {
        let mut set = Self::default();
        for (element, below) in json
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(e, _)| *e != ".")
        {
            let is_member = below
                .as_object()
                .is_none_or(|b| b.is_empty() || b.contains_key("."));
            if is_member {
                set.members.insert(element.clone());
            }
            set.insert_below(element, Self::from_json(below));
        }
        set
    }
}

/// A path element as people read it.
pub(super) fn readable(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("v", value)) => format!("[={value}]"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let pairs: Vec<String> = keys
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            format!("[{}]", pairs.join(","))
        }
        _ => element.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_written_form_is_read_back() {
        let json = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}}});
        let set = Set::from_json(&json);
        assert_eq!(set.to_json(), json);
        assert_eq!(
            set.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].port"
            ]
        );
    }

    #[test]
    fn sets_add_and_subtract() {
        let set = |json: Value| Set::from_json(&json);
        let (a, b) = (
            set(json!({"f:a": {}, "f:b": {"f:c": {}, "f:d": {}}})),
            set(json!({"f:b": {"f:c": {}}, "f:e": {}})),
        );
        assert_eq!(
            a.union(&b),
            set(json!({"f:a": {}, "f:b": {"f:c": {}, "f:d": {}}, "f:e": {}}))
        );
        assert_eq!(a.intersection(&b), set(json!({"f:b": {"f:c": {}}})));
        assert_eq!(
            a.difference(&b),
            set(json!({"f:a": {}, "f:b": {"f:d": {}}}))
        );
        assert!(a.difference(&a).is_empty());
        assert!(a.reaches("f:b") && !a.reaches("f:c"));
    }
}
