//! Field selectors: equality on the few fields a kind offers.

use serde_json::Value;

use super::Error;
use crate::Resource;

/// A field selector, as of the query parameter `fieldSelector`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: String,
    value: String,
    equal: bool,
}

impl FieldSelector {
    /// Parses `spec.nodeName=a,status.phase!=Running`; refuses fields the kind does not offer.
    pub fn parse(res: &Resource, text: &str) -> Result<Self, Error> {
        let terms = split(text).into_iter().filter(|t| !t.is_empty());
        let terms: Result<Vec<Term>, Error> = terms.map(|t| Term::parse(&t, text)).collect();
        let terms = terms?;
        match terms.iter().find(|t| !is_offered(res, &t.field)) {
            Some(term) => Err(Error(unsupported(res, &term.field))),
            None => Ok(Self { terms }),
        }
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value `field` must have, if the selector fixes one: for look-ups by index.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|t| t.equal && t.field == field)
            .map(|t| t.value.as_str())
    }

    /// Whether the object matches.
    pub fn matches(&self, res: &Resource, object: &Value) -> bool {
        self.terms
            .iter()
            .all(|t| (value_of(res, object, &t.field) == t.value) == t.equal)
    }

    /// Whether fields match that are not at hand as an object: `get` gives a field's text, as [`fields`] makes it.
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms
            .iter()
            .all(|t| (get(&t.field).unwrap_or_default() == t.value) == t.equal)
    }
}

/// All fields of an object that can be selected by, with the text they are compared as.
pub fn fields(res: &Resource, object: &Value) -> Vec<(&'static str, String)> {
    let namespace = res.namespaced.then_some("metadata.namespace");
    let names = ["metadata.name"]
        .into_iter()
        .chain(namespace)
        .chain(res.field_selectors.iter().copied());
    names
        .map(|name| (name, value_of(res, object, name)))
        .collect()
}

impl Term {
    fn parse(term: &str, whole: &str) -> Result<Self, Error> {
        let invalid = || {
            Error(format!(
                "invalid selector: '{whole}'; can't understand '{term}'"
            ))
        };
        let at = term.find(['=', '!']).ok_or_else(invalid)?;
        let (field, rest) = term.split_at(at);
        let (value, equal) = match rest.strip_prefix("!=") {
            Some(value) => (value, false),
            None => (
                rest.strip_prefix("==")
                    .or_else(|| rest.strip_prefix('='))
                    .ok_or_else(invalid)?,
                true,
            ),
        };
        Ok(Self {
            field: field.to_owned(),
            value: unescape(value).ok_or_else(invalid)?,
            equal,
        })
    }
}

/// At commas that no backslash precedes.
fn split(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            terms.push(String::new());
        } else if let Some(term) = terms.last_mut() {
            term.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    terms
}

/// Undoes the escapes of `\`, `,` and `=`, which must not stand alone in a value.
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next().filter(|c| "\\,=".contains(*c))?),
            ',' | '=' => return None,
            other => plain.push(other),
        }
    }
    Some(plain)
}

fn is_offered(res: &Resource, field: &str) -> bool {
    let namespace = field == "metadata.namespace" && res.namespaced;
    field == "metadata.name" || namespace || res.field_selectors.contains(&field)
}

