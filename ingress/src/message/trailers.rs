//! Which trailer fields of a message are passed on.
//!
//! A trailer field arrives when everything that is decided by fields has long been decided, so most have no business
//! there (RFC 9110 section 6.5.1). Those that the sender announced in `Trailer` are passed on, and in gRPC, whose results
//! are trailers, all; in neither case what frames, routes, authorises or vouches for a message.

use http::HeaderMap;
use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST, HeaderName,
    HeaderValue, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
};

use crate::request::strict;

/// The trailer fields of a message that are passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trailers {
    sender: Sender,
    names: Names,
}

/// Who sends a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A client, whose word backends must not take for ours.
    Client,
    /// A backend.
    Backend,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    These(Vec<HeaderName>),
    Any,
}

impl Trailers {
    /// The trailers that a message with `headers`, as its sender wrote them, may have.
    pub fn of(sender: Sender, headers: &HeaderMap) -> Self {
        let named = || strict::list(headers, &TRAILER).flatten();
        let names = match headers.get(CONTENT_TYPE).is_some_and(is_grpc) {
            true => Names::Any,
            false => Names::These(named().filter_map(|name| name.parse().ok()).collect()),
        };
        Self { sender, names }
    }

    /// Announces them in `headers`. Over HTTP/1.1 nothing else is sent.
    pub fn announce(&self, headers: &mut HeaderMap) {
        let Names::These(names) = &self.names else {
            return;
        };
        for name in names.iter().filter(|name| self.pass_field(name)) {
            headers.append(TRAILER, HeaderValue::from(name.clone()));
        }
    }

    /// What is passed on of `trailers`, unless that is nothing.
    pub fn pass(&self, mut trailers: HeaderMap) -> Option<HeaderMap> {
        strict::remove_fields(&mut trailers, |name| !self.pass_field(name));
        (!trailers.is_empty()).then_some(trailers)
    }

    fn pass_field(&self, name: &HeaderName) -> bool {
        let is_meant = match &self.names {
            Names::These(names) => names.contains(name),
            Names::Any => true,
        };
        let is_vouching = self.sender == Sender::Client && strict::is_protected(name);
        is_meant && !is_vouching && !belongs_to_head(name)
    }
}

/// Whether `name` means something only before the body: it frames the message or the connection, says how to read the
/// body, or carries credentials.
fn belongs_to_head(name: &HeaderName) -> bool {
    static HEAD: [HeaderName; 12] = [
        CONNECTION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        HOST,
        SET_COOKIE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        WWW_AUTHENTICATE,
    ];
    let name_text = name.as_str();
    HEAD.contains(name) || name_text == "keep-alive" || name_text.starts_with("proxy-")
}

/// Whether this is gRPC's content type, with any encoding of messages.
pub fn is_grpc(content_type: &HeaderValue) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let Some((name, rest)) = content_type.as_bytes().split_at_checked(GRPC.len()) else {
        return false;
    };
    name.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';'))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let parse = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        fields.iter().map(parse).collect()
    }

    /// What of `trailers` passes after a head with `head`.
    fn check(
        sender: Sender,
        head: &[(&'static str, &'static str)],
        trailers: &[&'static str],
        expected: &[&str],
    ) {
        let fields: Vec<_> = trailers.iter().map(|name| (*name, "1")).collect();
        let passed = Trailers::of(sender, &headers(head)).pass(headers(&fields));
        let passed = passed.unwrap_or_default();
        let mut passed: Vec<&str> = passed.keys().map(HeaderName::as_str).collect();
        passed.sort_unstable();
        assert_eq!(passed, expected, "{head:?}");
    }

    #[test]
    fn only_announced_trailers_pass_and_none_that_belongs_to_a_head() {
        let sent = ["x-sum", "x-other", "host", "content-length", "set-cookie"];
        for sender in [Sender::Client, Sender::Backend] {
            check(sender, &[], &sent, &[]);
            check(sender, &[("trailer", "X-Sum")], &sent, &["x-sum"]);
            let all = [
                ("trailer", "x-sum, Host"),
                ("trailer", "content-length,set-cookie, not a name"),
            ];
            check(sender, &all, &sent, &["x-sum"]);
        }
    }

    #[test]
    fn grpc_needs_no_announcement() {
        let sent = ["connection", "grpc-status", "x-any", "x-request-id"];
        for grpc in ["application/grpc", "application/grpc+proto"] {
            let head = [("content-type", grpc)];
            let backend = ["grpc-status", "x-any", "x-request-id"];
            check(Sender::Backend, &head, &sent, &backend);
            // A client must not say after the body what it may not say before.
            check(Sender::Client, &head, &sent, &backend[..2]);
        }
        for other in ["application/grpc-web", "application/grpcx", "application"] {
            check(Sender::Backend, &[("content-type", other)], &sent, &[]);
        }
    }

    #[test]
    fn what_passes_is_announced() {
        let head = headers(&[("trailer", "x-sum, host, x-b")]);
        let mut sent = HeaderMap::new();
        Trailers::of(Sender::Client, &head).announce(&mut sent);
        let names: Vec<_> = sent.get_all(TRAILER).iter().collect();
        assert_eq!(names, ["x-sum", "x-b"]);
    }

    #[test]
    fn grpcs_content_type_is_told_from_others() {
        let is = |text: &str| is_grpc(&HeaderValue::from_str(text).unwrap());
        assert!(is("Application/GRPC;charset=utf-8") && is("application/grpc+json"));
        assert!(!is("application/grpc-web+proto") && !is("text/plain") && !is(""));
    }
}
