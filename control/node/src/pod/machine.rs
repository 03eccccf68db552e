//! The pod state machine: from a pod's spec and what is known of it here, what to do next. No I/O and no clock.
//!
//! The worker feeds it events ([`Machine::started`], [`Machine::ended`], ...) and asks [`Machine::plan`] for actions.
//! An action is planned once: planning it notes that it is in flight, its outcome comes back as an event.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodSpec;

use super::kinds::{Kind, Restart, containers, restart};

/// The first wait before a restart or a new try to get an image, and the longest.
const FIRST_DELAY: SignedDuration = SignedDuration::from_secs(10);
const LONGEST_DELAY: SignedDuration = SignedDuration::from_secs(300);
/// A container that ran this long has its back-off forgotten.
const FORGIVEN_AFTER: SignedDuration = SignedDuration::from_secs(600);
/// The waits between tries to prepare a pod.
const FIRST_PREPARE_DELAY: SignedDuration = SignedDuration::from_millis(500);
const LONGEST_PREPARE_DELAY: SignedDuration = SignedDuration::from_secs(122);
/// The wait after an error in a container's configuration, such as a missing Secret.
const CONFIG_DELAY: SignedDuration = SignedDuration::from_secs(5);

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make the pod's volumes, namespaces and network.
    Prepare,
    /// Start a container.
    Start {
        /// Its name.
        name: String,
        /// How often it was started before.
        attempt: u32,
    },
    /// Stop a container.
    Stop {
        /// Its name.
        name: String,
        /// Why, if not because the pod goes.
        reason: Option<StopReason>,
    },
    /// Everything has ended: remove namespaces, network and volumes.
    TearDown,
    /// Nothing of the deleted pod is left: remove it from the API.
    Forget,
}

/// Why a container is stopped while its pod stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// Its liveness or startup probe failed; the text is the probe's kind.
    Unhealthy(&'static str),
    /// The pod is complete and this is one of its sidecars.
    PodComplete,
}

/// How a container ended, in the API's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Timestamp,
}

/// Why a container could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StartFailure {
    /// Its image is not here and cannot be had: the reason and message for its status.
    Image {
        reason: &'static str,
        message: String,
    },
    /// Its configuration refers to something that is not there (yet).
    Config {
        reason: &'static str,
        message: String,
    },
    /// The program could not be started; this counts as an end.
    Run(String),
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not started yet, or waiting for its next start. Nothing in `reason` means that it is only not its turn.
    Waiting {
        reason: Option<&'static str>,
        message: Option<String>,
        until: Option<Timestamp>,
    },
    /// It is being started.
    Starting,
    /// It runs.
    Running { since: Timestamp, stopping: bool },
    /// It has ended and nothing has been decided about a restart.
    Ended(Ended),
}

/// What is known of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerState {
    pub(crate) kind: Kind,
    pub(crate) phase: Phase,
    /// How it ended the last time, if it was started again (or will be).
    pub(crate) last: Option<Ended>,
    pub(crate) restarts: u32,
    pub(crate) image: Option<ImageSeen>,
    /// Its startup probe has succeeded, or it has none.
    pub(crate) started: bool,
    /// Its readiness probe has succeeded, or it has none.
    pub(crate) passes: bool,
    delay: Option<SignedDuration>,
    image_delay: Option<SignedDuration>,
}

/// The image a container was started from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageSeen {
    pub(crate) name: String,
    pub(crate) id: String,
}

impl ContainerState {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            phase: Phase::Waiting {
                reason: None,
                message: None,
                until: None,
            },
            last: None,
            restarts: 0,
            image: None,
            started: false,
            passes: false,
            delay: None,
            image_delay: None,
        }
    }

    /// True if it may get requests.
    pub(crate) fn is_ready(&self) -> bool {
        match &self.phase {
            Phase::Running { .. } => self.kind != Kind::Init && self.started && self.passes,
            Phase::Ended(ended) => self.kind == Kind::Init && ended.code == 0,
            _ => false,
        }
    }

    fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Running { .. } | Phase::Starting)
    }

    /// True if the next init container, or the main ones, may start.
    fn lets_next_start(&self) -> bool {
        match &self.phase {
            Phase::Ended(ended) => self.kind == Kind::Init && ended.code == 0,
            Phase::Running { .. } => self.kind == Kind::Sidecar && self.started,
            _ => false,
        }
    }
}

