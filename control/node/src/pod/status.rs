//! A pod's status as the API shows it, from what is known of the pod here. No I/O and no clock.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::kinds::{Kind, containers, spec};
use super::machine::{ContainerState, Ended, Machine, Phase, Sandbox};
use super::resources::Qos;

/// Condition types that are this agent's to set.
const OURS: [&str; 5] = [
    "PodReadyToStartContainers",
    "Initialized",
    "ContainersReady",
    "Ready",
    "PodScheduled",
];

/// The status of a pod on a node with these addresses. `told` is the status the API has last taken from here: the watch
/// may not have brought it back yet.
pub(crate) fn of(
    pod: &Pod,
    told: Option<&PodStatus>,
    machine: &Machine,
    host_ips: &[IpAddr],
    started: Timestamp,
    now: Timestamp,
) -> PodStatus {
    let spec = spec(pod);
    let old = pod.status.clone().unwrap_or_default();
    let phase = phase(spec, machine);
    let start_time = told
        .and_then(|status| status.start_time.clone())
        .or(old.start_time.clone());
    let ips: Vec<IpAddr> = if spec.host_network == Some(true) && machine.sandbox_is_ready() {
        host_ips.to_vec()
    } else {
        machine.addresses().to_vec()
    };
    let statuses = |kinds: &[Kind]| -> Vec<ContainerStatus> {
        let of_kind = containers(spec).filter(|(kind, _)| kinds.contains(kind));
        of_kind
            .filter_map(|(_, container)| {
                container_status(pod, &container.name, container.image.as_deref(), machine)
            })
            .collect()
    };
    let init = statuses(&[Kind::Init, Kind::Sidecar]);
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions(pod, spec, machine, phase, told, &old, now)),
        host_ip: host_ips.first().map(ToString::to_string),
        host_ips: Some(
            host_ips
                .iter()
                .map(|ip| HostIP { ip: ip.to_string() })
                .collect(),
        ),
        pod_ip: ips.first().map(ToString::to_string),
        pod_ips: (!ips.is_empty())
            .then(|| ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        start_time: start_time.or(Some(Time(started))),
        qos_class: Some(
            old.qos_class
                .unwrap_or_else(|| Qos::of(spec).name().to_owned()),
        ),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(statuses(&[Kind::Main])),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

impl Machine {
    fn sandbox_is_ready(&self) -> bool {
        matches!(self.sandbox, Sandbox::Ready(_))
    }
}

/// The pod's phase.
fn phase(spec: &PodSpec, machine: &Machine) -> &'static str {
    if machine.init_failed(spec) {
        return "Failed";
    }
    let states = |kind: Kind| {
        machine
            .containers
            .values()
            .filter(move |state| state.kind == kind)
    };
    let waits = |state: &ContainerState| {
        matches!(state.phase, Phase::Waiting { .. } | Phase::Starting) && state.last.is_none()
    };
    let init_done = states(Kind::Init)
        .all(|state| matches!(&state.phase, Phase::Ended(ended) if ended.code == 0))
        && states(Kind::Sidecar)
            .all(|state| state.started || machine.is_deleting() || machine.is_complete(spec));
    let ended = |state: &ContainerState| matches!(state.phase, Phase::Ended(_));
    let succeeded =
        |state: &ContainerState| matches!(&state.phase, Phase::Ended(ended) if ended.code == 0);
    if states(Kind::Main).all(ended) && machine.is_complete(spec) {
        return if states(Kind::Main).all(succeeded) {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    if machine.is_deleting() && states(Kind::Main).all(ended) {
        // Nothing will be started again, whatever the policy.
        return if states(Kind::Main).all(succeeded) {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    let restarted = states(Kind::Main).any(|state| state.last.is_some());
    if (!init_done && !restarted) || states(Kind::Main).any(waits) {
        return "Pending";
    }
    "Running"
}

fn conditions(
    pod: &Pod,
    spec: &PodSpec,
    machine: &Machine,
    phase: &str,
    told: Option<&PodStatus>,
    old: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let told = told
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let old = old.conditions.as_deref().unwrap_or_default();
    let names = |kinds: &[Kind], unfit: &dyn Fn(&ContainerState) -> bool| -> Vec<&str> {
        containers(spec)
            .filter(|(kind, _)| kinds.contains(kind))
            .filter(|(_, container)| machine.containers.get(&container.name).is_none_or(unfit))
            .map(|(_, container)| container.name.as_str())
            .collect()
    };
    let complete = matches!(phase, "Succeeded" | "Failed");
    let incomplete = names(&[Kind::Init, Kind::Sidecar], &|state| match state.kind {
        Kind::Sidecar => !state.started,
        _ => !matches!(&state.phase, Phase::Ended(ended) if ended.code == 0),
    });
    let unready = names(&[Kind::Main, Kind::Sidecar], &|state| !state.is_ready());
    let initialized = if incomplete.is_empty() || phase == "Running" {
        verdict("True", None, None)
    } else if phase == "Succeeded" {
        verdict("True", Some("PodCompleted"), None)
    } else {
        let message = format!(
            "containers with incomplete status: [{}]",
            incomplete.join(" ")
        );
        verdict("False", Some("ContainersNotInitialized"), Some(message))
    };
    let containers_ready = if phase == "Succeeded" {
        verdict("False", Some("PodCompleted"), None)
    } else if phase == "Failed" {
        verdict("False", Some("PodFailed"), None)
    } else if unready.is_empty() {
        verdict("True", None, None)
    } else {
        let message = format!("containers with unready status: [{}]", unready.join(" "));
        verdict("False", Some("ContainersNotReady"), Some(message))
    };
    let ready = match closed_gate(spec, old) {
        Some(gate) if containers_ready.status == "True" => {
            let message = format!(
                "corresponding condition of pod readiness gate {gate:?} does not exist or is not True."
            );
            verdict("False", Some("ReadinessGatesNotReady"), Some(message))
        }
        _ => containers_ready.clone(),
    };
    let sandbox = if machine.sandbox_is_ready() && !complete {
        "True"
    } else {
        "False"
    };
    let ours = [
        ("PodReadyToStartContainers", verdict(sandbox, None, None)),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", verdict("True", None, None)),
    ];
    let ours = ours.into_iter().map(|(type_, condition)| {
        let condition = PodCondition {
            type_: type_.into(),
            observed_generation: pod.metadata.generation,
            ..condition
        };
        dated(condition, if told.is_empty() { old } else { told }, now)
    });
    let foreign = old
        .iter()
        .filter(|condition| !OURS.contains(&condition.type_.as_str()))
        .cloned();
    ours.chain(foreign).collect()
}

fn verdict(status: &str, reason: Option<&str>, message: Option<String>) -> PodCondition {
    PodCondition {
        status: status.into(),
        reason: reason.map(Into::into),
        message,
        ..PodCondition::default()
    }
}

/// The first readiness gate that somebody else has not opened.
fn closed_gate<'a>(spec: &'a PodSpec, conditions: &[PodCondition]) -> Option<&'a str> {
    let open = |gate: &str| {
        conditions
            .iter()
            .any(|condition| condition.type_ == gate && condition.status == "True")
    };
    let gates = spec
        .readiness_gates
        .iter()
        .flatten()
        .map(|gate| gate.condition_type.as_str());
    gates.into_iter().find(|gate| !open(gate))
}

/// The condition with the time of its last change.
fn dated(condition: PodCondition, old: &[PodCondition], now: Timestamp) -> PodCondition {
    let before = old
        .iter()
        .find(|other| other.type_ == condition.type_ && other.status == condition.status);
    let since = before.and_then(|other| other.last_transition_time.clone());
    PodCondition {
        last_transition_time: since.or(Some(Time(now))),
        ..condition
    }
}

fn container_status(
    pod: &Pod,
    name: &str,
    image: Option<&str>,
    machine: &Machine,
) -> Option<ContainerStatus> {
    let state = machine.containers.get(name)?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let id = |attempt: u32| format!("portolan://{uid}/{name}/{attempt}");
    let active = matches!(state.phase, Phase::Running { .. } | Phase::Ended(_));
    // A container that waits for its restart is shown as the one that ended.
    let shown = if active {
        Some(state.restarts)
    } else {
        state.restarts.checked_sub(1)
    };
    Some(ContainerStatus {
        name: name.to_owned(),
        image: state.image.as_ref().map_or_else(
            || image.unwrap_or_default().to_owned(),
            |image| image.name.clone(),
        ),
        image_id: state
            .image
            .as_ref()
            .map(|image| image.id.clone())
            .unwrap_or_default(),
        container_id: shown.map(id),
        ready: state.is_ready(),
        started: Some(state.started && matches!(state.phase, Phase::Running { .. })),
        restart_count: i32::try_from(state.restarts).unwrap_or(i32::MAX),
        state: Some(api_state(pod, name, state, machine)),
        last_state: Some(ApiState {
            terminated: state
                .last
                .as_ref()
                .map(|ended| terminated(ended, state.restarts.checked_sub(1).map(id))),
            ..ApiState::default()
        }),
        ..ContainerStatus::default()
    })
}

fn api_state(pod: &Pod, name: &str, state: &ContainerState, machine: &Machine) -> ApiState {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match &state.phase {
        Phase::Running { since, .. } => ApiState {
            running: Some(ContainerStateRunning {
                started_at: Some(Time(*since)),
            }),
            ..ApiState::default()
        },
        Phase::Ended(ended) => {
            let id = format!("portolan://{uid}/{name}/{}", state.restarts);
            ApiState {
                terminated: Some(terminated(ended, Some(id))),
                ..ApiState::default()
            }
        }
        Phase::Starting => waiting("ContainerCreating", None),
        Phase::Waiting {
            reason: Some("CrashLoopBackOff"),
            ..
        } => {
            let message = format!(
                "back-off {} restarting failed container={name} pod={}_{}({uid})",
                go_duration(state.back_off().as_secs()),
                pod.metadata.name.as_deref().unwrap_or_default(),
                pod.metadata.namespace.as_deref().unwrap_or_default(),
            );
            waiting("CrashLoopBackOff", Some(message))
        }
        Phase::Waiting {
            reason: Some(reason),
            message,
            ..
        } => waiting(reason, message.clone()),
        Phase::Waiting { reason: None, .. } => {
            let has_init = machine
                .containers
                .values()
                .any(|state| state.kind != Kind::Main);
            waiting(
                if has_init {
                    "PodInitializing"
                } else {
                    "ContainerCreating"
                },
                None,
            )
        }
    }
}

fn waiting(reason: &str, message: Option<String>) -> ApiState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message,
    };
    ApiState {
        waiting: Some(waiting),
        ..ApiState::default()
    }
}

fn terminated(ended: &Ended, id: Option<String>) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: id,
        exit_code: ended.code,
        signal: None,
        reason: Some(ended.reason.clone()),
        message: ended.message.clone(),
        started_at: ended.started_at.map(Time),
        finished_at: Some(Time(ended.finished_at)),
    }
}

/// A number of seconds in the form that upstream prints durations in: `10s`, `2m40s`, `5m0s`.
fn go_duration(seconds: i64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests;
