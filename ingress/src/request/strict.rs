//! What a request's head must look like before anything is made of it.
//!
//! The parser below is lenient where the standard lets it; a gateway must not be, since what two parsers read in two
//! ways gets past one of them. Every rule here is a function of the head alone (RFC 9110, 9112, 9113), refuses with the
//! reason that the client sees, and leaves a head that says each thing once.

use std::borrow::Cow;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, Entry, HOST, HeaderMap, HeaderName, HeaderValue,
    TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri, Version};
use hyper::ext::Protocol;

use crate::message::answer::Reason;
use crate::message::host::Authority;
use crate::message::path::{self, Slashes};
use crate::message::trailers::{Sender, Trailers};

/// The longest target, in bytes.
pub const MAX_TARGET: usize = 8 * 1024;
/// The most header fields.
pub const MAX_HEADERS: usize = 100;
/// The largest header block, in bytes.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Where the settings leave a choice.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// What happens to runs of slashes.
    pub slashes: Slashes,
    /// Whether paths with an encoded slash or backslash are refused. Otherwise those are data.
    pub refuse_encoded_slashes: bool,
    /// Whether headers with an underscore in their name are kept.
    pub keep_underscores: bool,
}

/// What the head turned out to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The host in lower case, without port and trailing dot.
    pub host: Box<str>,
    /// Whether the client asks to switch to WebSocket.
    pub upgrade: bool,
    /// The trailers that it may send.
    pub trailers: Trailers,
}

/// Checks a request's head and brings it into the form that is matched and forwarded: target in origin form with a
/// normal path, one `Host`, no hop-by-hop fields.
pub fn check(parts: &mut Parts, rules: Rules) -> Result<Head, Reason> {
    check_method(parts)?;
    let has = Has::of(&parts.headers);
    if has.framing {
        check_framing(&mut parts.headers)?;
    }
    let host = check_host(parts)?;
    if parts.method == Method::OPTIONS && parts.uri.path() == "*" {
        return Err(Reason::ServerOptions);
    }
    if let Some(uri) = check_target(&parts.uri, rules)? {
        parts.uri = uri;
    }
    if has.expect {
        check_expect(&mut parts.headers)?;
    }
    let upgrade = wants_websocket(parts, &has);
    if parts.method == Method::CONNECT {
        parts.method = Method::GET;
    }
    let trailers = Trailers::of(Sender::Client, &parts.headers);
    if has.hop_by_hop {
        let takes_trailers = takes_trailers(&parts.headers);
        check_hop_by_hop(&mut parts.headers)?;
        if takes_trailers {
            let trailers = HeaderValue::from_static("trailers");
            parts.headers.insert(TE, trailers);
        }
        trailers.announce(&mut parts.headers);
    }
    if has.underscore && !rules.keep_underscores {
        drop_underscores(&mut parts.headers);
    }
    if parts.version == Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    Ok(Head {
        host,
        upgrade,
        trailers,
    })
}

/// Which of the fields that are looked at here are there. Most heads have next to none of them, and to look through the
/// few that they have costs less than to look each of these up.
#[derive(Debug, Default)]
struct Has {
    /// What says how long the body is.
    framing: bool,
    expect: bool,
    /// What concerns this connection only.
    hop_by_hop: bool,
    underscore: bool,
}

impl Has {
    fn of(headers: &HeaderMap) -> Self {
        let mut has = Self::default();
        for name in headers.keys() {
            has.framing |= name == TRANSFER_ENCODING || name == CONTENT_LENGTH;
            has.expect |= name == EXPECT;
            has.hop_by_hop |= is_hop_by_hop(name);
            has.underscore |= name.as_str().contains('_');
        }
        has
    }
}

fn check_method(parts: &Parts) -> Result<(), Reason> {
    match parts.method {
        Method::CONNECT if asks_for_websocket(parts) => Ok(()),
        Method::CONNECT | Method::TRACE => Err(Reason::MethodRefused),
        _ => Ok(()),
    }
}

/// Whether this is an extended CONNECT for WebSocket (RFC 8441). To a backend it becomes the handshake of RFC 6455.
fn asks_for_websocket(parts: &Parts) -> bool {
    let protocol = parts.extensions.get::<Protocol>();
    parts.version == Version::HTTP_2
        && protocol.is_some_and(|protocol| protocol.as_str() == "websocket")
}

// Framing.

