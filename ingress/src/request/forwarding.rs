//! What backends learn about the client: `X-Forwarded-*`, `X-Real-IP` and `X-Request-ID`.
//!
//! A client may claim anything, so from a peer that is not a trusted proxy all of it is removed before ours is set. A
//! trusted one is believed and added to.

use std::net::IpAddr;

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use ipnetwork::IpNetwork;

use crate::message::variables::scheme;
use crate::request::strict;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST_SEEN: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// The name of a request, the same in all logs along its way.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const MAX_REQUEST_ID: usize = 128;
/// How many fields are added to a head here.
const ADDED: usize = 6;

/// What is known about the peer of a connection, in the form that headers need.
#[derive(Debug, Clone)]
pub struct Via {
    trusted: bool,
    is_secure: bool,
    address: HeaderValue,
    port: HeaderValue,
}

impl Via {
    /// The facts about a connection from `peer` to our port `port`.
    pub fn new(peer: IpAddr, port: u16, secure: bool, trusted: &[IpNetwork]) -> Self {
        let peer = peer.to_canonical();
        // Addresses and numbers are legal header values.
        let value = |text: String| {
            HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
        };
        Self {
            trusted: trusted.iter().any(|range| range.contains(peer)),
            address: value(peer.to_string()),
            port: value(port.to_string()),
            is_secure: secure,
        }
    }

    /// The peer's address as text.
    pub fn address(&self) -> &HeaderValue {
        &self.address
    }

    /// Makes `headers` say what is known about the client, and returns the name of the request.
    pub fn apply(&self, headers: &mut HeaderMap) -> HeaderValue {
        headers.reserve(ADDED);
        if self.trusted {
            self.add(headers);
        } else {
            strict::remove_fields(headers, is_claim);
            self.set(headers);
        }
        request_id(headers)
    }

    /// Whether the peer is a trusted proxy that says its client came over HTTPS.
    pub fn vouches_for_https(&self, headers: &HeaderMap) -> bool {
        self.trusted && headers.get(PROTO).is_some_and(|proto| proto == "https")
    }

    /// Replaces whatever the client said.
    fn set(&self, headers: &mut HeaderMap) {
        for (name, value) in self.facts(headers, self.address.clone()) {
            headers.insert(name, value);
        }
    }

    /// Adds to what a trusted proxy said. `Forwarded` would be wrong after us, since we do not add to it.
    fn add(&self, headers: &mut HeaderMap) {
        headers.remove(FORWARDED);
        let path = headers.get_all(FOR).iter().map(HeaderValue::as_bytes);
        let path: Vec<&[u8]> = path.chain([self.address.as_bytes()]).collect();
        let path = path.join(&b", "[..]);
        let client = path
            .rsplit(|byte| *byte == b',')
            .nth(1)
            .map(<[u8]>::trim_ascii);
        let client = client.and_then(|client| HeaderValue::from_bytes(client).ok());
        let facts = self.facts(headers, client.unwrap_or_else(|| self.address.clone()));
        for (name, value) in facts {
            headers.entry(name).or_insert(value);
        }
        // Joined legal values are a legal value.
        if let Ok(path) = HeaderValue::from_bytes(&path) {
            headers.insert(FOR, path);
        }
    }

    /// What is known, with `client` for the client's address.
    fn facts(&self, headers: &HeaderMap, client: HeaderValue) -> [(HeaderName, HeaderValue); 5] {
        let host = headers.get(HOST).cloned();
        [
            (FOR, self.address.clone()),
            (REAL_IP, client),
            (PROTO, HeaderValue::from_static(scheme(self.is_secure))),
            (PORT, self.port.clone()),
            (
                HOST_SEEN,
                host.unwrap_or_else(|| HeaderValue::from_static("")),
            ),
        ]
    }
}

/// The client behind `peer`: what trusted proxies have said in `X-Forwarded-For`, from the last to the first that is none
/// of them. What stands before that, anybody may have written.
pub fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNetwork]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|range| range.contains(address));
    let mut client = peer.to_canonical();
    if !is_trusted(client) {
        return client;
    }
    let lines = headers.get_all(FOR).iter().rev();
    let mut path = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    while is_trusted(client) {
        let Some(address) = path.next().and_then(address) else {
            break;
        };
        client = address.to_canonical();
    }
    client
}

fn address(text: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

/// Whether only a trusted proxy may say this.
fn is_claim(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-proto"
            | "x-real-ip"
            | "forwarded"
            | "x-forwarded-prefix"
            | "x-forwarded-scheme"
            | "x-scheme"
            | "ssl-client-verify"
            | "ssl-client-subject-dn"
            | "ssl-client-issuer-dn"
            | "ssl-client-cert"
    ) || name.starts_with("x-original-")
}

