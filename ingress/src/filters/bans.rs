//! Clients that nobody wants: `block-cidrs`, `block-user-agents` and `block-referers` of the ConfigMap.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{HeaderName, REFERER, USER_AGENT};

use super::ranges::Ranges;
use crate::annotations::Pattern;

/// Who is refused whatever the route. By default nobody is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bans {
    /// By address.
    pub clients: Ranges,
    /// By `User-Agent`.
    pub agents: Texts,
    /// By `Referer`.
    pub referers: Texts,
}

/// Texts as keys of nginx's `map` are: whole texts, whatever the case of their letters, and expressions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Texts {
    whole: Box<[Box<str>]>,
    patterns: Box<[Pattern]>,
}

impl Bans {
    /// Whether nobody is refused.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.agents.is_empty() && self.referers.is_empty()
    }

    /// Whether a request with `headers` from `client` is refused.
    pub fn concern(&self, client: IpAddr, headers: &HeaderMap) -> bool {
        let says = |name: HeaderName, texts: &Texts| {
            let text = headers.get(name).map(|value| value.as_bytes());
            let text = String::from_utf8_lossy(text.unwrap_or_default());
            !texts.is_empty() && texts.has(&text)
        };
        self.clients.contains(client)
            || says(USER_AGENT, &self.agents)
            || says(REFERER, &self.referers)
    }
}

impl Texts {
    /// Reads a list separated by commas: texts, and expressions after `~` or, where case does not count, `~*`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut whole, mut patterns) = (Vec::new(), Vec::new());
        for element in text.split(',').map(unquoted) {
            let pattern = match element.strip_prefix('~') {
                None if element.is_empty() => continue,
                None => {
                    whole.push(element.into());
                    continue;
                }
                Some(rest) => match rest.strip_prefix('*') {
                    Some(rest) => Pattern::ignoring_case(rest),
                    None => Pattern::new(rest),
                },
            };
            patterns.push(pattern.map_err(|error| format!("{element:?} {error}"))?);
        }
        Ok(Self {
            whole: whole.into(),
            patterns: patterns.into(),
        })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.patterns.is_empty()
    }

    /// Whether `text` is one of them.
    pub fn has(&self, text: &str) -> bool {
        let mut whole = self.whole.iter();
        let mut patterns = self.patterns.iter();
        whole.any(|one| one.eq_ignore_ascii_case(text))
            || patterns.any(|pattern| pattern.is_match(text))
    }
}

fn unquoted(element: &str) -> &str {
    let element = element.trim();
    let inside = |quote| element.strip_prefix(quote)?.strip_suffix(quote);
    inside('"').or_else(|| inside('\'')).unwrap_or(element)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    #[test]
    fn texts_are_whole_or_expressions() {
        let texts = Texts::parse("curl/7.54.0, ~Mozilla , \"~*bot$\",,'a b'").unwrap();
        for (text, expected) in [
            ("CURL/7.54.0", true),
            ("curl/7.54.01", false),
            ("xMozilla", true),
            ("mozilla", false),
            ("a BOT", true),
            ("bots", false),
            ("a b", true),
            ("", false),
        ] {
            assert_eq!(texts.has(text), expected, "{text:?}");
        }
        assert!(Texts::parse(" , ").unwrap().is_empty());
        assert!(Texts::parse("~(").unwrap_err().contains("~("));
    }

    #[test]
    fn one_of_three_is_enough() {
        let bans = Bans {
            clients: ["192.0.2.0/24".parse().unwrap()].into_iter().collect(),
            agents: Texts::parse("bad").unwrap(),
            referers: Texts::parse("~evil").unwrap(),
        };
        let (good, bad) = ([10, 0, 0, 1].into(), [192, 0, 2, 1].into());
        let mut headers = HeaderMap::new();
        assert!(!bans.concern(good, &headers) && bans.concern(bad, &headers));
        headers.insert(USER_AGENT, HeaderValue::from_static("bad"));
        assert!(bans.concern(good, &headers));
        headers.clear();
        headers.insert(REFERER, HeaderValue::from_static("https://evil.example"));
        assert!(bans.concern(good, &headers));
        assert!(!bans.is_empty() && Bans::default().is_empty());
    }

    proptest! {
        #[test]
        fn any_list_is_read_or_refused(list in "[~*a-c(,\"' ]{0,16}|\\PC{0,16}") {
            if let Ok(texts) = Texts::parse(&list) {
                texts.has("abc");
            }
        }
    }
}
