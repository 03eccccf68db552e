//! The path that a backend sees.

use http::request::Parts;
use http::{HeaderName, HeaderValue};

use crate::annotations::groups::Groups;
use crate::annotations::rewrite::NewPath;
use crate::message::answer::Reason;
use crate::message::path::{self, Slashes};
use crate::request::strict::with_path;
use crate::routes::Route;

const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Makes the path of a request what its route wants backends to see. What the client says may move within that, but not
/// out of it: a path that would have to be resolved is refused.
pub fn apply(route: &Route, parts: &mut Parts, slashes: Slashes) -> Result<(), Reason> {
    let Some(asked) = route.asks(|policy| &policy.rewrite) else {
        return Ok(());
    };
    let old = parts.uri.path().to_owned();
    let matched = Match::of(route, &old);
    if let Some(prefix) = &asked.forwarded_prefix
        && let Some(prefix) = matched.fill(prefix)
        && let Ok(prefix) = HeaderValue::try_from(prefix)
    {
        parts.headers.insert(FORWARDED_PREFIX, prefix);
    }
    let new = match &asked.path {
        None => None,
        Some(NewPath::Prefix(prefix)) => Some(join(prefix, matched.rest)),
        Some(NewPath::Whole(groups)) => matched.fill(groups),
    };
    let Some(new) = new else { return Ok(()) };
    let new = if new.is_empty() { "/" } else { &new };
    if new.split('/').any(|element| matches!(element, "." | "..")) {
        return Err(Reason::BadTarget);
    }
    let normal = path::normalise(new, slashes).map_err(|_| Reason::BadTarget)?;
    parts.uri = with_path(normal.into_owned(), parts.uri.query())?;
    Ok(())
}

fn join(prefix: &str, rest: &str) -> String {
    let needs_slash = !rest.is_empty() && !rest.starts_with('/');
    format!("{prefix}{}{rest}", if needs_slash { "/" } else { "" })
}

/// What the rule's path matched.
struct Match<'p> {
    captures: Option<regex::Captures<'p>>,
    /// What follows it.
    rest: &'p str,
}

impl<'p> Match<'p> {
    fn of(route: &Route, path: &'p str) -> Self {
        let captures = route
            .pattern
            .as_ref()
            .and_then(|pattern| pattern.captures(path));
        let end = match captures.as_ref().and_then(|captures| captures.get(0)) {
            Some(whole) => whole.end(),
            None => route.path.trim_end_matches('/').len(),
        };
        Self {
            captures,
            rest: path.get(end..).unwrap_or_default(),
        }
    }

    /// The text with what the groups matched. Where there is no expression, as with a default backend, there is none.
    fn fill(&self, groups: &Groups) -> Option<String> {
        match &self.captures {
            Some(captures) => Some(groups.fill(captures)),
            None => groups.constant().map(str::to_owned),
        }
    }
}
