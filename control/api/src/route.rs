//! The path grammar: what a request is about. `/api/v1/…` is the core group, `/apis/<group>/<version>/…` the rest, and below
//! either stands `[namespaces/<namespace>/]<plural>[/<name>[/<subresource>]]`.

use control_schema::{Resource, Subresource, by_plural};
use http::Method;

use crate::error::ApiError;

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/api`, `/apis` and what stands between them and the resources.
    Discovery(Discovery),
    /// A resource, an object or a subresource.
    Resource(Target),
    /// Anything else: health, version, OpenAPI.
    Other(String),
}

/// The discovery documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Discovery {
    /// `/api`.
    Core,
    /// `/apis`.
    Named,
    /// `/apis/<group>`.
    Group(String),
    /// `/api/v1` or `/apis/<group>/<version>`.
    Resources(String, String),
}

/// A resource, and what of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) res: &'static Resource,
    /// Empty for all namespaces, and for resources without one.
    pub(crate) namespace: String,
    /// Empty for the collection.
    pub(crate) name: String,
    pub(crate) sub: Option<&'static Subresource>,
}

impl Route {
    /// Reads a path. None: no such path.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let segments: Vec<String> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(percent_decoded)
            .collect::<Option<_>>()?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["api"] => Some(Self::Discovery(Discovery::Core)),
            ["apis"] => Some(Self::Discovery(Discovery::Named)),
            ["apis", group] => Some(Self::Discovery(Discovery::Group((*group).into()))),
            ["api", version] => Some(Self::Discovery(Discovery::Resources(
                String::new(),
                (*version).into(),
            ))),
            ["apis", group, version] => Some(Self::Discovery(Discovery::Resources(
                (*group).into(),
                (*version).into(),
            ))),
            ["api", version, rest @ ..] => Target::parse("", version, rest).map(Self::Resource),
            ["apis", group, version, rest @ ..] => {
                Target::parse(group, version, rest).map(Self::Resource)
            }
            _ => Some(Self::Other(format!("/{}", segments.join("/")))),
        }
    }
}

impl Target {
    fn parse(group: &str, version: &str, rest: &[&str]) -> Option<Self> {
        let (namespace, rest) = match rest {
            // Below a namespace, unless it is a subresource of the namespace itself.
            ["namespaces", namespace, plural, more @ ..]
                if by_plural(group, version, plural).is_some() =>
            {
                (*namespace, [&[*plural], more].concat())
            }
            _ => ("", rest.to_vec()),
        };
        let (plural, name, sub) = match rest.as_slice() {
            [plural] => (*plural, "", None),
            [plural, name] => (*plural, *name, None),
            [plural, name, sub] => (*plural, *name, Some(*sub)),
            _ => return None,
        };
        let res = by_plural(group, version, plural)?;
        let sub = match sub {
            Some(sub) => Some(res.subresource(sub)?),
            None => None,
        };
        let fits = match (res.namespaced, namespace.is_empty(), name.is_empty()) {
            (true, true, named) => named,
            (false, below_cluster, _) => below_cluster,
            _ => true,
        };
        fits.then(|| Self {
            res,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            sub,
        })
    }

    /// The verb of a request, as authorization and discovery name it.
    pub(crate) fn verb(&self, method: &Method, watch: bool) -> Result<&'static str, ApiError> {
        let verb = match (method, self.name.is_empty()) {
            (&Method::GET | &Method::HEAD, true) if watch => "watch",
            (&Method::GET | &Method::HEAD, true) => "list",
            (&Method::GET | &Method::HEAD, false) => "get",
            (&Method::POST, true) => "create",
            (&Method::POST, false) if self.sub.is_some() => "create",
            (&Method::PUT, false) => "update",
            (&Method::PATCH, false) => "patch",
            (&Method::DELETE, false) => "delete",
            (&Method::DELETE, true) => "deletecollection",
            _ => return Err(ApiError::method_not_allowed()),
        };
        let served = match self.sub {
            Some(sub) => sub.verbs.contains(&verb),
            None => self.res.serves(verb),
        };
        served
            .then_some(verb)
            .ok_or_else(ApiError::method_not_allowed)
    }
}

fn percent_decoded(segment: &str) -> Option<String> {
    if !segment.contains('%') {
        return Some(segment.to_owned());
    }
    let mut bytes = segment.bytes();
    let mut out = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `group/plural namespace name sub`, with dashes for what is empty.
    fn check(path: &str, expected: &str) {
        let dash = |text: &str| {
            if text.is_empty() {
                "-".to_owned()
            } else {
                text.to_owned()
            }
        };
        let found = match Route::parse(path) {
            Some(Route::Resource(target)) => [
                format!("{}/{}", target.res.group, target.res.plural),
                dash(&target.namespace),
                dash(&target.name),
                dash(target.sub.map_or("", |sub| sub.name)),
            ]
            .join(" "),
            Some(Route::Discovery(discovery)) => format!("{discovery:?}"),
            Some(Route::Other(path)) => path,
            None => "none".into(),
        };
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn paths_lead_where_they_should() {
        check("/api/v1/pods", "/pods - - -");
        check("/api/v1/namespaces/a/pods", "/pods a - -");
        check("/api/v1/namespaces/a/pods/b", "/pods a b -");
        check("/api/v1/namespaces/a/pods/b/log", "/pods a b log");
        check(
            "/apis/apps/v1/namespaces/a/deployments/b/scale",
            "apps/deployments a b scale",
        );
        check("/api/v1/namespaces", "/namespaces - - -");
        check("/api/v1/namespaces/pods", "/namespaces - pods -");
        check("/api/v1/namespaces/a/finalize", "/namespaces - a finalize");
        check("/api/v1/nodes/n%2Fm/status", "/nodes - n/m status");
        check("/apis/", "Named");
        check("/api/v1/", "Resources(\"\", \"v1\")");
        check("/version/", "/version");
    }

    #[test]
    fn paths_that_lead_nowhere_are_none() {
        check("/api/v1/things", "none");
        check("/apis/apps/v2/deployments", "none");
        check("/api/v1/pods/b", "none");
        check("/api/v1/namespaces/a/nodes/b", "none");
        check("/api/v1/namespaces/a/pods/b/nothing", "none");
        check("/api/v1/namespaces/a/pods/b/log/more", "none");
        check("/api/v1/pods/%zz", "none");
    }
}
