//! A pod's containers that run: waiting for their end, asking their probes, stopping them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::kinds::{self, spec};
use super::super::machine::{Action, Needs, StopReason};
use super::super::probe::{self, Finding, ProbeKind, Target};
use super::super::start::attempt_dir;
use super::super::{end, stop};
use super::{Event, RETRY, Worker};
use crate::agent::Agent;
use crate::events::Level;
use crate::runtime::{Container, clean};

const DEFAULT_GRACE: i64 = 30;
/// The most that a hook after the start may take.
const HOOK_LIMIT: Duration = Duration::from_secs(60);

/// A container that runs, with what goes on about it.
pub(super) struct Running {
    pub(super) attempt: u32,
    pub(super) target: Target,
    stopping: Option<(Instant, AbortHandle)>,
    /// Ends the probes.
    _probes: DropGuard,
    probes: CancellationToken,
}

impl Worker {
    /// The probes that a container has to pass.
    pub(super) fn needs(&self, name: &str) -> Needs {
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
    pub(super) fn attend(&mut self, name: &str, attempt: u32, running: Container) {
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
            if let Err(message) = stop::run_hook(&target, &hook, HOOK_LIMIT).await {
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

    /// Draws the consequences of what a probe has found.
    pub(super) fn probed(&mut self, name: &str, kind: ProbeKind, finding: Finding) {
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

    /// Starts stopping a container.
    pub(super) fn stop(&mut self, name: &str, reason: Option<StopReason>) {
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
    pub(super) fn hurry(&mut self) {
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
