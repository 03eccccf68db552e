//! Host names: as rules write them, as requests send them, and a map from the one to the other.
//!
//! Everything is ASCII lower case without port and trailing dot. A wildcard covers exactly one label (Ingress v1; the
//! Gateway API means something else by the same text).

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// The longest name that DNS can carry.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// The hosts that a rule, a TLS section or a certificate speaks of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// One host.
    Exact(Box<str>),
    /// All hosts with one label more than this one: `*.` is cut off.
    Wildcard(Box<str>),
    /// All hosts.
    Any,
}

/// Why a text is not a host of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHost {
    /// An address stands where a name belongs.
    #[error("must be a DNS name, not an IP address")]
    Address,
    /// It is no DNS name.
    #[error("must be a DNS name in lower case, with at most one `*` as its whole first label")]
    Name,
}

/// The authority of a request, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority<'a> {
    /// The host in lower case, without a trailing dot; an IPv6 address keeps its brackets.
    pub host: Cow<'a, str>,
    /// The port, if it was given.
    pub port: Option<u16>,
}

/// Values by host. The most specific pattern wins: exact, then wildcard, then any.
///
/// A copy shares what neither side changes afterwards, so a snapshot of many hosts costs no more than one of few.
#[derive(Debug, Clone)]
pub struct HostMap<T> {
    exact: Names<T>,
    wildcard: Names<T>,
    any: Option<T>,
}

/// Values by name, in shards that copies share until one of them writes.
#[derive(Debug, Clone)]
struct Names<T>(Vec<Arc<HashMap<Box<str>, T>>>);

/// Enough that a shard of 100,000 names is copied in microseconds, few enough that the list of shards is, too.
const SHARDS: usize = 256;

// Patterns.

impl HostPattern {
    /// Reads the host of a rule. An empty one stands for all hosts.
    pub fn parse(text: &str) -> Result<Self, BadHost> {
        if text.is_empty() {
            return Ok(Self::Any);
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(BadHost::Address);
        }
        match text.strip_prefix("*.") {
            Some(suffix) if is_dns_name(suffix) => Ok(Self::Wildcard(suffix.into())),
            None if is_dns_name(text) => Ok(Self::Exact(text.into())),
            _ => Err(BadHost::Name),
        }
    }

    /// What ingress-nginx calls it: the same, and `_` for all hosts.
    pub fn server_name(&self) -> String {
        match self {
            Self::Any => "_".to_owned(),
            named => named.to_string(),
        }
    }

    /// Whether `host`, a host of a request or another pattern's text, is covered.
    pub fn covers(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Wildcard(suffix) => parent(host) == Some(suffix),
            Self::Any => true,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// `host` without its first label.
fn parent(host: &str) -> Option<&str> {
    let (label, rest) = host.split_once('.')?;
    (!label.is_empty() && !rest.is_empty()).then_some(rest)
}

/// Whether `name` is a DNS-1123 subdomain.
fn is_dns_name(name: &str) -> bool {
    name.len() <= MAX_NAME && name.split('.').all(is_dns_label)
}

fn is_dns_label(label: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !label.is_empty()
        && label.len() <= MAX_LABEL
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

// Requests.

impl<'a> Authority<'a> {
    /// Reads `host[:port]` as a request sends it, in `Host`, `:authority` or an absolute target. Anything that two
    /// parsers could read in two ways is refused: user information, paths, blanks, an empty host.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (host, port) = split_port(text)?;
        let host = host.strip_suffix('.').unwrap_or(host);
        let is_sound = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().is_ok(),
            None => is_host_name(host),
        };
        is_sound.then(|| Self {
            host: lower_case(host),
            port,
        })
    }
}

/// Splits off a port. An empty one (`host:`) is legal and means the scheme's own.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let name_end = text.rfind(']').map_or(0, |bracket| bracket + 1);
    let Some(colon) = text[name_end..].find(':').map(|at| name_end + at) else {
        return Some((text, None));
    };
    let (host, port) = (&text[..colon], &text[colon + 1..]);
    match port {
        "" => Some((host, None)),
        _ if port.bytes().all(|b| b.is_ascii_digit()) => Some((host, Some(port.parse().ok()?))),
        _ => None,
    }
}

