//! What becomes of the path on its way to the backend: `rewrite-target` and `x-forwarded-prefix`.
//!
//! Two generations of manifests mean different things by one annotation. Up to 0.21 ingress-nginx put the target in the
//! place of the path that had matched; since then it puts it in the place of everything, and `$1` to `$9` bring back what
//! the path's expression caught. Both are told apart by what they look like: a target with groups is of the second kind,
//! one without is of the first, which is also what people expect who never read of it. `portolan.dev/compat: nginx`
//! makes every target one of the second kind.

use super::Annotations;
use super::groups::Groups;
use super::paths::like_nginx;

/// How requests are changed before a backend sees them, as far as the path is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// What becomes of the path.
    pub path: Option<NewPath>,
    /// The value of `X-Forwarded-Prefix`.
    pub forwarded_prefix: Option<Groups>,
}

/// Where a new path comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewPath {
    /// The path of the rule is replaced by this one, and what follows it stays. Without a slash at the end.
    Prefix(Box<str>),
    /// The whole path is replaced, by text and what the path's expression caught.
    Whole(Groups),
}

impl NewPath {
    /// Whether paths must be expressions for this.
    pub fn takes_patterns(&self) -> bool {
        matches!(self, Self::Whole(_))
    }
}

impl Rewrite {
    /// Reads the annotations.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        let target = from.get("rewrite-target", new_path);
        let like_nginx = like_nginx(from);
        let path = target.map(|target| match target.constant() {
            Some(prefix) if !like_nginx => NewPath::Prefix(prefix.trim_end_matches('/').into()),
            _ => NewPath::Whole(target),
        });
        if matches!(path, Some(NewPath::Prefix(_))) {
            let how = "without $1 to $9 it replaces the path of the rule and keeps what follows; ingress-nginx since 0.22 \
                       replaces the whole path, as portolan.dev/compat: nginx does";
            from.differs("rewrite-target", how);
        }
        Self {
            path,
            forwarded_prefix: from.get("x-forwarded-prefix", new_path),
        }
    }
}

/// A path with groups of the path's expression.
fn new_path(text: &str) -> Result<Groups, String> {
    let is_plain = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
    if !is_plain || text.contains("//") {
        return Err(format!("{text:?} is not a path"));
    }
    let text = match text.starts_with('/') {
        true => text.to_owned(),
        false => format!("/{text}"),
    };
    Groups::parse(&text).map_err(|error| format!("{text:?} {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::paths::COMPAT;
    use crate::annotations::policy::tests::{read, verdict};

    fn parsed(annotations: &[(&str, &str)]) -> Option<NewPath> {
        let policy = read(annotations).policy?;
        policy.rewrite.as_deref()?.path.clone()
    }

    #[test]
    fn targets_are_of_two_kinds() {
        let prefix = |text: &str| Some(NewPath::Prefix(text.into()));
        let whole = |text| Groups::parse(text).ok().map(NewPath::Whole);
        let rows = [
            ("/", prefix(""), whole("/"), "differs"),
            ("/x/", prefix("/x"), whole("/x/"), "differs"),
            ("x", prefix("/x"), whole("/x"), "differs"),
            ("/$2", whole("/$2"), whole("/$2"), "same"),
            ("$1", whole("/$1"), whole("/$1"), "same"),
            ("/x?y", None, None, "invalid"),
            ("http://b.org/", None, None, "invalid"),
            ("/$host", None, None, "invalid"),
            ("/$", None, None, "invalid"),
        ];
        for (target, strict, nginx, word) in rows {
            let given = ("rewrite-target", target);
            assert_eq!(parsed(&[given]), strict, "{target}");
            assert_eq!(parsed(&[given, (COMPAT, "nginx")]), nginx, "{target}");
            assert_eq!(
                verdict(&read(&[given]), "rewrite-target").0,
                word,
                "{target}"
            );
        }
    }
}
