//! Asking another service whether a request may enter (nginx's `auth_request`).
//!
//! The service gets the request's head and answers with a status: 2xx lets it in, 401 and 403 keep it out, and
//! everything else, silence included, keeps it out as an error of ours. Here is what is asked and what an answer means.

use std::time::Duration;

use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, SET_COOKIE,
    TRANSFER_ENCODING, WWW_AUTHENTICATE,
};
use http::{Method, Request, StatusCode};

use crate::message::variables::{Facts, Piece, Template, UrlTemplate, Variable};

const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");
const ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const SENT_FROM: HeaderName = HeaderName::from_static("x-sent-from");
const SCHEME: HeaderName = HeaderName::from_static("x-scheme");
const REDIRECT: HeaderName = HeaderName::from_static("x-auth-request-redirect");

/// Whom to ask, and what to make of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalAuth {
    /// Where the service is.
    pub url: UrlTemplate,
    /// The method to ask with; GET if it is not given.
    pub method: Option<Method>,
    /// Where browsers are sent that may not enter yet.
    pub signin: Option<Signin>,
    /// Headers of the answer that the backend gets. What the client sent under these names it never gets.
    pub response_headers: Box<[HeaderName]>,
    /// What the service is told as `X-Auth-Request-Redirect`, in place of the target.
    pub request_redirect: Option<Template>,
    /// Further headers for the service.
    pub set_headers: Box<[(HeaderName, Template)]>,
    /// Whether the client gets the service's cookies even with an error of the backend.
    pub always_set_cookie: bool,
    /// How long answers are remembered, if they are.
    pub cache: Option<Cache>,
}

/// Where browsers are sent to sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signin {
    url: Template,
    /// What comes before the original URL at the end.
    parameter: Option<Box<str>>,
}

/// How long answers are remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// What tells requests apart.
    pub key: Template,
    /// For how long, by status.
    pub durations: Box<[(StatusCode, Duration)]>,
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The request enters.
    Enter(Entry),
    /// It does not.
    Refuse {
        /// 401 or 403.
        status: StatusCode,
        /// How the client may authenticate.
        challenges: Vec<HeaderValue>,
        /// Cookies for the client.
        cookies: Vec<HeaderValue>,
    },
    /// The service is at fault.
    Fail,
}

/// What a request enters with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// What the backend gets, by header; nothing for what the service did not say.
    pub headers: Vec<(HeaderName, Vec<HeaderValue>)>,
    /// Cookies for the client.
    pub cookies: Vec<HeaderValue>,
}

impl ExternalAuth {
    /// What the service is asked, unless what the request says makes the URL none.
    pub fn question(&self, facts: Facts<'_>) -> Option<Request<()>> {
        let url = self.url.fill(facts)?;
        let mut headers = facts.headers.clone();
        for name in [CONTENT_LENGTH, TRANSFER_ENCODING, PROTO] {
            headers.remove(name);
        }
        let target = Variable::RequestUri.value(facts);
        let host = url.authority()?.as_str();
        let told = [
            (HOST, host.to_owned()),
            (ORIGINAL_URL, original_url(facts)),
            (ORIGINAL_METHOD, facts.method.to_string()),
            (SENT_FROM, "nginx-ingress-controller".to_owned()),
            (REDIRECT, self.redirect(facts)),
        ];
        let told_too = [
            (ORIGINAL_URI, target.into_owned()),
            (SCHEME, Variable::Scheme.value(facts).into_owned()),
        ];
        let has_method = self.method.is_some();
        let more = self
            .set_headers
            .iter()
            .map(|(name, value)| (name.clone(), value.fill(facts)));
        let all = told
            .into_iter()
            .chain(told_too.into_iter().filter(|_| has_method))
            .chain(more);
        for (name, value) in all {
            headers.insert(name, HeaderValue::try_from(value).ok()?);
        }
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone().unwrap_or(Method::GET);
        *request.uri_mut() = url;
        *request.headers_mut() = headers;
        Some(request)
    }

    fn redirect(&self, facts: Facts<'_>) -> String {
        match &self.request_redirect {
            Some(template) => template.fill(facts),
            None => Variable::RequestUri.value(facts).into_owned(),
        }
    }

