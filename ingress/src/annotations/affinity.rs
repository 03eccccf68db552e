//! Keeping clients at an endpoint: `affinity`, `affinity-mode`, `affinity-canary-behavior` and `session-cookie-*`.

use super::Annotations;
use crate::upstream::session_cookie::{SameSite, SessionCookie};

/// That clients are kept at an endpoint by a cookie.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Affinity {
    /// How firmly.
    pub mode: Mode,
    /// How firmly beside a canary.
    pub canary: BesideCanary,
    /// The cookie.
    pub cookie: SessionCookie,
    /// `session-cookie-change-on-failure`: whether a client moves for good when its endpoint fails.
    pub moves_on_failure: bool,
}

/// `affinity-mode`: what happens to clients when endpoints come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// New endpoints get their share of them.
    #[default]
    Balanced,
    /// They stay where they are.
    Persistent,
}

/// `affinity-canary-behavior`: what happens to clients where there is a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BesideCanary {
    /// Who has been at the canary stays there, and who has been beside it stays beside it.
    #[default]
    Sticky,
    /// The canary's rules decide about each request, and it keeps nobody at an endpoint.
    Legacy,
}

impl Affinity {
    /// Reads the annotations.
    pub fn parse(from: &mut Annotations<'_>) -> Option<Self> {
        let asked = from.choice("affinity", &[("cookie", ())]);
        let modes = [
            ("balanced", Mode::Balanced),
            ("persistent", Mode::Persistent),
        ];
        let canaries = [
            ("sticky", BesideCanary::Sticky),
            ("legacy", BesideCanary::Legacy),
        ];
        let affinity = Self {
            canary: from
                .choice("affinity-canary-behavior", &canaries)
                .unwrap_or_default(),
            mode: from.choice("affinity-mode", &modes).unwrap_or_default(),
            cookie: cookie(from),
            moves_on_failure: from
                .flag("session-cookie-change-on-failure")
                .unwrap_or_default(),
        };
        asked.map(|()| affinity)
    }
}

fn cookie(from: &mut Annotations<'_>) -> SessionCookie {
    let usual = SessionCookie::default();
    let same_sites = [
        ("None", SameSite::None),
        ("Lax", SameSite::Lax),
        ("Strict", SameSite::Strict),
    ];
    SessionCookie {
        name: from.get("session-cookie-name", name).unwrap_or(usual.name),
        path: from.get("session-cookie-path", attribute),
        domain: from.get("session-cookie-domain", attribute),
        expires: from.number("session-cookie-expires", i64::MIN..=i64::MAX),
        max_age: from.number("session-cookie-max-age", i64::MIN..=i64::MAX),
        secure: from.flag("session-cookie-secure"),
        same_site: from.choice("session-cookie-samesite", &same_sites),
        spares_old_clients: from
            .flag("session-cookie-conditional-samesite-none")
            .unwrap_or_default(),
        partitioned: from.flag("session-cookie-partitioned").unwrap_or_default(),
    }
}

/// The name of a cookie: a token (RFC 9110 section 5.6.2).
fn name(text: &str) -> Result<Box<str>, String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_name = !text.is_empty() && text.bytes().all(is_token);
    let name = is_name.then(|| text.into());
    name.ok_or_else(|| format!("{text:?} is not the name of a cookie"))
}

/// The value of an attribute: anything that does not end it (RFC 6265 section 4.1.1).
fn attribute(text: &str) -> Result<Box<str>, String> {
    let is_sound = text
        .bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && byte != b';');
    let value = is_sound.then(|| text.into());
    value.ok_or_else(|| format!("{text:?} cannot stand in a cookie"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::annotations::policy::tests::read;

    fn affinity(given: &[(&'static str, &str)]) -> Option<Affinity> {
        let balancing = read(given).policy?.balancing.clone()?;
        balancing.affinity
    }

    #[test]
    fn affinity_is_by_cookie_and_balanced_by_default() {
        assert_eq!(
            affinity(&[("affinity", "cookie")]),
            Some(Affinity::default())
        );
        for none in [
            &[("affinity", "ip")][..],
            &[("affinity-mode", "persistent")],
        ] {
            assert_eq!(affinity(none), None);
        }
    }

    #[test]
    fn the_cookie_is_as_asked_for_and_bad_parts_are_left_out() {
        let found = affinity(&[
            ("affinity", "cookie"),
            ("affinity-mode", "persistent"),
            ("affinity-canary-behavior", "legacy"),
            ("session-cookie-name", "route"),
            ("session-cookie-path", "/x; Secure"),
            ("session-cookie-domain", "a.org"),
            ("session-cookie-expires", "172800"),
            ("session-cookie-max-age", "-1"),
            ("session-cookie-secure", "false"),
            ("session-cookie-samesite", "Lax"),
            ("session-cookie-conditional-samesite-none", "true"),
            ("session-cookie-partitioned", "true"),
            ("session-cookie-change-on-failure", "true"),
        ]);
        let expected = Affinity {
            mode: Mode::Persistent,
            canary: BesideCanary::Legacy,
            moves_on_failure: true,
            cookie: SessionCookie {
                name: "route".into(),
                path: None,
                domain: Some("a.org".into()),
                expires: Some(172_800),
                max_age: Some(-1),
                secure: Some(false),
                same_site: Some(SameSite::Lax),
                spares_old_clients: true,
                partitioned: true,
            },
        };
        assert_eq!(found.unwrap(), expected);
        for bad in ["", "a b", "a=b", "é", "a;b"] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }
}
