//! The session of a request: what its cookie says of the endpoint it belongs to, and what cookie it is given.
//!
//! A balanced session has a key of its own on the ring of endpoints: when endpoints come or go, only those sessions move
//! whose place on the ring does. A persistent one names its endpoint, by a token that only we can make.

use std::net::SocketAddr;
use std::time::SystemTime;

use aws_lc_rs::hmac;
use http::HeaderValue;
use http::header::USER_AGENT;
use http::request::Parts;

use crate::annotations::affinity::{Affinity, Mode};
use crate::balance::{Balance, Choice};
use crate::cookie;
use crate::session_cookie::Client;
use crate::upstream::Upstream;

/// What names an endpoint to clients. It is an HMAC of the address, with the UID of the Service for a key: the same in
/// every gateway of a cluster, and clients neither learn the address nor can name an endpoint they were not sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u128);

/// The session of a request.
#[derive(Debug)]
pub struct Session<'r> {
    affinity: &'r Affinity,
    place: Place,
    /// Whether the client does not know yet.
    is_new: bool,
    path: &'r str,
    is_secure: bool,
    agent: Option<HeaderValue>,
}

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the endpoint to which this key belongs.
    Key(u64),
    /// At this endpoint, if it has one already.
    Endpoint(Option<Token>),
}

impl Token {
    /// The token of the endpoint at `address` of `upstream`'s Service, whose UID is `owner`.
    pub(crate) fn new(owner: &str, port: &str, address: SocketAddr) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, owner.as_bytes());
        let tag = hmac::sign(&key, format!("{port}\n{address}").as_bytes());
        let half = tag.as_ref().first_chunk::<16>();
        Self(half.map_or(0, |half| u128::from_be_bytes(*half)))
    }

    fn parse(text: &str) -> Option<Self> {
        hexadecimal(text, 32)?;
        u128::from_str_radix(text, 16).ok().map(Self)
    }
}

/// `text` if it is so many lower-case hexadecimal digits: `from_str_radix` takes more than that.
fn hexadecimal(text: &str, digits: usize) -> Option<&str> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == digits && text.bytes().all(is_digit)).then_some(text)
}

impl<'r> Session<'r> {
    /// The session of the request with the head `parts`, which takes the rule with `path`.
    pub fn of(
        affinity: &'r Affinity,
        upstream: &Upstream,
        parts: &Parts,
        path: &'r str,
        is_secure: bool,
    ) -> Self {
        let given = cookie::find(&parts.headers, &affinity.cookie.name);
        let given = given.and_then(|given| std::str::from_utf8(given).ok());
        let place = match affinity.mode {
            Mode::Balanced => given.and_then(parse_key).map(Place::Key),
            Mode::Persistent => given
                .and_then(Token::parse)
                .filter(|token| upstream.has(*token))
                .map(|token| Place::Endpoint(Some(token))),
        };
        let new = || match affinity.mode {
            Mode::Balanced => Place::Key(rand::random()),
            Mode::Persistent => Place::Endpoint(None),
        };
        Self {
            affinity,
            place: place.unwrap_or_else(new),
            is_new: place.is_none(),
            path,
            is_secure,
            agent: parts.headers.get(USER_AGENT).cloned(),
        }
    }

    /// Makes `choice` one of the endpoint that the session belongs to.
    pub fn direct(&self, choice: &mut Choice<'_>) {
        match self.place {
            Place::Key(key) => choice.balance = Balance::Hash { key, subset: 1 },
            Place::Endpoint(token) => choice.held_at = token,
        }
    }

    /// The session's endpoint has failed. If it is to move then, it gets a place that is not at one of the `tried`.
    pub fn failed(&mut self, upstream: &Upstream, tried: &[SocketAddr]) {
        const MOST_KEYS: usize = 20;
        if !self.affinity.moves_on_failure {
            return;
        }
        self.is_new = true;
        self.place = match self.affinity.mode {
            Mode::Persistent => Place::Endpoint(None),
            Mode::Balanced => {
                let mut keys = std::iter::repeat_with(rand::random::<u64>).take(MOST_KEYS);
                let is_elsewhere = |key: &u64| {
                    let owner = upstream.owner(*key);
                    owner.is_some_and(|owner| !tried.contains(&owner))
                };
                Place::Key(keys.find(is_elsewhere).unwrap_or_else(rand::random))
            }
        };
    }

    /// The field that tells the client of the session, if it has to be told. `token` is that of the endpoint that
    /// answered.
    pub fn cookie(&self, token: Token, now: SystemTime) -> Option<HeaderValue> {
        if !self.is_new {
            return None;
        }
        let value = match self.place {
            Place::Key(key) => format!("{key:016x}"),
            Place::Endpoint(_) => format!("{:032x}", token.0),
        };
        let agent = self.agent.as_ref().and_then(|agent| agent.to_str().ok());
        let client = Client {
            path: self.path,
            is_secure: self.is_secure,
            agent: agent.unwrap_or_default(),
        };
        self.affinity.cookie.set(&value, client, now)
    }
}

fn parse_key(text: &str) -> Option<u64> {
    u64::from_str_radix(hexadecimal(text, 16)?, 16).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tokens_depend_on_all_that_makes_an_endpoint() {
        let address = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        let token = Token::new("uid", "http", address(80));
        assert_eq!(token, Token::new("uid", "http", address(80)));
        for other in [
            Token::new("other", "http", address(80)),
            Token::new("uid", "grpc", address(80)),
            Token::new("uid", "http", address(81)),
        ] {
            assert_ne!(token, other);
        }
        assert_eq!(Token::parse(&format!("{:032x}", token.0)), Some(token));
    }

    proptest! {
        #[test]
        fn nothing_but_what_we_write_is_read(text in "[0-9a-fA-F+ ]{0,40}") {
            if let Some(token) = Token::parse(&text) {
                prop_assert_eq!(format!("{:032x}", token.0), text.clone());
            }
            if let Some(key) = parse_key(&text) {
                prop_assert_eq!(format!("{key:016x}"), text);
            }
        }
    }

    #[test]
    fn keys_are_written_as_they_are_read() {
        assert_eq!(parse_key("00000000000000ff"), Some(255));
        assert_eq!(parse_key("+0000000000000ff"), None);
        assert_eq!(parse_key("ff").unwrap_or_default(), 0);
        assert!(hexadecimal("ff", 2).unwrap() == "ff");
    }
}
