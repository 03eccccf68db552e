//! Finds what an earlier agent has left of a pod, so that its containers go on without noticing.

use std::fs;
use std::io;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container as ApiContainer, ContainerStatus, Pod};

use super::end;
use super::kinds::{containers, spec};
use super::machine::{Ended, ImageSeen, Machine, Needs};
use super::prepare;
use super::probe::{self, ProbeKind};
use super::start::attempt_dir;
use crate::agent::Agent;
use crate::runtime::{Container, Found, clean};

/// A container that runs since an earlier agent.
pub(crate) struct Adopted {
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) running: Container,
}

/// The pod's state as its directory tells it, and the containers that run.
pub(crate) fn adopt(agent: &Agent, pod: &Pod) -> io::Result<(Machine, Vec<Adopted>)> {
    let mut machine = Machine::new(spec(pod));
    let dir = agent.pod_dir(pod);
    match prepare::find(&dir)? {
        Some(record) if record.namespaces.exist() => {
            agent.pools().reserve(&record.addresses);
            machine.prepared(record.addresses);
        }
        // The machine was started anew: files are all that is left.
        Some(record) => prepare::remove(&dir, &record)?,
        None if is_over(pod) => machine.retire(),
        None => {}
    }
    let mut running = Vec::new();
    for (_, container) in containers(spec(pod)) {
        running.extend(adopt_container(pod, &dir, container, &mut machine)?);
    }
    Ok((machine, running))
}

/// True for a pod whose containers have all ended for good, as the API knows.
fn is_over(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn adopt_container(
    pod: &Pod,
    dir: &Path,
    container: &ApiContainer,
    machine: &mut Machine,
) -> io::Result<Option<Adopted>> {
    let name = &container.name;
    let Some(attempt) = last_attempt(&dir.join(name)) else {
        return Ok(None);
    };
    let ended = |attempt: u32| -> io::Result<Option<Ended>> {
        let dir = attempt_dir(dir, name, attempt);
        Ok(match Container::find(&dir)? {
            Found::Ended(exit) => Some(end::describe(container, &dir, exit)),
            _ => None,
        })
    };
    let last = attempt.checked_sub(1).map(ended).transpose()?.flatten();
    machine.adopted(name, attempt, last);
    match Container::find(&attempt_dir(dir, name, attempt))? {
        Found::Running(running) => {
            let status = status(pod, name);
            let was = |field: fn(&ContainerStatus) -> bool| status.is_some_and(field);
            let needs = Needs {
                startup: probe::of(container, ProbeKind::Startup).is_some()
                    && !was(|status| status.started == Some(true)),
                readiness: probe::of(container, ProbeKind::Readiness).is_some()
                    && !was(|status| status.ready),
            };
            let image = status.map(|status| ImageSeen {
                name: status.image.clone(),
                id: status.image_id.clone(),
            });
            machine.started(name, image, needs, running.started.at);
            Ok(Some(Adopted {
                name: name.clone(),
                attempt,
                running: *running,
            }))
        }
        // If its shim was killed, its processes may still run.
        Found::Ended(exit) => {
            let dir = attempt_dir(dir, name, attempt);
            clean(&dir)?;
            machine.ended(name, end::describe(container, &dir, exit));
            Ok(None)
        }
        // The agent ended while it started this one: whatever became of it is removed, and the attempt counts.
        Found::Unfinished => {
            clean(&attempt_dir(dir, name, attempt))?;
            machine.adopted(name, attempt + 1, None);
            Ok(None)
        }
        Found::Nothing => Ok(None),
    }
}

fn status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .flatten();
    all.into_iter().find(|status| status.name == name)
}

/// The highest number that is a directory's name in `dir`.
fn last_attempt(dir: &Path) -> Option<u32> {
    let entries = fs::read_dir(dir).ok()?.flatten();
    entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .max()
}