/// One `chunked` or nothing. The parser takes any list that ends in `chunked`, and the next hop may not.
fn check_framing(headers: &mut HeaderMap) -> Result<(), Reason> {
    if headers.contains_key(TRANSFER_ENCODING) {
        check_codings(headers)?;
    }
    // Equal repetitions are legal and the parser has compared them; one is enough.
    if let Entry::Occupied(mut lengths) = headers.entry(CONTENT_LENGTH)
        && lengths.iter().nth(1).is_some()
    {
        let first = lengths.get().clone();
        lengths.insert(first);
    }
    Ok(())
}

/// Checks that `Transfer-Encoding`, which is there, says `chunked` and nothing else.
pub fn check_codings(headers: &HeaderMap) -> Result<(), Reason> {
    let mut chunked = 0;
    let mut unknown = 0;
    for coding in list(headers, &TRANSFER_ENCODING) {
        match coding.ok_or(Reason::BadTransferEncoding)? {
            coding if coding.eq_ignore_ascii_case("chunked") => chunked += 1,
            // Obsolete, and a way to make a list that parsers disagree on.
            coding if coding.eq_ignore_ascii_case("identity") => {
                return Err(Reason::BadTransferEncoding);
            }
            _ => unknown += 1,
        }
    }
    match (chunked, unknown) {
        (1, 0) => Ok(()),
        (0 | 1, 1..) => Err(Reason::UnknownTransferCoding),
        _ => Err(Reason::BadTransferEncoding),
    }
}

/// The elements of a list field over all its lines. An element that is no text comes as nothing.
pub fn list<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = Option<&'h str>> {
    let lines = headers.get_all(name).iter();
    lines.flat_map(|line| {
        let text = line.to_str().ok();
        let elements = text
            .into_iter()
            .flat_map(|text| text.split(',').map(str::trim).map(Some));
        elements.chain(text.is_none().then_some(None))
    })
}

// Host and target.

/// Finds the host and leaves it in the one `Host` field. A target in absolute form decides over the field (RFC 9112
/// section 3.2.2); in HTTP/2 the two must agree (RFC 9113 section 8.3.1).
fn check_host(parts: &mut Parts) -> Result<Box<str>, Reason> {
    let mut fields = parts.headers.get_all(HOST).iter();
    let (field, second) = (fields.next(), fields.next());
    if second.is_some() {
        return Err(Reason::AmbiguousHost);
    }
    if parts.version == Version::HTTP_11 && field.is_none() {
        return Err(Reason::NoHost);
    }
    let field = field
        .map(|field| parse_host(field.as_bytes()))
        .transpose()?;
    let Some(authority) = parts.uri.authority() else {
        return field.map(|field| field.host.into()).ok_or(Reason::NoHost);
    };
    let target = parse_host(authority.as_str().as_bytes())?;
    if parts.version >= Version::HTTP_2 && field.is_some_and(|field| field != target) {
        return Err(Reason::AmbiguousHost);
    }
    let host = Box::from(&*target.host);
    let value = HeaderValue::from_str(authority.as_str()).map_err(|_| Reason::BadHost)?;
    parts.headers.insert(HOST, value);
    Ok(host)
}

fn parse_host(text: &[u8]) -> Result<Authority<'_>, Reason> {
    let text = std::str::from_utf8(text).map_err(|_| Reason::BadHost)?;
    Authority::parse(text).ok_or(Reason::BadHost)
}

/// The target in origin form with a normal path, if it is not so already.
fn check_target(uri: &Uri, rules: Rules) -> Result<Option<Uri>, Reason> {
    let target = uri.path_and_query().ok_or(Reason::BadTarget)?;
    if target.as_str().len() > MAX_TARGET {
        return Err(Reason::TargetTooLong);
    }
    let query = target.query().unwrap_or_default();
    if !query.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Reason::BadTarget);
    }
    let path = path::normalise(target.path(), rules.slashes).map_err(|_| Reason::BadTarget)?;
    if rules.refuse_encoded_slashes && path::has_encoded_slash(&path) {
        return Err(Reason::EncodedSlash);
    }
    // An absolute target may have no path at all.
    let is_normal = matches!(path, Cow::Borrowed(_)) && target.as_str().starts_with('/');
    match uri.authority() {
        None if is_normal => Ok(None),
        Some(_) if is_normal => Ok(Some(Uri::from(target.clone()))),
        _ => with_path(path.into_owned(), target.query()).map(Some),
    }
}

/// A target in origin form.
pub(crate) fn with_path(mut path: String, query: Option<&str>) -> Result<Uri, Reason> {
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    let target = PathAndQuery::try_from(path).map_err(|_| Reason::BadTarget)?;
    Ok(Uri::from(target))
}

