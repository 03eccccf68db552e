//! How a Deployment and its ReplicaSets recognise each other: the template's hash, revisions and the annotations that
//! `kubectl rollout history` and `undo` read. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::api::ObjectMeta;

use super::scaling::{Slack, replicas};
use crate::object::{annotation, controller_reference, created, name, namespace};

pub(crate) const HASH_LABEL: &str = "pod-template-hash";
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations of the Deployment that are its own and not its ReplicaSets'.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
];

/// The letters of generated names: no vowels, so no words, and nothing easily misread.
const SAFE_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A short name for the template, made different by the count of collisions met so far.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut text = serde_json::to_vec(template).expect("a pod template is always valid JSON");
    if let Some(collisions) = collisions {
        text.extend(collisions.to_le_bytes());
    }
    let hash = text.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    let letter = |digit: u8| char::from(SAFE_LETTERS[usize::from(digit) % SAFE_LETTERS.len()]);
    hash.to_string().bytes().map(letter).collect()
}

/// Whether both templates make the same pods.
pub(crate) fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    without_hash(a) == without_hash(b)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let metadata = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut metadata.labels {
        labels.remove(HASH_LABEL);
    }
    metadata.labels = metadata.labels.take().filter(|labels| !labels.is_empty());
    metadata.annotations = metadata
        .annotations
        .take()
        .filter(|annotations| !annotations.is_empty());
    metadata.creation_timestamp = None;
    template
}

/// The set made from the Deployment's present template: the oldest, should there be several.
pub(crate) fn find_new(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
) -> Option<Arc<ReplicaSet>> {
    let wanted = &deployment.spec.as_ref()?.template;
    let matching = sets.iter().filter(|set| {
        let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        template.is_some_and(|template| same_template(template, wanted))
    });
    matching
        .min_by_key(|set| (created(&***set), name(&***set).to_owned()))
        .cloned()
}

/// The set's revision; 0 if it has none.
pub(crate) fn revision(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION)
        .and_then(|revision| revision.parse().ok())
        .unwrap_or(0)
}

/// The Deployment's size when the set was last scaled.
pub(crate) fn desired_replicas(set: &ReplicaSet) -> Option<i32> {
    annotation(set, DESIRED_REPLICAS)?.parse().ok()
}

/// The most pods the Deployment might have had when the set was last scaled.
pub(crate) fn max_replicas(set: &ReplicaSet) -> Option<i32> {
    annotation(set, MAX_REPLICAS)?.parse().ok()
}

/// The annotations that say for which size of the Deployment a set was scaled.
pub(crate) fn scaling_annotations(deployment: &Deployment) -> [(String, String); 2] {
    let wanted = replicas(deployment);
    let most = wanted + Slack::of(deployment).surge;
    [
        (DESIRED_REPLICAS.to_owned(), wanted.to_string()),
        (MAX_REPLICAS.to_owned(), most.to_string()),
    ]
}

/// The annotations of the newest set: the Deployment's own, and `revision` if that is higher than what it had. A
/// revision left behind (the set was rolled back to) goes into the history.
pub(crate) fn new_set_annotations(
    deployment: &Deployment,
    mut annotations: BTreeMap<String, String>,
    revision: i64,
) -> BTreeMap<String, String> {
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let before = annotations.get(REVISION).cloned();
    if before
        .as_deref()
        .and_then(|before| before.parse().ok())
        .unwrap_or(0)
        < revision
    {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        if let Some(before) = before {
            let history = annotations
                .remove(REVISION_HISTORY)
                .filter(|history| !history.is_empty());
            let history = history.map_or(before.clone(), |history| format!("{history},{before}"));
            annotations.insert(REVISION_HISTORY.to_owned(), history);
        }
    }
    annotations
}

/// A set for the Deployment's present template. Its size is still to be decided.
pub(crate) fn new_set(deployment: &Deployment, revision: i64) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count);
    let hash = hash(&spec.template, collisions);
    let mut template = spec.template;
    let labels = template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH_LABEL.to_owned(), hash.clone());
    let mut annotations = new_set_annotations(deployment, BTreeMap::new(), revision);
    annotations.extend(scaling_annotations(deployment));
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name(deployment))),
            namespace: Some(namespace(deployment).to_owned()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::parse;

    fn template(image: &str) -> PodTemplateSpec {
        parse(
            json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": image}]}}),
        )
    }

    #[test]
    fn hashes_differ_by_template_and_collision() {
        let first = hash(&template("a"), None);
        assert_eq!(first, hash(&template("a"), None));
        assert_ne!(first, hash(&template("b"), None));
        assert_ne!(first, hash(&template("a"), Some(1)));
        assert!(first.bytes().all(|letter| SAFE_LETTERS.contains(&letter)));
    }

    #[test]
    fn the_hash_label_does_not_make_templates_differ() {
        let mut labelled = template("a");
        labelled
            .metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default()
            .insert(HASH_LABEL.into(), "h".into());
        assert!(same_template(&labelled, &template("a")));
        assert!(!same_template(&labelled, &template("b")));
    }

    #[test]
    fn a_new_set_is_labelled_annotated_and_owned() {
        let deployment: Deployment = parse(json!({
            "metadata": {
                "name": "web", "namespace": "a", "uid": "u",
                "annotations": {"note": "n", REVISION: "7", "kubectl.kubernetes.io/last-applied-configuration": "{}"}
            },
            "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "x"}}, "template": template("a")}
        }));
        let set = new_set(&deployment, 3);
        let hash = hash(&template("a"), None);
        assert_eq!(set.metadata.name, Some(format!("web-{hash}")));
        let annotations = set.metadata.annotations.expect("annotated");
        let expected = [
            ("note", "n"),
            (REVISION, "3"),
            (DESIRED_REPLICAS, "4"),
            (MAX_REPLICAS, "5"),
        ];
        assert_eq!(annotations.len(), expected.len());
        for (key, value) in expected {
            assert_eq!(
                annotations.get(key).map(String::as_str),
                Some(value),
                "{key}"
            );
        }
        let spec = set.spec.expect("a spec");
        assert_eq!(
            spec.selector.match_labels.expect("labels").get(HASH_LABEL),
            Some(&hash)
        );
    }

    #[test]
    fn rolling_back_raises_the_revision_and_keeps_the_old_one_as_history() {
        let deployment = Deployment::default();
        let with = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let once = new_set_annotations(&deployment, with(&[(REVISION, "1")]), 3);
        assert_eq!(once, with(&[(REVISION, "3"), (REVISION_HISTORY, "1")]));
        let twice = new_set_annotations(&deployment, once.clone(), 5);
        assert_eq!(twice, with(&[(REVISION, "5"), (REVISION_HISTORY, "1,3")]));
        assert_eq!(new_set_annotations(&deployment, twice.clone(), 2), twice);
    }
}
