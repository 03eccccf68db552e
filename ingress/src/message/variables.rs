//! Texts with variables, as in `https://$host/oauth2/auth`: those of nginx that ingress-nginx's annotations are written
//! with, and no others.
//!
//! A template is read once; filling it in cannot fail. What a request does not have is the empty text, as in nginx.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{HOST, HeaderName};
use http::{HeaderMap, Method, Uri};
use model::ObjectName;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::message::cookie;
use crate::request::forwarding::REQUEST_ID;

/// All but the unreserved characters (RFC 3986 section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A text with variables in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Box<[Piece]>);

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text that stays as it is.
    Text(Box<str>),
    /// Something about a request.
    Variable(Variable),
}

/// Something about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    /// `$host`: the host in lower case, without port.
    Host,
    /// `$http_host`: the host as the client sent it.
    HttpHost,
    /// `$scheme`: `http` or `https`.
    Scheme,
    /// `$request_uri`: path and query, in normal form.
    RequestUri,
    /// `$escaped_request_uri`: the same, escaped so that it can be part of a query.
    EscapedRequestUri,
    /// `$uri`: the path.
    Path,
    /// `$args`: the query.
    Query,
    /// `$is_args`: a question mark if there is a query.
    QueryMark,
    /// `$arg_NAME`: a parameter of the query, as it stands there.
    Parameter(Box<str>),
    /// `$http_NAME`: a header.
    Header(HeaderName),
    /// `$cookie_NAME`: a cookie.
    Cookie(Box<str>),
    /// `$request_method`: the method.
    Method,
    /// `$remote_addr`: the client's address.
    Client,
    /// `$request_id`: the name of the request.
    RequestId,
    /// `$namespace`: the namespace of the Ingress.
    Namespace,
    /// `$ingress_name`: the name of the Ingress.
    Ingress,
    /// `$service_name`: the name of the Service.
    Service,
    /// `$location_path`: the path of the rule.
    RulePath,
}

/// A text speaks of a variable that we do not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no variable ${0} here")]
pub struct UnknownVariable(String);

/// A request, as templates see it.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'r> {
    /// Its method.
    pub method: &'r Method,
    /// Its target, in normal form.
    pub uri: &'r Uri,
    /// Its headers.
    pub headers: &'r HeaderMap,
    /// The host in lower case, without port.
    pub host: &'r str,
    /// The address of its client.
    pub client: IpAddr,
    /// Whether its client sent it over TLS.
    pub is_secure: bool,
    /// The Ingress that its route comes from.
    pub ingress: &'r ObjectName,
    /// The Service that its route names.
    pub service: &'r str,
    /// The path of its rule.
    pub rule_path: &'r str,
}

impl Template {
    /// Reads `text`: `$name` and `${name}` are variables, everything else stays.
    pub fn parse(text: &str) -> Result<Self, UnknownVariable> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            let (before, after) = rest.split_at(dollar);
            push_text(&mut pieces, before);
            let (name, after) = split_name(&after[1..]);
            let variable = Variable::named(name).ok_or_else(|| UnknownVariable(name.to_owned()))?;
            pieces.push(Piece::Variable(variable));
            rest = after;
        }
        push_text(&mut pieces, rest);
        Ok(Self(pieces.into()))
    }

    /// Its pieces in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// The text for a request.
    pub fn fill(&self, facts: Facts<'_>) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Variable(variable) => text.push_str(&variable.value(facts)),
            }
        }
        text
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.into()));
    }
}

