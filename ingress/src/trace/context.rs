//! The trace that a request belongs to, as its headers say it: W3C Trace Context, level 1.
//!
//! What is not exactly as the standard writes it is no context, and a new trace begins (section 3.2.2.3 and the ones
//! after it). A bad `tracestate` costs only itself.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanId, TraceId};

/// The header with the ids.
pub const PARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header with what others note about the trace.
pub const STATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const PARENT_LENGTH: usize = 55;
const MAX_MEMBERS: usize = 32;

/// A span, as others know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
    /// Whether it is recorded.
    pub is_sampled: bool,
}

impl Context {
    /// The span that a request with `headers` belongs to, if they say so in the way of the standard.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(PARENT).iter();
        match (lines.next(), lines.next()) {
            (Some(line), None) => Self::parse(line.as_bytes()),
            _ => None,
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (version, rest) = (text.get(..2)?, text.get(PARENT_LENGTH..)?);
        let is_known = version == b"00";
        // Later versions may add fields; 255 is none.
        let is_later = number(version)? != 0xff && (rest.is_empty() || rest.starts_with(b"-"));
        let has_dashes = [2, 35, 52].into_iter().all(|at| text[at] == b'-');
        if !has_dashes || !(is_known && rest.is_empty() || !is_known && is_later) {
            return None;
        }
        let trace = TraceId::from(number(&text[3..35])?);
        let span = SpanId::from(u64::try_from(number(&text[36..52])?).ok()?);
        let flags = number(&text[53..55])?;
        let is_there = trace != TraceId::INVALID && span != SpanId::INVALID;
        is_there.then_some(Self {
            trace,
            span,
            is_sampled: flags & 1 != 0,
        })
    }

    /// What the header says of it.
    pub fn header(&self) -> HeaderValue {
        let text = self.to_string();
        // Digits and dashes are a legal value.
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

impl std::fmt::Display for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (trace, span, flags) = (self.trace, self.span, u8::from(self.is_sampled));
        write!(f, "00-{trace}-{span}-{flags:02x}")
    }
}

/// What `headers` note about the trace, as one line, if it is as the standard writes it.
pub fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines = headers.get_all(STATE).iter().map(HeaderValue::as_bytes);
    let line = lines.collect::<Vec<_>>().join(&b","[..]);
    let mut keys = Vec::new();
    for member in line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        if member.is_empty() {
            continue;
        }
        let equals = member.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (&member[..equals], &member[equals + 1..]);
        if !is_key(key) || !is_value(value) || keys.contains(&key) {
            return None;
        }
        keys.push(key);
    }
    let is_some = (1..=MAX_MEMBERS).contains(&keys.len());
    HeaderValue::from_bytes(&line).ok().filter(|_| is_some)
}

/// A name, or a tenant's at a system.
fn is_key(key: &[u8]) -> bool {
    let is_part = |name: &[u8], first: fn(&u8) -> bool, longest: usize| {
        let is_other = |byte: &u8| is_letter(byte) || is_digit(byte) || b"_-*/".contains(byte);
        name.first().is_some_and(first) && name.len() <= longest && name.iter().all(is_other)
    };
    let is_either: fn(&u8) -> bool = |byte| is_letter(byte) || is_digit(byte);
    match key.iter().position(|byte| *byte == b'@') {
        Some(at) => is_part(&key[..at], is_either, 241) && is_part(&key[at + 1..], is_letter, 14),
        None => is_part(key, is_letter, 256),
    }
}

fn is_value(value: &[u8]) -> bool {
    let is_fine = |byte: &u8| matches!(byte, b' '..=b'~') && !b",=".contains(byte);
    !value.is_empty() && value.len() <= 256 && value.iter().all(is_fine)
}

fn is_letter(byte: &u8) -> bool {
    byte.is_ascii_lowercase()
}

fn is_digit(byte: &u8) -> bool {
    byte.is_ascii_digit()
}

