//! What a pod's state means to its owners and to services, and what of a pod is worth caching.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition};

use super::condition;

/// The phase; empty until someone sets it.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// Whether no container will run any more.
pub(crate) fn finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// The node the pod is bound to.
pub(crate) fn node(pod: &Pod) -> Option<&str> {
    pod.spec
        .as_ref()?
        .node_name
        .as_deref()
        .filter(|node| !node.is_empty())
}

/// The Ready condition.
pub(crate) fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    condition::find(pod.status.as_ref()?.conditions.as_ref(), "Ready")
}

/// Whether the pod is Ready.
pub(crate) fn ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some_and(|condition| condition.status == "True")
}

/// Since when the pod is Ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = ready_condition(pod).filter(|condition| condition.status == "True")?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// Whether the pod has been Ready for at least `min_ready_seconds`.
pub(crate) fn available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    ready(pod)
        && (min_ready_seconds == 0
            || available_in(pod, min_ready_seconds, now) == Some(Duration::ZERO))
}

/// How long a Ready pod still has to stay Ready to be available.
pub(crate) fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let since = ready_since(pod)?;
    let at = since + Duration::from_secs(min_ready_seconds.max(0).unsigned_abs().into());
    Some(Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// The pod's addresses: all of `podIPs`, or the single old field.
pub(crate) fn addresses(pod: &Pod) -> Vec<std::net::IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let many: Vec<_> = status
        .pod_ips
        .iter()
        .flatten()
        .filter_map(|ip| ip.ip.parse().ok())
        .collect();
    match (&many[..], &status.pod_ip) {
        ([], Some(single)) => single.parse().into_iter().collect(),
        _ => many,
    }
}

/// Regular containers and the init containers that keep running beside them.
pub(crate) fn long_running(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let sidecars = spec
        .into_iter()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .filter(|c| is_sidecar(c));
    spec.into_iter()
        .flat_map(|spec| &spec.containers)
        .chain(sidecars)
}

/// Whether an init container stays up for the pod's life.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The largest restart count among the pod's containers.
pub(crate) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    statuses
        .map(|status| status.restart_count)
        .max()
        .unwrap_or(0)
}

/// Drops what no controller reads and what makes pods large: container environments, commands, probes, volumes.
/// Controllers patch pods, they never write a cached pod back.
pub(crate) fn trim(pod: &mut Pod) {
    if let Some(spec) = &mut pod.spec {
        spec.volumes = None;
        let init = spec.init_containers.iter_mut().flatten();
        for container in spec.containers.iter_mut().chain(init) {
            *container = Container {
                name: std::mem::take(&mut container.name),
                image: container.image.take(),
                ports: container.ports.take(),
                resources: container.resources.take(),
                restart_policy: container.restart_policy.take(),
                ..Container::default()
            };
        }
    }
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::parse;
    use super::*;

    fn ready_pod(since: &str) -> Pod {
        parse(
            json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}]}}),
        )
    }

    #[test]
    fn a_ready_pod_becomes_available_after_min_ready_seconds() {
        let pod = ready_pod("2026-01-01T00:00:00Z");
        let at = |text: &str| text.parse().expect("a timestamp");
        assert!(available(&pod, 0, at("2026-01-01T00:00:00Z")));
        assert!(!available(&pod, 10, at("2026-01-01T00:00:09Z")));
        assert_eq!(
            available_in(&pod, 10, at("2026-01-01T00:00:09Z")),
            Some(Duration::from_secs(1))
        );
        assert!(available(&pod, 10, at("2026-01-01T00:00:10Z")));
        assert!(available(&pod, 10, at("2026-01-01T01:00:00Z")));
        assert!(!available(&Pod::default(), 0, at("2026-01-01T00:00:00Z")));
    }

    #[test]
    fn addresses_prefer_the_list() {
        let both: Pod = parse(
            json!({"status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}),
        );
        assert_eq!(addresses(&both).len(), 2);
        let single: Pod = parse(json!({"status": {"podIP": "10.0.0.1"}}));
        assert_eq!(addresses(&single).len(), 1);
        assert!(addresses(&Pod::default()).is_empty());
    }
}
