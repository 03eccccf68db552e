//! What a Deployment's ReplicaSets need now. Pure.
//!
//! A plan holds the next steps only. Carrying them out changes the cluster, the watch reports it, and the next plan goes
//! on from there; a rollout is nothing but that repeated.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

use super::revision::{self, REVISION};
use super::scaling::{self, Resize, size};
use super::status::{self, NewSet};
use crate::object::{annotation, deleting, name};

/// A change to make.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Create(Box<ReplicaSet>),
    /// Change the set's metadata or spec, not its size.
    Update(Box<ReplicaSet>),
    Scale {
        set: Arc<ReplicaSet>,
        to: i32,
    },
    Delete(Arc<ReplicaSet>),
    /// Note the newest revision at the Deployment.
    Revise(String),
}

/// The next steps, and the status to show after them.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) status: DeploymentStatus,
}

/// Decides. `sets` are the Deployment's own; `old_pods` tells whether pods of sets other than the new one still run.
pub(crate) fn plan(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    old_pods: impl Fn(Option<&Arc<ReplicaSet>>) -> bool,
    now: Timestamp,
) -> Plan {
    let new = revision::find_new(deployment, sets);
    let old: Vec<_> = sets
        .iter()
        .filter(|set| Some(*set) != new.as_ref())
        .cloned()
        .collect();
    let rollout = Rollout {
        deployment,
        old: &old,
        new: new.as_ref(),
    };
    let (mut steps, judged) = rollout.steps(old_pods);
    let created = steps.iter().find_map(|step| match step {
        Step::Create(set) => Some(NewSet::Created(name(&**set))),
        _ => None,
    });
    let status = status::status(
        deployment,
        sets,
        new.as_ref(),
        created.unwrap_or(judged),
        now,
    );
    if status::paused(deployment) || status::complete(deployment, &status) {
        steps.extend(rollout.cleanup());
    }
    Plan { steps, status }
}

struct Rollout<'a> {
    deployment: &'a Deployment,
    old: &'a [Arc<ReplicaSet>],
    new: Option<&'a Arc<ReplicaSet>>,
}

