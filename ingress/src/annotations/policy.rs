//! All that an Ingress asks for by annotations, feature by feature.
//!
//! A feature that is not asked for is not there: its field is empty, and an Ingress that asks for nothing has no policy
//! at all. So a request on its way looks at what its route asks for and at nothing else (see
//! [`Route::asks`](crate::routes::Route::asks)).

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::Ingress;

use super::backend::Backend;
use super::balancing::Balancing;
use super::body::RequestBody;
use super::client_certificate::ClientCertificates;
use super::denied_paths::DeniedPaths;
use super::errors::Errors;
use super::fixed_answer::FixedAnswer;
use super::headers::Headers;
use super::hosts::Hosts;
use super::https::HttpsRedirect;
use super::log::Log;
use super::opentelemetry::Tracing;
use super::passthrough::Passthrough;
use super::paths::Paths;
use super::redirect::Redirects;
use super::retries::Retries;
use super::rewrite::Rewrite;
use super::substitute::Substitutes;
use super::timeouts::Timeouts;
use super::{Annotations, Defaults, Finding, Reference, Referenced, defaults};
use super::{access, basic_auth, buffering, canary, cors, external_auth, limits, mirror};
use crate::filters::Satisfy;
use crate::filters::access::Access;
use crate::filters::basic_auth::BasicAuth;
use crate::filters::canary::Canary;
use crate::filters::cors::Cors;
use crate::filters::external_auth::ExternalAuth;
use crate::filters::limits::Limits;
use crate::filters::mirror::Mirror;
use crate::filters::pace::Pace;

/// What an Ingress asks for. Every field is a feature.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Policy {
    /// Something that guards the routes cannot be carried out, so they are closed.
    pub is_closed: bool,
    /// Paths that nobody gets at.
    pub denied_paths: Option<Box<DeniedPaths>>,
    /// What answers in place of backends.
    pub fixed_answer: Option<Box<FixedAnswer>>,
    /// How backends are spoken to.
    pub backend: Option<Box<Backend>>,
    /// Who answers in place of a backend that cannot.
    pub errors: Option<Box<Errors>>,
    /// Header fields that are set or removed.
    pub headers: Option<Box<Headers>>,
    /// Hosts beside those of the rules.
    pub hosts: Option<Box<Hosts>>,
    /// Redirects from HTTP to HTTPS.
    pub https: Option<Box<HttpsRedirect>>,
    /// Who may enter, by address.
    pub access: Option<Box<Access>>,
    /// Who may enter, by password.
    pub basic_auth: Option<Box<BasicAuth>>,
    /// Whom to ask who may enter.
    pub external_auth: Option<Box<ExternalAuth>>,
    /// Whether nobody is asked whom the gateway asks about all others.
    pub no_global_auth: bool,
    /// How many of these guards must let a request in.
    pub satisfy: Option<Box<Satisfy>>,
    /// What clients are limited to.
    pub limits: Option<Box<Limits>>,
    /// How fast answers are.
    pub pace: Option<Box<Pace>>,
    /// Requests from other origins.
    pub cors: Option<Box<Cors>>,
    /// Which requests of another Ingress go here.
    pub canary: Option<Box<Canary>>,
    /// Where copies of requests go.
    pub mirror: Option<Box<Mirror>>,
    /// Limits on bodies of requests.
    pub body: Option<Box<RequestBody>>,
    /// How an endpoint is chosen.
    pub balancing: Option<Box<Balancing>>,
    /// When a request is sent again.
    pub retries: Option<Box<Retries>>,
    /// How long a backend may take.
    pub timeouts: Option<Box<Timeouts>>,
    /// Whether requests are written down.
    pub log: Option<Box<Log>>,
    /// Which traces requests belong to.
    pub tracing: Option<Box<Tracing>>,
    /// How paths are matched.
    pub paths: Option<Box<Paths>>,
    /// Redirects to elsewhere.
    pub redirects: Option<Box<Redirects>>,
    /// What becomes of the path.
    pub rewrite: Option<Box<Rewrite>>,
    /// What is changed about answers.
    pub substitutes: Option<Box<Substitutes>>,
    /// Certificates that clients must show.
    pub client_certificates: Option<Box<ClientCertificates>>,
    /// Backends that end TLS.
    pub passthrough: Option<Box<Passthrough>>,
}

