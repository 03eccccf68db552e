//! Label and field selectors.

use serde_json::{Map, Value};

use crate::Resource;

/// A selector that cannot be used; 400, in upstream's words.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Error(pub String);

/// A label selector, as of the query parameter `labelSelector` or of a spec's `selector`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {}

impl LabelSelector {
    /// Parses the query form: `app=web,tier in (a,b),!legacy`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let _ = text;
        Ok(Self {})
    }

    /// Parses the object form: `matchLabels` and `matchExpressions`.
    pub fn from_object(selector: &Value) -> Result<Self, Error> {
        let _ = selector;
        Ok(Self {})
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Whether the labels match.
    pub fn matches(&self, labels: &Map<String, Value>) -> bool {
        let _ = labels;
        true
    }

    /// Whether the labels of an object match.
    pub fn matches_object(&self, object: &Value) -> bool {
        let _ = object;
        true
    }
}

/// A field selector, as of the query parameter `fieldSelector`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {}

impl FieldSelector {
    /// Parses `spec.nodeName=a,status.phase!=Running`; refuses fields the kind does not offer.
    pub fn parse(res: &Resource, text: &str) -> Result<Self, Error> {
        let _ = (res, text);
        Ok(Self {})
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// The value `field` must have, if the selector fixes one: for look-ups by index.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let _ = field;
        None
    }

    /// Whether the object matches.
    pub fn matches(&self, res: &Resource, object: &Value) -> bool {
        let _ = (res, object);
        true
    }
}