    /// What an answer means.
    pub fn verdict(&self, status: StatusCode, headers: &HeaderMap) -> Verdict {
        let all = |name: &HeaderName| -> Vec<HeaderValue> {
            headers.get_all(name).iter().cloned().collect()
        };
        let cookies = all(&SET_COOKIE);
        match status {
            _ if status.is_success() => Verdict::Enter(Entry {
                headers: self
                    .response_headers
                    .iter()
                    .map(|name| (name.clone(), all(name)))
                    .collect(),
                cookies,
            }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Verdict::Refuse {
                status,
                challenges: all(&WWW_AUTHENTICATE),
                cookies,
            },
            _ => Verdict::Fail,
        }
    }
}

impl Entry {
    /// Gives a request what the service said of it.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, values) in &self.headers {
            headers.remove(name);
            for value in values {
                headers.append(name, value.clone());
            }
        }
    }
}

impl Signin {
    /// Browsers go to `url`, with the original URL in the query as `parameter`, unless the URL has that already.
    pub fn new(url: Template, parameter: &str) -> Self {
        let text: String = url
            .pieces()
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => &**text,
                Piece::Variable(_) => "$",
            })
            .collect();
        let query = text.split_once('?').map(|(_, query)| query);
        let has = |query: &str| {
            query
                .split('&')
                .any(|pair| pair.split('=').next() == Some(parameter))
        };
        let separator = if query.is_some() { '&' } else { '?' };
        let parameter =
            (!query.is_some_and(has)).then(|| format!("{separator}{parameter}=").into());
        Self { url, parameter }
    }

    /// Where the client of a request is sent.
    pub fn location(&self, facts: Facts<'_>) -> Option<HeaderValue> {
        let mut location = self.url.fill(facts);
        if let Some(parameter) = &self.parameter {
            location.push_str(parameter);
            let scheme = Variable::Scheme.value(facts);
            location.push_str(&format!("{scheme}://{}", Variable::HttpHost.value(facts)));
            location.push_str(&Variable::EscapedRequestUri.value(facts));
        }
        HeaderValue::try_from(location).ok()
    }
}

impl Cache {
    /// How long an answer may be remembered. One with a cookie is for one client only, and a service may say that it does
    /// not want to be remembered.
    pub fn duration(&self, status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
        let controls = headers
            .get_all(CACHE_CONTROL)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let mut controls = controls.flat_map(|value| value.split(',').map(str::trim));
        let is_private = |control: &str| {
            ["no-store", "no-cache", "private"]
                .iter()
                .any(|word| control.eq_ignore_ascii_case(word))
        };
        if headers.contains_key(SET_COOKIE) || controls.any(is_private) {
            return None;
        }
        let known = self.durations.iter().find(|(known, _)| *known == status);
        known.map(|(_, duration)| *duration)
    }
}

/// The URL that the client asked for.
fn original_url(facts: Facts<'_>) -> String {
    let scheme = Variable::Scheme.value(facts);
    let (host, target) = (
        Variable::HttpHost.value(facts),
        Variable::RequestUri.value(facts),
    );
    format!("{scheme}://{host}{target}")
}