/// Where the pod's namespaces, network and volumes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sandbox {
    /// Not made; not before this time, if one is given.
    Absent { until: Option<Timestamp> },
    /// Being made.
    Preparing,
    /// Made, with these pod addresses.
    Ready(Vec<IpAddr>),
    /// Being removed.
    TearingDown,
    /// Removed for good.
    Gone,
}

/// What is known of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) sandbox: Sandbox,
    pub(crate) containers: BTreeMap<String, ContainerState>,
    order: Vec<String>,
    prepare_delay: SignedDuration,
    deleting: bool,
    forgetting: bool,
}

impl Machine {
    /// A pod of which nothing is here yet.
    pub(crate) fn new(spec: &PodSpec) -> Self {
        let order = containers(spec)
            .map(|(_, container)| container.name.clone())
            .collect();
        let states = containers(spec)
            .map(|(kind, container)| (container.name.clone(), ContainerState::new(kind)));
        Self {
            sandbox: Sandbox::Absent { until: None },
            containers: states.collect(),
            order,
            prepare_delay: FIRST_PREPARE_DELAY,
            deleting: false,
            forgetting: false,
        }
    }

    /// The pod is being deleted: from now on everything ends.
    pub(crate) fn delete(&mut self) {
        self.deleting = true;
    }

    /// The pod was over before this agent came: there is nothing to do but to forget it once it is deleted.
    pub(crate) fn retire(&mut self) {
        self.sandbox = Sandbox::Gone;
    }

    /// That an image could not be had was told: from now on it is a back-off. Gives the containers that this is so of.
    pub(crate) fn settle(&mut self, image_of: impl Fn(&str) -> String) -> Vec<String> {
        let mut settled = Vec::new();
        for (name, state) in &mut self.containers {
            if let Phase::Waiting {
                reason: reason @ Some("ErrImagePull"),
                message,
                ..
            } = &mut state.phase
            {
                *reason = Some("ImagePullBackOff");
                let error = message.take().unwrap_or_default();
                *message = Some(format!(
                    "Back-off pulling image {:?}: ErrImagePull: {error}",
                    image_of(name)
                ));
                settled.push(name.clone());
            }
        }
        settled
    }

    /// True once the pod is being deleted.
    pub(crate) fn is_deleting(&self) -> bool {
        self.deleting
    }

