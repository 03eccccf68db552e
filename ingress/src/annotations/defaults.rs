//! What holds for all Ingresses that say nothing else: the ConfigMap's part in the annotations.
//!
//! A key of the ConfigMap that is an annotation, too, is read by the annotation's own parser, wherever an Ingress does
//! not have the annotation, or has it with a value that cannot be used.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::headers::Changes;
use super::policy::Policy;

/// What holds where an Ingress says nothing else. By default that is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Defaults {
    /// Values by the annotation's name; each is one that can be used.
    pub(crate) values: BTreeMap<&'static str, String>,
    /// What all requests to backends are changed by; an Ingress adds to it.
    pub(crate) request: Changes,
    /// What all answers are changed by; an Ingress adds to it.
    pub(crate) response: Changes,
    /// Whether requests are sent again whatever their method.
    pub(crate) repeats_all: bool,
    policy: Option<Arc<Policy>>,
}

/// No defaults.
pub static NONE: Defaults = Defaults {
    values: BTreeMap::new(),
    request: Changes {
        removed: Vec::new(),
        set: Vec::new(),
    },
    response: Changes {
        removed: Vec::new(),
        set: Vec::new(),
    },
    repeats_all: false,
    policy: None,
};

impl Defaults {
    /// The same, with what an Ingress without annotations asks for by them.
    #[must_use]
    pub(crate) fn settled(mut self) -> Self {
        self.policy = Policy::of_defaults(&self);
        self
    }

    /// What an Ingress without annotations asks for, if that is anything.
    pub fn policy(&self) -> Option<&Arc<Policy>> {
        self.policy.as_ref()
    }
}