/// Whether a backend's answer with this status carries the service's cookies (nginx's `add_header` without `always`).
pub fn carries_cookies(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use http::Uri;
    use model::ObjectName;

    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
        };
        fields.iter().map(field).collect()
    }

    fn auth(url: &str) -> ExternalAuth {
        ExternalAuth {
            url: UrlTemplate::parse(url).unwrap(),
            method: None,
            signin: None,
            response_headers: Box::new([HeaderName::from_static("x-user")]),
            request_redirect: None,
            set_headers: Box::new([]),
            always_set_cookie: false,
            cache: None,
        }
    }

    fn with_request<T>(fields: &[(&str, &str)], check: impl FnOnce(Facts<'_>) -> T) -> T {
        check(Facts {
            method: &Method::POST,
            uri: &Uri::from_static("/x?y=1"),
            headers: &headers(fields),
            host: "a.org",
            client: [192, 0, 2, 1].into(),
            is_secure: true,
            ingress: &ObjectName::new("ns", "i"),
            service: "s",
            rule_path: "/",
        })
    }

    const FIELDS: [(&str, &str); 5] = [
        ("host", "A.org"),
        ("cookie", "session=1"),
        ("content-length", "5"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "192.0.2.1"),
    ];

    fn fields(headers: &HeaderMap) -> Vec<(&str, &str)> {
        let mut fields: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        fields.sort_unstable();
        fields
    }

    #[test]
    fn the_service_learns_what_the_client_wants_and_not_its_body() {
        let question = with_request(&FIELDS, |facts| {
            auth("http://auth.ns.svc:8080/check").question(facts)
        })
        .unwrap();
        assert_eq!(question.method(), Method::GET);
        assert_eq!(question.uri(), "http://auth.ns.svc:8080/check");
        let expected = [
            ("cookie", "session=1"),
            ("host", "auth.ns.svc:8080"),
            ("x-auth-request-redirect", "/x?y=1"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-original-method", "POST"),
            ("x-original-url", "https://A.org/x?y=1"),
            ("x-sent-from", "nginx-ingress-controller"),
        ];
        assert_eq!(fields(question.headers()), expected);
    }

    #[test]
    fn what_the_service_is_told_can_be_changed() {
        let auth = ExternalAuth {
            method: Some(Method::HEAD),
            request_redirect: Some(Template::parse("https://b.org$uri").unwrap()),
            set_headers: Box::new([(SENT_FROM, Template::parse("us-$host").unwrap())]),
            ..auth("http://$host/check")
        };
        let question = with_request(&FIELDS, |facts| auth.question(facts)).unwrap();
        assert_eq!(
            (question.method(), question.uri().to_string().as_str()),
            (&Method::HEAD, "http://a.org/check")
        );
        for (name, expected) in [
            ("x-auth-request-redirect", "https://b.org/x"),
            ("x-sent-from", "us-a.org"),
            ("x-original-uri", "/x?y=1"),
            ("x-scheme", "https"),
        ] {
            assert_eq!(question.headers()[name], expected);
        }
    }

    #[test]
    fn success_lets_in_and_refusals_keep_out_and_the_rest_fails() {
        let auth = auth("http://a/");
        let said = headers(&[
            ("set-cookie", "a=1"),
            ("www-authenticate", "Bearer"),
            ("x-user", "ann"),
            ("x-other", "1"),
        ]);
        let cookies = vec![HeaderValue::from_static("a=1")];
        for status in [200, 202, 204] {
            let Verdict::Enter(entry) = auth.verdict(StatusCode::from_u16(status).unwrap(), &said)
            else {
                panic!("{status} does not let in");
            };
            assert_eq!(entry.cookies, cookies);
            let mut request = headers(&[("x-user", "admin"), ("x-kept", "1")]);
            entry.apply(&mut request);
            assert_eq!(fields(&request), [("x-kept", "1"), ("x-user", "ann")]);
        }
        for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
            let challenges = vec![HeaderValue::from_static("Bearer")];
            let expected = Verdict::Refuse {
                status,
                challenges,
                cookies: cookies.clone(),
            };
            assert_eq!(auth.verdict(status, &said), expected);
        }
        for status in [302, 400, 404, 500, 503] {
            assert_eq!(
                auth.verdict(StatusCode::from_u16(status).unwrap(), &said),
                Verdict::Fail
            );
        }
    }

    #[test]
    fn a_header_that_the_service_does_not_say_is_not_the_clients_to_say() {
        let Verdict::Enter(entry) = auth("http://a/").verdict(StatusCode::OK, &HeaderMap::new())
        else {
            panic!("success does not let in");
        };
        let mut request = headers(&[("x-user", "admin")]);
        entry.apply(&mut request);
        assert!(request.is_empty());
    }

    #[test]
    fn browsers_are_sent_to_sign_in_and_know_where_to_come_back() {
        let back = "https://A.org%2Fx%3Fy%3D1";
        for (url, parameter, expected) in [
            (
                "https://$host/start",
                "rd",
                format!("https://a.org/start?rd={back}"),
            ),
            ("/start?a=1", "rd", format!("/start?a=1&rd={back}")),
            ("/start?a=1", "to", format!("/start?a=1&to={back}")),
            (
                "https://b.org/start?rd=$escaped_request_uri",
                "rd",
                "https://b.org/start?rd=%2Fx%3Fy%3D1".to_owned(),
            ),
            ("/start?xrd=1", "rd", format!("/start?xrd=1&rd={back}")),
        ] {
            let signin = Signin::new(Template::parse(url).unwrap(), parameter);
            let location = with_request(&FIELDS, |facts| signin.location(facts)).unwrap();
            assert_eq!(location, expected, "{url}");
        }
    }

    #[test]
    fn answers_are_remembered_by_status_unless_they_are_for_one_client() {
        let cache = Cache {
            key: Template::parse("$http_authorization").unwrap(),
            durations: Box::new([(StatusCode::OK, Duration::from_secs(60))]),
        };
        for (status, said, expected) in [
            (200, &[][..], Some(60)),
            (200, &[("cache-control", "max-age=5")], Some(60)),
            (200, &[("cache-control", "max-age=5, No-Store")], None),
            (200, &[("set-cookie", "a=1")], None),
            (401, &[], None),
        ] {
            let duration = cache.duration(StatusCode::from_u16(status).unwrap(), &headers(said));
            assert_eq!(
                duration,
                expected.map(Duration::from_secs),
                "{status} {said:?}"
            );
        }
    }
}
