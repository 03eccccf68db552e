//! Header fields that annotations change on their way, and HSTS.

use http::header::{
    CONNECTION, HOST, HeaderMap, LOCATION, REFRESH, SET_COOKIE, STRICT_TRANSPORT_SECURITY,
};
use http::{HeaderName, HeaderValue};

use crate::annotations::Pattern;
use crate::annotations::groups::Groups;
use crate::annotations::headers::Changes;
use crate::annotations::substitute::{self, Substitute, Substitutes};
use crate::message::variables::Facts;
use crate::routes::Route;

/// Changes the fields of a request.
pub fn edit_request(route: &Route, headers: &mut HeaderMap) {
    let Some(asked) = route.asks(|policy| &policy.headers) else {
        return;
    };
    apply(&asked.request, headers);
    if let Some(host) = &asked.host {
        headers.insert(HOST, host.clone());
    }
    if asked.closes {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

fn apply(changes: &Changes, headers: &mut HeaderMap) {
    for name in &changes.removed {
        headers.remove(name);
    }
    for (name, value) in &changes.set {
        headers.insert(name.clone(), value.clone());
    }
}

/// The changes to a response, as they follow from its request.
#[derive(Debug)]
pub struct ResponseEdit<'r> {
    changes: Option<&'r Changes>,
    substitutes: Option<&'r Substitutes>,
    location: Option<Location<'r>>,
}

/// What becomes of the URLs that responses name.
#[derive(Debug)]
enum Location<'r> {
    Prefix(String, String),
    Pattern(&'r Pattern, &'r Groups),
}

impl<'r> ResponseEdit<'r> {
    /// The changes to the responses of `route` to a request that `facts` tells of.
    pub fn of<'f>(route: &'r Route, facts: impl FnOnce() -> Facts<'f>) -> Self {
        let substitutes = route.asks(|policy| &policy.substitutes);
        let location = substitutes.and_then(|asked| asked.location.as_ref());
        Self {
            changes: route
                .asks(|policy| &policy.headers)
                .map(|asked| &asked.response),
            substitutes,
            location: location.map(|location| match location {
                substitute::Location::Prefix(old, new) => {
                    let facts = facts();
                    Location::Prefix(old.fill(facts), new.fill(facts))
                }
                substitute::Location::Pattern(pattern, groups) => {
                    Location::Pattern(pattern, groups)
                }
            }),
        }
    }

    /// Changes the fields of the response.
    pub fn apply(&self, headers: &mut HeaderMap) {
        if let Some(substitutes) = self.substitutes {
            edit_cookies(substitutes, headers);
        }
        if let Some(location) = &self.location {
            edit_location(location, headers);
        }
        if let Some(changes) = self.changes {
            apply(changes, headers);
        }
    }
}

// Cookies.

fn edit_cookies(substitutes: &Substitutes, headers: &mut HeaderMap) {
    if substitutes.cookie_domain.is_none() && substitutes.cookie_path.is_none() {
        return;
    }
    let http::header::Entry::Occupied(mut cookies) = headers.entry(SET_COOKIE) else {
        return;
    };
    for cookie in cookies.iter_mut() {
        let edited = cookie
            .to_str()
            .ok()
            .map(|text| edit_cookie(substitutes, text));
        if let Some(edited) = edited.and_then(|text| HeaderValue::try_from(text).ok()) {
            *cookie = edited;
        }
    }
}

/// One `Set-Cookie` (RFC 6265 section 4.1) with another domain and path.
fn edit_cookie(substitutes: &Substitutes, cookie: &str) -> String {
    let edit = |(number, part): (usize, &str)| -> String {
        let attribute = part.split_once('=').filter(|_| number > 0);
        let edited = attribute.and_then(|(name, value)| {
            let value = edit_attribute(substitutes, name.trim(), value.trim())?;
            Some(format!("{name}={value}"))
        });
        edited.unwrap_or_else(|| part.to_owned())
    };
    let parts: Vec<String> = cookie.split(';').enumerate().map(edit).collect();
    parts.join(";")
}

fn edit_attribute(substitutes: &Substitutes, name: &str, value: &str) -> Option<String> {
    let edit = |substitute: &Option<Substitute>, with: fn(&Substitute, &str) -> Option<String>| {
        with(substitute.as_ref()?, value)
    };
    let edited = if name.eq_ignore_ascii_case("domain") {
        edit(&substitutes.cookie_domain, Substitute::domain)
    } else if name.eq_ignore_ascii_case("path") {
        edit(&substitutes.cookie_path, Substitute::path)
    } else {
        None
    };
    // What an expression caught must not begin another attribute.
    edited.filter(|edited| !edited.contains([';', ',']))
}

// Locations.

fn edit_location(location: &Location<'_>, headers: &mut HeaderMap) {
    edit_url(headers, LOCATION, |url| location.replace(url));
    edit_url(headers, REFRESH, |refresh| {
        let at = refresh.to_ascii_lowercase().find("url=")? + "url=".len();
        let (before, url) = refresh.split_at(at);
        Some(format!("{before}{}", location.replace(url)?))
    });
}

fn edit_url(headers: &mut HeaderMap, name: HeaderName, edit: impl Fn(&str) -> Option<String>) {
    let old = headers.get(&name).and_then(|value| value.to_str().ok());
    let new = old
        .and_then(edit)
        .and_then(|url| HeaderValue::try_from(url).ok());
    if let Some(new) = new {
        headers.insert(name, new);
    }
}

impl Location<'_> {
    /// The URL in place of `url`, if it is one of those.
    fn replace(&self, url: &str) -> Option<String> {
        match self {
            Self::Prefix(old, new) => Some(format!("{new}{}", url.strip_prefix(&**old)?)),
            Self::Pattern(pattern, groups) => Some(groups.fill(&pattern.captures(url)?)),
        }
    }
}

// HSTS.

/// Tells clients to come by HTTPS only, unless the backend has told them something about that.
pub fn add_hsts(hsts: &HeaderValue, headers: &mut HeaderMap) {
    headers
        .entry(STRICT_TRANSPORT_SECURITY)
        .or_insert_with(|| hsts.clone());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::policy::tests::read;

    #[test]
    fn cookies_get_their_new_domain_and_path_and_keep_the_rest() {
        let policy = read(&[
            ("proxy-cookie-domain", "b a.org"),
            ("proxy-cookie-path", "~^/one(.*)$ $1"),
        ])
        .policy;
        let policy = policy.unwrap_or_default();
        let substitutes = policy.substitutes.as_deref().cloned().unwrap_or_default();
        let rows = [
            (
                "a=path=/one; Path=/one/x; Domain=.b",
                "a=path=/one; Path=/x; Domain=a.org",
            ),
            (
                "a=1; path=/two; HttpOnly; Max-Age=1",
                "a=1; path=/two; HttpOnly; Max-Age=1",
            ),
            ("a=1", "a=1"),
            ("a=1;domain=c", "a=1;domain=c"),
            ("", ""),
        ];
        for (cookie, expected) in rows {
            assert_eq!(edit_cookie(&substitutes, cookie), expected);
        }
    }
}