/// A number in hexadecimal digits, of which the standard takes only the small ones.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use proptest::prelude::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(name: HeaderName, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, line.parse().unwrap());
        }
        headers
    }

    fn context(lines: &[&str]) -> Option<Context> {
        Context::of(&headers(PARENT, lines))
    }

    #[test]
    fn a_context_is_read_and_written_the_same() {
        let context = context(&[GIVEN]).unwrap();
        assert_eq!(
            context.trace.to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert_eq!(context.span.to_string(), "b7ad6b7169203331");
        assert!(context.is_sampled);
        assert_eq!(context.header(), GIVEN);
    }

    #[test]
    fn what_is_not_exactly_a_context_is_none() {
        let with = |from: &str, to: &str| GIVEN.replacen(from, to, 1);
        for (text, is_one) in [
            (with("-01", "-00"), true),
            (with("-01", "-ff"), true),
            (with("00-", "cc-"), true),
            (with("00-", "cc-") + "-later", true),
            (with("00-", "cc-") + ".later", false),
            (with("00-", "ff-"), false),
            (with("00-", "0x-"), false),
            (with("00-", "00_"), false),
            (GIVEN.to_owned() + "-more", false),
            (GIVEN.to_owned() + "-", false),
            (GIVEN.to_owned() + " ", false),
            (with("-01", "-1"), false),
            (with("-01", "-0G"), false),
            (with("0af7", "0AF7"), false),
            (with("b7ad", "B7AD"), false),
            (with("0af7", "0ag7"), false),
            (
                with("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
                false,
            ),
            (with("b7ad6b7169203331", &"0".repeat(16)), false),
            (with("319c-b7", "319cb-7"), false),
            (String::new(), false),
        ] {
            // A client of HTTP cannot send white space at the end, so this is not how it comes.
            let parsed = Context::parse(text.as_bytes());
            assert_eq!(parsed.is_some(), is_one, "{text:?}");
        }
        assert_eq!(context(&[GIVEN, GIVEN]), None);
        assert_eq!(context(&[]), None);
        assert!(!context(&[&with("-01", "-02")]).unwrap().is_sampled);
    }

    #[test]
    fn notes_pass_if_they_are_well_formed() {
        let state = |lines: &[&str]| {
            let state = state(&headers(STATE, lines));
            state.map(|state| state.to_str().unwrap().to_owned())
        };
        let many = |n: usize| (0..n).map(|n| format!("k{n}=v")).collect::<Vec<_>>();
        for good in ["a=1", "a=1, b=2 ,", "1t@sys=x y", "a_-*/0=!~"] {
            assert_eq!(state(&[good]).as_deref(), Some(good));
        }
        assert_eq!(state(&["a=1", "b=2"]).as_deref(), Some("a=1,b=2"));
        assert!(state(&[&many(32).join(",")]).is_some());
        let long = format!("{}=1", "k".repeat(257));
        let longer = format!("a={}", "v".repeat(257));
        for bad in [
            "", ",", "a", "a=", "=1", "A=1", "1=1", "a=1=2", "a=1,a=2", "a@1=1", "@s=1", "a@=1",
            "a=\u{e9}", &long, &longer,
        ] {
            assert_eq!(state(&[bad]), None, "{bad:?}");
        }
        assert_eq!(state(&[&many(33).join(",")]), None);
        assert_eq!(state(&[]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_context_that_is_written_the_same_or_none(
            text in proptest::collection::vec(prop_oneof![Just(b'-'), Just(b'0'), b'0'..=b'g', any::<u8>()], 0..70)
        ) {
            if let Some(context) = Context::parse(&text) {
                prop_assert_eq!(Context::parse(context.to_string().as_bytes()), Some(context));
            }
            if let Ok(value) = HeaderValue::from_bytes(&text) {
                let mut headers = HeaderMap::new();
                headers.insert(STATE, value);
                state(&headers);
            }
        }
    }
}
