//! How a request ended, as far as series tell it apart: by its method and the status of its response.
//!
//! Nothing a client sends makes a label: a method or a status that is not known is `other`, or its class.

use std::fmt::{self, Display};

use http::{Method, StatusCode};

/// The status codes that are told apart; others count as their class.
const CODES: [u16; 43] = [
    101, 200, 201, 202, 204, 206, 300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 406,
    408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 425, 426, 429, 431, 451, 499, 500,
    501, 502, 503, 504, 505,
];

/// The methods that are told apart.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::PATCH,
    Method::HEAD,
    Method::OPTIONS,
];

/// How many outcomes [`Outcome::classed`] comes to.
pub(super) const CLASSES: usize = 6;

/// A method and a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Where it is among the known methods; after them for all others.
    method: u8,
    /// A known code, or the first digit of any other, 0 for what is no class.
    status: u16,
}

impl Outcome {
    /// That of a request with `method` that was answered with `status`.
    pub(super) fn of(method: &Method, status: StatusCode) -> Self {
        let known = METHODS.iter().position(|known| known == method);
        let code = status.as_u16();
        let status = match CODES.binary_search(&code) {
            Ok(_) => code,
            Err(_) => class(code),
        };
        Self {
            method: known.unwrap_or(METHODS.len()) as u8,
            status,
        }
    }

    /// The same by its method and the class of its status.
    pub(super) fn by_class(self) -> Self {
        let status = match self.status {
            code @ 100.. => class(code),
            class => class,
        };
        Self { status, ..self }
    }

    /// The same by class of its status alone.
    pub(super) fn classed(self) -> Self {
        Self {
            method: METHODS.len() as u8,
            ..self.by_class()
        }
    }

    /// All that [`classed`](Self::classed) comes to, each at its [`class`](Self::class).
    pub(super) fn all_classed() -> [Self; CLASSES] {
        std::array::from_fn(|class| Self {
            method: METHODS.len() as u8,
            status: class as u16,
        })
    }

    /// The number of the class of its status, less than [`CLASSES`].
    pub(super) fn class(self) -> usize {
        usize::from(self.classed().status)
    }
}

fn class(code: u16) -> u16 {
    match code {
        100..=599 => code / 100,
        _ => 0,
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = METHODS.get(usize::from(self.method));
        let method = method.map_or("other", Method::as_str);
        write!(f, "method=\"{method}\",status=\"")?;
        match self.status {
            0 => f.write_str("other\""),
            class @ 1..100 => write!(f, "{class}xx\""),
            code => write!(f, "{code}\""),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn what_is_known_is_told_apart_and_the_rest_is_not() {
        for (method, status, exact, classed) in [
            ("GET", 200, ("GET", "200"), "2xx"),
            ("POST", 499, ("POST", "499"), "4xx"),
            ("get", 418, ("other", "4xx"), "4xx"),
            ("ODD", 799, ("other", "other"), "other"),
            ("HEAD", 100, ("HEAD", "1xx"), "1xx"),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let outcome = Outcome::of(&method, StatusCode::from_u16(status).unwrap());
            let text = |(method, status)| format!("method=\"{method}\",status=\"{status}\"");
            assert_eq!(outcome.to_string(), text(exact));
            let outcome = outcome.classed();
            assert_eq!(outcome.to_string(), text(("other", classed)));
            assert_eq!(outcome.classed(), outcome);
            assert_eq!(Outcome::all_classed()[outcome.class()], outcome);
        }
    }

    #[test]
    fn codes_are_sorted() {
        assert!(CODES.is_sorted());
    }
}
