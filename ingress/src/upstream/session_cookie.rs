//! The cookie that keeps a client at its endpoint: its attributes, and the field that sets it.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use http::HeaderValue;

/// What a session cookie is like, apart from its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionCookie {
    /// `session-cookie-name`.
    pub name: Box<str>,
    /// `session-cookie-path`; without it the path of the rule.
    pub path: Option<Box<str>>,
    /// `session-cookie-domain`.
    pub domain: Option<Box<str>>,
    /// `session-cookie-expires`, in seconds from now.
    pub expires: Option<i64>,
    /// `session-cookie-max-age`, in seconds.
    pub max_age: Option<i64>,
    /// `session-cookie-secure`; without it whether the client came over HTTPS.
    pub secure: Option<bool>,
    /// `session-cookie-samesite`.
    pub same_site: Option<SameSite>,
    /// `session-cookie-conditional-samesite-none`: `None` is left out for clients that misunderstand it.
    pub spares_old_clients: bool,
    /// `session-cookie-partitioned`.
    pub partitioned: bool,
}

/// Whether a cookie is sent with requests that other sites cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// With all.
    None,
    /// Only when the user follows a link.
    Lax,
    /// Never.
    Strict,
}

/// What the field that sets a cookie needs to know of the request.
#[derive(Debug, Clone, Copy)]
pub struct Client<'r> {
    /// The path of the rule that it takes.
    pub path: &'r str,
    /// Whether it came over HTTPS.
    pub is_secure: bool,
    /// Its `User-Agent`.
    pub agent: &'r str,
}

impl Default for SessionCookie {
    fn default() -> Self {
        Self {
            name: "INGRESSCOOKIE".into(),
            path: None,
            domain: None,
            expires: None,
            max_age: None,
            secure: None,
            same_site: None,
            spares_old_clients: false,
            partitioned: false,
        }
    }
}

impl SessionCookie {
    /// The value of `Set-Cookie` that gives `client` the session `value`.
    pub fn set(&self, value: &str, client: Client<'_>, now: SystemTime) -> Option<HeaderValue> {
        let mut text = String::with_capacity(160);
        let written = self.write(&mut text, value, client, now);
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
        HeaderValue::try_from(text).ok()
    }

    fn write(
        &self,
        text: &mut String,
        value: &str,
        client: Client<'_>,
        now: SystemTime,
    ) -> std::fmt::Result {
        write!(text, "{}={value}", self.name)?;
        if let Some(seconds) = self.expires {
            let at = httpdate::fmt_http_date(after(now, seconds));
            write!(text, "; Expires={at}")?;
        }
        if let Some(seconds) = self.max_age {
            write!(text, "; Max-Age={seconds}")?;
        }
        if let Some(domain) = &self.domain {
            write!(text, "; Domain={domain}")?;
        }
        let path = self.path.as_deref().unwrap_or(client.path);
        write!(text, "; Path={}", if path.is_empty() { "/" } else { path })?;
        if self.secure.unwrap_or(client.is_secure) {
            text.push_str("; Secure");
        }
        text.push_str("; HttpOnly");
        match self.same_site {
            Some(SameSite::None) if self.spares_old_clients && misreads_none(client.agent) => {}
            Some(same_site) => write!(text, "; SameSite={same_site:?}")?,
            None => {}
        }
        if self.partitioned {
            text.push_str("; Partitioned");
        }
        Ok(())
    }
}

/// The time so many seconds after `now`, or before it if they are negative, within what a date can say.
fn after(now: SystemTime, seconds: i64) -> SystemTime {
    // Dates of HTTP have four digits for the year.
    const MOST: u64 = 7_000 * 365 * 86_400;
    let distance = Duration::from_secs(seconds.unsigned_abs().min(MOST));
    let shifted = match seconds {
        0.. => now.checked_add(distance),
        _ => now.checked_sub(distance),
    };
    shifted.map_or(SystemTime::UNIX_EPOCH, |time| {
        time.max(SystemTime::UNIX_EPOCH)
    })
}

/// Whether a browser takes `SameSite=None` for `Strict` or refuses the cookie
/// (chromium.org/updates/same-site/incompatible-clients).
fn misreads_none(agent: &str) -> bool {
    let version = |mark: &str| number(agent.split_once(mark)?.1);
    let is_old_apple = agent.contains("iP") && agent.contains(" OS 12_")
        || agent.contains("Mac OS X 10_14")
            && agent.contains("Version/")
            && agent.contains("Safari");
    let chrome = version("Chrome/").or_else(|| version("Chromium/"));
    let is_old_chrome = chrome.is_some_and(|version| (51..67).contains(&version));
    let is_old_uc = version("UCBrowser/").is_some_and(|version| version < 12);
    is_old_apple || is_old_chrome || is_old_uc
}

/// The number at the beginning of `text`.
fn number(text: &str) -> Option<u32> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    const CLIENT: Client<'_> = Client {
        path: "/app",
        is_secure: false,
        agent: "curl",
    };

    #[track_caller]
    fn check(cookie: SessionCookie, client: Client<'_>, expected: &str) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        assert_eq!(cookie.set("v", client, now).unwrap(), expected);
    }

    #[test]
    fn attributes_are_those_asked_for() {
        let plain = SessionCookie::default();
        check(
            plain.clone(),
            CLIENT,
            "INGRESSCOOKIE=v; Path=/app; HttpOnly",
        );
        let secure = Client {
            is_secure: true,
            path: "",
            ..CLIENT
        };
        check(plain, secure, "INGRESSCOOKIE=v; Path=/; Secure; HttpOnly");
        let all = SessionCookie {
            name: "s".into(),
            path: Some("/x".into()),
            domain: Some("a.org".into()),
            expires: Some(3600),
            max_age: Some(-1),
            secure: Some(true),
            same_site: Some(SameSite::Lax),
            spares_old_clients: true,
            partitioned: true,
        };
        let expected = "s=v; Expires=Sun, 09 Sep 2001 02:46:40 GMT; Max-Age=-1; Domain=a.org; Path=/x; Secure; HttpOnly; \
                        SameSite=Lax; Partitioned";
        check(all, CLIENT, expected);
    }

    #[test]
    fn none_is_left_out_for_clients_that_misread_it() {
        let cookie = SessionCookie {
            same_site: Some(SameSite::None),
            spares_old_clients: true,
            ..SessionCookie::default()
        };
        let rows = [
            (
                "Mozilla/5.0 (X11; Linux x86_64) Chrome/120.0 Safari/537.36",
                true,
            ),
            (
                "Mozilla/5.0 (X11; Linux x86_64) Chrome/66.0 Safari/537.36",
                false,
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 12_4 like Mac OS X) Safari/604.1",
                false,
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_6) Version/12.1 Safari/605.1",
                false,
            ),
        ];
        for (agent, has_it) in rows {
            let field = cookie
                .set("v", Client { agent, ..CLIENT }, SystemTime::UNIX_EPOCH)
                .unwrap();
            assert_eq!(
                field.to_str().unwrap().contains("SameSite=None"),
                has_it,
                "{agent}"
            );
        }
    }

    #[test]
    fn no_number_is_too_large_for_a_date() {
        for seconds in [i64::MIN, -1, i64::MAX] {
            let cookie = SessionCookie {
                expires: Some(seconds),
                ..SessionCookie::default()
            };
            assert!(
                cookie.set("v", CLIENT, SystemTime::UNIX_EPOCH).is_some(),
                "{seconds}"
            );
        }
    }
}