/// Whether `host`, whose one dot at the end is gone, is a name. With another one it would be two names to two parsers.
fn is_host_name(host: &str) -> bool {
    let is_sound = !host.is_empty() && !host.ends_with('.') && host.len() <= MAX_NAME;
    is_sound && host.bytes().all(is_host_byte)
}

/// Underscores are no part of host names, yet of many a test set-up.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `text` in ASCII lower case.
pub fn lower_case(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

// Maps.

impl<T> HostMap<T> {
    /// The value for `host`, which is as [`Authority::parse`] returns it.
    pub fn get(&self, host: &str) -> Option<&T> {
        self.named(host).or(self.any.as_ref())
    }

    /// The value of a pattern that names `host`, exactly or by wildcard.
    pub fn named(&self, host: &str) -> Option<&T> {
        let exact = self.exact.get(host);
        exact.or_else(|| self.wildcard.get(parent(host)?))
    }

    /// The patterns that cover `host` with their values, the most specific first.
    pub fn covering(&self, host: &str) -> impl Iterator<Item = (HostPattern, &T)> {
        let wildcard = parent(host).map(|parent| HostPattern::Wildcard(parent.into()));
        let exact = Some(HostPattern::Exact(host.into()));
        let patterns = [exact, wildcard, Some(HostPattern::Any)];
        let patterns = patterns.into_iter().flatten();
        patterns.filter_map(|pattern| {
            let value = self.at(&pattern)?;
            Some((pattern, value))
        })
    }

    /// The value of the very pattern `pattern`.
    pub fn at(&self, pattern: &HostPattern) -> Option<&T> {
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name),
            HostPattern::Wildcard(suffix) => self.wildcard.get(suffix),
            HostPattern::Any => self.any.as_ref(),
        }
    }

    /// All patterns with their values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (HostPattern, &T)> {
        let exact = self.exact.iter();
        let exact = exact.map(|(name, value)| (HostPattern::Exact(name.clone()), value));
        let wildcard = self.wildcard.iter();
        let wildcard = wildcard.map(|(name, value)| (HostPattern::Wildcard(name.clone()), value));
        let any = self.any.iter().map(|value| (HostPattern::Any, value));
        exact.chain(wildcard).chain(any)
    }
}

impl<T: Clone> HostMap<T> {
    /// Sets the value of `pattern`.
    pub fn insert(&mut self, pattern: HostPattern, value: T) {
        match pattern {
            HostPattern::Exact(name) => drop(self.exact.shard(&name).insert(name, value)),
            HostPattern::Wildcard(name) => drop(self.wildcard.shard(&name).insert(name, value)),
            HostPattern::Any => self.any = Some(value),
        }
    }

    /// Removes the value of `pattern`.
    pub fn remove(&mut self, pattern: &HostPattern) {
        match pattern {
            HostPattern::Exact(name) => drop(self.exact.shard(name).remove(name)),
            HostPattern::Wildcard(name) => drop(self.wildcard.shard(name).remove(name)),
            HostPattern::Any => self.any = None,
        }
    }
}

impl<T> Names<T> {
    fn get(&self, name: &str) -> Option<&T> {
        self.0[shard_of(name)].get(name)
    }

    fn iter(&self) -> impl Iterator<Item = (&Box<str>, &T)> {
        self.0.iter().flat_map(|shard| shard.iter())
    }
}

impl<T: Clone> Names<T> {
    /// The shard of `name`, to be written to.
    fn shard(&mut self, name: &str) -> &mut HashMap<Box<str>, T> {
        Arc::make_mut(&mut self.0[shard_of(name)])
    }
}

/// Hosts that differ in any byte are spread; within a shard names are hashed with a secret, so nobody can make it slow.
fn shard_of(name: &str) -> usize {
    let mix = |hash: usize, byte: u8| hash.wrapping_mul(31).wrapping_add(usize::from(byte));
    name.bytes().fold(0, mix) % SHARDS
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self {
            exact: Names::default(),
            wildcard: Names::default(),
            any: None,
        }
    }
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self(vec![Arc::default(); SHARDS])
    }
}

