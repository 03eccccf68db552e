//! The task of one pod: feeds the state machine, carries out its actions, tells the API.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::adopt::{Adopted, adopt};
use super::kinds::{self, spec};
use super::machine::{Action, Ended, ImageSeen, Machine, Needs, Phase, StartFailure, StopReason};
use super::prepare::{self, PrepareError};
use super::probe::{self, Finding, ProbeKind, Target};
use super::start::{attempt_dir, start};
use super::{end, status, stop, volumes};
use crate::agent::Agent;
use crate::events::Level;
use crate::fs::ignore_missing;
use crate::runtime::{Container, clean};

/// How often volumes from the API are brought up to date.
const REFRESH: Duration = Duration::from_secs(60);
/// The wait after the API has refused something.
const RETRY: Duration = Duration::from_secs(1);
const DEFAULT_GRACE: i64 = 30;

/// What a pod's task is told: the pod as it is now, and whether the API still has it.
#[derive(Debug, Clone)]
pub(crate) struct Assignment {
    pub(crate) pod: Arc<Pod>,
    pub(crate) vanished: bool,
}

/// What logs and exec need of a pod.
#[derive(Debug, Clone)]
pub(crate) struct PodView {
    pub(crate) uid: String,
    pub(crate) dir: PathBuf,
    pub(crate) containers: BTreeMap<String, RunningContainer>,
}

/// What logs and exec need of a container.
#[derive(Debug, Clone)]
pub(crate) struct RunningContainer {
    /// How often it was started before.
    pub(crate) attempt: u32,
    /// True once this attempt was made.
    pub(crate) exists: bool,
    /// The container, while it runs.
    pub(crate) running: Option<Container>,
}

/// What comes back from actions and from the container.
enum Event {
    Prepared(Result<Vec<std::net::IpAddr>, PrepareError>),
    Started {
        name: String,
        attempt: u32,
        outcome: Box<Result<(Container, ImageSeen), StartFailure>>,
    },
    Ended {
        name: String,
        attempt: u32,
        ended: Ended,
    },
    Probed {
        name: String,
        attempt: u32,
        kind: ProbeKind,
        finding: Finding,
    },
    TornDown(Result<(), std::io::Error>),
    Forgotten(bool),
}

/// One pod's task.
pub(crate) struct Worker {
    agent: Arc<Agent>,
    pod: Arc<Pod>,
    vanished: bool,
    dir: PathBuf,
    machine: Machine,
    running: HashMap<String, Running>,
    view: watch::Sender<PodView>,
    events: mpsc::UnboundedReceiver<Event>,
    tell: mpsc::UnboundedSender<Event>,
    first_seen: Timestamp,
    published: Option<Value>,
    retry_at: Option<Instant>,
    /// Restarts whose back-off was told.
    announced: HashMap<String, u32>,
    gone: bool,
}

/// A container that runs, with what goes on about it.
struct Running {
    attempt: u32,
    target: Target,
    stopping: Option<(Instant, AbortHandle)>,
    /// Ends the probes.
    _probes: DropGuard,
    probes: CancellationToken,
}

impl Worker {
    /// The task of a pod, with whatever an earlier agent has left of it.
    pub(crate) fn new(agent: Arc<Agent>, assignment: Assignment) -> std::io::Result<Self> {
        let Assignment { pod, vanished } = assignment;
        let (machine, adopted) = adopt(&agent, &pod)?;
        let (tell, events) = mpsc::unbounded_channel();
        let dir = agent.pod_dir(&pod);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let (view, watched) = watch::channel(PodView {
            uid,
            dir: dir.clone(),
            containers: BTreeMap::new(),
        });
        agent.views().insert(key(&pod), watched);
        let mut worker = Self {
            agent,
            pod,
            vanished,
            dir,
            machine,
            running: HashMap::new(),
            view,
            events,
            tell,
            first_seen: Timestamp::now(),
            published: None,
            retry_at: None,
            announced: HashMap::new(),
            gone: false,
        };
        for Adopted {
            name,
            attempt,
            running,
        } in adopted
        {
            worker.attend(&name, attempt, running);
        }
        Ok(worker)
    }

