//! Answers that send clients elsewhere: `permanent-redirect`, `temporal-redirect`, `app-root`, `portolan.dev/return` as far
//! as that is one, and how their targets are written.

use http::StatusCode;

use super::{Annotations, fixed_answer};
use crate::message::variables::{Template, UrlTemplate};

/// Which requests of an Ingress are answered with a redirect, other than to HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redirects {
    /// Where all requests are sent.
    pub all: Option<Elsewhere>,
    /// Where requests for `/` are sent: a path, perhaps with a query.
    pub root: Option<Box<str>>,
    /// Whether targets at the same host are given without it.
    pub relative: bool,
    /// Whether a redirect to HTTPS names the port.
    pub with_port: bool,
}

/// Another place for everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// The status of the answer.
    pub status: StatusCode,
    /// The URL.
    pub to: Template,
}

impl Redirects {
    /// Reads the annotations.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        let temporal = elsewhere(
            from,
            "temporal-redirect",
            "temporal-redirect-code",
            StatusCode::FOUND,
        );
        let permanent = elsewhere(
            from,
            "permanent-redirect",
            "permanent-redirect-code",
            StatusCode::MOVED_PERMANENTLY,
        );
        // ingress-nginx always keeps the slash when this is set, and cuts it off when it is not.
        if from.flag("preserve-trailing-slash") == Some(false) {
            from.differs(
                "preserve-trailing-slash",
                "a redirect to HTTPS never cuts off the slash",
            );
        }
        Self {
            all: fixed_answer::elsewhere(from).or(temporal).or(permanent),
            root: from.get("app-root", root),
            relative: from.flag("relative-redirects").unwrap_or_default(),
            with_port: from.flag("use-port-in-redirects").unwrap_or_default(),
        }
    }
}

fn elsewhere(
    from: &mut Annotations<'_>,
    url: &'static str,
    code: &'static str,
    default: StatusCode,
) -> Option<Elsewhere> {
    let status = from
        .number(code, 300..=308)
        .and_then(|code: u16| StatusCode::from_u16(code).ok());
    Some(Elsewhere {
        to: from.get(url, target)?,
        status: status.unwrap_or(default),
    })
}

/// A URL that browsers follow without running anything, or a path at the same host.
pub(super) fn target(text: &str) -> Result<Template, String> {
    if !is_path(text) {
        UrlTemplate::parse(text).map_err(|error| format!("{text:?} {error}"))?;
    }
    Template::parse(text).map_err(|error| format!("{text:?}: {error}"))
}

fn is_path(text: &str) -> bool {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    is_plain && text.starts_with('/') && !text.starts_with("//")
}

/// A target at the same host.
fn root(text: &str) -> Result<Box<str>, String> {
    if is_path(text) {
        return Ok(text.into());
    }
    Err(format!("{text:?} is not a path"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::annotations::policy::tests::{read, verdict};

    /// Annotations by name.
    type Given<'a> = &'a [(&'a str, &'a str)];

    fn parsed(annotations: &[(&str, &str)]) -> Redirects {
        let policy = read(annotations).policy.unwrap_or_default();
        policy.redirects.as_deref().cloned().unwrap_or_default()
    }

    #[test]
    fn codes_have_defaults_and_the_temporal_one_wins() {
        let (permanent, temporal) = (
            ("permanent-redirect", "https://b.org"),
            ("temporal-redirect", "/c"),
        );
        let rows: [(Given<'_>, u16, &str); 6] = [
            (&[permanent], 301, "https://b.org"),
            (&[temporal], 302, "/c"),
            (&[permanent, temporal], 302, "/c"),
            (
                &[permanent, ("permanent-redirect-code", "308")],
                308,
                "https://b.org",
            ),
            (&[temporal, ("temporal-redirect-code", "307")], 307, "/c"),
            (
                &[permanent, ("permanent-redirect-code", "200")],
                301,
                "https://b.org",
            ),
        ];
        for (annotations, code, to) in rows {
            let found = parsed(annotations).all.unwrap();
            assert_eq!(found.status.as_u16(), code, "{annotations:?}");
            assert_eq!(Ok(found.to), Template::parse(to), "{annotations:?}");
        }
        assert_eq!(
            parsed(&[("permanent-redirect-code", "308")]),
            Redirects::default()
        );
    }

    #[test]
    fn targets_are_places_that_can_be_gone_to() {
        for good in [
            "http://b.org/x",
            "$scheme://b.org$request_uri",
            "/x?y=$arg_z",
        ] {
            assert!(
                parsed(&[("permanent-redirect", good)]).all.is_some(),
                "{good}"
            );
        }
        for bad in [
            "javascript:alert(1)",
            "b.org",
            "https://$nowhere",
            "//b.org",
            "https://$http_x/",
        ] {
            let reading = read(&[("permanent-redirect", bad)]);
            assert_eq!(
                verdict(&reading, "permanent-redirect").0,
                "invalid",
                "{bad}"
            );
            assert_eq!(reading.policy, None, "{bad}");
        }
        assert_eq!(
            parsed(&[("app-root", "/app?x=y")]).root.as_deref(),
            Some("/app?x=y")
        );
        for bad in ["app", "//evil.org", "https://evil.org", "/a b"] {
            assert_eq!(parsed(&[("app-root", bad)]).root, None, "{bad}");
        }
    }
}