/// Keeps a sound name for the request, and makes one where there is none.
fn request_id(headers: &mut HeaderMap) -> HeaderValue {
    let mut given = headers.get_all(REQUEST_ID).iter();
    if let (Some(id), None) = (given.next(), given.next())
        && is_sound(id.as_bytes())
    {
        return id.clone();
    }
    let mut text = [b'0'; 32];
    let made = hex::encode_to_slice(rand::random::<[u8; 16]>(), &mut text);
    debug_assert!(made.is_ok(), "a byte has two digits");
    let id = HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""));
    headers.insert(REQUEST_ID, id.clone());
    id
}

fn is_sound(id: &[u8]) -> bool {
    let sound = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.+/=:".contains(byte);
    !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.iter().all(sound)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn check(peer: &str, fields: &[(&str, &str)], expected: &[(&str, &str)]) {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("a.org:8443"));
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        Via::new(peer.parse().unwrap(), 443, true, &trusted).apply(&mut headers);
        headers.remove(HOST);
        headers.remove(REQUEST_ID);
        let mut found: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{peer} {fields:?}");
    }

    #[test]
    fn an_untrusted_peer_is_not_believed() {
        let ours = [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "a.org:8443"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "192.0.2.1"),
        ];
        check("192.0.2.1", &[], &ours);
        check("::ffff:192.0.2.1", &[], &ours);
        let claims = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-prefix", "/evil"),
            ("x-real-ip", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
            ("x-original-url", "/admin"),
            ("x-original-method", "GET"),
            ("ssl-client-verify", "SUCCESS"),
            ("ssl-client-subject-dn", "CN=admin"),
            ("ssl-client-issuer-dn", "CN=authority"),
            ("ssl-client-cert", "forged"),
        ];
        check("192.0.2.1", &claims, &ours);
    }

    #[test]
    fn a_trusted_peer_is_added_to() {
        check(
            "10.1.1.1",
            &[
                ("x-forwarded-for", "1.1.1.1"),
                ("x-forwarded-for", "2.2.2.2"),
                ("x-forwarded-proto", "http"),
                ("x-real-ip", "1.1.1.1"),
                ("forwarded", "for=1.1.1.1"),
            ],
            &[
                ("x-forwarded-for", "1.1.1.1, 2.2.2.2, 10.1.1.1"),
                ("x-forwarded-host", "a.org:8443"),
                ("x-forwarded-port", "443"),
                ("x-forwarded-proto", "http"),
                ("x-real-ip", "1.1.1.1"),
            ],
        );
    }

    #[test]
    fn the_last_address_that_a_trusted_peer_saw_is_the_client() {
        let rest = |path, client| {
            [
                ("x-forwarded-for", path),
                ("x-forwarded-host", "a.org:8443"),
                ("x-forwarded-port", "443"),
                ("x-forwarded-proto", "https"),
                ("x-real-ip", client),
            ]
        };
        let said = [("x-forwarded-for", "6.6.6.6, 1.1.1.1")];
        check(
            "10.1.1.1",
            &said,
            &rest("6.6.6.6, 1.1.1.1, 10.1.1.1", "1.1.1.1"),
        );
        check("10.1.1.1", &[], &rest("10.1.1.1", "10.1.1.1"));
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_trusted_proxy() {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let rows: [(&str, &[&str], &str); 8] = [
            ("192.0.2.1", &[], "192.0.2.1"),
            ("::ffff:192.0.2.1", &["1.1.1.1"], "192.0.2.1"),
            ("10.1.1.1", &[], "10.1.1.1"),
            ("10.1.1.1", &["1.1.1.1"], "1.1.1.1"),
            ("10.1.1.1", &["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
            (
                "10.1.1.1",
                &["6.6.6.6,1.1.1.1 , 10.2.2.2", "fd00::1"],
                "1.1.1.1",
            ),
            ("10.1.1.1", &["6.6.6.6, unknown, 10.2.2.2"], "10.2.2.2"),
            ("10.1.1.1", &["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        ];
        for (peer, lines, expected) in rows {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FOR, line.parse().unwrap());
            }
            let client = client(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(client.to_string(), expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn a_sound_request_id_is_kept_and_any_other_replaced() {
        let id = |given: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in given {
                headers.append(REQUEST_ID, value.parse().unwrap());
            }
            let id = request_id(&mut headers);
            let all: Vec<_> = headers.get_all(REQUEST_ID).iter().collect();
            assert_eq!(all, [&id]);
            id.to_str().unwrap().to_owned()
        };
        assert_eq!(id(&["abc-1"]), "abc-1");
        let long = "a".repeat(MAX_REQUEST_ID + 1);
        for bad in [&[][..], &[""], &["a b"], &["a\"b"], &[&long], &["a", "b"]] {
            assert_eq!(id(bad).len(), 32, "{bad:?}");
        }
    }
}
