//! What a ReplicaSet needs, and what it says about itself. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ObjectMeta;

use super::victims;
use crate::object::adoption::counts;
use crate::object::{
    condition, controller_reference, deleting, has_labels, name, namespace, pod, time, unless_zero,
};

/// Pods created or deleted in one go at most.
const BURST: usize = 500;

/// The next step towards the wanted number of pods.
#[derive(Debug)]
pub(crate) enum Step {
    Nothing,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// The wanted number of pods.
pub(crate) fn wanted(set: &ReplicaSet) -> usize {
    let replicas = set
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    usize::try_from(replicas).unwrap_or(0)
}

/// Decides the next step. `pods` are the set's own; `related` also those of sibling sets.
pub(crate) fn step(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    related: &[Arc<Pod>],
    now: Timestamp,
) -> Step {
    if deleting(set) {
        return Step::Nothing;
    }
    let active: Vec<_> = pods.iter().filter(|pod| counts(pod)).cloned().collect();
    let related: Vec<_> = related.iter().filter(|pod| counts(pod)).cloned().collect();
    let (have, wanted) = (active.len(), wanted(set));
    match have.cmp(&wanted) {
        std::cmp::Ordering::Equal => Step::Nothing,
        std::cmp::Ordering::Less => Step::Create((wanted - have).min(BURST)),
        std::cmp::Ordering::Greater => Step::Delete(victims::choose(
            active,
            &related,
            (have - wanted).min(BURST),
            now,
        )),
    }
}

/// A pod from the set's template.
pub(crate) fn new_pod(set: &ReplicaSet) -> Pod {
    let template = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.clone())
        .unwrap_or_default();
    let given = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name(set))),
            namespace: Some(namespace(set).to_owned()),
            labels: given.labels,
            annotations: given.annotations,
            finalizers: given.finalizers,
            owner_references: Some(vec![controller_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// A failed creation or deletion, to be shown as condition ReplicaFailure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure<'a> {
    pub(crate) reason: &'static str,
    pub(crate) message: &'a str,
}

/// The status that describes these pods.
pub(crate) fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    failure: Option<Failure>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let min_ready = min_ready_seconds(set);
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let labels = template
        .and_then(|template| template.metadata.as_ref()?.labels.clone())
        .unwrap_or_default();
    let active: Vec<_> = pods.iter().filter(|pod| counts(pod)).collect();
    let count = |condition: &dyn Fn(&Pod) -> bool| {
        unless_zero(number(active.iter().filter(|pod| condition(pod)).count()))
    };
    let terminating = pods
        .iter()
        .filter(|pod| deleting(&***pod) && !pod::finished(pod))
        .count();
    ReplicaSetStatus {
        replicas: number(active.len()),
        fully_labeled_replicas: count(&|pod| has_labels(pod.metadata.labels.as_ref(), &labels)),
        ready_replicas: count(&pod::ready),
        available_replicas: count(&|pod| pod::available(pod, min_ready, now)),
        terminating_replicas: Some(number(terminating)),
        observed_generation: set.metadata.generation,
        conditions: conditions(set, failure, now),
    }
}

fn conditions(
    set: &ReplicaSet,
    failure: Option<Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    const FAILURE: &str = "ReplicaFailure";
    let mut conditions = set
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone());
    match failure {
        None => condition::remove(&mut conditions, FAILURE),
        Some(_) if condition::find(conditions.as_ref(), FAILURE).is_some() => {}
        Some(failure) => condition::set(
            &mut conditions,
            ReplicaSetCondition {
                type_: FAILURE.to_owned(),
                status: "True".to_owned(),
                reason: Some(failure.reason.to_owned()),
                message: Some(failure.message.to_owned()),
                last_transition_time: Some(time(now)),
            },
        ),
    }
    conditions
}

/// When the next Ready pod becomes available, if any is waiting for that.
pub(crate) fn next_availability(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> Option<Duration> {
    let min_ready = min_ready_seconds(set);
    let waits = pods
        .iter()
        .filter(|pod| counts(pod))
        .filter_map(|pod| pod::available_in(pod, min_ready, now));
    waits.filter(|wait| !wait.is_zero()).min()
}

fn min_ready_seconds(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.min_ready_seconds)
        .unwrap_or(0)
}

