//! The paths of one host as a tree of path elements.
//!
//! One walk along a request's path finds both an exact match and the longest prefix. A node's children are sorted, so a
//! step is a binary search over bytes that are borrowed from the request; nothing is hashed or allocated.
//!
//! Precedence: exact, then the longest prefix by elements, then by text (`/foo/` before `/foo`), then `Prefix` before
//! `ImplementationSpecific`, which is otherwise the same.

use std::fmt;

/// How a path of a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathMatch {
    /// The whole path, to the last slash.
    Exact,
    /// The path and everything below, by whole elements; a slash at the end means nothing.
    Prefix,
    /// The same, of lower rank: this is `ImplementationSpecific`.
    Loose,
    /// What a regular expression says; never in a [`PathTrie`].
    Pattern,
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact => "Exact",
            Self::Prefix => "Prefix",
            Self::Loose => "ImplementationSpecific",
            Self::Pattern => "regular expression",
        })
    }
}

/// Values by path.
#[derive(Debug)]
pub struct PathTrie<T> {
    root: Node<T>,
}

#[derive(Debug)]
struct Node<T> {
    children: Vec<(Box<str>, Node<T>)>,
    /// Exact matches that end here, without and with a slash.
    exact: [Option<T>; 2],
    /// The prefix that ends here, with its rank among those that do.
    prefix: Option<(u8, T)>,
}

impl<T> PathTrie<T> {
    /// The value for `path`, in normal form.
    pub fn find(&self, path: &str) -> Option<&T> {
        let (elements, has_slash) = split(path);
        let mut node = Some(&self.root);
        let mut longest = self.root.prefix.as_ref();
        for element in elements {
            node = node.and_then(|node| node.child(element));
            let Some(node) = node else { break };
            longest = node.prefix.as_ref().or(longest);
        }
        let exact = node.and_then(|node| node.exact[usize::from(has_slash)].as_ref());
        exact.or(longest.map(|(_, value)| value))
    }

    /// Adds a value. Of two for the same path and the same kind of match the caller must offer one only.
    pub fn insert(&mut self, path: &str, kind: PathMatch, value: T) {
        let (elements, has_slash) = split(path);
        let node = elements.fold(&mut self.root, |node, element| {
            node.child_or_insert(element)
        });
        if kind == PathMatch::Exact {
            node.exact[usize::from(has_slash)] = Some(value);
            return;
        }
        let rank = 2 * u8::from(has_slash) + u8::from(kind == PathMatch::Prefix);
        if node.prefix.as_ref().is_none_or(|(best, _)| *best < rank) {
            node.prefix = Some((rank, value));
        }
    }

    /// All values that can be found, by path.
    pub fn values(&self) -> Vec<&T> {
        let mut all = Vec::new();
        self.root.collect(&mut all);
        all
    }
}

impl<T> Node<T> {
    fn child(&self, element: &str) -> Option<&Self> {
        let at = self.position(element).ok()?;
        Some(&self.children[at].1)
    }

    fn child_or_insert(&mut self, element: &str) -> &mut Self {
        let at = self.position(element).unwrap_or_else(|at| {
            self.children.insert(at, (element.into(), Self::default()));
            at
        });
        &mut self.children[at].1
    }

    fn collect<'n>(&'n self, all: &mut Vec<&'n T>) {
        all.extend(self.exact.iter().flatten());
        all.extend(self.prefix.as_ref().map(|(_, value)| value));
        for (_, child) in &self.children {
            child.collect(all);
        }
    }

    fn position(&self, element: &str) -> Result<usize, usize> {
        self.children
            .binary_search_by(|(name, _)| (**name).cmp(element))
    }
}

/// The elements of `path` and whether a slash ends it. `/` has no elements and ends in its slash.
fn split(path: &str) -> (impl Iterator<Item = &str>, bool) {
    let path = path.strip_prefix('/').unwrap_or(path);
    let has_slash = path.is_empty() || path.ends_with('/');
    let inner = path.strip_suffix('/').unwrap_or(path);
    let count = if path.is_empty() { 0 } else { usize::MAX };
    (inner.split('/').take(count), has_slash)
}

