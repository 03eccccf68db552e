//! What becomes of Ingresses here that were written for ingress-nginx, and of its ConfigMap: the same, something else, or
//! nothing.
//!
//! It reads objects as the gateway does, but takes on trust what they name: Services, Secrets and ConfigMaps are not
//! looked for. So it works on files, and what it says depends on nothing else.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::networking::v1::Ingress;
use model::kube::object_name;
use model::{ObjectName, World};
use serde::Serialize;

use crate::annotations::{Finding, Policy, Referenced, defaults};
use crate::config::GatewayArgs;
use crate::configmap;
use crate::observe::metrics::Metrics;
use crate::problem::{Fault, Problem};
use crate::routes::Routes;
use crate::routes::ingress::{self, Context, Reading};
use crate::upstream::external::Names;
use crate::upstream::registry::Upstreams;

pub mod command;
mod quirks;

pub use quirks::Quirk;

/// What there is to say about one Ingress or ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The object.
    pub object: ObjectName,
    /// What becomes of each of its annotations or entries.
    pub findings: Vec<Finding>,
    /// Where requests take another way than in ingress-nginx, and the field that is concerned.
    pub quirks: Vec<(String, Quirk)>,
    /// Fields that cannot be carried out, and why.
    pub faults: Vec<(String, String)>,
}

/// One thing that there is to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// `namespace/name` of the object.
    pub object: String,
    /// The key of the annotation or entry, or the path of the field.
    pub subject: String,
    /// `same`, `differs`, `refused` or `invalid`.
    pub verdict: &'static str,
    /// What there is to say.
    pub message: String,
}

/// Looks at `ingresses`, which are all there are.
pub fn lint(ingresses: &[Ingress]) -> Vec<Report> {
    let mut faults = faults(ingresses);
    let mut quirks = quirks::find(ingresses);
    let named = ingresses
        .iter()
        .filter_map(|ingress| Some((object_name(&ingress.metadata)?, ingress)));
    let report = |(name, ingress): (ObjectName, &Ingress)| Report {
        findings: Policy::read(ingress, None).findings,
        quirks: quirks.remove(&name).unwrap_or_default(),
        faults: faults.remove(&name).unwrap_or_default(),
        object: name,
    };
    named.map(report).collect()
}

/// Looks at a ConfigMap with settings.
pub fn lint_settings(map: &ConfigMap) -> Option<Report> {
    let object = object_name(&map.metadata)?;
    let entries = map.data.clone().unwrap_or_default();
    let args = GatewayArgs::default();
    Some(Report {
        findings: configmap::read(&object.namespace, &entries, &args, None).findings,
        quirks: Vec::new(),
        faults: Vec::new(),
        object,
    })
}

/// What is wrong with fields, by object. What is wrong with annotations is among the findings.
fn faults(ingresses: &[Ingress]) -> BTreeMap<ObjectName, Vec<(String, String)>> {
    let named: Vec<_> = ingresses
        .iter()
        .filter_map(|ingress| Some((object_name(&ingress.metadata)?, ingress)))
        .collect();
    let mut routes = Routes::default();
    in_the_dark(|context| {
        let objects = named.iter().map(|(name, ingress)| (name, Some(*ingress)));
        routes.update(objects, context)
    });
    let mut faults: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for problem in routes.problems().filter(|problem| is_of_field(problem)) {
        let of = faults.entry(problem.ingress.name.clone()).or_default();
        of.push((problem.field.clone(), problem.fault.to_string()));
    }
    faults
}

/// What there is to say about one Ingress, whatever others there are.
#[derive(Debug)]
pub(crate) struct Alone {
    /// What becomes of each of its annotations.
    pub(crate) findings: Vec<Finding>,
    /// Where requests take another way than in ingress-nginx.
    pub(crate) quirks: Vec<(String, Quirk)>,
    /// What it asks for, with the problems of its fields.
    pub(crate) reading: Reading,
}

/// Looks at `ingress` by itself.
pub(crate) fn alone(ingress: &Ingress) -> Alone {
    let mut reading = in_the_dark(|context| ingress::read(ingress, context));
    reading.problems.retain(is_of_field);
    let quirks = quirks::find(std::slice::from_ref(ingress));
    Alone {
        findings: Policy::read(ingress, None).findings,
        quirks: quirks.into_values().flatten().collect(),
        reading,
    }
}

/// Reads where nothing that an object names can be seen.
fn in_the_dark<R>(read: impl FnOnce(Context<'_>) -> R) -> R {
    read(Context {
        defaults: &defaults::NONE,
        world: &World::new(""),
        names: &Names::default(),
        upstreams: &Upstreams::default(),
        referenced: &Referenced::default(),
        metrics: &Metrics::default(),
    })
}

/// Whether the problem is one of the object's fields: annotations have their findings, and what is missing elsewhere is
/// taken on trust.
fn is_of_field(problem: &Problem) -> bool {
    let is_of_annotation = problem.field.starts_with("metadata.annotations");
    let is_about_others = matches!(
        problem.fault,
        Fault::ServiceMissing(_) | Fault::PortMissing { .. } | Fault::SecretMissing(..)
    );
    !is_of_annotation && !is_about_others
}

impl Report {
    /// All there is to say, one by one.
    pub fn remarks(&self) -> impl Iterator<Item = Remark> {
        let remark = |subject: &str, verdict, message: String| Remark {
            object: self.object.to_string(),
            subject: subject.to_owned(),
            verdict,
            message,
        };
        let findings = self.findings.iter().map(move |finding| {
            let verdict = &finding.verdict;
            remark(&finding.annotation, verdict.name(), verdict.to_string())
        });
        let quirks = self.quirks.iter();
        let quirks = quirks.map(move |(field, quirk)| remark(field, "differs", quirk.to_string()));
        let faults = self.faults.iter();
        let faults = faults.map(move |(field, fault)| remark(field, "invalid", fault.clone()));
        findings.chain(quirks).chain(faults)
    }

    /// Whether something that the object asks for is not done.
    pub fn is_bad(&self) -> bool {
        !self.faults.is_empty() || self.findings.iter().any(Finding::is_bad)
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            object,
            subject,
            verdict,
            message,
        } = self;
        write!(f, "{object}: {verdict}: {subject}: {message}")
    }
}

#[cfg(test)]
mod tests;
