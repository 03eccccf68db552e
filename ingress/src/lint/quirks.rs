//! Five ways of ingress-nginx that surprise people, found in the objects that they concern.
//!
//! Each is a property of routing there that manifests may rely on without saying so. An Ingress that has
//! `portolan.dev/compat: nginx` has asked for those that concern itself, so only what other Ingresses did to it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress};
use model::ObjectName;
use model::kube::object_name;

use crate::annotations::Policy;
use crate::annotations::paths::Paths;
use crate::annotations::rewrite::NewPath;

/// A way of ingress-nginx that is not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quirk {
    /// Expressions there have no end and no case.
    LooseExpression,
    /// An expression of one Ingress makes expressions of all paths of the host.
    ForeignExpression(ObjectName),
    /// A rewrite makes expressions of paths.
    RewriteMakesExpression,
    /// A path that lacks its slash at the end is redirected.
    SlashRedirect,
    /// What is written like this never comes: paths are in normal form before they are matched.
    NotNormal,
}

impl fmt::Display for Quirk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LooseExpression => f.write_str(
                "ingress-nginx matches the beginning of the path, in any case; here upper is told from lower case, and an \
                 Exact path is matched to its end",
            ),
            Self::ForeignExpression(owner) => write!(
                f,
                "ingress-nginx matches it as an expression, in any case, since Ingress {owner} makes expressions of all \
                 paths of the host; here it stays what it says"
            ),
            Self::RewriteMakesExpression => f.write_str(
                "ingress-nginx makes an expression of it because of rewrite-target; here it stays what it says",
            ),
            Self::SlashRedirect => f.write_str(
                "ingress-nginx answers 301 where the slash at the end is missing; here a Prefix path is served without it, \
                 and any other is not found",
            ),
            Self::NotNormal => f.write_str(
                "requests are matched in normal form: without //, dot segments and needless escapes; %2F, which \
                 ingress-nginx takes for a slash, stays as it is",
            ),
        }
    }
}

/// What an Ingress asks for as far as it matters here.
struct Asked<'i> {
    name: ObjectName,
    ingress: &'i Ingress,
    paths: Paths,
    /// Whether ingress-nginx makes expressions of its paths.
    are_expressions_there: bool,
}

/// The quirks that concern fields of `ingresses`, by object.
pub(super) fn find(ingresses: &[Ingress]) -> BTreeMap<ObjectName, Vec<(String, Quirk)>> {
    let asked: Vec<Asked<'_>> = ingresses.iter().filter_map(asked).collect();
    let owners = expression_owners(&asked);
    let found = asked
        .iter()
        .map(|asked| (asked.name.clone(), of(asked, &owners)));
    found.filter(|(_, quirks)| !quirks.is_empty()).collect()
}

fn asked(ingress: &Ingress) -> Option<Asked<'_>> {
    let policy = Policy::read(ingress, None).policy.unwrap_or_default();
    let paths = policy.paths.as_deref().copied().unwrap_or_default();
    let rewrite = policy
        .rewrite
        .as_deref()
        .and_then(|rewrite| rewrite.path.as_ref());
    let rewrites_prefix = matches!(rewrite, Some(NewPath::Prefix(_)));
    Some(Asked {
        name: object_name(&ingress.metadata)?,
        ingress,
        paths,
        are_expressions_there: paths.are_patterns || rewrites_prefix,
    })
}

/// The first Ingress that makes expressions of a host's paths, by host.
fn expression_owners<'a>(asked: &'a [Asked<'_>]) -> BTreeMap<&'a str, &'a ObjectName> {
    let owners = asked.iter().filter(|asked| asked.are_expressions_there);
    let hosts = owners.flat_map(|asked| {
        hosts(asked.ingress)
            .into_iter()
            .map(|host| (host, &asked.name))
    });
    // Of several the first is named.
    let mut owners = BTreeMap::new();
    for (host, name) in hosts {
        owners.entry(host).or_insert(name);
    }
    owners
}

fn hosts(ingress: &Ingress) -> BTreeSet<&str> {
    let rules = ingress
        .spec
        .iter()
        .flat_map(|spec| spec.rules.iter().flatten());
    rules
        .map(|rule| rule.host.as_deref().unwrap_or_default())
        .collect()
}

fn of(asked: &Asked<'_>, owners: &BTreeMap<&str, &ObjectName>) -> Vec<(String, Quirk)> {
    let rules = asked
        .ingress
        .spec
        .iter()
        .flat_map(|spec| spec.rules.iter().flatten());
    let mut found = Vec::new();
    for (rule_number, rule) in rules.enumerate() {
        let host = rule.host.as_deref().unwrap_or_default();
        let owner = owners.get(host).copied();
        for (number, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
            let field = format!("spec.rules[{rule_number}].http.paths[{number}].path");
            let quirks = of_path(asked, path, owner);
            found.extend(quirks.into_iter().map(|quirk| (field.clone(), quirk)));
        }
    }
    found
}

fn of_path(asked: &Asked<'_>, path: &HTTPIngressPath, owner: Option<&ObjectName>) -> Vec<Quirk> {
    let text = path.path.as_deref().unwrap_or_default();
    let is_ours = asked.paths.like_nginx;
    let mut quirks = Vec::new();
    if !is_ours && asked.paths.are_patterns {
        quirks.push(Quirk::LooseExpression);
    }
    match owner {
        Some(owner) if !asked.are_expressions_there => {
            quirks.push(Quirk::ForeignExpression(owner.clone()));
        }
        Some(_) if !asked.paths.are_patterns => quirks.push(Quirk::RewriteMakesExpression),
        // Where no expression is, nginx minds the slash.
        None if !is_ours && text.len() > 1 && text.ends_with('/') => {
            quirks.push(Quirk::SlashRedirect)
        }
        _ => {}
    }
    if text.contains("//") || text.contains("/.") || text.contains('%') {
        quirks.push(Quirk::NotNormal);
    }
    quirks
}
