//! Node selector terms: which nodes a pod must or would like to run on. Pure.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm};

use crate::object::{label, name};

/// Whether the node satisfies the term. A term without requirements is satisfied by none.
pub(super) fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    !(labels.is_empty() && fields.is_empty())
        && labels
            .iter()
            .all(|requirement| satisfied(requirement, label(node, &requirement.key)))
        && fields.iter().all(|requirement| {
            requirement.key == "metadata.name" && satisfied(requirement, Some(name(node)))
        })
}

fn satisfied(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = |value: &str| {
        requirement
            .values
            .iter()
            .flatten()
            .any(|wanted| wanted == value)
    };
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = || {
        requirement
            .values
            .as_ref()?
            .first()
            .and_then(|bound| number(bound))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value
            .and_then(number)
            .zip(bound())
            .is_some_and(|(value, bound)| value > bound),
        "Lt" => value
            .and_then(number)
            .zip(bound())
            .is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::object::parse;

    fn check(expected: bool, term: Value) {
        let node: Node =
            parse(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "cores": "8"}}}));
        assert_eq!(matches(&parse(term.clone()), &node), expected, "{term}");
    }

    #[test]
    fn terms() {
        let expression = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        check(true, expression("zone", "In", &["a", "b"]));
        check(false, expression("zone", "In", &["b"]));
        check(false, expression("other", "In", &["b"]));
        check(false, expression("zone", "NotIn", &["a"]));
        check(true, expression("other", "NotIn", &["a"]));
        check(true, expression("zone", "Exists", &[]));
        check(false, expression("zone", "DoesNotExist", &[]));
        check(true, expression("cores", "Gt", &["7"]));
        check(false, expression("cores", "Gt", &["8"]));
        check(true, expression("cores", "Lt", &["9"]));
        check(false, expression("zone", "Lt", &["9"]));
        check(false, expression("zone", "Odd", &["9"]));
        check(false, json!({}));
        check(
            true,
            json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}),
        );
        check(
            false,
            json!({"matchFields": [{"key": "metadata.uid", "operator": "Exists"}]}),
        );
        check(
            false,
            json!({
                "matchExpressions": [{"key": "zone", "operator": "Exists"}],
                "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]
            }),
        );
    }
}