/// Kinds with fields of their own name the field only, the others also what they do offer.
fn unsupported(res: &Resource, field: &str) -> String {
    match (res.kind, res.field_selectors.is_empty()) {
        (_, true) => format!(
            "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ),
        _ => format!("field label not supported: {field}"),
    }
}

/// The field as text; absent fields are empty.
fn value_of(res: &Resource, object: &Value, field: &str) -> String {
    match (res.kind, field) {
        ("Pod", "status.podIPs") => return first_address(object),
        ("Event", "source") => return event_source(object),
        _ => {}
    }
    let value = field.split('.').fold(object, |value, key| &value[key]);
    match (value, field) {
        (Value::String(text), _) => text.clone(),
        (Value::Bool(b), _) => b.to_string(),
        (Value::Number(n), _) => n.to_string(),
        (_, "spec.unschedulable" | "spec.hostNetwork") => "false".to_owned(),
        (_, "status.replicas") => "0".to_owned(),
        _ => String::new(),
    }
}

fn first_address(pod: &Value) -> String {
    pod["status"]["podIPs"][0]["ip"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// The component, from wherever the event's version keeps it.
fn event_source(event: &Value) -> String {
    let source = event["source"]["component"]
        .as_str()
        .filter(|s| !s.is_empty());
    source
        .or_else(|| event["reportingComponent"].as_str())
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn res(plural: &str) -> &'static Resource {
        crate::resources()
            .iter()
            .find(|r| r.plural == plural)
            .expect("a served resource")
    }

    #[test]
    fn fields_are_compared_as_text() {
        let pod = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": "node-1"}, "status": {"phase": "Running"}});
        for (selector, expected) in [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==b", false),
            ("spec.nodeName=node-1,status.phase!=Pending", true),
            ("spec.nodeName=", false),
            ("spec.hostNetwork=false", true),
            ("status.podIP=", true),
        ] {
            let parsed = FieldSelector::parse(res("pods"), selector).expect("a selector");
            assert_eq!(parsed.matches(res("pods"), &pod), expected, "{selector}");
        }
        let parsed =
            FieldSelector::parse(res("nodes"), "spec.unschedulable=false").expect("a selector");
        assert!(parsed.matches(res("nodes"), &json!({})));
        let parsed = FieldSelector::parse(res("events"), "source=kubelet,involvedObject.kind=Pod")
            .expect("a selector");
        assert!(parsed.matches(
            res("events"),
            &json!({"reportingComponent": "kubelet", "involvedObject": {"kind": "Pod"}})
        ));
    }

    #[test]
    fn an_index_of_fields_gives_the_same_answers() {
        let node = json!({"metadata": {"name": "a"}});
        let index = fields(res("nodes"), &node);
        assert_eq!(
            index,
            [
                ("metadata.name", "a".to_owned()),
                ("spec.unschedulable", "false".to_owned())
            ]
        );
        let get = |name: &str| {
            index
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| value.as_str())
        };
        for (selector, expected) in [
            ("metadata.name=a,spec.unschedulable!=true", true),
            ("spec.unschedulable=true", false),
        ] {
            let parsed = FieldSelector::parse(res("nodes"), selector).expect("a selector");
            assert_eq!(
                (
                    parsed.matches_with(get),
                    parsed.matches(res("nodes"), &node)
                ),
                (expected, expected)
            );
        }
    }

    #[test]
    fn exact_values_serve_indexes() {
        let parsed = FieldSelector::parse(res("pods"), "metadata.name=a,spec.nodeName!=b")
            .expect("a selector");
        assert_eq!(parsed.exact("metadata.name"), Some("a"));
        assert_eq!(parsed.exact("spec.nodeName"), None);
    }

    #[test]
    fn escaped_values_are_plain_again() {
        let parsed =
            FieldSelector::parse(res("configmaps"), r"metadata.name=a\,b\=c").expect("a selector");
        assert_eq!(parsed.exact("metadata.name"), Some("a,b=c"));
    }

    #[test]
    fn other_fields_are_refused_in_upstreams_words() {
        let error = |plural, text| {
            FieldSelector::parse(res(plural), text)
                .expect_err("unsupported")
                .0
        };
        assert_eq!(
            error("pods", "spec.foo=1"),
            "field label not supported: spec.foo"
        );
        assert_eq!(
            error("configmaps", "data.x=1"),
            "\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
        assert_eq!(
            error("pods", "nonsense"),
            "invalid selector: 'nonsense'; can't understand 'nonsense'"
        );
    }
}
