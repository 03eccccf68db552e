//! Rules and paths of all sorts: what the trie finds is what trying every rule finds.
#![no_main]

use ingress::message::host::Authority;
use ingress::message::path::{Slashes, normalise, normalise_rule};
use ingress::routes::matcher::{PathMatch, PathTrie};
use libfuzzer_sys::fuzz_target;

// Lines: a host, a path, and rules, of which those that begin with `=` are exact.
fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let (host, path) = (lines.next(), lines.next());
    if let Some(Authority { host, .. }) = host.and_then(Authority::parse) {
        // What is looked up by it is found again under the same name.
        let again = Authority::parse(&host).map(|again| again.host.into_owned());
        assert_eq!(again.as_deref(), Some(&*host));
    }
    let Ok(path) = normalise(path.unwrap_or_default(), Slashes::Merge) else {
        return;
    };
    assert_eq!(normalise(&path, Slashes::Merge).as_deref(), Ok(&*path));
    let mut trie = PathTrie::default();
    let mut rules: Vec<(String, PathMatch)> = Vec::new();
    for line in lines {
        let exact = line.strip_prefix('=');
        let text = exact.unwrap_or(line);
        // No rule that is let in has empty elements.
        let Some(rule) = normalise_rule(text)
            .ok()
            .filter(|rule| !rule.contains("//"))
        else {
            continue;
        };
        let kind = exact.map_or(PathMatch::Prefix, |_| PathMatch::Exact);
        let rule = (rule, kind);
        if !rules.contains(&rule) {
            trie.insert(&rule.0, kind, rule.clone());
            rules.push(rule);
        }
    }
    assert_eq!(trie.find(&path), best(&rules, &path), "{path} in {rules:?}");
});

/// The best of all rules that fit: an exact one, else the one with most elements, else the longest text.
fn best<'r>(rules: &'r [(String, PathMatch)], path: &str) -> Option<&'r (String, PathMatch)> {
    let fitting = rules.iter().filter(|(rule, kind)| match kind {
        PathMatch::Exact => rule == path,
        _ => {
            let stem = rule.strip_suffix('/').unwrap_or(rule);
            let rest = path.strip_prefix(stem);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    });
    fitting.max_by_key(|(rule, kind)| (*kind == PathMatch::Exact, rule.len()))
}
