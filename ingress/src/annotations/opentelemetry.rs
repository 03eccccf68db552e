//! Traces: `enable-opentelemetry`, `opentelemetry-trust-incoming-span`, `opentelemetry-operation-name`.

use super::Annotations;
use crate::message::variables::Template;

/// What an Ingress asks of tracing. What it says nothing about is as the settings say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tracing {
    /// Whether requests are traced.
    pub is_on: Option<bool>,
    /// Whether requests belong to the traces that their clients say.
    pub is_trusting: Option<bool>,
    /// What the span of a request is called.
    pub name: Option<Template>,
}

impl Tracing {
    /// Reads the annotations.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        Self {
            is_on: from.flag("enable-opentelemetry"),
            is_trusting: from.flag("opentelemetry-trust-incoming-span"),
            name: from.get("opentelemetry-operation-name", Template::parse),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::policy::tests::{read, verdict};

    #[test]
    fn each_annotation_says_what_it_says_and_no_more() {
        let tracing = |annotations: &[(&str, &str)]| {
            let policy = read(annotations).policy;
            policy.and_then(|policy| policy.tracing.as_deref().cloned())
        };
        let nothing = Tracing::default();
        let name = Template::parse("HTTP $request_method $service_name").ok();
        for (annotation, value, expected) in [
            (
                "enable-opentelemetry",
                "true",
                Tracing {
                    is_on: Some(true),
                    ..nothing.clone()
                },
            ),
            (
                "opentelemetry-trust-incoming-span",
                "false",
                Tracing {
                    is_trusting: Some(false),
                    ..nothing.clone()
                },
            ),
            (
                "opentelemetry-operation-name",
                "HTTP $request_method $service_name",
                Tracing {
                    name,
                    ..nothing.clone()
                },
            ),
        ] {
            assert_eq!(tracing(&[(annotation, value)]), Some(expected));
            assert_eq!(verdict(&read(&[(annotation, value)]), annotation).0, "same");
        }
        for (annotation, value) in [
            ("enable-opentelemetry", "perhaps"),
            ("opentelemetry-operation-name", "$nothing"),
        ] {
            assert_eq!(tracing(&[(annotation, value)]), None);
            let verdict = verdict(&read(&[(annotation, value)]), annotation).0;
            assert_eq!(verdict, "invalid");
        }
    }
}
