//! An answer for every request of an Ingress, in place of its backends: `portolan.dev/return`, which replaces what snippets
//! did with `return`.

use bytes::Bytes;
use http::{Response, StatusCode, Version};
use http_body_util::Full;

use super::Annotations;
use super::redirect::{self, Elsewhere};
use crate::message::answer::Reason;

/// A status, perhaps followed by a text, or by a URL where it is that of a redirect.
pub const RETURN: &str = "portolan.dev/return";

/// The longest text, in bytes.
const MAX_TEXT: usize = 4096;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its body, where that is not ours to choose.
    text: Option<Bytes>,
}

/// What the annotation asks for.
enum Return {
    Answer(FixedAnswer),
    Redirect(Elsewhere),
}

impl FixedAnswer {
    /// The answer, if the annotation asks for one that is no redirect.
    pub fn parse(from: &mut Annotations<'_>) -> Option<Self> {
        match from.get(RETURN, parse)? {
            Return::Answer(answer) => Some(answer),
            Return::Redirect(_) => None,
        }
    }

    /// What the client gets.
    pub fn answer(&self, protocol: Version) -> Response<Full<Bytes>> {
        let response = Reason::FixedAnswer.answer_with(self.status, protocol);
        match &self.text {
            Some(text) => response.map(|_| Full::from(text.clone())),
            None => response,
        }
    }
}

/// The redirect, if the annotation asks for one.
pub(super) fn elsewhere(from: &mut Annotations<'_>) -> Option<Elsewhere> {
    match from.get(RETURN, parse)? {
        Return::Answer(_) => None,
        Return::Redirect(elsewhere) => Some(elsewhere),
    }
}

fn parse(text: &str) -> Result<Return, String> {
    let (code, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim_start();
    let status: Option<StatusCode> = code.parse().ok();
    let status = status.ok_or_else(|| format!("{code:?} is not a status"))?;
    match status.as_u16() {
        301 | 302 | 303 | 307 | 308 => {
            let to = redirect::target(rest)?;
            Ok(Return::Redirect(Elsewhere { status, to }))
        }
        204 if !rest.is_empty() => Err("an answer with status 204 has no text".to_owned()),
        200..=299 | 400..=599 if rest.len() <= MAX_TEXT => {
            let text = (!rest.is_empty()).then(|| Bytes::copy_from_slice(rest.as_bytes()));
            Ok(Return::Answer(FixedAnswer { status, text }))
        }
        200..=299 | 400..=599 => Err(format!("the text is longer than {MAX_TEXT} bytes")),
        _ => Err(format!(
            "{code} is neither an answer by itself nor a redirect"
        )),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::annotations::policy::tests::{read, verdict};

    #[test]
    fn a_status_may_have_a_text() {
        let rows = [
            ("403", 403, None),
            ("200 ok", 200, Some("ok")),
            ("503   we are   closed", 503, Some("we are   closed")),
            ("204", 204, None),
        ];
        for (value, status, text) in rows {
            let policy = read(&[(RETURN, value)]).policy.unwrap();
            let answer = policy.fixed_answer.as_deref().unwrap();
            assert_eq!(answer.status, status, "{value}");
            assert_eq!(answer.text.as_deref(), text.map(str::as_bytes), "{value}");
            assert_eq!(policy.redirects, None);
        }
    }

    #[test]
    fn a_redirect_has_a_target_and_comes_before_others() {
        let reading = read(&[
            (RETURN, "308 https://b.org$request_uri"),
            ("temporal-redirect", "https://c.org"),
        ]);
        let policy = reading.policy.unwrap();
        assert_eq!(policy.fixed_answer, None);
        let all = policy.redirects.as_deref().unwrap().all.as_ref().unwrap();
        assert_eq!(all.status, 308);
    }

    #[test]
    fn what_cannot_be_answered_closes_the_route() {
        for bad in [
            "yes",
            "99",
            "100",
            "304",
            "301",
            "301 javascript:x",
            "204 text",
            "600",
            "https://b.org",
        ] {
            let reading = read(&[(RETURN, bad)]);
            assert_eq!(verdict(&reading, RETURN).0, "invalid", "{bad}");
            assert!(
                reading.policy.is_some_and(|policy| policy.is_closed),
                "{bad}"
            );
        }
        let long = format!("200 {}", "a".repeat(MAX_TEXT + 1));
        assert!(read(&[(RETURN, &long)]).policy.unwrap().is_closed);
    }
}
