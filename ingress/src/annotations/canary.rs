//! An Ingress that takes over some of another's requests: `canary`, `canary-*`.

use http::HeaderName;

use super::Annotations;
use crate::filters::canary::{Canary, Wanted};

const RULES: [&str; 6] = [
    "canary-by-cookie",
    "canary-by-header",
    "canary-by-header-pattern",
    "canary-by-header-value",
    "canary-weight",
    "canary-weight-total",
];

/// Which requests this Ingress takes over, if it is a canary.
pub fn parse(from: &mut Annotations<'_>) -> Option<Canary> {
    let is_canary = from.flag("canary") == Some(true);
    let header: Option<HeaderName> = from.header_name("canary-by-header");
    let value = from.text("canary-by-header-value");
    let pattern = from.regex("canary-by-header-pattern");
    let cookie = from.text("canary-by-cookie");
    let weight = from
        .number("canary-weight", 0..=u32::MAX)
        .unwrap_or_default();
    let total = from
        .number("canary-weight-total", 0..=u32::MAX)
        .unwrap_or_default();
    if !is_canary {
        for name in RULES {
            from.differs(
                name,
                "means nothing without canary: \"true\", as in ingress-nginx",
            );
        }
        return None;
    }
    let wanted = match (value, pattern) {
        (Some(value), _) => Wanted::Value(value.into()),
        (None, Some(pattern)) => Wanted::Pattern(pattern),
        (None, None) => Wanted::Always,
    };
    Some(Canary {
        header: header.map(|name| (name, wanted)),
        cookie: cookie.map(Into::into),
        weight,
        total,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::annotations::Pattern;
    use crate::annotations::policy::tests::{read, verdict};

    fn canary(rules: &[(&str, &str)]) -> Canary {
        let annotations = [&[("canary", "true")], rules].concat();
        *read(&annotations).policy.unwrap().canary.clone().unwrap()
    }

    #[test]
    fn rules_are_read() {
        assert_eq!(canary(&[]), Canary::default());
        assert_eq!(
            (
                canary(&[("canary-weight", "10")]).weight,
                canary(&[("canary-weight-total", "1000")]).total
            ),
            (10, 1000)
        );
        assert_eq!(
            canary(&[("canary-by-cookie", "c")]).cookie.as_deref(),
            Some("c")
        );
        let name = HeaderName::from_static("x-c");
        let header =
            |more: &[(&str, &str)]| canary(&[&[("canary-by-header", "X-C")], more].concat()).header;
        assert_eq!(header(&[]), Some((name.clone(), Wanted::Always)));
        assert_eq!(
            header(&[("canary-by-header-value", "v")]),
            Some((name.clone(), Wanted::Value("v".into())))
        );
        let pattern = ("canary-by-header-pattern", "^v[0-9]");
        assert_eq!(
            header(&[pattern]),
            Some((
                name.clone(),
                Wanted::Pattern(Pattern::new("^v[0-9]").unwrap())
            ))
        );
        // The value outweighs the pattern.
        assert_eq!(
            header(&[pattern, ("canary-by-header-value", "v")]),
            Some((name, Wanted::Value("v".into())))
        );
    }

    #[test]
    fn bad_rules_are_said_and_count_as_absent() {
        for (name, value) in [
            ("canary-weight", "-1"),
            ("canary-weight-total", "x"),
            ("canary-by-header", "a b"),
            ("canary-by-header-pattern", "("),
        ] {
            let reading = read(&[("canary", "true"), (name, value)]);
            assert_eq!(verdict(&reading, name).0, "invalid", "{name}");
            assert_eq!(canary(&[(name, value)]), Canary::default(), "{name}");
        }
    }

    #[test]
    fn rules_mean_nothing_to_what_is_no_canary() {
        let reading = read(&[("canary-weight", "10")]);
        assert_eq!(verdict(&reading, "canary-weight").0, "differs");
        assert_eq!(reading.policy, None);
    }
}