// Fields.

/// `100-continue` is answered by the parser once the body is asked for, so it ends here.
fn check_expect(headers: &mut HeaderMap) -> Result<(), Reason> {
    let known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if !headers.get_all(EXPECT).iter().all(known) {
        return Err(Reason::ExpectationFailed);
    }
    headers.remove(EXPECT);
    Ok(())
}

/// Whether this is a WebSocket handshake. Other protocols are not offered to backends: a gateway that lets `h2c` through
/// lets everything after it through unseen.
fn wants_websocket(parts: &Parts, has: &Has) -> bool {
    let is = |name: &HeaderName, wanted: &str| {
        let mut elements = list(&parts.headers, name).flatten();
        elements.any(|element| element.eq_ignore_ascii_case(wanted))
    };
    if asks_for_websocket(parts) {
        return parts.method == Method::CONNECT;
    }
    has.hop_by_hop
        && parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && is(&CONNECTION, "upgrade")
        && is(&UPGRADE, "websocket")
        && list(&parts.headers, &UPGRADE).count() == 1
}

/// Whether the client reads trailers, the only thing in `TE` that we can pass on.
fn takes_trailers(headers: &HeaderMap) -> bool {
    let mut elements = list(headers, &TE).flatten();
    elements.any(|element| element.eq_ignore_ascii_case("trailers"))
}

/// Removes what concerns this connection only: the known fields, and those that `Connection` names.
fn check_hop_by_hop(headers: &mut HeaderMap) -> Result<(), Reason> {
    let named = connection_options(headers)?;
    if named.iter().any(is_protected) {
        return Err(Reason::BadConnectionOption);
    }
    remove_hop_by_hop(headers, &named);
    Ok(())
}

/// Removes the same from a response, whose sender is trusted not to name what it should not.
pub fn strip_response(headers: &mut HeaderMap) {
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let named = connection_options(headers).unwrap_or_default();
    remove_hop_by_hop(headers, &named);
}

/// The fields that `Connection` names, other than those that are removed anyway.
fn connection_options(headers: &HeaderMap) -> Result<Vec<HeaderName>, Reason> {
    let mut named = Vec::new();
    let is_usual = |option: &[u8]| {
        let usual: [&[u8]; 5] = [b"", b"close", b"keep-alive", b"upgrade", b"te"];
        usual.iter().any(|usual| option.eq_ignore_ascii_case(usual))
    };
    let mut lines = headers.get_all(CONNECTION).iter();
    if lines.all(|line| is_usual(line.as_bytes())) {
        return Ok(named);
    }
    for option in list(headers, &CONNECTION) {
        let option = option.ok_or(Reason::BadConnectionOption)?;
        if is_usual(option.as_bytes()) {
            continue;
        }
        let name = HeaderName::try_from(option).map_err(|_| Reason::BadConnectionOption)?;
        named.push(name);
    }
    Ok(named)
}

fn remove_hop_by_hop(headers: &mut HeaderMap, named: &[HeaderName]) {
    remove_fields(headers, |name| is_hop_by_hop(name) || named.contains(name));
}

/// Whether this concerns one connection only. A match of texts begins with their lengths, so nearly all names fail there.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Removes the fields with `unwanted` names. A head has few fields, so looking through them costs less than looking up
/// every name that might be among them.
pub fn remove_fields(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let found = headers.keys().filter(|name| unwanted(name)).cloned();
    let found: Vec<HeaderName> = found.collect();
    for name in found {
        headers.remove(name);
    }
}

/// Fields that a client must not be able to remove behind our back: backends trust them.
pub fn is_protected(name: &HeaderName) -> bool {
    const PROTECTED: [&str; 8] = [
        "authorization",
        "content-length",
        "content-type",
        "cookie",
        "forwarded",
        "host",
        "transfer-encoding",
        "x-real-ip",
    ];
    const FAMILIES: [&str; 4] = ["x-forwarded-", "x-original-", "x-auth-", "x-request-id"];
    let name = name.as_str();
    PROTECTED.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family))
}

/// `X_Real_IP` and `X-Real-IP` are one variable to every CGI-like backend.
fn drop_underscores(headers: &mut HeaderMap) {
    remove_fields(headers, |name| name.as_str().contains('_'));
}

