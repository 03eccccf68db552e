//! Label and field selectors of a list, watch or deletion, run over the store's index.

use control_schema::Resource;
use control_schema::selector::{FieldSelector, LabelSelector};
use control_store::Entry;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::query::Params;

/// What a request wants to see of a collection.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    res: &'static Resource,
    /// Empty for all.
    namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub(super) fn parse(
        res: &'static Resource,
        namespace: &str,
        params: &Params,
    ) -> Result<Self, ApiError> {
        let refuse = |error: control_schema::selector::Error| ApiError::bad_request(error.0);
        Ok(Self {
            res,
            namespace: namespace.to_owned(),
            labels: LabelSelector::parse(params.text("labelSelector")).map_err(refuse)?,
            fields: FieldSelector::parse(res, params.text("fieldSelector")).map_err(refuse)?,
        })
    }

    /// The namespace looked at, none for all.
    pub(super) fn scope(&self) -> Option<&str> {
        (self.res.namespaced && !self.namespace.is_empty()).then_some(self.namespace.as_str())
    }

    /// Whether it selects by more than the namespace.
    pub(super) fn is_selective(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    pub(super) fn matches(&self, entry: &Entry) -> bool {
        if self.scope().is_some_and(|scope| scope != &*entry.key.scope) {
            return false;
        }
        if !self.is_selective() {
            return true;
        }
        (self.labels.is_empty() || self.labels.matches(&labels(entry)))
            && self.fields.matches_with(|path| field(entry, path))
    }
}

fn labels(entry: &Entry) -> Map<String, Value> {
    let labels = entry.index.labels.iter();
    labels
        .map(|(key, value)| (key.to_string(), Value::from(&**value)))
        .collect()
}

fn field<'a>(entry: &'a Entry, path: &str) -> Option<&'a str> {
    match path {
        "metadata.name" => Some(&entry.key.name),
        "metadata.namespace" => Some(&entry.key.scope),
        _ => entry
            .index
            .fields
            .iter()
            .find(|(own, _)| *own == path)
            .map(|(_, value)| &**value),
    }
}
