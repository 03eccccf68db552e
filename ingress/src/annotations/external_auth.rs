//! Asking another service who may enter: `auth-url` and what belongs to it.

use std::time::Duration;

use http::{HeaderName, Method, StatusCode};

use super::{Annotations, Data, value};
use crate::filters::external_auth::{Cache, ExternalAuth, Signin};
use crate::message::variables::{Template, UrlTemplate};

/// What ingress-nginx remembers where nothing else is said.
const DEFAULT_DURATIONS: &str = "200 202 401 5m";
const DEFAULT_PARAMETER: &str = "rd";
/// Connections to a service are kept like those to a backend, whatever these say.
const KEEPALIVE: [&str; 4] = [
    "auth-keepalive",
    "auth-keepalive-requests",
    "auth-keepalive-share-vars",
    "auth-keepalive-timeout",
];
const METHODS: [(&str, Method); 7] = [
    ("GET", Method::GET),
    ("HEAD", Method::HEAD),
    ("POST", Method::POST),
    ("PUT", Method::PUT),
    ("PATCH", Method::PATCH),
    ("DELETE", Method::DELETE),
    ("OPTIONS", Method::OPTIONS),
];

/// Whom to ask, if anybody is to be asked.
pub fn parse(from: &mut Annotations<'_>) -> Option<ExternalAuth> {
    let url = from.get("auth-url", UrlTemplate::parse);
    let method = from.get("auth-method", method);
    let signin = from.get("auth-signin", signin_url);
    let parameter = from
        .get("auth-signin-redirect-param", parameter)
        .unwrap_or(DEFAULT_PARAMETER);
    let response_headers = from.get("auth-response-headers", header_names);
    let request_redirect = from.get("auth-request-redirect", Template::parse);
    let set_headers = from.config_map("auth-proxy-set-headers", set_headers);
    let always_set_cookie = from.flag("auth-always-set-cookie");
    let key = from.get("auth-cache-key", Template::parse);
    let durations = from.get("auth-cache-duration", durations);
    for name in KEEPALIVE {
        from.text(name);
    }
    let default = || self::durations(DEFAULT_DURATIONS).unwrap_or_default();
    Some(ExternalAuth {
        url: url?,
        method,
        signin: signin.map(|url| Signin::new(url, parameter)),
        response_headers: response_headers.unwrap_or_default(),
        request_redirect,
        set_headers: set_headers.unwrap_or_default(),
        always_set_cookie: always_set_cookie.unwrap_or_default(),
        cache: key.map(|key| Cache {
            key,
            durations: durations.unwrap_or_else(default),
        }),
    })
}

/// Whether the Ingress does without the authentication that the gateway asks of all; nothing else by default.
pub fn opts_out(from: &mut Annotations<'_>) -> bool {
    from.flag("enable-global-auth") == Some(false)
}

fn method(text: &str) -> Result<Method, String> {
    let found = METHODS.iter().find(|(name, _)| *name == text);
    let found = found.map(|(_, method)| method.clone());
    found.ok_or_else(|| format!("{text:?} is not a method to ask with"))
}

/// A URL, or a path at the host of the request.
fn signin_url(text: &str) -> Result<Template, String> {
    let is_path = text.starts_with('/') && !text.starts_with("//");
    let template = Template::parse(text).map_err(|error| error.to_string())?;
    if !is_path {
        UrlTemplate::parse(text).map_err(|error| error.to_string())?;
    }
    Ok(template)
}

fn parameter(text: &str) -> Result<&str, String> {
    let is_sound =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    let is_name = text.bytes().all(is_sound);
    is_name
        .then_some(text)
        .ok_or_else(|| format!("{text:?} is not the name of a parameter"))
}

