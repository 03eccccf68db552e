//! Cross-origin resource sharing (the Fetch standard, section 3.2): which origins a browser may let read answers.
//!
//! As in ingress-nginx: an `OPTIONS` request of an origin that is allowed is answered here, with 204, before anything
//! else is asked of it, since a browser sends it without credentials; every other answer, ours included, is marked. An
//! origin that is not allowed is not refused: it gets an answer that its browser will not show it.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ORIGIN,
    VARY,
};
use http::{HeaderMap, HeaderValue, Method};

/// What browsers are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Who may read answers.
    pub origins: Origins,
    /// The methods that may be used.
    pub methods: HeaderValue,
    /// The request headers that may be sent.
    pub headers: HeaderValue,
    /// Whether cookies and other credentials may be sent.
    pub credentials: bool,
    /// The response headers that may be read, besides the simple ones.
    pub expose: Option<HeaderValue>,
    /// How long a browser may remember all this, in seconds.
    pub max_age: u32,
}

/// Origins that are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// All of them.
    Any,
    /// These.
    Listed(Box<[Origin]>),
}

/// An origin as a list has it: `https://a.org:8443`, `https://*.a.org` or `null`, in lower case. The asterisk stands for
/// one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    before: Box<str>,
    /// What follows the asterisk, if there is one.
    after: Option<Box<str>>,
}

/// What a request's origin comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    origin: Option<HeaderValue>,
    varies: bool,
}

impl Origin {
    /// Reads an origin of a list.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        if text == "null" {
            return Some(Self::exact(&text));
        }
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_lowercase());
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok());
        let name = host.strip_prefix("*.").unwrap_or(host);
        let is_name = !name.is_empty() && name.bytes().all(is_host_byte);
        if !is_scheme || !is_port || !is_name {
            return None;
        }
        Some(match text.split_once('*') {
            None => Self::exact(&text),
            Some((before, after)) => Self {
                before: before.into(),
                after: Some(after.into()),
            },
        })
    }

    fn exact(text: &str) -> Self {
        Self {
            before: text.into(),
            after: None,
        }
    }

    fn covers(&self, origin: &str) -> bool {
        let Some(after) = &self.after else {
            return *self.before == *origin;
        };
        let label = origin
            .strip_prefix(&*self.before)
            .and_then(|rest| rest.strip_suffix(&**after));
        let is_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        label.is_some_and(|label| !label.is_empty() && label.bytes().all(is_label))
    }
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.'
}

impl Origins {
    /// What to allow for a request with `headers`: all, the very origin that asks, or nothing.
    fn answer(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let Self::Listed(origins) = self else {
            return Some(HeaderValue::from_static("*"));
        };
        let asking = headers.get(ORIGIN)?;
        let text = asking.to_str().ok()?.to_ascii_lowercase();
        let is_listed = origins.iter().any(|origin| origin.covers(&text));
        is_listed.then(|| asking.clone())
    }
}

impl Cors {
    /// What a request with `headers` comes to.
    pub fn marks(&self, headers: &HeaderMap) -> Marks {
        Marks {
            origin: self.origins.answer(headers),
            varies: self.origins != Origins::Any,
        }
    }

    /// Marks an answer, in place of what its backend may have said.
    pub fn mark(&self, marks: &Marks, headers: &mut HeaderMap) {
        if marks.varies {
            // Else a cache would give one origin's answer to another.
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = &marks.origin else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            headers.insert(
                ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, self.headers.clone());
        if let Some(expose) = &self.expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.into());
    }
}

