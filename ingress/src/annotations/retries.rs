//! When a request is sent again, to another endpoint: `proxy-next-upstream`, `-tries` and `-timeout`.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

use super::Annotations;
use crate::message::answer::Reason;

/// When and how often a request is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    causes: Cow<'static, [Cause]>,
    /// Whether what a backend may have acted on is sent again even if its method is not idempotent.
    pub repeats_all: bool,
    /// Most attempts; zero is any number.
    pub tries: u32,
    /// For how long after the first attempt further ones may begin; zero is for ever.
    pub within: Duration,
}

/// What makes another attempt worth it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// No connection, or one that was closed in place of a response.
    Error,
    /// A backend took too long.
    Timeout,
    /// The response is none.
    InvalidHeader,
    /// A response with this status.
    Status(u16),
}

/// What holds where nothing is asked, as in ingress-nginx.
pub static USUAL: Retries = Retries {
    causes: Cow::Borrowed(&[Cause::Error, Cause::Timeout]),
    repeats_all: false,
    tries: 3,
    within: Duration::ZERO,
};

impl Default for Retries {
    fn default() -> Self {
        USUAL.clone()
    }
}

impl Retries {
    /// Reads the annotations.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        let usual = Self::default();
        let causes = from.get("proxy-next-upstream", causes);
        let (causes, repeats_all) = causes
            .map_or((usual.causes, false), |(causes, repeats_all)| {
                (causes.into(), repeats_all)
            });
        let tries = from.number("proxy-next-upstream-tries", 0..=u32::MAX);
        Self {
            causes,
            repeats_all: repeats_all || from.defaults().repeats_all,
            tries: tries.unwrap_or(usual.tries),
            within: from
                .seconds("proxy-next-upstream-timeout")
                .unwrap_or_default(),
        }
    }

    /// Whether an attempt that failed for `reason` is followed by another.
    pub fn follow(&self, reason: Reason) -> bool {
        let cause = match reason {
            Reason::ConnectFailed | Reason::BackendTls | Reason::BackendClosed => Cause::Error,
            Reason::ConnectTimeout | Reason::BackendTimeout => Cause::Timeout,
            Reason::BadResponse => Cause::InvalidHeader,
            _ => return false,
        };
        self.causes.contains(&cause)
    }

    /// Whether a response with `status` is followed by another attempt.
    pub fn follow_status(&self, status: StatusCode) -> bool {
        let cause = Cause::Status(status.as_u16());
        self.causes.contains(&cause)
    }
}

/// The causes that `text` lists, and whether all methods are meant. `off` outweighs the rest, as in nginx.
fn causes(text: &str) -> Result<(Vec<Cause>, bool), String> {
    let (mut causes, mut repeats_all, mut is_off) = (Vec::new(), false, false);
    for word in text.split_ascii_whitespace() {
        match word {
            "error" => causes.push(Cause::Error),
            "timeout" => causes.push(Cause::Timeout),
            "invalid_header" => causes.push(Cause::InvalidHeader),
            "http_500" => causes.push(Cause::Status(500)),
            "http_502" => causes.push(Cause::Status(502)),
            "http_503" => causes.push(Cause::Status(503)),
            "http_504" => causes.push(Cause::Status(504)),
            "http_403" => causes.push(Cause::Status(403)),
            "http_404" => causes.push(Cause::Status(404)),
            "http_429" => causes.push(Cause::Status(429)),
            "non_idempotent" => repeats_all = true,
            "off" => is_off = true,
            _ => {
                return Err(format!(
                    "{word:?} is not a case in which a request is sent again"
                ));
            }
        }
    }
    if is_off {
        causes.clear();
    }
    Ok((causes, repeats_all))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::annotations::policy::tests::read;

    fn retries(given: &[(&'static str, &str)]) -> Retries {
        let policy = read(given).policy.unwrap_or_default();
        policy.retries.as_deref().cloned().unwrap_or_default()
    }

    #[test]
    fn errors_and_timeouts_are_followed_by_default_and_nothing_else() {
        let usual = retries(&[]);
        assert!(usual.follow(Reason::ConnectFailed) && usual.follow(Reason::BackendTimeout));
        assert!(!usual.follow(Reason::BadResponse) && !usual.follow(Reason::ClientTimeout));
        assert!(!usual.follow_status(StatusCode::BAD_GATEWAY));
        assert_eq!((usual.tries, usual.repeats_all), (3, false));
    }

    #[test]
    fn what_is_listed_is_followed() {
        let name = "proxy-next-upstream";
        let listed = retries(&[(name, "invalid_header http_503 non_idempotent")]);
        assert!(listed.follow(Reason::BadResponse) && listed.repeats_all);
        assert!(listed.follow_status(StatusCode::SERVICE_UNAVAILABLE));
        assert!(!listed.follow(Reason::ConnectFailed));
        let off = retries(&[(name, "error timeout off")]);
        assert!(!off.follow(Reason::ConnectFailed));
        assert_eq!(retries(&[(name, "sometimes")]), Retries::default());
        assert!(causes("error http_418").unwrap_err().contains("http_418"));
    }

    #[test]
    fn tries_and_time_are_bounded() {
        let given = retries(&[
            ("proxy-next-upstream-tries", "5"),
            ("proxy-next-upstream-timeout", "10"),
        ]);
        assert_eq!((given.tries, given.within), (5, Duration::from_secs(10)));
        assert_eq!(retries(&[("proxy-next-upstream-tries", "-1")]).tries, 3);
    }
}