    /// Runs until nothing is left of the pod. Cancelling leaves its containers running, for the next agent.
    pub(crate) async fn run(mut self, mut assignments: watch::Receiver<Assignment>) {
        let mut refresh = tokio::time::interval(REFRESH);
        refresh.reset();
        while !self.gone {
            self.step().await;
            let wake = self.wakes_at();
            tokio::select! {
                changed = assignments.changed() => match changed {
                    Ok(()) => {
                        let assignment = assignments.borrow_and_update().clone();
                        self.pod = assignment.pod;
                        self.vanished |= assignment.vanished;
                    }
                    Err(_) => return,
                },
                Some(event) = self.events.recv() => {
                    self.take(event);
                    while let Ok(event) = self.events.try_recv() {
                        self.take(event);
                    }
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
                _ = refresh.tick() => self.refresh(),
            }
        }
    }

    /// Decides, acts and tells the API what is so now.
    async fn step(&mut self) {
        if self.vanished || self.pod.metadata.deletion_timestamp.is_some() {
            self.machine.delete();
            self.hurry();
        }
        let pod = Arc::clone(&self.pod);
        for action in self.machine.plan(spec(&pod), Timestamp::now()) {
            self.act(action);
        }
        self.announce_back_offs();
        self.show();
        self.publish().await;
        let image = |name: &str| {
            kinds::container(spec(&pod), name).and_then(|(_, container)| container.image.clone())
        };
        self.machine.settle(|name| image(name).unwrap_or_default());
        // What was settled is news.
        self.publish().await;
    }

    fn wakes_at(&self) -> Option<Instant> {
        let now = Timestamp::now();
        let planned = self.machine.wakes_at().map(|at| {
            let wait = at.duration_since(now);
            Instant::now() + Duration::try_from(wait).unwrap_or_default()
        });
        [planned, self.retry_at].into_iter().flatten().min()
    }

    fn act(&mut self, action: Action) {
        let (agent, pod, tell) = (
            Arc::clone(&self.agent),
            Arc::clone(&self.pod),
            self.tell.clone(),
        );
        // The worker may be gone when the answer comes; then nobody needs it.
        let send = move |event| drop(tell.send(event));
        match action {
            Action::Prepare => drop(tokio::spawn(async move {
                send(Event::Prepared(prepare::prepare(&agent, &pod).await));
            })),
            Action::Start { name, attempt } => drop(tokio::spawn(async move {
                let outcome = Box::new(start(&agent, &pod, &name, attempt).await);
                send(Event::Started {
                    name,
                    attempt,
                    outcome,
                });
            })),
            Action::Stop { name, reason } => self.stop(&name, reason),
            Action::TearDown => {
                let dir = self.dir.clone();
                drop(tokio::spawn(async move {
                    send(Event::TornDown(prepare::tear_down(&agent, &dir).await));
                }));
            }
            Action::Forget => {
                let vanished = self.vanished;
                drop(tokio::spawn(async move {
                    send(Event::Forgotten(vanished || forget(&agent, &pod).await));
                }));
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Prepared(Ok(addresses)) => self.machine.prepared(addresses),
            Event::Prepared(Err(error)) => {
                let reason = if matches!(error, PrepareError::Volume(_)) {
                    "FailedMount"
                } else {
                    "FailedCreatePodSandBox"
                };
                self.agent
                    .recorder
                    .pod(&self.pod, None, Level::Warning, reason, error.to_string());
                self.machine.not_prepared(Timestamp::now());
            }
            Event::Started {
                name,
                attempt,
                outcome,
            } => match *outcome {
                Ok((running, image)) => {
                    let since = running.started.at;
                    self.machine
                        .started(&name, Some(image), self.needs(&name), since);
                    self.attend(&name, attempt, running);
                }
                Err(failure) => self.machine.not_started(&name, failure, Timestamp::now()),
            },
            Event::Ended {
                name,
                attempt,
                ended,
            } => {
                if self
                    .running
                    .get(&name)
                    .is_some_and(|running| running.attempt == attempt)
                {
                    self.running.remove(&name);
                    self.machine.ended(&name, ended);
                }
            }
            Event::Probed {
                name,
                attempt,
                kind,
                finding,
            } => {
                if self
                    .running
                    .get(&name)
                    .is_some_and(|running| running.attempt == attempt)
                {
                    self.probed(&name, kind, finding);
                }
            }
            Event::TornDown(Ok(())) => self.machine.torn_down(),
            Event::TornDown(Err(error)) => {
                let message = format!("error killing pod: {error}");
                self.agent
                    .recorder
                    .pod(&self.pod, None, Level::Warning, "FailedKillPod", message);
                self.machine.not_torn_down(Timestamp::now());
            }
            Event::Forgotten(true) => self.gone = true,
            Event::Forgotten(false) => {
                self.machine.not_forgotten();
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    fn needs(&self, name: &str) -> Needs {
        let has = |kind| {
            kinds::container(spec(&self.pod), name)
                .is_some_and(|(_, container)| probe::of(container, kind).is_some())
        };
        Needs {
            startup: has(ProbeKind::Startup),
            readiness: has(ProbeKind::Readiness),
        }
    }

    /// Watches over a container that runs: waits for its end, and asks its probes.
    fn attend(&mut self, name: &str, attempt: u32, running: Container) {
        let Some((_, container)) = kinds::container(spec(&self.pod), name) else {
            return;
        };
        let first = |addresses: &[std::net::IpAddr]| addresses.first().copied();
        let address = first(self.machine.addresses()).or_else(|| first(&self.agent.args.node_ip));
        let target = Target {
            address: address.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into()),
            container: container.clone(),
            running: running.clone(),
            shim: self.agent.args.shim.clone(),
        };
        tokio::spawn(wait(
            name.to_owned(),
            attempt,
            target.clone(),
            attempt_dir(&self.dir, name, attempt),
            self.tell.clone(),
        ));
        self.post_start(&target);
        let probes = CancellationToken::new();
        let guard = probes.clone().drop_guard();
        self.running.insert(
            name.to_owned(),
            Running {
                attempt,
                target,
                stopping: None,
                _probes: guard,
                probes,
            },
        );
        let started = self
            .machine
            .containers
            .get(name)
            .is_some_and(|state| state.started);
        if started {
            self.probe(name, ProbeKind::Liveness);
            self.probe(name, ProbeKind::Readiness);
        } else {
            self.probe(name, ProbeKind::Startup);
        }
    }

    fn post_start(&self, target: &Target) {
        let hook = target
            .container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.clone());
        let Some(hook) = hook else { return };
        let (agent, pod, target) = (
            Arc::clone(&self.agent),
            Arc::clone(&self.pod),
            target.clone(),
        );
        tokio::spawn(async move {
            if let Err(message) = stop::run_hook(&target, &hook, Duration::from_secs(60)).await {
                let message = format!("PostStartHook failed: {message}");
                agent.recorder.pod(
                    &pod,
                    Some(&target.container.name),
                    Level::Warning,
                    "FailedPostStartHook",
                    message,
                );
                stop::stop(&agent, &pod, &target, Duration::from_secs(2)).await;
            }
        });
    }

    fn probe(&self, name: &str, kind: ProbeKind) {
        let Some(running) = self.running.get(name) else {
            return;
        };
        let Some(probe) = probe::of(&running.target.container, kind).cloned() else {
            return;
        };
        let (tell, name, attempt) = (self.tell.clone(), name.to_owned(), running.attempt);
        let report = move |finding| {
            drop(tell.send(Event::Probed {
                name: name.clone(),
                attempt,
                kind,
                finding,
            }))
        };
        tokio::spawn(probe::run(
            running.target.clone(),
            probe,
            running.probes.clone(),
            report,
        ));
    }

    fn probed(&mut self, name: &str, kind: ProbeKind, finding: Finding) {
        match (kind, finding) {
            (_, Finding::Bad(message)) => {
                let message = format!("{} probe failed: {message}", kind.title());
                self.agent.recorder.pod(
                    &self.pod,
                    Some(name),
                    Level::Warning,
                    "Unhealthy",
                    message,
                );
            }
            (ProbeKind::Startup, Finding::Passes) => {
                let known = self
                    .machine
                    .containers
                    .get(name)
                    .is_some_and(|state| state.started);
                if !known {
                    self.machine.passed_startup(name);
                    self.probe(name, ProbeKind::Liveness);
                    self.probe(name, ProbeKind::Readiness);
                }
            }
            (ProbeKind::Readiness, finding) => {
                self.machine.readiness(name, finding == Finding::Passes)
            }
            (ProbeKind::Liveness, Finding::Passes) => {}
            (kind, Finding::Fails) => {
                let started = self
                    .machine
                    .containers
                    .get(name)
                    .is_some_and(|state| state.started);
                if kind == ProbeKind::Startup && started {
                    return;
                }
                if let Some(Action::Stop { name, reason }) =
                    self.machine.unhealthy(name, kind.name())
                {
                    self.stop(&name, reason);
                }
            }
        }
    }

    fn stop(&mut self, name: &str, reason: Option<StopReason>) {
        let grace = self.grace(name, reason);
        let Some(running) = self.running.get_mut(name) else {
            return;
        };
        let message = match reason {
            Some(StopReason::Unhealthy(probe)) => {
                format!("Container {name} failed {probe} probe, will be restarted")
            }
            _ => format!("Stopping container {name}"),
        };
        self.agent
            .recorder
            .pod(&self.pod, Some(name), Level::Normal, "Killing", message);
        running.stop(&self.agent, &self.pod, grace);
    }

    /// How long a container gets to end.
    fn grace(&self, name: &str, reason: Option<StopReason>) -> Duration {
        let asked = spec(&self.pod)
            .termination_grace_period_seconds
            .unwrap_or(DEFAULT_GRACE);
        let seconds = match reason {
            None if self.vanished => 0,
            None => self
                .pod
                .metadata
                .deletion_grace_period_seconds
                .unwrap_or(asked),
            Some(StopReason::Unhealthy("liveness")) => {
                let container =
                    kinds::container(spec(&self.pod), name).map(|(_, container)| container);
                let probe = container.and_then(|container| container.liveness_probe.as_ref());
                probe
                    .and_then(|probe| probe.termination_grace_period_seconds)
                    .unwrap_or(asked)
            }
            Some(_) => asked,
        };
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// A deletion may be repeated with less grace: whoever has more gets less.
    fn hurry(&mut self) {
        for name in self.running.keys().cloned().collect::<Vec<_>>() {
            let grace = self.grace(&name, None);
            let Some(running) = self.running.get_mut(&name) else {
                continue;
            };
            let Some((deadline, _)) = &running.stopping else {
                continue;
            };
            if Instant::now() + grace + RETRY < *deadline {
                running.stop(&self.agent, &self.pod, grace);
            }
        }
    }

    fn announce_back_offs(&mut self) {
        let now = Timestamp::now();
        for (name, state) in &self.machine.containers {
            match &state.phase {
                Phase::Waiting {
                    reason: Some("CrashLoopBackOff"),
                    until: Some(until),
                    ..
                } if *until > now => {
                    if self.announced.insert(name.clone(), state.restarts) == Some(state.restarts) {
                        continue;
                    }
                    let meta = &self.pod.metadata;
                    let text = |text: &Option<String>| text.clone().unwrap_or_default();
                    let pod = format!(
                        "{}_{}({})",
                        text(&meta.name),
                        text(&meta.namespace),
                        text(&meta.uid)
                    );
                    let message =
                        format!("Back-off restarting failed container {name} in pod {pod}");
                    self.agent.recorder.pod(
                        &self.pod,
                        Some(name),
                        Level::Warning,
                        "BackOff",
                        message,
                    );
                }
                _ => {}
            }
        }
    }

    /// Shows logs and exec what there is.
    fn show(&self) {
        let containers = self.machine.containers.iter().map(|(name, state)| {
            let running = self
                .running
                .get(name)
                .map(|running| running.target.running.clone());
            let exists = attempt_dir(&self.dir, name, state.restarts).exists();
            (
                name.clone(),
                RunningContainer {
                    attempt: state.restarts,
                    exists,
                    running,
                },
            )
        });
        let containers = containers.collect();
        self.view.send_modify(|view| view.containers = containers);
    }

    async fn publish(&mut self) {
        if self.vanished || self.gone || self.is_over() {
            return;
        }
        let status = status::of(
            &self.pod,
            &self.machine,
            &self.agent.args.node_ip,
            self.first_seen,
            Timestamp::now(),
        );
        let Ok(value) = serde_json::to_value(&status) else {
            return;
        };
        if self.published.as_ref() == Some(&value) {
            return;
        }
        self.retry_at = None;
        match patch(&self.agent, &self.pod, status).await {
            Ok(()) => self.published = Some(value),
            // It is gone or replaced: the watch will say so.
            Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => {
                self.published = Some(value)
            }
            Err(error) => {
                tracing::warn!(pod = self.pod.metadata.name, %error, "cannot write a pod's status");
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    /// True for a pod that was over before this agent came: its status is told already.
    fn is_over(&self) -> bool {
        self.published.is_none() && self.machine.is_retired()
    }

    fn refresh(&self) {
        if self.machine.is_deleting() || !volumes::has_from_api(&self.pod) {
            return;
        }
        let (agent, pod, dir) = (
            Arc::clone(&self.agent),
            Arc::clone(&self.pod),
            self.dir.clone(),
        );
        let addresses = self.machine.addresses().to_vec();
        tokio::spawn(async move { volumes::refresh(&agent, &pod, &dir, &addresses).await });
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let key = key(&self.pod);
        let mut views = self.agent.views();
        let uid = &self.view.borrow().uid;
        // A pod of the same name may have come meanwhile.
        if views
            .get(&key)
            .is_some_and(|view| view.borrow().uid == *uid)
        {
            views.remove(&key);
        }
        if self.gone
            && let Err(error) = ignore_missing(fs::remove_dir_all(&self.dir))
        {
            tracing::warn!(dir = %self.dir.display(), %error, "cannot remove a pod's directory");
        }
    }
}

impl Running {
    /// Starts stopping, or goes on with less patience.
    fn stop(&mut self, agent: &Arc<Agent>, pod: &Arc<Pod>, grace: Duration) {
        self.probes.cancel();
        if let Some((_, before)) = self.stopping.take() {
            before.abort();
        }
        let (agent, pod, target) = (Arc::clone(agent), Arc::clone(pod), self.target.clone());
        let task = tokio::spawn(async move { stop::stop(&agent, &pod, &target, grace).await });
        self.stopping = Some((Instant::now() + grace, task.abort_handle()));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some((_, stopping)) = &self.stopping {
            stopping.abort();
        }
    }
}

fn key(pod: &Pod) -> (String, String) {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    (part(&pod.metadata.namespace), part(&pod.metadata.name))
}

/// Waits for a container's end, tidies up and tells.
async fn wait(
    name: String,
    attempt: u32,
    target: Target,
    dir: PathBuf,
    tell: mpsc::UnboundedSender<Event>,
) {
    let exit = loop {
        match target.running.wait().await {
            Ok(exit) => break exit,
            Err(error) => {
                tracing::warn!(container = name, %error, "cannot wait for a container");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    let ended = end::describe(&target.container, &dir, exit);
    let cleaned = tokio::task::spawn_blocking(move || clean(&dir)).await;
    if let Err(error) = cleaned
        .map_err(std::io::Error::other)
        .and_then(|result| result)
    {
        tracing::warn!(container = name, %error, "cannot tidy up after a container");
    }
    // The worker may be gone; the next agent finds the end in the directory.
    drop(tell.send(Event::Ended {
        name,
        attempt,
        ended,
    }));
}

/// Writes the pod's status, of this very pod and none of the same name.
async fn patch(agent: &Agent, pod: &Pod, status: PodStatus) -> kube::Result<()> {
    let (namespace, name) = key(pod);
    let mut status = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
    if let Value::Object(fields) = &mut status {
        // A merge patch keeps what it does not name.
        for field in [
            "reason",
            "message",
            "podIP",
            "podIPs",
            "initContainerStatuses",
        ] {
            fields.entry(field).or_insert(Value::Null);
        }
    }
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
    let api: Api<Pod> = Api::namespaced(agent.client.clone(), &namespace);
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map(drop)
}

/// Removes the pod from the API for good; true once it is gone.
async fn forget(agent: &Agent, pod: &Pod) -> bool {
    let (namespace, name) = key(pod);
    let api: Api<Pod> = Api::namespaced(agent.client.clone(), &namespace);
    let uid = pod.metadata.uid.clone();
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid,
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(&name, &parameters).await {
        Ok(_) => true,
        Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => true,
        Err(error) => {
            tracing::warn!(pod = name, %error, "cannot remove a pod from the API");
            false
        }
    }
}
