//! How large the body of a request may be: `proxy-body-size`.

use super::Annotations;

/// What an Ingress says about bodies of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestBody {
    /// The most bytes, 0 for no limit; nothing if it does not say.
    pub size: Option<u64>,
}

impl RequestBody {
    /// Reads `proxy-body-size`.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        Self {
            size: from.size("proxy-body-size"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::policy::tests::{read, verdict};

    #[test]
    fn the_size_of_bodies_has_the_units_of_nginx_and_zero_means_no_limit() {
        for (value, expected) in [("8m", Some(8 << 20)), ("0", Some(0)), ("1024", Some(1024))] {
            let reading = read(&[("proxy-body-size", value)]);
            let policy = reading.policy.as_ref();
            let body = policy.and_then(|policy| policy.body.as_deref().copied());
            assert_eq!(body, Some(RequestBody { size: expected }), "{value}");
            assert_eq!(verdict(&reading, "proxy-body-size").0, "same");
        }
        let reading = read(&[("proxy-body-size", "large")]);
        assert_eq!(reading.policy, None);
        assert_eq!(verdict(&reading, "proxy-body-size").0, "invalid");
    }
}
