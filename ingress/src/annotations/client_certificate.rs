//! Certificates that clients must show: `auth-tls-*`.

use std::sync::Arc;

use http::HeaderValue;

use super::{Annotations, Pattern};
use crate::tls::client_certificate::Authority;

/// How many certificates there may be between a client's and its authority's, if the Ingress does not say.
const DEPTH: usize = 1;

/// What an Ingress says about certificates of clients.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientCertificates {
    /// Who signs them. Without it nothing is asked for.
    pub authority: Option<Arc<Authority>>,
    /// Whom it takes.
    pub verify: Verify,
    /// The most certificates between a client's and its authority's that a client may send.
    pub depth: usize,
    /// Where clients are sent that have no certificate, or a bad one.
    pub error_page: Option<HeaderValue>,
    /// Whether backends get the certificate itself.
    pub passes_on: bool,
    /// What the name of a certificate must match.
    pub names: Option<Pattern>,
}

/// Whom an Ingress takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Clients with a good certificate.
    #[default]
    Required,
    /// Clients with a good certificate, or without one.
    Optional,
    /// Those, and clients with a certificate that somebody else has signed.
    OptionalAnyIssuer,
}

impl ClientCertificates {
    /// Reads `auth-tls-*`.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        let authority = from.secret("auth-tls-secret", Authority::from_secret);
        let choices = [
            ("on", Some(Verify::Required)),
            ("optional", Some(Verify::Optional)),
            ("optional_no_ca", Some(Verify::OptionalAnyIssuer)),
            ("off", None),
        ];
        let verify = from.choice("auth-tls-verify-client", &choices);
        let depth = from.number("auth-tls-verify-depth", 0..=10);
        let error_page = from.get("auth-tls-error-page", page);
        let passes_on = from.flag("auth-tls-pass-certificate-to-upstream");
        let names = from.regex("auth-tls-match-cn");
        let verify = verify.unwrap_or(Some(Verify::Required));
        let Some((authority, verify)) = authority.zip(verify) else {
            return Self::default();
        };
        Self {
            authority: Some(authority),
            verify,
            depth: depth.unwrap_or(DEPTH),
            error_page,
            passes_on: passes_on.unwrap_or(false),
            names,
        }
    }
}

/// Where to send somebody: a path, or a URL of the web.
fn page(text: &str) -> Result<HeaderValue, String> {
    let is_place = ["/", "http://", "https://"]
        .iter()
        .any(|start| text.starts_with(start));
    match HeaderValue::from_str(text) {
        Ok(place) if is_place && text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(place),
        _ => Err(format!("{text:?} is neither a path nor a URL")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::policy::tests::{read, read_with, verdict};
    use crate::annotations::{Data, Reference, Referenced, Seen};
    use crate::tls::certificate::test::pem;
    use model::ObjectName;

    fn objects() -> Referenced {
        let (certificate, _) = pem(&["authority"]);
        let data = Data::from([("ca.crt".to_owned(), certificate.into_bytes())]);
        let mut objects = Referenced::default();
        let name = Reference::Secret(ObjectName::new("ns", "ca"));
        objects.put(name, Seen::Present(data));
        objects
    }

    fn asked(annotations: &[(&str, &str)]) -> ClientCertificates {
        let reading = read_with(annotations, &objects());
        let policy = reading.policy.as_ref();
        let asked = policy.and_then(|policy| policy.client_certificates.as_deref().cloned());
        asked.unwrap_or_default()
    }

    #[test]
    fn a_secret_alone_makes_certificates_required() {
        let asked = asked(&[("auth-tls-secret", "ns/ca")]);
        assert!(asked.authority.is_some());
        assert_eq!((asked.verify, asked.depth), (Verify::Required, 1));
        assert!(!asked.passes_on);
    }

    #[test]
    fn the_other_annotations_refine_it() {
        let asked = asked(&[
            ("auth-tls-secret", "ca"),
            ("auth-tls-verify-client", "optional_no_ca"),
            ("auth-tls-verify-depth", "3"),
            ("auth-tls-error-page", "https://a.org/help?x"),
            ("auth-tls-pass-certificate-to-upstream", "true"),
            ("auth-tls-match-cn", "CN=(a|b)"),
        ]);
        assert_eq!((asked.verify, asked.depth), (Verify::OptionalAnyIssuer, 3));
        assert_eq!(
            asked.error_page.as_ref().map(|page| page.as_bytes()),
            Some(&b"https://a.org/help?x"[..])
        );
        assert!(asked.passes_on);
        assert!(asked.names.is_some_and(|names| names.is_match("CN=a,O=x")));
    }

    #[test]
    fn off_asks_for_nothing() {
        let off = asked(&[("auth-tls-secret", "ca"), ("auth-tls-verify-client", "off")]);
        assert_eq!(off, ClientCertificates::default());
    }

    #[test]
    fn what_cannot_be_carried_out_closes_the_route() {
        for annotations in [
            &[("auth-tls-secret", "ns/missing")][..],
            &[("auth-tls-secret", "other/ca")],
            &[
                ("auth-tls-secret", "ca"),
                ("auth-tls-verify-client", "maybe"),
            ],
            &[("auth-tls-secret", "ca"), ("auth-tls-match-cn", "CN=(")],
            &[("auth-tls-secret", "ca"), ("auth-tls-verify-depth", "-1")],
        ] {
            let reading = read_with(annotations, &objects());
            assert!(
                reading.policy.is_some_and(|policy| policy.is_closed),
                "{annotations:?}"
            );
        }
        let reading = read(&[("auth-tls-error-page", "javascript:alert(1)")]);
        assert_eq!(verdict(&reading, "auth-tls-error-page").0, "invalid");
        assert_eq!(reading.policy, None);
    }
}