/// Names of headers that a service may set. How the request is framed and where it goes is not for it to say.
fn header_names(text: &str) -> Result<Box<[HeaderName]>, String> {
    const FRAMING: [&str; 6] = [
        "connection",
        "content-length",
        "host",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    let names = value::list(text)?.into_iter().map(value::header_name);
    let names = names.collect::<Result<Box<[HeaderName]>, String>>()?;
    match names.iter().find(|name| FRAMING.contains(&name.as_str())) {
        Some(name) => Err(format!("{name} may not be taken from an answer")),
        None => Ok(names),
    }
}

fn set_headers(data: &Data) -> Result<Box<[(HeaderName, Template)]>, String> {
    let header = |(name, text): (&String, &Vec<u8>)| {
        let name = value::header_name(name)?;
        let text = std::str::from_utf8(text).map_err(|_| format!("{name} is not text"))?;
        let template = Template::parse(text.trim()).map_err(|error| format!("{name}: {error}"))?;
        Ok((name, template))
    };
    data.iter().map(header).collect()
}

/// Lists of statuses, each with its time at the end: `200 202 5m, 401 30s`. Without a status those of nginx are meant.
pub fn durations(text: &str) -> Result<Box<[(StatusCode, Duration)]>, String> {
    let mut durations = Vec::new();
    for rule in value::list(text)? {
        let is_status =
            |word: &&str| word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit());
        let (statuses, times): (Vec<&str>, Vec<&str>) =
            rule.split_whitespace().partition(is_status);
        if times.is_empty() {
            return Err(format!("{rule:?} does not say how long"));
        }
        let times = times
            .into_iter()
            .map(value::seconds)
            .collect::<Result<Vec<_>, _>>()?;
        let time = times
            .iter()
            .fold(Duration::ZERO, |sum, time| sum.saturating_add(*time));
        let statuses = if statuses.is_empty() {
            vec!["200", "301", "302"]
        } else {
            statuses
        };
        for status in statuses {
            let status = status
                .parse()
                .map_err(|_| format!("{status:?} is not a status"))?;
            durations.push((status, time));
        }
    }
    Ok(durations.into())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::annotations::policy::tests::{read, read_with, verdict};
    use crate::annotations::referenced::Seen;
    use crate::annotations::{Reference, Referenced};
    use model::ObjectName;

    const URL: (&str, &str) = ("auth-url", "https://$host/oauth2/auth");

    fn auth(annotations: &[(&str, &str)]) -> Option<ExternalAuth> {
        let annotations = [&[URL], annotations].concat();
        read(&annotations).policy?.external_auth.as_deref().cloned()
    }

    #[test]
    fn a_url_is_enough() {
        let auth = auth(&[]).unwrap();
        assert_eq!(auth.url, UrlTemplate::parse(URL.1).unwrap());
        assert_eq!((auth.method, auth.signin, auth.cache), (None, None, None));
        assert!(
            auth.response_headers.is_empty()
                && auth.set_headers.is_empty()
                && !auth.always_set_cookie
        );
        assert_eq!(
            read(&[("auth-method", "GET"), ("auth-signin", "/start")]).policy,
            None
        );
    }

    #[test]
    fn the_rest_is_read() {
        let auth = auth(&[
            ("auth-method", "POST"),
            ("auth-signin", "https://$host/start"),
            ("auth-signin-redirect-param", "to"),
            ("auth-response-headers", "X-User, X-Email"),
            ("auth-request-redirect", "https://$host"),
            ("auth-always-set-cookie", "true"),
            ("auth-cache-key", "$cookie_session"),
        ]);
        let auth = auth.unwrap();
        let template = |text| Template::parse(text).unwrap();
        assert_eq!(auth.method, Some(Method::POST));
        assert_eq!(
            auth.signin,
            Some(Signin::new(template("https://$host/start"), "to"))
        );
        assert_eq!(
            *auth.response_headers,
            [
                HeaderName::from_static("x-user"),
                HeaderName::from_static("x-email")
            ]
        );
        assert_eq!(auth.request_redirect, Some(template("https://$host")));
        assert!(auth.always_set_cookie);
        let durations = durations(DEFAULT_DURATIONS).unwrap();
        assert_eq!(
            auth.cache,
            Some(Cache {
                key: template("$cookie_session"),
                durations
            })
        );
    }

    #[test]
    fn headers_for_the_service_come_from_a_config_map() {
        let annotations = [URL, ("auth-proxy-set-headers", "ns/headers")];
        let map = |name: &str, value: &str| {
            let mut objects = Referenced::default();
            let data = [(name.to_owned(), value.as_bytes().to_vec())];
            objects.put(
                Reference::ConfigMap(ObjectName::new("ns", "headers")),
                Seen::Present(data.into()),
            );
            read_with(&annotations, &objects).policy.unwrap_or_default()
        };
        let policy = map("X-Host", "at $host");
        let expected = (
            HeaderName::from_static("x-host"),
            Template::parse("at $host").unwrap(),
        );
        assert_eq!(
            *policy.external_auth.clone().unwrap().set_headers,
            [expected]
        );
        assert!(map("X Host", "a").is_closed && map("X-Host", "$nothing").is_closed);
        assert!(read(&annotations).policy.unwrap().is_closed);
    }

    #[test]
    fn what_guards_and_is_bad_closes_the_route() {
        for (name, value) in [
            ("auth-url", "/relative"),
            ("auth-url", "https://$http_x/"),
            ("auth-method", "TRACE"),
            ("auth-response-headers", "X-User, Host"),
            ("auth-response-headers", "a b"),
        ] {
            let reading = read(&[URL, (name, value)][usize::from(name == URL.0)..]);
            assert_eq!(verdict(&reading, name).0, "invalid", "{name}: {value}");
            assert!(reading.policy.unwrap().is_closed, "{name}: {value}");
        }
        for (name, value) in [
            ("auth-signin", "//evil"),
            ("auth-signin", "$nothing"),
            ("auth-signin-redirect-param", "a&b"),
            ("auth-cache-duration", "200"),
            ("auth-cache-duration", "200 soon"),
        ] {
            let reading = read(&[URL, (name, value)]);
            assert_eq!(verdict(&reading, name).0, "invalid", "{name}: {value}");
            assert!(!reading.policy.unwrap().is_closed, "{name}: {value}");
        }
    }

    #[test]
    fn times_are_by_status() {
        let rows = [
            ("200 202 1m 30s, 401 5s", "200=90 202=90 401=5"),
            ("10m", "200=600 301=600 302=600"),
        ];
        for (text, expected) in rows {
            let read = durations(text).unwrap();
            let told: Vec<_> = read
                .iter()
                .map(|(status, time)| format!("{}={}", status.as_u16(), time.as_secs()))
                .collect();
            assert_eq!(told.join(" "), expected);
        }
    }

    #[test]
    fn an_ingress_can_opt_out_of_what_is_asked_of_all() {
        assert!(
            read(&[("enable-global-auth", "false")])
                .policy
                .unwrap()
                .no_global_auth
        );
        for value in ["true", "perhaps"] {
            assert_eq!(read(&[("enable-global-auth", value)]).policy, None);
        }
    }
}