    /// The pod's addresses.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        match &self.sandbox {
            Sandbox::Ready(addresses) => addresses,
            _ => &[],
        }
    }

    /// The pod was prepared.
    pub(crate) fn prepared(&mut self, addresses: Vec<IpAddr>) {
        self.sandbox = Sandbox::Ready(addresses);
    }

    /// The pod could not be prepared.
    pub(crate) fn not_prepared(&mut self, now: Timestamp) {
        let delay = self.prepare_delay;
        self.prepare_delay = (delay * 2).min(LONGEST_PREPARE_DELAY);
        self.sandbox = Sandbox::Absent {
            until: Some(now + delay),
        };
    }

    /// Something of the pod could not be removed; it will be tried again.
    pub(crate) fn not_torn_down(&mut self, now: Timestamp) {
        self.not_prepared(now);
    }

    /// True for a pod that needs nothing any more.
    pub(crate) fn is_retired(&self) -> bool {
        self.sandbox == Sandbox::Gone
    }

    /// Everything of the pod but its logs was removed.
    pub(crate) fn torn_down(&mut self) {
        self.sandbox = Sandbox::Gone;
    }

    /// The pod could not be removed from the API; it will be tried again.
    pub(crate) fn not_forgotten(&mut self) {
        self.forgetting = false;
    }

    /// A container runs. What has no probe needs no proof.
    pub(crate) fn started(
        &mut self,
        name: &str,
        image: Option<ImageSeen>,
        needs: Needs,
        since: Timestamp,
    ) {
        if let Some(state) = self.containers.get_mut(name) {
            state.phase = Phase::Running {
                since,
                stopping: false,
            };
            state.image = image;
            state.started = !needs.startup;
            state.passes = !needs.readiness;
            state.image_delay = None;
        }
    }

    /// A container of an earlier agent was found: it was started `attempt` times before.
    pub(crate) fn adopted(&mut self, name: &str, attempt: u32, last: Option<Ended>) {
        if let Some(state) = self.containers.get_mut(name) {
            state.restarts = attempt;
            state.last = last;
        }
    }

    /// A container could not be started.
    pub(crate) fn not_started(&mut self, name: &str, failure: StartFailure, now: Timestamp) {
        let Some(state) = self.containers.get_mut(name) else {
            return;
        };
        match failure {
            StartFailure::Image { reason, message } => {
                let delay = grown(state.image_delay);
                state.image_delay = Some(delay);
                state.phase = Phase::Waiting {
                    reason: Some(reason),
                    message: Some(message),
                    until: Some(now + delay),
                };
            }
            StartFailure::Config { reason, message } => {
                let until = Some(now + CONFIG_DELAY);
                state.phase = Phase::Waiting {
                    reason: Some(reason),
                    message: Some(message),
                    until,
                };
            }
            StartFailure::Run(message) => {
                state.phase = Phase::Ended(Ended {
                    code: 128,
                    signal: None,
                    reason: "StartError".into(),
                    message: Some(message),
                    started_at: None,
                    finished_at: now,
                });
            }
        }
    }

    /// A container has ended.
    pub(crate) fn ended(&mut self, name: &str, ended: Ended) {
        if let Some(state) = self.containers.get_mut(name) {
            state.phase = Phase::Ended(ended);
            state.started = false;
            state.passes = false;
        }
    }

    /// A startup probe has succeeded.
    pub(crate) fn passed_startup(&mut self, name: &str) {
        if let Some(state) = self.containers.get_mut(name) {
            state.started = true;
        }
    }

    /// A readiness probe has changed its mind.
    pub(crate) fn readiness(&mut self, name: &str, passes: bool) {
        if let Some(state) = self.containers.get_mut(name) {
            state.passes = passes;
        }
    }

    /// True if every container that matters has ended and none will be started again.
    pub(crate) fn is_complete(&self, spec: &PodSpec) -> bool {
        self.init_failed(spec)
            || self
                .of_kind(Kind::Main)
                .all(|state| stays_ended(spec, state))
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &ContainerState> {
        self.containers
            .values()
            .filter(move |state| state.kind == kind)
    }

    /// True if an init container has failed for good.
    pub(crate) fn init_failed(&self, spec: &PodSpec) -> bool {
        self.of_kind(Kind::Init).any(|state| match &state.phase {
            Phase::Ended(ended) => ended.code != 0 && restart(spec, Kind::Init) == Restart::Never,
            _ => false,
        })
    }

    /// What to do now.
    pub(crate) fn plan(&mut self, spec: &PodSpec, now: Timestamp) -> Vec<Action> {
        if self.deleting || self.is_complete(spec) {
            return self.plan_end(now);
        }
        match &self.sandbox {
            Sandbox::Absent { until } if until.is_none_or(|until| until <= now) => {
                self.sandbox = Sandbox::Preparing;
                vec![Action::Prepare]
            }
            Sandbox::Ready(_) => self.plan_starts(spec, now),
            _ => vec![],
        }
    }

    fn plan_end(&mut self, now: Timestamp) -> Vec<Action> {
        let reason = if self.deleting {
            None
        } else {
            Some(StopReason::PodComplete)
        };
        let mains_active = self.of_kind(Kind::Main).any(ContainerState::is_active);
        let mut actions = Vec::new();
        // Sidecars serve the main containers to the end.
        for name in &self.order {
            let Some(state) = self.containers.get_mut(name) else {
                continue;
            };
            if let Phase::Running { stopping, .. } = &mut state.phase
                && !*stopping
                && (state.kind != Kind::Sidecar || !mains_active)
            {
                *stopping = true;
                actions.push(Action::Stop {
                    name: name.clone(),
                    reason,
                });
            }
        }
        let active = self.containers.values().any(ContainerState::is_active);
        match self.sandbox {
            _ if active => {}
            Sandbox::Absent { until: Some(until) } if until > now => {}
            Sandbox::Ready(_) | Sandbox::Absent { .. } => {
                self.sandbox = Sandbox::TearingDown;
                actions.push(Action::TearDown);
            }
            Sandbox::Gone if self.deleting && !self.forgetting => {
                self.forgetting = true;
                actions.push(Action::Forget);
            }
            _ => {}
        }
        actions
    }

    fn plan_starts(&mut self, spec: &PodSpec, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        for name in &self.order {
            let Some(state) = self.containers.get_mut(name) else {
                continue;
            };
            if let Some(attempt) = due(state, restart(spec, state.kind), now) {
                state.phase = Phase::Starting;
                actions.push(Action::Start {
                    name: name.clone(),
                    attempt,
                });
            }
            if state.kind != Kind::Main && !state.lets_next_start() {
                break;
            }
        }
        actions
    }

    /// When [`Machine::plan`] should be asked again at the latest.
    pub(crate) fn wakes_at(&self) -> Option<Timestamp> {
        let containers = self
            .containers
            .values()
            .filter_map(|state| match state.phase {
                Phase::Waiting { until, .. } => until,
                _ => None,
            });
        let sandbox = match self.sandbox {
            Sandbox::Absent { until } => until,
            _ => None,
        };
        containers.chain(sandbox).min()
    }

    /// Plans to stop a container whose probe has failed; nothing if it does not run or is being stopped.
    pub(crate) fn unhealthy(&mut self, name: &str, probe: &'static str) -> Option<Action> {
        match &mut self.containers.get_mut(name)?.phase {
            Phase::Running { stopping, .. } if !*stopping => {
                *stopping = true;
                Some(Action::Stop {
                    name: name.to_owned(),
                    reason: Some(StopReason::Unhealthy(probe)),
                })
            }
            _ => None,
        }
    }
}

