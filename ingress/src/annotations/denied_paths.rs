//! Paths of an Ingress that nobody gets at, whatever else it asks for: `portolan.dev/deny-paths`, which replaces what
//! snippets did with `location` and `deny`.
//!
//! What is compared is the path as it is forwarded and, as backends are of many minds, what becomes of it once its escapes
//! are decoded and the parameters of its elements (`;x=y`) left out.

use http::StatusCode;
use percent_encoding::percent_decode_str;

use super::{Annotations, Pattern};
use crate::message::path::{self, Slashes};

/// Paths and, after `~` or `~*`, expressions, with blanks or line ends between them; perhaps after a status.
pub const DENY_PATHS: &str = "portolan.dev/deny-paths";

/// Most entries of the list.
const MAX_ENTRIES: usize = 64;

/// The paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeniedPaths {
    /// The status of the answer: 403 or 404.
    pub status: StatusCode,
    /// In normal form, without a slash at the end.
    prefixes: Vec<Box<str>>,
    patterns: Vec<Pattern>,
}

impl DeniedPaths {
    /// The paths, if the annotation names any.
    pub fn parse(from: &mut Annotations<'_>) -> Option<Self> {
        from.get(DENY_PATHS, parse)
    }

    /// Whether `path`, in normal form, is one of them or below one.
    pub fn deny(&self, path: &str) -> bool {
        self.name(path) || path.contains(['%', ';']) && self.name(&bare(path))
    }

    fn name(&self, path: &str) -> bool {
        let is_below = |prefix: &str| {
            let rest = path.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.prefixes.iter().any(|prefix| is_below(prefix))
            || self.patterns.iter().any(|pattern| pattern.is_match(path))
    }
}

/// What `path` may be to a backend.
fn bare(path: &str) -> String {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let elements = decoded.split(['/', '\\']);
    let names = elements.map(|element| element.split_once(';').map_or(element, |(name, _)| name));
    let names: Vec<&str> = names.collect();
    path::resolve_dots(&names.join("/"), Slashes::Merge)
}

fn parse(text: &str) -> Result<DeniedPaths, String> {
    let mut entries = text.split_whitespace().peekable();
    let status = entries.next_if(|first| first.bytes().all(|byte| byte.is_ascii_digit()));
    let status = match status {
        None | Some("403") => StatusCode::FORBIDDEN,
        Some("404") => StatusCode::NOT_FOUND,
        Some(other) => return Err(format!("{other} is neither 403 nor 404")),
    };
    let mut denied = DeniedPaths {
        status,
        prefixes: Vec::new(),
        patterns: Vec::new(),
    };
    for entry in entries {
        denied.add(entry)?;
    }
    match denied.prefixes.len() + denied.patterns.len() {
        0 => Err("names no path".to_owned()),
        1..=MAX_ENTRIES => Ok(denied),
        _ => Err(format!("has more than {MAX_ENTRIES} entries")),
    }
}

impl DeniedPaths {
    fn add(&mut self, entry: &str) -> Result<(), String> {
        let pattern = match (entry.strip_prefix("~*"), entry.strip_prefix('~')) {
            (Some(text), _) => Some(Pattern::ignoring_case(text)),
            (None, Some(text)) => Some(Pattern::new(text)),
            (None, None) => None,
        };
        match pattern {
            // It would match everything.
            Some(_) if entry.trim_start_matches(['~', '*']).is_empty() => {
                return Err(format!("{entry:?} lacks its expression"));
            }
            Some(pattern) => {
                let pattern = pattern.map_err(|error| format!("{entry:?} {error}"))?;
                self.patterns.push(pattern);
            }
            None => {
                let normal = path::normalise_rule(entry);
                let normal = normal.map_err(|error| format!("{entry:?} {error}"))?;
                self.prefixes.push(normal.trim_end_matches('/').into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::annotations::policy::tests::{read, verdict};

    fn denied(value: &str) -> DeniedPaths {
        let policy = read(&[(DENY_PATHS, value)]).policy.unwrap();
        policy.denied_paths.as_deref().unwrap().clone()
    }

    #[test]
    fn whole_elements_and_expressions_are_denied() {
        let paths = denied("/admin /a/b/\n~\\.php$  ~*^/secret");
        assert_eq!(paths.status, StatusCode::FORBIDDEN);
        let rows = [
            ("/admin", true),
            ("/admin/", true),
            ("/admin/x", true),
            ("/administrator", false),
            ("/Admin", false),
            ("/x/admin", false),
            ("/a/b", true),
            ("/a/bc", false),
            ("/a", false),
            ("/x.php", true),
            ("/x.PHP", false),
            ("/x.php5", false),
            ("/SECRET/x", true),
            ("/x/secret", false),
            ("/", false),
        ];
        for (path, expected) in rows {
            assert_eq!(paths.deny(path), expected, "{path}");
        }
        assert!(denied("404 /").deny("/") && denied("404 /").deny("/x"));
        assert_eq!(denied("404 /").status, StatusCode::NOT_FOUND);
    }

    #[test]
    fn no_other_spelling_gets_by() {
        let paths = denied("/admin ~^/private");
        for path in [
            "/admin;x=1/y",
            "/admin%2Fx",
            "/admin%3Bx",
            "/x%2F..%2Fadmin",
            "/x/..%5Cadmin",
            "/%2Fadmin",
            "/%2Fprivate",
            "/;a/private",
        ] {
            assert!(paths.deny(path), "{path}");
        }
        assert!(!paths.deny("/x;admin") && !paths.deny("/x%2Fadmin"));
    }

    #[test]
    fn a_list_that_is_bad_closes_the_route() {
        let many = "/a ".repeat(MAX_ENTRIES + 1);
        for bad in [
            "admin", "403", "500 /a", "~", "~*", "~(", "/a%zz", "/a,b /%", &many,
        ] {
            let reading = read(&[(DENY_PATHS, bad)]);
            assert_eq!(verdict(&reading, DENY_PATHS).0, "invalid", "{bad}");
            assert!(
                reading.policy.is_some_and(|policy| policy.is_closed),
                "{bad}"
            );
        }
    }
}