/// A variable's name at the beginning of `text`, and what follows.
fn split_name(text: &str) -> (&str, &str) {
    if let Some((name, after)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) {
        return (name, after);
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split_at(text.find(|c| !is_part(c)).unwrap_or(text.len()))
}

impl Variable {
    fn named(name: &str) -> Option<Self> {
        let rest = |prefix: &str| name.strip_prefix(prefix).filter(|rest| !rest.is_empty());
        Some(match name {
            "host" => Self::Host,
            "http_host" | "best_http_host" => Self::HttpHost,
            "scheme" | "pass_access_scheme" => Self::Scheme,
            "request_uri" => Self::RequestUri,
            "escaped_request_uri" => Self::EscapedRequestUri,
            "uri" | "document_uri" => Self::Path,
            "args" | "query_string" => Self::Query,
            "is_args" => Self::QueryMark,
            "request_method" => Self::Method,
            "remote_addr" | "binary_remote_addr" | "the_real_ip" => Self::Client,
            "request_id" | "req_id" => Self::RequestId,
            "namespace" => Self::Namespace,
            "ingress_name" => Self::Ingress,
            "service_name" => Self::Service,
            "location_path" => Self::RulePath,
            _ => match (rest("arg_"), rest("http_"), rest("cookie_")) {
                (Some(parameter), ..) => Self::Parameter(parameter.into()),
                (_, Some(header), _) => Self::Header(header.replace('_', "-").parse().ok()?),
                (.., Some(cookie)) => Self::Cookie(cookie.into()),
                _ => return None,
            },
        })
    }

    /// Its value for a request.
    pub fn value<'r>(&self, facts: Facts<'r>) -> Cow<'r, str> {
        let uri = facts.uri;
        let header = |name| {
            let value = facts.headers.get(name);
            Cow::from(
                value
                    .and_then(|value| value.to_str().ok())
                    .unwrap_or_default(),
            )
        };
        let target = || uri.path_and_query().map_or("/", |target| target.as_str());
        let query = uri.query().unwrap_or_default();
        match self {
            Self::Host => facts.host.into(),
            Self::HttpHost => header(HOST),
            Self::Scheme => scheme(facts.is_secure).into(),
            Self::RequestUri => target().into(),
            Self::EscapedRequestUri => utf8_percent_encode(target(), ESCAPED).into(),
            Self::Path => uri.path().into(),
            Self::Query => query.into(),
            Self::QueryMark => if query.is_empty() { "" } else { "?" }.into(),
            Self::Parameter(name) => parameter(query, name).unwrap_or_default().into(),
            Self::Header(name) => header(name.clone()),
            Self::Cookie(name) => {
                let value = cookie::find(facts.headers, name);
                value
                    .and_then(|value| std::str::from_utf8(value).ok())
                    .unwrap_or_default()
                    .into()
            }
            Self::Method => facts.method.as_str().into(),
            Self::Client => facts.client.to_canonical().to_string().into(),
            Self::RequestId => header(REQUEST_ID),
            Self::Namespace => (*facts.ingress.namespace).into(),
            Self::Ingress => (*facts.ingress.name).into(),
            Self::Service => facts.service.into(),
            Self::RulePath => facts.rule_path.into(),
        }
    }
}

/// The scheme of a request.
pub fn scheme(is_secure: bool) -> &'static str {
    if is_secure { "https" } else { "http" }
}

/// The first value of the parameter `name`; nginx takes names in any case.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let found = pairs.find(|(found, _)| found.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value)
}

/// A template whose text is a URL, with an authority that no client can choose freely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlTemplate(Template);

/// Why a text is not the template of a URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// It has a variable that we do not have.
    #[error(transparent)]
    Variable(#[from] UnknownVariable),
    /// It is none.
    #[error("is not a URL that begins with http:// or https://")]
    NotUrl,
    /// Its host would be what the client says in some header, parameter or cookie.
    #[error("the host may contain no variable but $host and $http_host")]
    ForeignHost,
}

impl UrlTemplate {
    /// Reads the template of a URL.
    pub fn parse(text: &str) -> Result<Self, BadUrl> {
        const SCHEMES: [&str; 4] = [
            "http://",
            "https://",
            "$scheme://",
            "$pass_access_scheme://",
        ];
        let template = Template::parse(text)?;
        let rest = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme));
        check_authority(&Template::parse(rest.ok_or(BadUrl::NotUrl)?)?)?;
        Ok(Self(template))
    }

    /// The URL for a request, unless what the request says makes it none.
    pub fn fill(&self, facts: Facts<'_>) -> Option<Uri> {
        let uri: Uri = self.0.fill(facts).parse().ok()?;
        uri.host().is_some().then_some(uri)
    }
}

