//! Who may enter by address, and whether that is enough: `allowlist-source-range`, `denylist-source-range`, `satisfy`.

use super::Annotations;
use crate::filters::Satisfy;
use crate::filters::access::Access;

/// Who may use the routes.
pub fn parse(from: &mut Annotations<'_>) -> Access {
    let deny = from.cidrs("denylist-source-range").unwrap_or_default();
    let allow = from.cidrs("allowlist-source-range");
    Access {
        deny: deny.into_iter().collect(),
        allow: allow.map(|ranges| ranges.into_iter().collect()),
    }
}

/// How many of the guards must let a request in.
pub fn satisfy(from: &mut Annotations<'_>) -> Satisfy {
    let choices = [("all", Satisfy::All), ("any", Satisfy::Any)];
    from.choice("satisfy", &choices).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::policy::tests::{read, verdict};

    #[test]
    fn lists_are_read_under_both_names() {
        for name in ["allowlist-source-range", "whitelist-source-range"] {
            let policy = read(&[(name, "10.0.0.0/8, 192.0.2.1,2001:db8::/32")])
                .policy
                .unwrap_or_default();
            let access = policy.access.as_deref().cloned().unwrap_or_default();
            for (address, expected) in [
                ("10.1.1.1", true),
                ("192.0.2.1", true),
                ("192.0.2.2", false),
                ("2001:db8::1", true),
            ] {
                assert_eq!(
                    address.parse().is_ok_and(|address| access.admits(address)),
                    expected,
                    "{address}"
                );
            }
        }
    }

    #[test]
    fn those_denied_are_kept_out() {
        let policy = read(&[("denylist-source-range", "10.0.0.0/8")])
            .policy
            .unwrap_or_default();
        let access = policy.access.as_deref().cloned().unwrap_or_default();
        assert!(!access.admits([10, 0, 0, 1].into()) && access.admits([11, 0, 0, 1].into()));
    }

    #[test]
    fn a_list_that_is_bad_closes_the_route() {
        for name in ["allowlist-source-range", "denylist-source-range", "satisfy"] {
            let reading = read(&[(name, "10.0.0.0/99")]);
            assert_eq!(verdict(&reading, name).0, "invalid", "{name}");
            assert!(
                reading.policy.is_some_and(|policy| policy.is_closed),
                "{name}"
            );
        }
    }

    #[test]
    fn one_guard_is_enough_where_that_is_asked_for() {
        for (value, expected) in [("any", Satisfy::Any), ("all", Satisfy::All)] {
            let policy = read(&[("satisfy", value)]).policy.unwrap_or_default();
            assert_eq!(
                policy.satisfy.as_deref().copied().unwrap_or_default(),
                expected
            );
        }
    }
}
