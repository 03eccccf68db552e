//! The API's rules for the fields of an Ingress, as far as routing depends on them.
//!
//! An API server has checked them, but it may be older, newer or not have all rules, so they are checked here again.
//! What breaks one is left out; everything else in the object goes on.

use std::fmt;

use k8s_openapi::api::networking::v1::{HTTPIngressPath, IngressServiceBackend};

use super::matcher::PathMatch;
use crate::annotations::Pattern;
use crate::annotations::paths::Paths;
use crate::message::path;

/// What an `Exact` or `Prefix` path must not contain, since requests never have it in normal form.
const FORBIDDEN: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const FORBIDDEN_ENDS: [&str; 2] = ["/..", "/."];

/// The path of a rule: how it matches, and its normal form.
pub(super) fn path(rule: &HTTPIngressPath) -> Result<(PathMatch, String), (&'static str, String)> {
    let kind = kind(rule)?;
    let text = match rule.path.as_deref().unwrap_or_default() {
        "" if kind == PathMatch::Loose => "/",
        text => text,
    };
    if kind != PathMatch::Loose {
        strict(text).map_err(|message| ("path", message))?;
    }
    let normal =
        path::normalise_rule(text).map_err(|error| ("path", format!("{text:?} {error}")))?;
    Ok((kind, normal))
}

fn kind(rule: &HTTPIngressPath) -> Result<PathMatch, (&'static str, String)> {
    match rule.path_type.as_str() {
        "Exact" => Ok(PathMatch::Exact),
        "Prefix" => Ok(PathMatch::Prefix),
        "ImplementationSpecific" => Ok(PathMatch::Loose),
        "" => Err(("pathType", "is required".to_owned())),
        other => Err(("pathType", format!("{other:?} is not a path type"))),
    }
}

/// The path of a rule whose Ingress makes expressions of its paths.
pub(super) fn pattern(
    rule: &HTTPIngressPath,
    paths: Paths,
) -> Result<(Pattern, String), (&'static str, String)> {
    let is_exact = kind(rule)? == PathMatch::Exact;
    let text = match rule.path.as_deref().unwrap_or_default() {
        "" => "/",
        text => text,
    };
    if !text.starts_with('/') {
        return Err(("path", format!("{text:?} does not begin with a slash")));
    }
    let pattern = paths.pattern(text, is_exact);
    let pattern = pattern.map_err(|error| ("path", format!("{text:?} {error}")))?;
    Ok((pattern, text.to_owned()))
}

fn strict(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err(format!("{text:?} does not begin with a slash"));
    }
    if let Some(found) = FORBIDDEN.iter().find(|part| text.contains(**part)) {
        return Err(format!("{text:?} must not contain {found:?}"));
    }
    if let Some(found) = FORBIDDEN_ENDS.iter().find(|end| text.ends_with(**end)) {
        return Err(format!("{text:?} must not end in {found:?}"));
    }
    Ok(())
}

/// The port of a Service, as an Ingress names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortRef<'a> {
    /// By name.
    Name(&'a str),
    /// By number.
    Number(i32),
}

impl fmt::Display for PortRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

/// The port that `backend` names.
pub(super) fn port(backend: &IngressServiceBackend) -> Result<PortRef<'_>, &'static str> {
    let port = backend.port.as_ref();
    let name = port
        .and_then(|port| port.name.as_deref())
        .filter(|name| !name.is_empty());
    let number = port
        .and_then(|port| port.number)
        .filter(|number| *number != 0);
    match (name, number) {
        (Some(name), None) => Ok(PortRef::Name(name)),
        (None, Some(number)) => Ok(PortRef::Number(number)),
        (None, None) => Err("a port name or number is required"),
        (Some(_), Some(_)) => Err("must have a port name or number, not both"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_held_to_the_api_rules() {
        let rows = [
            ("Prefix", Some("/foo"), Ok((PathMatch::Prefix, "/foo"))),
            ("Exact", Some("/foo/"), Ok((PathMatch::Exact, "/foo/"))),
            ("ImplementationSpecific", None, Ok((PathMatch::Loose, "/"))),
            (
                "ImplementationSpecific",
                Some("/a//b"),
                Ok((PathMatch::Loose, "/a//b")),
            ),
            ("ImplementationSpecific", Some("a"), Err("path")),
            (
                "Prefix",
                Some("/.well-known/x"),
                Ok((PathMatch::Prefix, "/.well-known/x")),
            ),
            ("Prefix", None, Err("path")),
            ("Exact", Some(""), Err("path")),
            ("Prefix", Some("foo"), Err("path")),
            ("Prefix", Some("/a//b"), Err("path")),
            ("Prefix", Some("/a/./b"), Err("path")),
            ("Exact", Some("/a/../b"), Err("path")),
            ("Exact", Some("/a/.."), Err("path")),
            ("Exact", Some("/a/."), Err("path")),
            ("Prefix", Some("/a%2fb"), Err("path")),
            ("Prefix", Some("/a%2Fb"), Err("path")),
            ("Prefix", Some("/a%"), Err("path")),
            ("", Some("/"), Err("pathType")),
            ("prefix", Some("/"), Err("pathType")),
        ];
        for (kind, text, expected) in rows {
            let rule = HTTPIngressPath {
                path: text.map(str::to_owned),
                path_type: kind.to_owned(),
                ..HTTPIngressPath::default()
            };
            let found = path(&rule);
            let found = found.as_ref().map(|(kind, text)| (*kind, text.as_str()));
            assert_eq!(
                found.map_err(|(field, _)| *field),
                expected,
                "{kind} {text:?}"
            );
        }
    }
}
