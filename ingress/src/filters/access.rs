//! Which clients may use a route, by their address.
//!
//! As in nginx, which reads `deny` lines before `allow` lines: who is denied is out even if allowed elsewhere, and where
//! there is a list of those allowed, everybody else is out.

use std::net::IpAddr;

use super::ranges::Ranges;

/// Who may use a route. By default everybody may.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// Who may not.
    pub deny: Ranges,
    /// Who may; nothing if that is not limited.
    pub allow: Option<Ranges>,
}

impl Access {
    /// Whether a client with `address` may use the route.
    pub fn admits(&self, address: IpAddr) -> bool {
        let is_allowed = self
            .allow
            .as_ref()
            .is_none_or(|allow| allow.contains(address));
        is_allowed && !self.deny.contains(address)
    }

    /// Whether anything is asked of the address at all.
    pub fn is_open(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    /// Who is denied, who is allowed, and which clients are admitted.
    type Case<'c> = (&'c str, Option<&'c str>, &'c [(&'c str, bool)]);

    fn ranges(text: &str) -> Ranges {
        text.split_whitespace()
            .map(|range| range.parse().unwrap())
            .collect()
    }

    #[test]
    fn those_denied_are_out_even_if_allowed_and_a_list_shuts_out_the_rest() {
        let cases: [Case<'_>; 5] = [
            ("", None, &[("10.0.0.1", true), ("::1", true)]),
            (
                "10.0.0.0/8",
                None,
                &[("10.0.0.1", false), ("11.0.0.1", true)],
            ),
            (
                "",
                Some("10.0.0.0/8"),
                &[("10.0.0.1", true), ("11.0.0.1", false)],
            ),
            (
                "10.0.0.1/32",
                Some("10.0.0.0/8"),
                &[("10.0.0.1", false), ("10.0.0.2", true)],
            ),
            ("", Some(""), &[("10.0.0.1", false), ("::1", false)]),
        ];
        for (deny, allow, clients) in cases {
            let access = Access {
                deny: ranges(deny),
                allow: allow.map(ranges),
            };
            assert_eq!(access.is_open(), deny.is_empty() && allow.is_none());
            for (client, expected) in clients {
                let admitted = access.admits(client.parse().unwrap());
                assert_eq!(
                    admitted, *expected,
                    "deny {deny:?} allow {allow:?} client {client}"
                );
            }
        }
    }
}
