//! What is changed about the answers of a backend that does not know under which host and path it is seen:
//! `proxy-cookie-domain`, `proxy-cookie-path`, `proxy-redirect-from` and `-to`.

use super::groups::Groups;
use super::{Annotations, Pattern};
use crate::message::variables::Template;

/// What is changed about answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Substitutes {
    /// For the domain of cookies.
    pub cookie_domain: Option<Substitute>,
    /// For the path of cookies.
    pub cookie_path: Option<Substitute>,
    /// For where redirects lead.
    pub location: Option<Location>,
}

/// One text for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Substitute {
    /// This text for that.
    Text(Box<str>, Box<str>),
    /// Text for what an expression matches.
    Pattern(Pattern, Groups),
}

/// One place for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// The beginning of a URL for another.
    Prefix(Template, Template),
    /// Text for what an expression matches.
    Pattern(Pattern, Groups),
}

impl Substitutes {
    /// Reads the annotations.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        Self {
            cookie_domain: from.get("proxy-cookie-domain", pair).flatten(),
            cookie_path: from.get("proxy-cookie-path", pair).flatten(),
            location: location(from),
        }
    }
}

/// Two texts separated by a blank, or `off`.
fn pair(text: &str) -> Result<Option<Substitute>, String> {
    if text == "off" {
        return Ok(None);
    }
    let mut words = text.split_whitespace();
    let (Some(old), Some(new), None) = (words.next(), words.next(), words.next()) else {
        return Err(format!("{text:?} is neither off nor two texts"));
    };
    let groups = || Groups::parse(new).map_err(|error| format!("{new:?} {error}"));
    if let Some(pattern) = expression(old)? {
        return Ok(Some(Substitute::Pattern(pattern, groups()?)));
    }
    if !new
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"$;,".contains(&byte))
    {
        return Err(format!("{new:?} cannot stand in a cookie"));
    }
    Ok(Some(Substitute::Text(old.into(), new.into())))
}

/// What follows `~`, or `~*` where case does not count.
fn expression(text: &str) -> Result<Option<Pattern>, String> {
    let pattern = match text.strip_prefix('~') {
        None => return Ok(None),
        Some(rest) => match rest.strip_prefix('*') {
            Some(rest) => Pattern::ignoring_case(rest),
            None => Pattern::new(rest),
        },
    };
    pattern
        .map(Some)
        .map_err(|error| format!("{text:?} {error}"))
}

fn location(from: &mut Annotations<'_>) -> Option<Location> {
    let (old, new) = (
        from.text("proxy-redirect-from"),
        from.text("proxy-redirect-to"),
    );
    match (old?, new) {
        // The default of nginx changes what names the upstream as the configuration does, which no backend has seen.
        ("off" | "default", _) => None,
        (_, None) => {
            from.invalid("proxy-redirect-from", "needs proxy-redirect-to");
            None
        }
        (old, Some(new)) => match replacement(old, new) {
            Ok(location) => Some(location),
            Err(error) => {
                from.invalid("proxy-redirect-to", error);
                None
            }
        },
    }
}

fn replacement(old: &str, new: &str) -> Result<Location, String> {
    if let Some(pattern) = expression(old)? {
        let groups = Groups::parse(new).map_err(|error| format!("{new:?} {error}"))?;
        return Ok(Location::Pattern(pattern, groups));
    }
    let template = |text| Template::parse(text).map_err(|error| format!("{text:?}: {error}"));
    Ok(Location::Prefix(template(old)?, template(new)?))
}

// What comes of a text.

impl Substitute {
    /// The domain in place of `domain`, if it is the one. Domains have no case, and a dot before them means nothing.
    pub fn domain(&self, domain: &str) -> Option<String> {
        match self {
            Self::Text(old, new) => {
                let bare = |text: &str| text.trim_start_matches('.').to_ascii_lowercase();
                (bare(old) == bare(domain)).then(|| new.to_string())
            }
            Self::Pattern(pattern, groups) => Some(groups.fill(&pattern.captures(domain)?)),
        }
    }

    /// The path in place of `path`, if it begins like that.
    pub fn path(&self, path: &str) -> Option<String> {
        match self {
            Self::Text(old, new) => Some(format!("{new}{}", path.strip_prefix(&**old)?)),
            Self::Pattern(pattern, groups) => Some(groups.fill(&pattern.captures(path)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::annotations::policy::tests::{read, verdict};

    #[test]
    fn domains_and_paths_are_replaced_as_in_nginx() {
        let domain = |pair_text: &str, text: &str| pair(pair_text).unwrap().unwrap().domain(text);
        let path = |pair_text: &str, text: &str| pair(pair_text).unwrap().unwrap().path(text);
        let rows = [
            (domain("localhost a.org", "localhost"), Some("a.org")),
            (domain("localhost a.org", ".LOCALHOST"), Some("a.org")),
            (domain("localhost a.org", "x.localhost"), None),
            (domain(r"~\.([a-z]+)$ $1.org", "x.b"), Some("b.org")),
            (domain(r"~*^LOCAL a.org", "localhost"), Some("a.org")),
            (path("/one/ /", "/one/two"), Some("/two")),
            (path("/ /app/", "/x"), Some("/app/x")),
            (path("/one/ /", "/two"), None),
            (path("~^/user/(.+) /u/$1", "/user/ann"), Some("/u/ann")),
        ];
        for (number, (found, expected)) in rows.iter().enumerate() {
            assert_eq!(found.as_deref(), *expected, "row {number}");
        }
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        for text in ["one", "a b c", "~( x", "/ $host", "/ a;b", "~x $0"] {
            assert_eq!(
                verdict(&read(&[("proxy-cookie-path", text)]), "proxy-cookie-path").0,
                "invalid",
                "{text}"
            );
        }
        assert_eq!(read(&[("proxy-cookie-path", "off")]).policy, None);
    }

    #[test]
    fn locations_need_both_ends() {
        let rows = [
            ("http://b/", Some("https://$host/"), "same", true),
            ("~^http://[^/]+(.*)", Some("https://a.org$1"), "same", true),
            ("default", None, "same", false),
            ("off", Some("x"), "same", false),
            ("http://b/", None, "invalid", false),
        ];
        for (old, new, word, is_there) in rows {
            let given = [
                ("proxy-redirect-from", Some(old)),
                ("proxy-redirect-to", new),
            ];
            let given: Vec<_> = given
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)))
                .collect();
            let reading = read(&given);
            assert_eq!(verdict(&reading, "proxy-redirect-from").0, word, "{old}");
            assert_eq!(reading.policy.is_some(), is_there, "{old}");
        }
        let bad = read(&[
            ("proxy-redirect-from", "x"),
            ("proxy-redirect-to", "$nothing"),
        ]);
        assert_eq!(verdict(&bad, "proxy-redirect-to").0, "invalid");
    }
}