impl Marks {
    /// Whether the gateway answers a request with `method` itself.
    pub fn answers(&self, method: &Method) -> bool {
        self.origin.is_some() && method == Method::OPTIONS
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use proptest::prelude::*;

    use super::*;

    fn cors(origins: Origins) -> Cors {
        Cors {
            origins,
            methods: HeaderValue::from_static("GET, PUT"),
            headers: HeaderValue::from_static("X-A"),
            credentials: true,
            expose: None,
            max_age: 600,
        }
    }

    fn listed(texts: &[&str]) -> Origins {
        Origins::Listed(
            texts
                .iter()
                .map(|text| Origin::parse(text).unwrap())
                .collect(),
        )
    }

    fn asking(origin: &str) -> HeaderMap {
        HeaderMap::from_iter([(ORIGIN, origin.parse().unwrap())])
    }

    #[test]
    fn origins_are_compared_whole_and_an_asterisk_is_one_label() {
        let rows: [(&str, &[&str], &[&str]); 5] = [
            (
                "https://a.org",
                &["https://a.org", "https://A.ORG"],
                &[
                    "http://a.org",
                    "https://a.org:8443",
                    "https://x.a.org",
                    "https://a.org.evil",
                    "evilhttps://a.org",
                ],
            ),
            (
                "https://a.org:8443",
                &["https://a.org:8443"],
                &["https://a.org"],
            ),
            (
                "https://*.a.org",
                &["https://x.a.org", "https://x-1.a.org"],
                &[
                    "https://a.org",
                    "https://.a.org",
                    "https://x.y.a.org",
                    "https://evil/.a.org",
                    "http://x.a.org",
                ],
            ),
            (
                "myapp://*.a.org:9000",
                &["myapp://x.a.org:9000"],
                &["myapp://x.a.org"],
            ),
            ("null", &["null"], &["https://null"]),
        ];
        for (text, covered, others) in rows {
            let cors = cors(listed(&[text]));
            for origin in covered {
                assert!(
                    cors.marks(&asking(origin)).origin.is_some(),
                    "{text} covers {origin}"
                );
            }
            for origin in others {
                assert!(
                    cors.marks(&asking(origin)).origin.is_none(),
                    "{text} does not cover {origin}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_origin_is_not_taken_for_one() {
        for text in [
            "",
            "a.org",
            "*.a.org",
            "https://",
            "https://a b",
            "https://a.org/x",
            "https://a.org:x",
            "1://a",
            "https://*",
            "https://x*.a.org",
        ] {
            assert_eq!(Origin::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn answers_are_marked_for_the_origin_that_asks() {
        let mut answer = HeaderMap::new();
        answer.insert(
            ACCESS_CONTROL_ALLOW_ORIGIN,
            HeaderValue::from_static("https://said.by.backend"),
        );
        let cors = cors(listed(&["https://b.org", "https://a.org"]));
        let marks = cors.marks(&asking("https://a.org"));
        cors.mark(&marks, &mut answer);
        let mut fields: Vec<_> = answer
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            [
                ("access-control-allow-credentials", "true"),
                ("access-control-allow-headers", "X-A"),
                ("access-control-allow-methods", "GET, PUT"),
                ("access-control-allow-origin", "https://a.org"),
                ("access-control-max-age", "600"),
                ("vary", "Origin"),
            ]
        );
        assert!(marks.answers(&Method::OPTIONS) && !marks.answers(&Method::GET));
    }

    #[test]
    fn an_origin_that_is_not_allowed_gets_no_mark_and_no_answer_of_ours() {
        let cors = cors(listed(&["https://a.org"]));
        for headers in [asking("https://evil.org"), HeaderMap::new()] {
            let (marks, mut answer) = (cors.marks(&headers), HeaderMap::new());
            cors.mark(&marks, &mut answer);
            assert!(!marks.answers(&Method::OPTIONS));
            assert_eq!(
                answer,
                HeaderMap::from_iter([(VARY, HeaderValue::from_static("Origin"))])
            );
        }
    }

    #[test]
    fn where_all_origins_are_allowed_none_needs_to_ask() {
        let cors = Cors {
            credentials: false,
            expose: Some(HeaderValue::from_static("X-B")),
            ..cors(Origins::Any)
        };
        let (marks, mut answer) = (cors.marks(&HeaderMap::new()), HeaderMap::new());
        cors.mark(&marks, &mut answer);
        assert!(marks.answers(&Method::OPTIONS));
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert_eq!(answer[ACCESS_CONTROL_EXPOSE_HEADERS], "X-B");
        assert!(
            !answer.contains_key(VARY) && !answer.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS)
        );
    }

    proptest! {
        #[test]
        fn any_text_is_an_origin_or_refused_and_an_origin_covers_itself(text in ".{0,40}", origin in "[a-z]{1,5}://[a-z0-9.-]{1,12}(:[0-9]{1,4})?") {
            drop(Origin::parse(&text));
            prop_assert!(Origin::parse(&origin).unwrap().covers(&origin));
        }
    }
}
