//! What the paths of an Ingress mean: `use-regex`, `rewrite-target` as far as it turns paths into expressions, and
//! `portolan.dev/compat`.

use super::rewrite::Rewrite;
use super::{Annotations, Pattern, pattern};

/// The annotation by which an Ingress asks for ingress-nginx's ways where ours are others.
pub const COMPAT: &str = "portolan.dev/compat";

/// How the paths of an Ingress are matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Paths {
    /// Whether they are regular expressions.
    pub are_patterns: bool,
    /// Whether they are matched in the way of ingress-nginx.
    pub like_nginx: bool,
}

impl Paths {
    /// Reads the annotations. An expression's groups are of no use unless paths are expressions, so a `rewrite` that
    /// speaks of them makes them so. In ingress-nginx every rewrite does.
    pub fn parse(from: &mut Annotations<'_>, rewrite: &Rewrite) -> Self {
        let like_nginx = like_nginx(from);
        let asked = from.flag("use-regex").unwrap_or_default();
        let implied = rewrite
            .path
            .as_ref()
            .is_some_and(|path| path.takes_patterns());
        if asked && !like_nginx {
            let how = "the paths of this Ingress only become expressions, tell upper from lower case, and match from the \
                       beginning (an Exact one to the end)";
            from.differs("use-regex", how);
        }
        Self {
            are_patterns: asked || implied,
            like_nginx,
        }
    }

    /// The expression that `path`, which is one, is matched by: from the beginning, and an `Exact` one to the end.
    pub fn pattern(self, path: &str, is_exact: bool) -> Result<Pattern, pattern::BadPattern> {
        // By itself it must be one, or it could end the group that it is put in.
        Pattern::new(path)?;
        match (self.like_nginx, is_exact) {
            (true, _) => Pattern::ignoring_case(&format!("^{path}")),
            (false, false) => Pattern::new(&format!("^(?:{path})")),
            (false, true) => Pattern::new(&format!("^(?:{path})$")),
        }
    }
}

/// Whether the Ingress asks for ingress-nginx's ways.
pub(super) fn like_nginx(from: &mut Annotations<'_>) -> bool {
    from.choice(COMPAT, &[("nginx", true), ("strict", false)])
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::annotations::policy::tests::{read, verdict};

    /// Annotations by name.
    type Given<'a> = &'a [(&'a str, &'a str)];

    fn parsed(annotations: &[(&str, &str)]) -> Paths {
        let policy = read(annotations).policy.unwrap_or_default();
        policy.paths.as_deref().copied().unwrap_or_default()
    }

    #[test]
    fn paths_become_expressions_where_that_is_asked_or_needed() {
        let nginx = (COMPAT, "nginx");
        let rows: [(Given<'_>, bool); 7] = [
            (&[("use-regex", "true")], true),
            (&[("use-regex", "false")], false),
            (&[("rewrite-target", "/$2")], true),
            (&[("rewrite-target", "/x")], false),
            (&[("rewrite-target", "/x"), nginx], true),
            (&[("use-regex", "false"), ("rewrite-target", "/$1")], true),
            (&[nginx], false),
        ];
        for (annotations, expected) in rows {
            assert_eq!(
                parsed(annotations).are_patterns,
                expected,
                "{annotations:?}"
            );
        }
        let strict = read(&[("use-regex", "true")]);
        assert_eq!(verdict(&strict, "use-regex").0, "differs");
        let same = read(&[("use-regex", "true"), nginx]);
        assert_eq!(verdict(&same, "use-regex").0, "same");
    }

    #[test]
    fn expressions_begin_at_the_beginning() {
        let strict = Paths {
            are_patterns: true,
            like_nginx: false,
        };
        let nginx = Paths {
            are_patterns: true,
            like_nginx: true,
        };
        // Path, whether it is exact, request, whether it matches strictly and like nginx.
        let rows = [
            ("/a/[0-9]+", false, "/a/12/b", true, true),
            ("/a/[0-9]+", true, "/a/12/b", false, true),
            ("/a/[0-9]+", true, "/a/12", true, true),
            ("/a/[0-9]+", false, "/x/a/12", false, false),
            ("/a", false, "/A", false, true),
            ("/a|/b", false, "/x/b", false, true),
            ("/a(/|$)(.*)", false, "/ab", false, false),
        ];
        for (path, is_exact, request, strictly, loosely) in rows {
            let matches = |paths: Paths| paths.pattern(path, is_exact).unwrap().is_match(request);
            assert_eq!(matches(strict), strictly, "{path} {request}");
            assert_eq!(matches(nginx), loosely, "{path} {request}");
        }
        assert!(strict.pattern("/a(", false).is_err());
        assert!(strict.pattern("/a)(b", false).is_err());
    }
}