/// Which probes have to succeed first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) startup: bool,
    pub(crate) readiness: bool,
}

/// The attempt to make now, if one is due. Decides about the restart of a container that has ended.
fn due(state: &mut ContainerState, policy: Restart, now: Timestamp) -> Option<u32> {
    if let Phase::Ended(ended) = &state.phase {
        if !restarts_after(ended.code, policy, state.kind) {
            return None;
        }
        let ended = ended.clone();
        let ran = ended.started_at.map_or(SignedDuration::ZERO, |started| {
            ended.finished_at.duration_since(started)
        });
        let until = match state.delay {
            Some(delay) if ran < FORGIVEN_AFTER => {
                state.delay = Some((delay * 2).min(LONGEST_DELAY));
                ended.finished_at + delay
            }
            // The first restart is not held up.
            _ => {
                state.delay = Some(FIRST_DELAY);
                ended.finished_at
            }
        };
        state.last = Some(ended);
        state.restarts += 1;
        state.phase = Phase::Waiting {
            reason: Some("CrashLoopBackOff"),
            message: None,
            until: Some(until),
        };
    }
    match state.phase {
        Phase::Waiting { until, .. } if until.is_none_or(|until| until <= now) => {
            Some(state.restarts)
        }
        _ => None,
    }
}

fn restarts_after(code: i32, policy: Restart, kind: Kind) -> bool {
    match policy {
        Restart::Always => true,
        Restart::OnFailure => code != 0,
        Restart::Never => kind == Kind::Sidecar,
    }
}

fn stays_ended(spec: &PodSpec, state: &ContainerState) -> bool {
    match &state.phase {
        Phase::Ended(ended) => !restarts_after(ended.code, restart(spec, state.kind), state.kind),
        _ => false,
    }
}

fn grown(delay: Option<SignedDuration>) -> SignedDuration {
    delay.map_or(FIRST_DELAY, |delay| (delay * 2).min(LONGEST_DELAY))
}

impl ContainerState {
    /// How long the present back-off is, for messages.
    pub(crate) fn back_off(&self) -> SignedDuration {
        match (&self.phase, &self.last) {
            (
                Phase::Waiting {
                    until: Some(until), ..
                },
                Some(last),
            ) => until.duration_since(last.finished_at),
            _ => SignedDuration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests;