impl Policy {
    pub(crate) fn parse(from: &mut Annotations<'_>) -> Self {
        buffering::check(from);
        let rewrite = Rewrite::parse(from);
        Self {
            is_closed: false,
            denied_paths: DeniedPaths::parse(from).map(Box::new),
            fixed_answer: FixedAnswer::parse(from).map(Box::new),
            backend: asked(Backend::parse(from)),
            errors: asked(Errors::parse(from)),
            headers: asked(Headers::parse(from)),
            hosts: asked(Hosts::parse(from)),
            https: asked(HttpsRedirect::parse(from)),
            access: asked(access::parse(from)),
            basic_auth: basic_auth::parse(from).map(Box::new),
            external_auth: external_auth::parse(from).map(Box::new),
            no_global_auth: external_auth::opts_out(from),
            satisfy: asked(access::satisfy(from)),
            limits: asked(limits::parse(from)),
            pace: limits::pace(from).map(Box::new),
            cors: cors::parse(from).map(Box::new),
            canary: canary::parse(from).map(Box::new),
            mirror: mirror::parse(from).map(Box::new),
            body: asked(RequestBody::parse(from)),
            balancing: asked(Balancing::parse(from)),
            retries: asked(Retries::parse(from)),
            timeouts: asked(Timeouts::parse(from)),
            log: asked(Log::parse(from)),
            tracing: asked(Tracing::parse(from)),
            paths: asked(Paths::parse(from, &rewrite)),
            redirects: asked(Redirects::parse(from)),
            rewrite: asked(rewrite),
            substitutes: asked(Substitutes::parse(from)),
            client_certificates: asked(ClientCertificates::parse(from)),
            passthrough: asked(Passthrough::parse(from)),
        }
    }
}

/// What comes of reading the annotations of an Ingress.
#[derive(Debug, Default)]
pub struct Reading {
    /// What they ask for, if that is anything.
    pub policy: Option<Arc<Policy>>,
    /// What there is to say about each, by key.
    pub findings: Vec<Finding>,
    /// The objects that they name, there or not.
    pub references: BTreeSet<Reference>,
}

impl Policy {
    /// Reads the annotations of `ingress`. The objects they name are looked up in `objects`; without it, as in a check of
    /// a file, those are taken on trust.
    pub fn read(ingress: &Ingress, objects: Option<&Referenced>) -> Reading {
        Self::read_over(&defaults::NONE, ingress, objects)
    }

    /// The same over `defaults`: what holds where the Ingress says nothing else.
    pub fn read_over(
        defaults: &Defaults,
        ingress: &Ingress,
        objects: Option<&Referenced>,
    ) -> Reading {
        let mut from = Annotations::new(ingress, objects, defaults);
        if from.is_empty() {
            return Reading {
                policy: defaults.policy().cloned(),
                ..Reading::default()
            };
        }
        let mut policy = Self::parse(&mut from);
        let remarks = from.finish();
        policy.is_closed = remarks.is_closed;
        Reading {
            policy: (policy != Self::default()).then(|| Arc::new(policy)),
            findings: remarks.findings,
            references: remarks.references,
        }
    }
}

impl Policy {
    /// What an Ingress without annotations asks for by `defaults`, if that is anything.
    pub(crate) fn of_defaults(defaults: &Defaults) -> Option<Arc<Self>> {
        let policy = Self::parse(&mut Annotations::of_defaults(defaults));
        (policy != Self::default()).then(|| Arc::new(policy))
    }
}

/// A feature, unless it is as if nothing were asked.
fn asked<T: Default + PartialEq>(feature: T) -> Option<Box<T>> {
    (feature != T::default()).then(|| Box::new(feature))
}

