//! The task of one pod: feeds the state machine, carries out its actions, tells the API.

mod containers;
mod report;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use self::containers::Running;
use self::report::{Told, forget};
use super::adopt::{Adopted, adopt};
use super::kinds::spec;
use super::machine::{Action, Ended, ImageSeen, Machine, StartFailure};
use super::prepare::{self, PrepareError};
use super::probe::{Finding, ProbeKind};
use super::start::start;
use super::volumes;
use crate::agent::Agent;
use crate::events::Level;
use crate::fs::ignore_missing;
use crate::runtime::Container;

/// How often volumes from the API are brought up to date.
const REFRESH: Duration = Duration::from_secs(60);
/// The wait after the API has refused something.
const RETRY: Duration = Duration::from_secs(1);

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
    Published(kube::Result<()>),
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
    told: Told,
    retry_at: Option<Instant>,
    /// Restarts whose back-off was told.
    announced: HashMap<String, u32>,
    gone: bool,
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
            told: Told::default(),
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
            self.step();
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
    fn step(&mut self) {
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
        self.publish();
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
            Event::Published(outcome) => self.published(outcome),
            Event::Forgotten(true) => self.gone = true,
            Event::Forgotten(false) => {
                self.machine.not_forgotten();
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
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

fn key(pod: &Pod) -> (String, String) {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    (part(&pod.metadata.namespace), part(&pod.metadata.name))
}
