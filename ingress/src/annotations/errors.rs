//! Who answers in place of a backend that cannot: `default-backend`, `custom-http-errors` and
//! `disable-proxy-intercept-errors`.

use http::StatusCode;
use model::ObjectName;

use super::{Annotations, value};

/// Which answers are replaced, and by whose.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Errors {
    /// The Service that answers where the route's own has no endpoint, and in place of the answers below.
    pub backend: Option<ObjectName>,
    /// The statuses of answers that are replaced.
    pub intercepted: Vec<StatusCode>,
}

impl Errors {
    /// Reads the annotations.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        let intercepted = from.get("custom-http-errors", statuses).unwrap_or_default();
        let is_off = from
            .flag("disable-proxy-intercept-errors")
            .unwrap_or_default();
        Self {
            backend: from.object_name("default-backend"),
            intercepted: if is_off { Vec::new() } else { intercepted },
        }
    }
}

fn statuses(text: &str) -> Result<Vec<StatusCode>, String> {
    let status = |text| value::number(text, &(400..=599)).map(StatusCode::from_u16);
    let statuses = value::list(text)?.into_iter().map(status);
    statuses
        .map(|status| status?.map_err(|error| error.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::annotations::policy::tests::{read, verdict};

    #[test]
    fn statuses_are_those_of_errors() {
        let intercepted = |annotations: &[(&str, &str)]| {
            let policy = read(annotations).policy?;
            let all = policy.errors.as_deref()?.intercepted.iter();
            Some(all.map(StatusCode::as_u16).collect::<Vec<_>>())
        };
        let codes = ("custom-http-errors", "404, 503");
        assert_eq!(intercepted(&[codes]), Some(vec![404, 503]));
        assert_eq!(
            intercepted(&[codes, ("disable-proxy-intercept-errors", "true")]),
            None
        );
        for bad in ["200", "x", ",", "600"] {
            assert_eq!(
                verdict(&read(&[("custom-http-errors", bad)]), "custom-http-errors").0,
                "invalid",
                "{bad}"
            );
        }
    }

    #[test]
    fn the_default_backend_is_in_the_same_namespace() {
        let backend = |name| {
            let policy = read(&[("default-backend", name)]).policy?;
            policy.errors.as_deref()?.backend.clone()
        };
        assert_eq!(backend("s").unwrap(), ObjectName::new("ns", "s"));
        assert_eq!(backend("other/s"), None);
    }
}