/// HTTP/2 clients may send one `cookie` field a crumb; HTTP/1 has one field (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if crumbs.by_ref().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    // Joined legal values are a legal value.
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use http::Request;

    const RULES: Rules = Rules {
        slashes: Slashes::Merge,
        refuse_encoded_slashes: false,
        keep_underscores: false,
    };

    fn request(method: &str, target: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        request.body(()).unwrap().into_parts().0
    }

    type Fields<'f> = &'f [(&'f str, &'f str)];

    fn check_fields(fields: Fields<'_>) -> Result<Parts, Reason> {
        let mut parts = request("GET", "/", fields);
        if !fields.iter().any(|(name, _)| *name == "host") {
            parts
                .headers
                .insert(HOST, HeaderValue::from_static("a.org"));
        }
        check(&mut parts, RULES).map(|_| parts)
    }

    #[test]
    fn transfer_encoding_is_one_chunked() {
        use Reason::{BadTransferEncoding as Bad, UnknownTransferCoding as Unknown};
        let te = "transfer-encoding";
        let rows: [(Fields<'_>, Option<Reason>); 10] = [
            (&[(te, "chunked")], None),
            (&[(te, "Chunked")], None),
            (&[(te, "gzip, chunked")], Some(Unknown)),
            (&[(te, "chunked, chunked")], Some(Bad)),
            (&[(te, "chunked"), (te, "chunked")], Some(Bad)),
            (&[(te, "identity"), (te, "chunked")], Some(Bad)),
            (&[(te, "chunked, identity")], Some(Bad)),
            (&[(te, "gzip")], Some(Unknown)),
            (&[(te, "\u{fc}, chunked")], Some(Bad)),
            (&[(te, "")], Some(Unknown)),
        ];
        for (fields, expected) in rows {
            assert_eq!(check_fields(fields).err(), expected, "{fields:?}");
        }
    }

    #[test]
    fn equal_lengths_become_one() {
        let parts = check_fields(&[("content-length", "5"), ("content-length", "5")]).unwrap();
        assert_eq!(parts.headers.get_all(CONTENT_LENGTH).iter().count(), 1);
    }

    #[test]
    fn there_is_one_host_and_it_is_sound() {
        let host = "host";
        let rows: [(Fields<'_>, Option<Reason>); 6] = [
            (&[(host, "a.org:80")], None),
            (
                &[(host, "a.org"), (host, "a.org")],
                Some(Reason::AmbiguousHost),
            ),
            (&[(host, "")], Some(Reason::BadHost)),
            (&[(host, "u@a")], Some(Reason::BadHost)),
            (&[(host, "a/b")], Some(Reason::BadHost)),
            (&[(host, "a.org, b.org")], Some(Reason::BadHost)),
        ];
        for (fields, expected) in rows {
            assert_eq!(check_fields(fields).err(), expected, "{fields:?}");
        }
        let mut parts = request("GET", "/", &[]);
        assert_eq!(check(&mut parts, RULES), Err(Reason::NoHost));
    }

    #[test]
    fn an_absolute_target_decides_over_the_host_field() {
        let mut parts = request("GET", "http://B.org:81/x?y=1", &[("host", "a.org")]);
        let head = check(&mut parts, RULES).unwrap();
        assert_eq!(&*head.host, "b.org");
        assert_eq!(parts.uri, "/x?y=1");
        assert_eq!(parts.headers[HOST], "B.org:81");
        let mut parts = request("GET", "http://b.org?x=1", &[("host", "b.org")]);
        check(&mut parts, RULES).unwrap();
        assert_eq!(parts.uri, "/?x=1");
    }

    #[test]
    fn in_http2_authority_and_host_agree() {
        for (field, expected) in [
            (None, None),
            (Some("a.org"), None),
            (Some("A.org."), None),
            (Some("b.org"), Some(Reason::AmbiguousHost)),
        ] {
            let fields: Vec<_> = field.map(|field| ("host", field)).into_iter().collect();
            let mut parts = request("GET", "https://a.org/", &fields);
            parts.version = Version::HTTP_2;
            assert_eq!(check(&mut parts, RULES).err(), expected, "{field:?}");
        }
    }

    #[test]
    fn targets_are_normal_or_refused() {
        let long = format!("/{}", "a".repeat(MAX_TARGET));
        let rows = [
            ("/a/../b?c=/../d", Ok("/b?c=/../d")),
            ("/a?", Ok("/a?")),
            ("/a?%00", Ok("/a?%00")),
            ("/%00", Err(Reason::BadTarget)),
            ("/\u{fc}", Err(Reason::BadTarget)),
            ("/?\u{fc}", Err(Reason::BadTarget)),
            ("*", Err(Reason::BadTarget)),
            (&long, Err(Reason::TargetTooLong)),
        ];
        for (target, expected) in rows {
            let mut parts = request("GET", target, &[("host", "a.org")]);
            let result = check(&mut parts, RULES).map(|_| parts.uri.to_string());
            assert_eq!(result, expected.map(str::to_owned), "{target}");
        }
    }

    #[test]
    fn connect_and_trace_are_refused() {
        for (method, expected) in [
            ("GET", None),
            ("PATCH", None),
            ("PROPFIND", None),
            ("TRACE", Some(Reason::MethodRefused)),
            ("CONNECT", Some(Reason::MethodRefused)),
        ] {
            let mut parts = request(method, "/", &[("host", "a.org")]);
            assert_eq!(check(&mut parts, RULES).err(), expected, "{method}");
        }
    }

    #[test]
    fn expectations_end_here() {
        let parts = check_fields(&[("expect", "100-Continue")]).unwrap();
        assert!(!parts.headers.contains_key(EXPECT));
        let refused = check_fields(&[("expect", "junk")]).err();
        assert_eq!(refused, Some(Reason::ExpectationFailed));
    }

    #[test]
    fn hop_by_hop_fields_and_those_named_are_removed() {
        let parts = check_fields(&[
            ("connection", "keep-alive, X-Secret"),
            ("connection", "X-Other"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("te", "trailers"),
            ("trailer", "X-T"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("x-kept", "1"),
        ])
        .unwrap();
        let mut left: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "te", "trailer", "x-kept"]);
    }

    #[test]
    fn fields_that_backends_trust_cannot_be_named_away() {
        for name in [
            "Host",
            "X-Forwarded-For",
            "Authorization",
            "X-Real-IP",
            "Cookie",
            "X-Request-Id",
        ] {
            let refused = check_fields(&[("connection", name)]).err();
            assert_eq!(refused, Some(Reason::BadConnectionOption), "{name}");
        }
    }

    #[test]
    fn underscores_are_dropped_unless_kept() {
        let fields = [("host", "a.org"), ("x_forwarded_for", "1.2.3.4")];
        for keep_underscores in [false, true] {
            let mut parts = request("GET", "/", &fields);
            check(
                &mut parts,
                Rules {
                    keep_underscores,
                    ..RULES
                },
            )
            .unwrap();
            assert_eq!(
                parts.headers.contains_key("x_forwarded_for"),
                keep_underscores
            );
        }
    }

    #[test]
    fn encoded_slashes_are_data_unless_refused() {
        let rows = [
            ("/a%2Fb", true),
            ("/a%2fb", true),
            ("/%5C", true),
            ("/%5c?x", true),
            ("/a\\b", true),
            ("/a%252Fb", false),
            ("/a/b?c=%2F", false),
            ("/", false),
        ];
        for (target, has_one) in rows {
            for refuse_encoded_slashes in [false, true] {
                let rules = Rules {
                    refuse_encoded_slashes,
                    ..RULES
                };
                let Ok(uri) = target.parse::<Uri>() else {
                    panic!("{target}");
                };
                let refused = check_target(&uri, rules).err();
                let expected = (has_one && refuse_encoded_slashes).then_some(Reason::EncodedSlash);
                assert_eq!(refused, expected, "{target}");
            }
        }
    }

    #[test]
    fn only_websocket_is_an_upgrade() {
        let upgrade = |method, fields: &[(&str, &str)]| {
            let fields = [fields, &[("host", "a.org")]].concat();
            check(&mut request(method, "/", &fields), RULES)
                .unwrap()
                .upgrade
        };
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
        ];
        assert!(upgrade("GET", &good));
        assert!(!upgrade("POST", &good));
        assert!(!upgrade("GET", &good[..1]));
        assert!(!upgrade("GET", &good[1..]));
        assert!(!upgrade("GET", &[good[0], ("upgrade", "h2c")]));
        assert!(!upgrade("GET", &[good[0], ("upgrade", "websocket, h2c")]));
    }

    #[test]
    fn cookie_crumbs_are_joined_for_http1() {
        let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
        let mut parts = request("GET", "https://a.org/", &fields);
        parts.version = Version::HTTP_2;
        check(&mut parts, RULES).unwrap();
        let joined: Vec<_> = parts.headers.get_all(COOKIE).iter().collect();
        assert_eq!(joined, ["a=1; b=2; c=3"]);
    }
}