impl<T: Clone> FromIterator<(HostPattern, T)> for HostMap<T> {
    fn from_iter<I: IntoIterator<Item = (HostPattern, T)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (pattern, value) in entries {
            map.insert(pattern, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_rules_are_dns_names_or_wildcards() {
        let exact = |name: &str| Ok(HostPattern::Exact(name.into()));
        let wildcard = |suffix: &str| Ok(HostPattern::Wildcard(suffix.into()));
        let rows = [
            ("", Ok(HostPattern::Any)),
            ("foo.com", exact("foo.com")),
            ("localhost", exact("localhost")),
            ("*.foo.com", wildcard("foo.com")),
            ("*.com", wildcard("com")),
            ("*", Err(BadHost::Name)),
            ("*foo.com", Err(BadHost::Name)),
            ("a.*.com", Err(BadHost::Name)),
            ("*.*.com", Err(BadHost::Name)),
            ("foo.com:80", Err(BadHost::Name)),
            ("Foo.com", Err(BadHost::Name)),
            ("foo..com", Err(BadHost::Name)),
            ("-foo.com", Err(BadHost::Name)),
            ("foo_bar.com", Err(BadHost::Name)),
            ("10.0.0.1", Err(BadHost::Address)),
            ("::1", Err(BadHost::Address)),
        ];
        for (text, expected) in rows {
            assert_eq!(HostPattern::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn authorities_of_requests_are_normalised_or_refused() {
        let rows = [
            ("foo.com", Some(("foo.com", None))),
            ("FOO.com:8080", Some(("foo.com", Some(8080)))),
            ("foo.com.", Some(("foo.com", None))),
            ("foo.com.:80", Some(("foo.com", Some(80)))),
            ("foo.com:", Some(("foo.com", None))),
            ("10.0.0.1:80", Some(("10.0.0.1", Some(80)))),
            ("[::1]:80", Some(("[::1]", Some(80)))),
            ("[FD00::1]", Some(("[fd00::1]", None))),
            ("a_b", Some(("a_b", None))),
            ("", None),
            (".", None),
            (":80", None),
            ("u@a", None),
            ("a.org..", None),
            ("a/b", None),
            ("a b", None),
            ("a,b", None),
            ("a:b", None),
            ("a:80:80", None),
            ("a:+80", None),
            ("a:65536", None),
            ("::1", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[foo]", None),
            ("fo\u{f6}.com", None),
            ("a%2e", None),
        ];
        for (text, expected) in rows {
            let parsed = Authority::parse(text);
            let parsed = parsed.as_ref().map(|a| (&*a.host, a.port));
            assert_eq!(parsed, expected, "{text:?}");
        }
    }

    #[test]
    fn exact_beats_wildcard_beats_any_and_a_wildcard_is_one_label() {
        let pattern = |text| HostPattern::parse(text).expect("a host");
        let map: HostMap<&str> = ["bar.foo.com", "*.foo.com", ""]
            .map(|text| (pattern(text), text))
            .into_iter()
            .collect();
        let rows = [
            ("bar.foo.com", "bar.foo.com"),
            ("baz.foo.com", "*.foo.com"),
            ("foo.com", ""),
            ("a.b.foo.com", ""),
            (".foo.com", ""),
            ("other.org", ""),
        ];
        for (host, expected) in rows {
            assert_eq!(map.get(host), Some(&expected), "{host}");
            let matching = map.covering(host).next();
            assert_eq!(matching, Some((pattern(expected), &expected)), "{host}");
        }
        assert_eq!(map.named("foo.com"), None);
    }

    #[test]
    fn a_copy_does_not_see_later_changes() {
        let pattern = |text| HostPattern::parse(text).expect("a host");
        let mut map: HostMap<i32> = ["a.org", "*.a.org", ""]
            .into_iter()
            .map(|text| (pattern(text), 1))
            .collect();
        let copy = map.clone();
        for text in ["a.org", "*.a.org", ""] {
            map.remove(&pattern(text));
        }
        map.insert(pattern("b.org"), 2);
        assert_eq!(map.iter().collect::<Vec<_>>(), [(pattern("b.org"), &2)]);
        assert_eq!(copy.iter().count(), 3);
        assert_eq!((copy.get("b.org"), copy.named("b.org")), (Some(&1), None));
    }
}
