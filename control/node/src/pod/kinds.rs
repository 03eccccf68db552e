//! A pod's containers in the order they start, with what makes them differ.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// The part a container plays in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that keeps running beside the others (`restartPolicy: Always`).
    Sidecar,
    /// What the pod is for.
    Main,
}

/// What is done about a container that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    /// It is started again.
    Always,
    /// It is started again unless it succeeded.
    OnFailure,
    /// It stays as it is.
    Never,
}

/// The pod's spec, or an empty one: the API server never stores a pod without.
pub(crate) fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// All containers, init containers first.
pub(crate) fn containers(spec: &PodSpec) -> impl Iterator<Item = (Kind, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        (if sidecar { Kind::Sidecar } else { Kind::Init }, container)
    });
    init.chain(
        spec.containers
            .iter()
            .map(|container| (Kind::Main, container)),
    )
}

/// The container of this name.
pub(crate) fn container<'a>(spec: &'a PodSpec, name: &str) -> Option<(Kind, &'a Container)> {
    containers(spec).find(|(_, container)| container.name == name)
}

/// What the pod's policy means for a container of this kind.
pub(crate) fn restart(spec: &PodSpec, kind: Kind) -> Restart {
    match (kind, spec.restart_policy.as_deref()) {
        (Kind::Sidecar, _) => Restart::Always,
        (_, Some("Never")) => Restart::Never,
        (_, Some("OnFailure")) | (Kind::Init, _) => Restart::OnFailure,
        _ => Restart::Always,
    }
}
