//! Status conditions of all the kinds that have them: found, compared and set in one way.

use k8s_openapi::api::apps::v1::{DeploymentCondition, ReplicaSetCondition};
use k8s_openapi::api::core::v1::{NamespaceCondition, NodeCondition, PodCondition};

/// What all kinds' conditions have in common.
pub(crate) trait Condition {
    fn kind(&self) -> &str;
    fn status(&self) -> &str;
}

macro_rules! conditions {
    ($($condition:ty),*) => { $(
        impl Condition for $condition {
            fn kind(&self) -> &str {
                &self.type_
            }
            fn status(&self) -> &str {
                &self.status
            }
        }
    )* };
}

conditions!(
    DeploymentCondition,
    ReplicaSetCondition,
    NamespaceCondition,
    NodeCondition,
    PodCondition
);

/// The condition of this type.
pub(crate) fn find<'a, C: Condition>(conditions: Option<&'a Vec<C>>, kind: &str) -> Option<&'a C> {
    conditions?
        .iter()
        .find(|condition| condition.kind() == kind)
}

/// Whether the condition of this type has status True.
pub(crate) fn is_true<C: Condition>(conditions: Option<&Vec<C>>, kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status() == "True")
}

/// Puts the condition in place of the one of its type.
pub(crate) fn set<C: Condition>(conditions: &mut Option<Vec<C>>, condition: C) {
    let conditions = conditions.get_or_insert_default();
    match conditions
        .iter_mut()
        .find(|known| known.kind() == condition.kind())
    {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}

/// Takes away the condition of this type.
pub(crate) fn remove<C: Condition>(conditions: &mut Option<Vec<C>>, kind: &str) {
    if let Some(list) = conditions {
        list.retain(|condition| condition.kind() != kind);
        if list.is_empty() {
            *conditions = None;
        }
    }
}