impl<'a> Rollout<'a> {
    fn judged(&self) -> NewSet<'a> {
        self.new
            .map_or(NewSet::Missing, |new| NewSet::Existing(name(&**new)))
    }

    /// The next steps, and how to judge the new set's progress. A changed size is dealt with first; while paused, nothing
    /// else is.
    fn steps(
        &self,
        old_pods: impl Fn(Option<&Arc<ReplicaSet>>) -> bool,
    ) -> (Vec<Step>, NewSet<'a>) {
        if deleting(self.deployment) {
            return (Vec::new(), NewSet::NotJudged);
        }
        let paused = status::paused(self.deployment);
        if paused || self.scaled() {
            let steps = self.rescale();
            if paused || !steps.is_empty() {
                return (steps, NewSet::NotJudged);
            }
        }
        let steps = if scaling::rolls(self.deployment) {
            self.roll()
        } else {
            self.recreate(old_pods(self.new))
        };
        (steps, self.judged())
    }

    /// Whether the Deployment's size was changed since its active sets were sized.
    fn scaled(&self) -> bool {
        let wanted = scaling::replicas(self.deployment);
        let mut active = self.old.iter().chain(self.new).filter(|set| size(set) > 0);
        active.any(|set| revision::desired_replicas(set).is_some_and(|desired| desired != wanted))
    }

    fn rescale(&self) -> Vec<Step> {
        let mut steps: Vec<_> = self
            .new
            .and_then(|new| self.refresh(new))
            .into_iter()
            .collect();
        if steps.is_empty() {
            let resized = scaling::rescale(self.deployment, self.old, self.new);
            steps.extend(
                resized
                    .into_iter()
                    .filter(|resize| self.outdated(resize))
                    .map(into_step),
            );
        }
        steps
    }

    /// Whether the set has another size, or was sized for another Deployment.
    fn outdated(&self, (set, to): &Resize) -> bool {
        let mut wanted = revision::scaling_annotations(self.deployment).into_iter();
        size(set) != *to || wanted.any(|(key, value)| annotation(&**set, &key) != Some(&value))
    }

    fn roll(&self) -> Vec<Step> {
        let Some(new) = self.new else {
            return vec![self.create()];
        };
        if let Some(refresh) = self.refresh(new) {
            return vec![refresh];
        }
        let mut steps: Vec<_> = self.revise(new).into_iter().collect();
        match self.grow(new) {
            Some(grow) => steps.push(grow),
            None => steps.extend(
                scaling::shrink_old(self.deployment, self.old, new)
                    .into_iter()
                    .map(into_step),
            ),
        }
        steps
    }

    fn recreate(&self, old_pods: bool) -> Vec<Step> {
        let active = self.old.iter().filter(|set| size(set) > 0);
        let stop: Vec<_> = active
            .map(|set| Step::Scale {
                set: set.clone(),
                to: 0,
            })
            .collect();
        if !stop.is_empty() || old_pods {
            return stop;
        }
        let Some(new) = self.new else {
            return vec![self.create()];
        };
        if let Some(refresh) = self.refresh(new) {
            return vec![refresh];
        }
        self.revise(new).into_iter().chain(self.grow(new)).collect()
    }

    fn grow(&self, new: &Arc<ReplicaSet>) -> Option<Step> {
        let wanted = scaling::replicas(self.deployment);
        let all = scaling::total(self.old.iter().chain([new]));
        let to = if size(new) > wanted {
            wanted
        } else {
            scaling::new_set_size(self.deployment, size(new), all)
        };
        (size(new) != to).then(|| Step::Scale {
            set: new.clone(),
            to,
        })
    }

    fn next_revision(&self) -> i64 {
        self.old
            .iter()
            .map(|set| revision::revision(set))
            .max()
            .unwrap_or(0)
            + 1
    }

    fn create(&self) -> Step {
        let mut set = revision::new_set(self.deployment, self.next_revision());
        let size = scaling::new_set_size(self.deployment, 0, scaling::total(self.old));
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(size);
        }
        Step::Create(Box::new(set))
    }

    /// The new set with the annotations and settings it should have, if it has others.
    fn refresh(&self, new: &Arc<ReplicaSet>) -> Option<Step> {
        let mut set = ReplicaSet::clone(new);
        let annotations = set.metadata.annotations.take().unwrap_or_default();
        let annotations =
            revision::new_set_annotations(self.deployment, annotations, self.next_revision());
        set.metadata.annotations =
            Some(annotations).filter(|all| !all.is_empty() || new.metadata.annotations.is_some());
        if let (Some(spec), Some(wanted)) = (&mut set.spec, &self.deployment.spec) {
            spec.min_ready_seconds = wanted.min_ready_seconds;
        }
        (set != **new).then(|| Step::Update(Box::new(set)))
    }

    /// The newest set's revision is the Deployment's.
    fn revise(&self, new: &Arc<ReplicaSet>) -> Option<Step> {
        let newest = annotation(&**new, REVISION)?;
        (annotation(self.deployment, REVISION) != Some(newest))
            .then(|| Step::Revise(newest.to_owned()))
    }

    /// The oldest revisions beyond the history limit, as far as they are empty and at rest.
    fn cleanup(&self) -> Vec<Step> {
        let Some(limit) = self
            .deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.revision_history_limit)
        else {
            return Vec::new();
        };
        let mut alive: Vec<_> = self.old.iter().filter(|set| !deleting(&***set)).collect();
        let surplus = alive
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(0));
        alive.sort_by_key(|set| revision::revision(set));
        alive
            .into_iter()
            .take(surplus)
            .filter(|set| at_rest(set))
            .map(|set| Step::Delete(set.clone()))
            .collect()
    }
}

fn at_rest(set: &ReplicaSet) -> bool {
    let status = set.status.as_ref();
    let observed = status.and_then(|status| status.observed_generation);
    size(set) == 0
        && status.is_none_or(|status| status.replicas == 0)
        && set.metadata.generation <= observed
}

fn into_step((set, to): Resize) -> Step {
    Step::Scale { set, to }
}

/// The set with this size, and with the annotations that say for which size of the Deployment.
pub(crate) fn resized(deployment: &Deployment, set: &ReplicaSet, to: i32) -> ReplicaSet {
    let mut set = set.clone();
    if let Some(spec) = &mut set.spec {
        spec.replicas = Some(to);
    }
    set.metadata
        .annotations
        .get_or_insert_default()
        .extend(revision::scaling_annotations(deployment));
    set
}

#[cfg(test)]
mod tests;
