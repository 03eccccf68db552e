//! The session of a request: what its cookie says of the endpoint it belongs to, and what cookie it is given.
//!
//! A balanced session has a key of its own on the ring of endpoints: when endpoints come or go, only those sessions move
//! whose place on the ring does. A persistent one names its endpoint, by a token that only we can make. A session at a
//! canary is marked with the canary's name, so that it is found there again, and nowhere else once the canary is another.

use std::net::SocketAddr;
use std::time::SystemTime;

use aws_lc_rs::hmac;
use http::header::USER_AGENT;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use xxhash_rust::xxh64::xxh64;

use crate::annotations::affinity::{Affinity, Mode};
use crate::message::cookie;
use crate::upstream::Upstream;
use crate::upstream::balance::{Balance, Choice};
use crate::upstream::session_cookie::Client;

/// What names an endpoint to clients. It is an HMAC of the address, with the UID of the Service for a key: the same in
/// every gateway of a cluster, and clients neither learn the address nor can name an endpoint they were not sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u128);

/// What marks the sessions of a canary: a short hash of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u32);

/// Which of two Services a session is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// That of the route.
    Main,
    /// That of its canary.
    Canary,
}

/// The session of a request.
#[derive(Debug)]
pub struct Session<'r> {
    affinity: &'r Affinity,
    place: Place,
    /// What marks it, if it is at a canary.
    mark: Option<Mark>,
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
    /// The session of the request with the head `parts`, which takes the rule with `path`, at `upstream`, which is a canary
    /// if it has a `mark`.
    pub fn of(
        affinity: &'r Affinity,
        upstream: &Upstream,
        mark: Option<Mark>,
        parts: &Parts,
        path: &'r str,
        is_secure: bool,
    ) -> Self {
        let given = given(affinity, &parts.headers);
        let place = match affinity.mode {
            Mode::Balanced => given
                .and_then(parse_key)
                .filter(|(_, marked)| mark.is_none() || *marked == mark)
                .map(|(key, _)| Place::Key(key)),
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
            mark,
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
            Place::Key(key) => match self.mark {
                Some(Mark(mark)) => format!("{key:016x}.{mark:08x}"),
                None => format!("{key:016x}"),
            },
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

/// The value of the cookie.
fn given<'h>(affinity: &Affinity, headers: &'h HeaderMap) -> Option<&'h str> {
    let given = cookie::find(headers, &affinity.cookie.name)?;
    std::str::from_utf8(given).ok()
}

/// Where the session of a request with `headers` is, if it has one, while `main` and `canary` share requests.
pub fn home(
    affinity: &Affinity,
    headers: &HeaderMap,
    main: &Upstream,
    canary: &Upstream,
) -> Option<Home> {
    let given = given(affinity, headers)?;
    match affinity.mode {
        Mode::Balanced => match parse_key(given)?.1 {
            Some(mark) if mark == Mark::of(canary) => Some(Home::Canary),
            _ => Some(Home::Main),
        },
        Mode::Persistent => {
            let token = Token::parse(given)?;
            let at_canary = || canary.has(token).then_some(Home::Canary);
            main.has(token).then_some(Home::Main).or_else(at_canary)
        }
    }
}

impl Mark {
    /// The mark of `canary`.
    pub fn of(canary: &Upstream) -> Self {
        let name = canary.name();
        let hash = xxh64(format!("{} {}", name.service, name.port).as_bytes(), 0);
        Self((hash >> 32) as u32)
    }
}

fn parse_key(text: &str) -> Option<(u64, Option<Mark>)> {
    let (key, mark) = match text.split_once('.') {
        Some((key, mark)) => {
            let mark = u32::from_str_radix(hexadecimal(mark, 8)?, 16).ok()?;
            (key, Some(Mark(mark)))
        }
        None => (text, None),
    };
    let key = u64::from_str_radix(hexadecimal(key, 16)?, 16).ok()?;
    Some((key, mark))
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
        fn nothing_but_what_we_write_is_read(text in "[0-9a-fA-F+ ]{0,40}|[0-9a-f]{15,17}[.]?[0-9a-f+]{7,9}") {
            if let Some(token) = Token::parse(&text) {
                prop_assert_eq!(format!("{:032x}", token.0), text.clone());
            }
            if let Some((key, mark)) = parse_key(&text) {
                let mark = mark.map(|Mark(mark)| format!(".{mark:08x}"));
                prop_assert_eq!(format!("{key:016x}{}", mark.unwrap_or_default()), text);
            }
        }
    }

    #[test]
    fn keys_are_written_as_they_are_read() {
        assert_eq!(parse_key("00000000000000ff"), Some((255, None)));
        let marked = Some((255, Some(Mark(16))));
        assert_eq!(parse_key("00000000000000ff.00000010"), marked);
        for bad in [
            "+0000000000000ff",
            "ff",
            "00000000000000ff.",
            "00000000000000ff.1",
        ] {
            assert_eq!(parse_key(bad), None, "{bad}");
        }
        assert!(hexadecimal("ff", 2).unwrap() == "ff");
    }
}