/// Checks what stands before the path: from there on variables are data, here they would say where to connect to.
fn check_authority(rest: &Template) -> Result<(), BadUrl> {
    let is_end = |c: char| matches!(c, '/' | '?' | '#');
    let mut is_empty = true;
    for piece in &rest.0 {
        match piece {
            Piece::Text(text) => {
                let authority = text.split(is_end).next().unwrap_or_default();
                is_empty &= authority.is_empty();
                if authority.contains(['@', '\\', ' ']) {
                    return Err(BadUrl::NotUrl);
                }
                if authority.len() < text.len() {
                    break;
                }
            }
            Piece::Variable(Variable::Host | Variable::HttpHost) => is_empty = false,
            // Both begin with a slash.
            Piece::Variable(Variable::RequestUri | Variable::Path) => break,
            Piece::Variable(_) => return Err(BadUrl::ForeignHost),
        }
    }
    if is_empty {
        Err(BadUrl::NotUrl)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use proptest::prelude::*;

    use super::*;

    /// What `check` makes of a request for `target` with `fields`.
    fn with_request<T>(
        target: &str,
        fields: &[(&str, &str)],
        check: impl FnOnce(Facts<'_>) -> T,
    ) -> T {
        let field = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
        };
        let headers: HeaderMap = fields.iter().map(field).collect();
        check(Facts {
            method: &Method::PUT,
            uri: &target.parse().unwrap(),
            headers: &headers,
            host: "a.org",
            client: "::ffff:192.0.2.1".parse().unwrap(),
            is_secure: true,
            ingress: &ObjectName::new("ns", "i"),
            service: "s",
            rule_path: "/x",
        })
    }

    const FIELDS: [(&str, &str); 4] = [
        ("host", "A.org:8443"),
        ("x-user", "ann"),
        ("cookie", "a=1; token=x=y"),
        ("x-request-id", "abc"),
    ];

    #[test]
    fn variables_are_filled_in() {
        for (text, expected) in [
            ("", ""),
            ("plain {text} %24", "plain {text} %24"),
            ("https://$host/auth", "https://a.org/auth"),
            (
                "$scheme://$http_host$request_uri",
                "https://A.org:8443/x/y?b=1&B=2&e=",
            ),
            ("${host}name", "a.orgname"),
            (
                "?rd=$escaped_request_uri",
                "?rd=%2Fx%2Fy%3Fb%3D1%26B%3D2%26e%3D",
            ),
            (
                "$uri|$args|$is_args|$arg_b|$arg_e|$arg_none",
                "/x/y|b=1&B=2&e=|?|1||",
            ),
            (
                "$http_x_user|$http_none|$cookie_token|$cookie_none",
                "ann||x=y|",
            ),
            (
                "$request_method $remote_addr $request_id",
                "PUT 192.0.2.1 abc",
            ),
            (
                "$namespace/$ingress_name $service_name $location_path",
                "ns/i s /x",
            ),
        ] {
            let filled = with_request("/x/y?b=1&B=2&e=", &FIELDS, |facts| {
                Template::parse(text).unwrap().fill(facts)
            });
            assert_eq!(filled, expected, "{text:?}");
        }
    }

    #[test]
    fn what_we_do_not_have_is_no_variable() {
        for text in [
            "$",
            "$$",
            "$1",
            "$upstream_addr",
            "$arg_",
            "${host",
            "$http_",
            "a$",
        ] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_url_says_where_it_leads_and_no_client_does() {
        for (text, expected) in [
            ("http://auth.ns.svc:80/check?x=$arg_x", None),
            ("https://$host/oauth2/auth", None),
            ("$scheme://$http_host", None),
            ("https://1.2.3.4$request_uri", None),
            ("http://a?x=1", None),
            ("https://$http_x_host/", Some(BadUrl::ForeignHost)),
            ("https://a.org$http_x/", Some(BadUrl::ForeignHost)),
            ("https://a.org:$arg_port/", Some(BadUrl::ForeignHost)),
            ("https://u@a/", Some(BadUrl::NotUrl)),
            ("https:///x", Some(BadUrl::NotUrl)),
            ("https://", Some(BadUrl::NotUrl)),
            ("https://$request_uri", Some(BadUrl::NotUrl)),
            ("ftp://a/", Some(BadUrl::NotUrl)),
            ("/auth", Some(BadUrl::NotUrl)),
            (
                "http://a/$nothing",
                Some(BadUrl::Variable(UnknownVariable("nothing".to_owned()))),
            ),
        ] {
            assert_eq!(UrlTemplate::parse(text).err(), expected, "{text}");
        }
    }

    #[test]
    fn a_url_is_filled_in_or_is_none() {
        let fill = |text: &str| {
            with_request("/x?y=1", &[("host", "a.org"), ("x-bad", "a b")], |facts| {
                UrlTemplate::parse(text)
                    .unwrap()
                    .fill(facts)
                    .map(|uri| uri.to_string())
            })
        };
        assert_eq!(
            fill("https://b.org$request_uri"),
            Some("https://b.org/x?y=1".to_owned())
        );
        assert_eq!(fill("http://$host"), Some("http://a.org/".to_owned()));
        assert_eq!(fill("http://a/$http_x_bad"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_filled_in_without_a_panic(text in r"(https?://)?(\PC|[$\{\}]|\$host|\$arg_a|/){0,20}") {
            with_request("/", &[], |facts| {
                if let Ok(template) = Template::parse(&text) {
                    template.fill(facts);
                }
                if let Ok(url) = UrlTemplate::parse(&text) {
                    url.fill(facts);
                }
            });
        }
    }
}
