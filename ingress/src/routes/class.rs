//! Whose Ingress it is.
//!
//! An Ingress is ours when its class is: by annotation, which decides where it is set, by `spec.ingressClassName`, or by
//! default when it names none and one of our classes is marked so; and it must be in a namespace that the gateway serves.
//! Anything else is never touched.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

/// The annotation by which an Ingress named its class before the field existed.
pub const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// The annotation of an IngressClass that is meant for Ingresses without one.
pub const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

/// The classes there are, and which of them are ours. By default none is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Classes {
    controller: String,
    legacy_name: String,
    ours: BTreeMap<String, IsDefault>,
    scope: Scope,
}

/// The namespaces whose Ingresses can be ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scope {
    /// All.
    #[default]
    All,
    /// One.
    One(String),
    /// These, which change with their labels.
    Chosen(BTreeSet<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct IsDefault(bool);

impl Classes {
    /// No classes yet. Ours will be those of `controller`; `legacy_name` is a class that an annotation may name without
    /// there being an object.
    pub fn new(controller: impl Into<String>, legacy_name: impl Into<String>) -> Self {
        Self {
            controller: controller.into(),
            legacy_name: legacy_name.into(),
            ours: BTreeMap::new(),
            scope: Scope::All,
        }
    }

    /// The same in these namespaces only.
    #[must_use]
    pub fn within(self, scope: Scope) -> Self {
        Self { scope, ..self }
    }

    /// The namespaces whose Ingresses can be ours, where they are chosen by their labels.
    pub fn chosen(&mut self) -> Option<&mut BTreeSet<String>> {
        match &mut self.scope {
            Scope::Chosen(names) => Some(names),
            Scope::All | Scope::One(_) => None,
        }
    }

    /// Takes in a class. Says whether that changed anything.
    pub fn put(&mut self, class: &IngressClass) -> bool {
        let name = class.metadata.name.clone().unwrap_or_default();
        let controller = class
            .spec
            .as_ref()
            .and_then(|spec| spec.controller.as_deref());
        if controller != Some(self.controller.as_str()) {
            return self.remove(&name);
        }
        let annotations = class.metadata.annotations.as_ref();
        let mark = annotations.and_then(|all| all.get(DEFAULT_ANNOTATION));
        let is_default = IsDefault(mark.is_some_and(|mark| mark == "true"));
        self.ours.insert(name, is_default) != Some(is_default)
    }

    /// Forgets a class. Says whether that changed anything.
    pub fn remove(&mut self, name: &str) -> bool {
        self.ours.remove(name).is_some()
    }

    /// Forgets all classes.
    pub fn clear(&mut self) {
        self.ours.clear();
    }

    /// Whether `ingress` is ours.
    pub fn own(&self, ingress: &Ingress) -> bool {
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        if !self.scope.has(namespace) {
            return false;
        }
        match (class_annotation(ingress), class_field(ingress)) {
            (Some(name), _) => name == self.legacy_name || self.ours.contains_key(name),
            (None, Some(name)) => self.ours.contains_key(name),
            (None, None) => self.ours.values().any(|default| default.0),
        }
    }
}

impl Scope {
    fn has(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::One(name) => name == namespace,
            Self::Chosen(names) => names.contains(namespace),
        }
    }
}

/// The class that the annotation of `ingress` names.
pub fn class_annotation(ingress: &Ingress) -> Option<&str> {
    let annotations = ingress.metadata.annotations.as_ref()?;
    let name = annotations.get(CLASS_ANNOTATION)?;
    (!name.is_empty()).then_some(name)
}

/// The class that the field of `ingress` names.
pub fn class_field(ingress: &Ingress) -> Option<&str> {
    let spec = ingress.spec.as_ref()?;
    spec.ingress_class_name.as_deref()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use serde_json::{Value, json};

    fn ingress(annotation: Option<&str>, field: Option<&str>) -> Ingress {
        let mut object = json!({"metadata": {"name": "i"}, "spec": {}});
        if let Some(name) = annotation {
            object["metadata"]["annotations"] = json!({CLASS_ANNOTATION: name});
        }
        object["spec"]["ingressClassName"] = field.map_or(Value::Null, |name| name.into());
        serde_json::from_value(object).unwrap()
    }

    fn class(name: &str, controller: &str, default: &str) -> IngressClass {
        serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": {DEFAULT_ANNOTATION: default}},
            "spec": {"controller": controller},
        }))
        .unwrap()
    }

    #[test]
    fn a_class_is_ours_by_controller_annotation_or_default() {
        let mut plain = Classes::new("portolan.dev/ingress", "portolan");
        plain.put(&class("ours", "portolan.dev/ingress", "false"));
        plain.put(&class("theirs", "example.com/other", "true"));
        let mut default = plain.clone();
        default.put(&class("ours", "portolan.dev/ingress", "true"));
        let rows = [
            (None, Some("ours"), true, true),
            (None, Some("theirs"), false, false),
            (None, Some("unknown"), false, false),
            (None, Some("portolan"), false, false),
            (Some("portolan"), None, true, true),
            (Some("ours"), None, true, true),
            (Some("nginx"), None, false, false),
            (Some("nginx"), Some("ours"), false, false),
            (Some("ours"), Some("theirs"), true, true),
            (None, None, false, true),
        ];
        for (annotation, field, without, with) in rows {
            let ingress = ingress(annotation, field);
            assert_eq!(plain.own(&ingress), without, "{annotation:?} {field:?}");
            assert_eq!(default.own(&ingress), with, "{annotation:?} {field:?}");
        }
    }

    #[test]
    fn changes_are_told_from_repetitions() {
        let mut classes = Classes::new("c", "legacy");
        assert!(classes.put(&class("a", "c", "false")));
        assert!(!classes.put(&class("a", "c", "false")));
        assert!(classes.put(&class("a", "c", "true")));
        assert!(!classes.put(&class("b", "other", "true")));
        assert!(classes.put(&class("a", "other", "true")));
        assert!(!classes.own(&ingress(None, Some("a"))));
        assert!(!classes.remove("a"));
    }
}