impl<T> Default for PathTrie<T> {
    fn default() -> Self {
        Self {
            root: Node::default(),
        }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            children: Vec::new(),
            exact: [None, None],
            prefix: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PathMatch::{Exact, Loose, Pattern, Prefix};
    use proptest::prelude::*;

    /// Inserts `rules` in both orders and checks which one wins for `path`.
    fn check(row: &str, rules: &[(PathMatch, &str)], path: &str, expected: Option<usize>) {
        let numbered = || rules.iter().enumerate();
        for order in [numbered().collect::<Vec<_>>(), numbered().rev().collect()] {
            let mut trie = PathTrie::default();
            for (number, (kind, rule)) in order {
                trie.insert(rule, *kind, number);
            }
            assert_eq!(trie.find(path).copied(), expected, "row {row}: {path}");
        }
    }

    /// The path table of the design, row by row. Rows 11 and 14 need a whole table of routes and stand there.
    #[test]
    fn path_table() {
        const YES: Option<usize> = Some(0);
        const NO: Option<usize> = None;
        for path in ["/", "/foo", "/foo/", "/any/thing"] {
            check("1", &[(Prefix, "/")], path, YES);
        }
        check("2", &[(Exact, "/foo")], "/foo", YES);
        for path in ["/bar", "/foo/", "/FOO", "/foo/x", "/"] {
            check("3", &[(Exact, "/foo")], path, NO);
        }
        check("4", &[(Exact, "/foo/")], "/foo", NO);
        check("4", &[(Exact, "/foo/")], "/foo/", YES);
        for rule in ["/foo", "/foo/"] {
            for path in ["/foo", "/foo/", "/foo/x"] {
                check("5", &[(Prefix, rule)], path, YES);
            }
            check("5", &[(Prefix, rule)], "/Foo", NO);
        }
        check("6", &[(Prefix, "/aaa/bb")], "/aaa/bbb", NO);
        for rule in ["/aaa/bbb", "/aaa/bbb/"] {
            for path in ["/aaa/bbb", "/aaa/bbb/", "/aaa/bbb/ccc"] {
                check("7", &[(Prefix, rule)], path, YES);
            }
        }
        check("8", &[(Prefix, "/aaa/bbb")], "/aaa/bbbxyz", NO);
        check("9", &[(Prefix, "/"), (Prefix, "/aaa")], "/aaa/ccc", Some(1));
        let nested = [(Prefix, "/"), (Prefix, "/aaa"), (Prefix, "/aaa/bbb")];
        check("10", &nested, "/aaa/bbb", Some(2));
        check("10", &nested, "/ccc", Some(0));
        check("12", &[(Prefix, "/foo"), (Exact, "/foo")], "/foo", Some(1));
        for path in ["/foo", "/foo/"] {
            check("13", &[(Prefix, "/foo"), (Prefix, "/foo/")], path, Some(1));
        }
        let mixed = [(Prefix, "/a/b"), (Exact, "/a")];
        check("15", &mixed, "/a", Some(1));
        check("15", &mixed, "/a/b/c", Some(0));
        check("15", &mixed, "/a/c", NO);
        check("16", &[(Prefix, "/a")], "/a%2Fb", NO);
    }

    #[test]
    fn loose_paths_match_like_prefixes_and_yield_to_equal_ones() {
        check("loose", &[(Loose, "/a")], "/a/b", Some(0));
        check("equal", &[(Loose, "/a"), (Prefix, "/a")], "/a/b", Some(1));
        check(
            "longer",
            &[(Loose, "/a/b"), (Prefix, "/a")],
            "/a/b",
            Some(0),
        );
        check("exact", &[(Loose, "/a"), (Exact, "/a")], "/a", Some(1));
    }

    #[test]
    fn empty_elements_are_elements() {
        check("inner", &[(Prefix, "/a/b")], "/a//b", None);
        check("end", &[(Exact, "/a/")], "/a//", None);
        check("prefix", &[(Prefix, "/a")], "/a//", Some(0));
    }

    /// The same rules, tried one after the other.
    fn reference(rules: &[(PathMatch, String)], path: &str) -> Option<usize> {
        let elements = |path: &str| -> Vec<String> {
            let inner = path.trim_start_matches('/');
            let inner = inner.strip_suffix('/').unwrap_or(inner);
            let all = inner.split('/').map(str::to_owned);
            all.filter(|element| !element.is_empty()).collect()
        };
        let matches = |(kind, rule): &(PathMatch, String)| match kind {
            Exact => rule == path,
            Prefix | Loose | Pattern => elements(path).starts_with(&elements(rule)),
        };
        let rank = |(kind, rule): &(PathMatch, String)| {
            let length = (elements(rule).len(), rule.len());
            (*kind == Exact, length, *kind == Prefix)
        };
        let fitting = rules.iter().enumerate().filter(|(_, rule)| matches(rule));
        let best = fitting.max_by_key(|(_, rule)| rank(rule));
        best.map(|(number, _)| number)
    }

    fn path() -> impl Strategy<Value = String> {
        let element = prop_oneof!["a", "b", "ab"];
        (proptest::collection::vec(element, 0..4), any::<bool>()).prop_map(|(elements, slash)| {
            let joined = format!("/{}", elements.join("/"));
            if slash && joined != "/" {
                joined + "/"
            } else {
                joined
            }
        })
    }

    proptest! {
        #[test]
        fn finds_what_trying_every_rule_finds(
            rules in proptest::collection::hash_set(
                (prop_oneof![Just(Exact), Just(Prefix), Just(Loose)], path()), 0..12),
            paths in proptest::collection::vec(path(), 8),
        ) {
            let rules: Vec<_> = rules.into_iter().collect();
            let mut trie = PathTrie::default();
            for (number, (kind, rule)) in rules.iter().enumerate() {
                trie.insert(rule, *kind, number);
            }
            for path in paths {
                prop_assert_eq!(trie.find(&path).copied(), reference(&rules, &path), "{}", path);
            }
        }
    }
}
