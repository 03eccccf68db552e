//! Which requests go to a canary instead of to the Service beside it.
//!
//! The order is ingress-nginx's (balancer.lua, `route_to_alternative_balancer`): a header decides before a cookie, a
//! cookie before chance. A header or cookie that says nothing of the kind leaves it to what comes next.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use crate::annotations::Pattern;
use crate::message::cookie;

/// Who is sent to a canary. By default nobody is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Canary {
    /// The header that decides, and how.
    pub header: Option<(HeaderName, Wanted)>,
    /// The cookie that decides by `always` or `never`.
    pub cookie: Option<Box<str>>,
    /// How many of [`total`](Self::total) requests are sent there by chance.
    pub weight: u32,
    /// What the weight is a part of; 0 counts as 100.
    pub total: u32,
}

/// What a header must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// `always`; `never` decides against.
    Always,
    /// This very value.
    Value(Box<str>),
    /// Something that the expression is found in.
    Pattern(Pattern),
}

impl Canary {
    /// Whether a request with `headers` goes to the canary. `roll(n)` is a random number below `n`.
    pub fn takes(&self, headers: &HeaderMap, roll: impl FnOnce(u32) -> u32) -> bool {
        let by_header = || {
            self.header
                .as_ref()
                .and_then(|(name, wanted)| wanted.decide(headers.get(name)?))
        };
        let by_cookie = || by_word(cookie::find(headers, self.cookie.as_deref()?)?);
        let by_chance = || self.weight > 0 && roll(self.total()) < self.weight;
        by_header().or_else(by_cookie).unwrap_or_else(by_chance)
    }

    /// Totals below 100 count as 100, as in ingress-nginx.
    fn total(&self) -> u32 {
        self.total.max(100)
    }
}

impl Wanted {
    fn decide(&self, value: &HeaderValue) -> Option<bool> {
        let value = value.to_str().ok()?;
        match self {
            Self::Always => by_word(value.as_bytes()),
            Self::Value(wanted) => (**wanted == *value).then_some(true),
            Self::Pattern(pattern) => pattern.is_match(value).then_some(true),
        }
    }
}

fn by_word(word: &[u8]) -> Option<bool> {
    match word {
        b"always" => Some(true),
        b"never" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn request(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
        };
        fields.iter().map(field).collect()
    }

    /// Whether it takes a request with `fields`, when chance is against it and when it is for it.
    fn check(canary: &Canary, fields: &[(&str, &str)], expected: [bool; 2]) {
        let request = request(fields);
        let taken = [u32::MAX, 0].map(|roll| canary.takes(&request, |_| roll));
        assert_eq!(taken, expected, "{canary:?} {fields:?}");
    }

    const NO: [bool; 2] = [false, false];
    const YES: [bool; 2] = [true, true];
    const CHANCE: [bool; 2] = [false, true];

    #[test]
    fn a_header_decides_before_a_cookie_and_a_cookie_before_chance() {
        let canary = Canary {
            header: Some((HeaderName::from_static("x-canary"), Wanted::Always)),
            cookie: Some("canary".into()),
            weight: 10,
            total: 100,
        };
        check(&canary, &[], CHANCE);
        check(&canary, &[("x-canary", "always")], YES);
        check(&canary, &[("x-canary", "never")], NO);
        check(&canary, &[("x-canary", "maybe")], CHANCE);
        check(&canary, &[("cookie", "a=1; canary=always")], YES);
        check(&canary, &[("cookie", "Canary=never")], NO);
        check(&canary, &[("cookie", "canary=1")], CHANCE);
        check(
            &canary,
            &[("x-canary", "never"), ("cookie", "canary=always")],
            NO,
        );
        check(
            &canary,
            &[("x-canary", "maybe"), ("cookie", "canary=always")],
            YES,
        );
    }

    #[test]
    fn a_value_or_pattern_takes_the_place_of_always() {
        let header = |wanted| Canary {
            header: Some((HeaderName::from_static("x-region"), wanted)),
            ..Canary::default()
        };
        let value = header(Wanted::Value("eu".into()));
        check(&value, &[("x-region", "eu")], YES);
        check(&value, &[("x-region", "europe")], NO);
        check(&value, &[("x-region", "always")], NO);
        let pattern = header(Wanted::Pattern(Pattern::new("^eu-[0-9]+").unwrap()));
        check(&pattern, &[("x-region", "eu-10a")], YES);
        check(&pattern, &[("x-region", "us")], NO);
        check(&pattern, &[("x-region", "always")], NO);
    }

    #[test]
    fn chance_takes_as_many_as_the_weight_says() {
        for (weight, total, of, expected) in [
            (0, 100, 100, 0),
            (30, 100, 100, 30),
            (100, 100, 100, 100),
            (5, 1000, 1000, 5),
            (5, 10, 100, 5),
            (5, 0, 100, 5),
        ] {
            let canary = Canary {
                weight,
                total,
                ..Canary::default()
            };
            let taken = (0..of)
                .filter(|roll| canary.takes(&HeaderMap::new(), |n| roll % n))
                .count();
            assert_eq!(taken, expected, "{weight} of {total}");
        }
    }
}