#[cfg(test)]
pub(crate) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::annotations::known::{self, Known, Meaning};
    use crate::annotations::{LEGACY_PREFIX, PREFIX, Seen, Verdict, referenced};
    use serde_json::{Map, Value, json};

    const NEVER: HttpsRedirect = HttpsRedirect {
        where_tls: Some(false),
        always: None,
    };

    /// An Ingress `ns/i` with these annotations, by key.
    fn ingress(annotations: &[(String, &str)]) -> Ingress {
        let annotations: Map<String, Value> = annotations
            .iter()
            .map(|(key, value)| (key.clone(), (*value).into()))
            .collect();
        let object =
            json!({"metadata": {"name": "i", "namespace": "ns", "annotations": annotations}});
        serde_json::from_value(object).unwrap()
    }

    /// Reads annotations that are given by name: our own with prefix, ingress-nginx's without.
    pub(crate) fn read(annotations: &[(&str, &str)]) -> Reading {
        read_with(annotations, &Referenced::default())
    }

    /// The same where `objects` exist.
    pub(crate) fn read_with(annotations: &[(&str, &str)], objects: &Referenced) -> Reading {
        let keyed: Vec<_> = annotations
            .iter()
            .map(|(name, value)| (known::key(name), *value))
            .collect();
        Policy::read(&ingress(&keyed), Some(objects))
    }

    /// The verdict on `name` in one word, and what it says.
    pub(crate) fn verdict(reading: &Reading, name: &str) -> (&'static str, String) {
        let key = known::key(name);
        let finding = reading
            .findings
            .iter()
            .find(|finding| finding.annotation == key);
        let verdict = &finding
            .unwrap_or_else(|| panic!("nothing is said about {name}"))
            .verdict;
        (verdict.name(), verdict.to_string())
    }

    fn given(annotations: &[(&str, &str)]) -> Reading {
        let keyed: Vec<_> = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), *value))
            .collect();
        Policy::read(&ingress(&keyed), Some(&Referenced::default()))
    }

    fn verdicts(reading: &Reading) -> Vec<(&str, &str)> {
        let each = reading.findings.iter();
        each.map(|finding| (finding.annotation.as_str(), finding.verdict.name()))
            .collect()
    }

    #[test]
    fn every_known_annotation_is_read_or_refused() {
        let named = |known: &Known| (known::key(known.name), "x");
        let all: Vec<_> = known::ALL.iter().map(named).collect();
        let reading = Policy::read(&ingress(&all), Some(&Referenced::default()));
        for known in known::ALL {
            let (word, text) = verdict(&reading, known.name);
            let is_refused = matches!(known.meaning, Meaning::Refused { .. });
            let is_unread = !is_refused && text == Verdict::unsupported().to_string();
            assert!(
                !is_unread,
                "the table says that {} is read, but no parser asks for it",
                known.name
            );
            assert_eq!(
                word == "refused",
                is_refused,
                "{}: {word}: {text}",
                known.name
            );
        }
    }

    #[test]
    fn empty_values_ask_for_nothing() {
        let all: Vec<_> = known::ALL
            .iter()
            .filter(|known| !matches!(known.meaning, Meaning::Refused { .. }))
            .map(|known| (known::key(known.name), ""))
            .collect();
        let reading = Policy::read(&ingress(&all), Some(&Referenced::default()));
        assert_eq!(reading.policy, None);
        assert!(Policy::read(&ingress(&[]), None).findings.is_empty());
    }

    #[test]
    fn what_is_unknown_refused_or_bad_is_said() {
        let reading = given(&[
            ("example.com/other", "x"),
            ("nginx.ingress.kubernetes.io/server-snippet", "return 418;"),
            ("nginx.ingress.kubernetes.io/ssl-redirects", "true"),
            ("nginx.ingress.kubernetes.io/force-ssl-redirect", "perhaps"),
            ("nginx.ingress.kubernetes.io/ssl-redirect", "false"),
        ]);
        let expected = [
            ("nginx.ingress.kubernetes.io/force-ssl-redirect", "invalid"),
            ("nginx.ingress.kubernetes.io/server-snippet", "refused"),
            ("nginx.ingress.kubernetes.io/ssl-redirect", "same"),
            ("nginx.ingress.kubernetes.io/ssl-redirects", "invalid"),
        ];
        assert_eq!(verdicts(&reading), expected);
        assert_eq!(
            verdict(&reading, "ssl-redirects").1,
            "no such annotation; is ssl-redirect meant?"
        );
        let policy = reading.policy.unwrap();
        assert_eq!(policy.https.as_deref(), Some(&NEVER));
        assert!(!policy.is_closed);
    }

    #[test]
    fn the_newer_prefix_and_the_newer_name_win() {
        static SIZE: Known = Known {
            name: "proxy-body-size",
            meaning: Meaning::Same,
            is_guard: false,
            is_harmless: false,
        };
        let keys = [
            format!("{PREFIX}proxy-body-size"),
            format!("{PREFIX}body-size"),
            format!("{LEGACY_PREFIX}proxy-body-size"),
            format!("{LEGACY_PREFIX}body-size"),
        ];
        for (newer, older) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
            let (newer, older) = (keys[newer].clone(), keys[older].clone());
            let object = ingress(&[(newer.clone(), "1"), (older.clone(), "2")]);
            let mut from = Annotations::among(|_| Some(&SIZE), &object, None);
            assert_eq!(from.size("proxy-body-size"), Some(1), "{newer} {older}");
            let findings = from.finish().findings;
            let shadowed = Finding {
                annotation: older,
                verdict: Verdict::Differs(format!("{newer} decides where both are set")),
            };
            assert!(findings.contains(&shadowed), "{findings:?}");
        }
        let only_old = given(&[("ingress.kubernetes.io/ssl-redirect", "false")]);
        assert_eq!(only_old.policy.unwrap().https.as_deref(), Some(&NEVER));
    }

    /// Reads an annotation that names a Secret and guards the route.
    fn read_secret(
        value: &str,
        objects: Option<&Referenced>,
    ) -> (Option<usize>, super::super::Remarks) {
        static GUARD: Known = Known {
            name: "guard",
            meaning: Meaning::Same,
            is_guard: true,
            is_harmless: false,
        };
        let object = ingress(&[(known::key("guard"), value)]);
        let mut from = Annotations::among(|_| Some(&GUARD), &object, objects);
        let read = from.secret("guard", |data| {
            data.get("auth").map(Vec::len).ok_or("has no entry auth")
        });
        (read, from.finish())
    }

    #[test]
    fn a_guard_that_cannot_be_used_closes_the_route() {
        let reference = |name| Reference::Secret(model::ObjectName::new("ns", name));
        let mut objects = Referenced::default();
        let secret = |data: Value| serde_json::from_value(json!({"data": data})).unwrap();
        objects.put(
            reference("good"),
            Seen::Present(referenced::secret_data(&secret(json!({"auth": "YQ=="})))),
        );
        objects.put(
            reference("bad"),
            Seen::Present(referenced::secret_data(&secret(json!({})))),
        );
        objects.put(reference("missing"), Seen::Absent);
        objects.put(reference("hidden"), Seen::Hidden("forbidden".to_owned()));
        let rows = [
            ("good", Some(1), ""),
            ("ns/good", Some(1), ""),
            ("bad", None, "Secret ns/bad: has no entry auth"),
            ("missing", None, "Secret ns/missing does not exist"),
            ("hidden", None, "Secret ns/hidden cannot be read: forbidden"),
            ("new", None, "Secret ns/new has not been read yet"),
            (
                "other/good",
                None,
                "\"other/good\" is in another namespace, which is not allowed",
            ),
        ];
        for (value, expected, message) in rows {
            let (read, remarks) = read_secret(value, Some(&objects));
            assert_eq!(read, expected, "{value}");
            assert_eq!(remarks.is_closed, expected.is_none(), "{value}");
            assert_eq!(
                remarks.references.len(),
                usize::from(!value.starts_with("other")),
                "{value}"
            );
            if let (None, [finding]) = (expected, &remarks.findings[..]) {
                assert_eq!(finding.verdict, Verdict::Invalid(message.to_owned()));
            }
        }
        let (read, remarks) = read_secret("good", None);
        assert_eq!((read, remarks.is_closed), (None, false));
    }
}