/// A count as the API writes it.
fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The sizes of the batches in which to create so many pods: one, then twice as many each time, so that a template
/// which the API refuses costs one request and not hundreds.
pub(crate) fn batches(count: usize) -> impl Iterator<Item = usize> {
    let mut left = count;
    let mut size = 1;
    std::iter::from_fn(move || {
        let batch = size.min(left);
        left -= batch;
        size *= 2;
        (batch > 0).then_some(batch)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::parse;

    fn now() -> Timestamp {
        "2026-01-01T00:00:05Z".parse().expect("a timestamp")
    }

    fn set(replicas: i32, min_ready: i32) -> ReplicaSet {
        parse(json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "u", "generation": 3},
            "spec": {
                "replicas": replicas, "minReadySeconds": min_ready, "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web", "v": "1"}, "annotations": {"note": "n"}},
                    "spec": {"containers": [{"name": "c"}]}
                }
            }
        }))
    }

    fn pod(phase: &str, ready: bool, deleting: bool) -> Arc<Pod> {
        let (deletion, status) = (
            deleting.then_some("2026-01-01T00:00:00Z"),
            if ready { "True" } else { "False" },
        );
        let ready = json!({"type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        Arc::new(parse(json!({
            "metadata": {"labels": {"app": "web", "v": "1"}, "deletionTimestamp": deletion},
            "status": {"phase": phase, "conditions": [ready]}
        })))
    }

    #[test]
    fn steps() {
        let check = |replicas: i32, pods: &[Arc<Pod>], expected: (usize, usize)| {
            let got = match step(&set(replicas, 0), pods, pods, now()) {
                Step::Nothing => (0, 0),
                Step::Create(count) => (count, 0),
                Step::Delete(pods) => (0, pods.len()),
            };
            assert_eq!(got, expected, "{replicas} wanted of {}", pods.len());
        };
        let running = pod("Running", true, false);
        check(3, &[], (3, 0));
        check(1000, &[], (500, 0));
        check(1, std::slice::from_ref(&running), (0, 0));
        check(0, &[running.clone(), running.clone()], (0, 2));
        check(1, &[pod("Running", true, true)], (1, 0));
        check(1, &[pod("Failed", false, false)], (1, 0));
        check(1, &[running, pod("Succeeded", false, false)], (0, 0));
    }

    #[test]
    fn a_set_on_its_way_out_does_nothing() {
        let mut set = set(3, 0);
        set.metadata.deletion_timestamp = Some(time(now()));
        assert!(matches!(step(&set, &[], &[], now()), Step::Nothing));
    }

    #[test]
    fn the_status_counts_pods() {
        let pods = [
            pod("Running", true, false),
            pod("Pending", false, false),
            pod("Running", true, true),
        ];
        let got = status(&set(3, 10), &pods, None, now());
        assert_eq!(got.replicas, 2);
        assert_eq!(got.fully_labeled_replicas, Some(2));
        assert_eq!(got.ready_replicas, Some(1));
        assert_eq!(got.available_replicas, None);
        assert_eq!(got.terminating_replicas, Some(1));
        assert_eq!(got.observed_generation, Some(3));
        assert_eq!(got.conditions, None);
        assert_eq!(
            next_availability(&set(3, 10), &pods, now()),
            Some(Duration::from_secs(5))
        );
        assert_eq!(next_availability(&set(3, 0), &pods, now()), None);
    }

    #[test]
    fn a_failure_is_a_condition_until_it_is_over() {
        let mut set = set(1, 0);
        let failure = Failure {
            reason: "FailedCreate",
            message: "no",
        };
        let failed = status(&set, &[], Some(failure), now());
        assert_eq!(
            failed
                .conditions
                .as_ref()
                .map(|all| all[0].reason.as_deref()),
            Some(Some("FailedCreate"))
        );
        set.status = Some(failed);
        assert_eq!(status(&set, &[], None, now()).conditions, None);
    }

    #[test]
    fn pods_carry_the_template_and_its_owner() {
        let pod = new_pod(&set(1, 0));
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("web-"));
        assert_eq!(
            pod.metadata.labels.as_ref().map(|labels| labels.len()),
            Some(2)
        );
        let owner = &pod.metadata.owner_references.as_ref().expect("an owner")[0];
        assert_eq!(
            (owner.kind.as_str(), owner.uid.as_str(), owner.controller),
            ("ReplicaSet", "u", Some(true))
        );
    }

    #[test]
    fn batches_double() {
        assert_eq!(batches(10).collect::<Vec<_>>(), [1, 2, 4, 3]);
        assert_eq!(batches(0).count(), 0);
        assert_eq!(batches(1).collect::<Vec<_>>(), [1]);
    }
}
