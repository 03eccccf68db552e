//! Which certificate a client is shown: by the host it asks for, from Secrets.
//!
//! [`Certificates`] is immutable and replaced whole; a handshake reads the current one, so an open connection never
//! notices. A Secret that turns bad or vanishes does not take its certificate away: the last good one stays, and before
//! there was one, the gateway's own self-signed certificate is served.

pub mod backend;
pub mod certificate;
pub mod client_certificate;
pub mod settings;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use model::ObjectName;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use self::certificate::{BadCertificate, Certificate};
use self::settings::TlsArgs;
use crate::message::host::{HostMap, HostPattern, lower_case};
use crate::problem::{Fault, Instead, Problem};
use crate::routes::TlsClaim;

/// The certificates of Secrets, or why a Secret has none.
pub type Secrets = BTreeMap<ObjectName, Result<Arc<Certificate>, BadCertificate>>;

/// All certificates in use.
#[derive(Debug)]
pub struct Certificates {
    hosts: HostMap<Arc<Certificate>>,
    default: Arc<Certificate>,
    /// The Secret that the default one is from, once that is good.
    default_secret: Option<ObjectName>,
    /// The certificates of referenced Secrets, which stay in use if their Secret goes bad.
    good: BTreeMap<ObjectName, Arc<Certificate>>,
}

impl Certificates {
    /// Nothing but `default`, which stands in for the one of `default_secret` until that is good.
    pub fn new(default: Certificate, default_secret: Option<ObjectName>) -> Self {
        Self {
            hosts: HostMap::default(),
            default: Arc::new(default),
            default_secret,
            good: BTreeMap::new(),
        }
    }

    /// The certificates for `claims`, given the ones in use so far, and what is wrong with them.
    pub fn next<'c>(
        &self,
        claims: impl IntoIterator<Item = &'c TlsClaim>,
        secrets: &Secrets,
    ) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut good = BTreeMap::new();
        let mut hosts = HostMap::default();
        let named = self.default_secret.as_ref();
        let named = named.and_then(|name| Some((name, secrets.get(name)?.as_ref().ok()?)));
        good.extend(named.map(|(name, certificate)| (name.clone(), certificate.clone())));
        let default = named.map_or(&self.default, |(_, certificate)| certificate);
        for claim in claims {
            let (certificate, faults) = self.choose(claim, secrets, default);
            if let Some(name) = claim
                .secret
                .as_ref()
                .filter(|_| !Arc::ptr_eq(&certificate, default))
            {
                good.insert(name.clone(), certificate.clone());
            }
            hosts.insert(claim.host.clone(), certificate);
            problems.extend(faults.into_iter().map(|fault| Problem {
                ingress: claim.ingress.clone(),
                field: claim.field.clone(),
                fault,
            }));
        }
        (
            Self {
                hosts,
                default: default.clone(),
                default_secret: self.default_secret.clone(),
                good,
            },
            problems,
        )
    }

    fn choose(
        &self,
        claim: &TlsClaim,
        secrets: &Secrets,
        default: &Arc<Certificate>,
    ) -> (Arc<Certificate>, Option<Fault>) {
        let Some(name) = &claim.secret else {
            return (default.clone(), None);
        };
        let (instead, what) = match self.good.get(name) {
            Some(last) => (last.clone(), Instead::LastGood),
            None => (default.clone(), Instead::Default),
        };
        match secrets.get(name) {
            Some(Ok(certificate)) => (certificate.clone(), not_covered(claim, name, certificate)),
            Some(Err(error)) => {
                let (secret, reason) = (name.clone(), error.to_string());
                (
                    instead,
                    Some(Fault::BadCertificate {
                        secret,
                        reason,
                        instead: what,
                    }),
                )
            }
            None => (instead, Some(Fault::SecretMissing(name.clone(), what))),
        }
    }

    /// The certificate for a client that asks for `host`, or for none.
    pub fn select(&self, host: Option<&str>) -> &Arc<Certificate> {
        let claimed = host.map_or_else(|| self.hosts.get(""), |host| self.hosts.get(host));
        claimed.unwrap_or(&self.default)
    }

    /// Whether a connection that was opened for `server_name` may carry requests for `host`. Browsers reuse connections
    /// for every host that the certificate covers; beyond that, one host's client must not reach another's routes.
    pub fn may_serve(&self, server_name: &str, host: &str) -> bool {
        let shown = self.select(Some(server_name));
        server_name == host || Arc::ptr_eq(shown, self.select(Some(host))) || shown.covers(host)
    }

    /// The Secret of the certificate for a client that asks for `host`; nothing for our own.
    pub fn secret_of(&self, host: &str) -> Option<&ObjectName> {
        let shown = self.select(Some(host));
        let mut good = self.good.iter();
        good.find_map(|(name, certificate)| Arc::ptr_eq(certificate, shown).then_some(name))
    }

    /// All hosts with their certificates and these certificates' Secrets. The default certificate has no host, and our own
    /// no Secret.
    pub fn by_host(
        &self,
    ) -> impl Iterator<Item = (Option<HostPattern>, Option<&ObjectName>, &Arc<Certificate>)> {
        let good = self.good.iter();
        let secrets: HashMap<_, _> = good
            .map(|(name, certificate)| (Arc::as_ptr(certificate), name))
            .collect();
        let hosts = self.hosts.iter();
        let hosts = hosts.map(|(host, certificate)| (Some(host), certificate));
        let all = hosts.chain([(None, &self.default)]);
        all.map(move |(host, certificate)| {
            let secret = secrets.get(&Arc::as_ptr(certificate)).copied();
            (host, secret, certificate)
        })
    }

    /// The certificates of Secrets that are in use.
    pub fn in_use(&self) -> impl Iterator<Item = (&ObjectName, &Arc<Certificate>)> {
        self.good.iter()
    }
}

fn not_covered(claim: &TlsClaim, secret: &ObjectName, certificate: &Certificate) -> Option<Fault> {
    let secret = secret.clone();
    let host = claim.host.to_string();
    (!certificate.covers_pattern(&claim.host)).then_some(Fault::HostNotCovered { secret, host })
}

/// Answers handshakes from the certificates in use at the time.
#[derive(Debug)]
struct Resolver {
    certificates: Arc<ArcSwap<Certificates>>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name().map(lower_case);
        Some(self.certificates.load().select(host.as_deref()).key())
    }
}

/// The TLS of a listener as `settings` say: HTTP/2 or HTTP/1.1, sessions resumed by tickets. Each has tickets of its own,
/// since a session that began without a certificate of `clients` must not go on where one is asked for.
pub fn server_config(
    certificates: Arc<ArcSwap<Certificates>>,
    clients: Arc<dyn ClientCertVerifier>,
    settings: &TlsArgs,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(settings::provider(settings.tls_ciphers.as_ref()));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(settings.versions())?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(Resolver { certificates }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::problem::IngressRef;
    use crate::tls::certificate::test::{certificate, pem};

    fn claim(host: &str, secret: Option<&str>) -> TlsClaim {
        TlsClaim {
            ingress: Arc::new(IngressRef {
                name: name("i"),
                uid: "u".into(),
            }),
            field: "spec.tls[0]".to_owned(),
            host: HostPattern::parse(host).unwrap(),
            secret: secret.map(name),
        }
    }

    fn name(name: &str) -> ObjectName {
        ObjectName::new("ns", name)
    }

    fn secrets(entries: &[(&str, &Arc<Certificate>)]) -> Secrets {
        let entry = |(secret, certificate): &(&str, &Arc<Certificate>)| {
            (name(secret), Ok(Arc::clone(certificate)))
        };
        entries.iter().map(entry).collect()
    }

    fn empty() -> Certificates {
        Certificates::new(Certificate::self_signed().unwrap(), None)
    }

    #[test]
    fn exact_beats_wildcard_beats_default() {
        let (exact, wildcard) = (certificate(&["a.x.org"]), certificate(&["*.x.org"]));
        let secrets = secrets(&[("exact", &exact), ("wildcard", &wildcard)]);
        let claims = [
            claim("a.x.org", Some("exact")),
            claim("*.x.org", Some("wildcard")),
        ];
        let (table, problems) = empty().next(&claims, &secrets);
        assert_eq!(problems, []);
        for (host, expected) in [
            (Some("a.x.org"), &exact),
            (Some("b.x.org"), &wildcard),
            (Some("x.org"), &table.default),
            (Some("a.b.x.org"), &table.default),
            (None, &table.default),
        ] {
            assert!(Arc::ptr_eq(table.select(host), expected), "{host:?}");
        }
    }

    #[test]
    fn the_last_good_certificate_stays_when_its_secret_goes_bad_or_away() {
        let good = certificate(&["a.org"]);
        let claims = [claim("a.org", Some("s"))];
        let (first, problems) = empty().next(&claims, &secrets(&[("s", &good)]));
        assert_eq!(problems, []);
        let bad = Secrets::from([(name("s"), Certificate::from_pem(b"", b"").map(Arc::new))]);
        let (second, problems) = first.next(&claims, &bad);
        assert!(Arc::ptr_eq(second.select(Some("a.org")), &good));
        assert_eq!(problems[0].fault.reason(), "BadCertificate");
        let (third, problems) = second.next(&claims, &Secrets::new());
        assert!(Arc::ptr_eq(third.select(Some("a.org")), &good));
        let missing = Fault::SecretMissing(name("s"), Instead::LastGood);
        assert_eq!(problems[0].fault, missing);
        let (unclaimed, _) = third.next(&[], &Secrets::new());
        let (again, problems) = unclaimed.next(&claims, &Secrets::new());
        assert!(Arc::ptr_eq(again.select(Some("a.org")), &again.default));
        assert_eq!(
            problems[0].fault,
            Fault::SecretMissing(name("s"), Instead::Default)
        );
    }

    #[test]
    fn the_default_certificate_is_that_of_its_secret_while_that_was_ever_good() {
        let own = Certificate::self_signed().unwrap();
        let start = Certificates::new(own, Some(name("d")));
        let (first, second) = (certificate(&["first.org"]), certificate(&["second.org"]));
        let claims = [claim("a.org", None), claim("b.org", Some("missing"))];
        let (missing, _) = start.next(&claims, &Secrets::new());
        assert!(missing.in_use().next().is_none());
        let (there, _) = missing.next(&claims, &secrets(&[("d", &first)]));
        let (changed, _) = there.next(&claims, &secrets(&[("d", &second)]));
        let (gone, _) = changed.next(&claims, &Secrets::new());
        for (table, expected, secret) in [
            (&there, &first, Some(name("d"))),
            (&changed, &second, Some(name("d"))),
            (&gone, &second, None),
        ] {
            for host in [None, Some("a.org"), Some("b.org"), Some("c.org")] {
                assert!(Arc::ptr_eq(table.select(host), expected), "{host:?}");
            }
            assert_eq!(table.secret_of("c.org"), secret.as_ref());
        }
        let used: Vec<_> = changed.in_use().map(|(name, _)| name.clone()).collect();
        assert_eq!(used, [name("d")]);
    }

    #[test]
    fn a_section_without_a_secret_means_the_default_certificate() {
        let (table, problems) = empty().next(&[claim("a.org", None)], &Secrets::new());
        assert!(Arc::ptr_eq(table.select(Some("a.org")), &table.default));
        assert_eq!(problems, []);
    }

    #[test]
    fn a_certificate_for_other_names_is_served_and_reported() {
        let other = certificate(&["b.org"]);
        let (table, problems) =
            empty().next(&[claim("a.org", Some("s"))], &secrets(&[("s", &other)]));
        assert!(Arc::ptr_eq(table.select(Some("a.org")), &other));
        assert_eq!(problems[0].fault.reason(), "CertificateNameMismatch");
    }

    #[test]
    fn a_connection_serves_the_hosts_that_its_certificate_covers() {
        let (one, two) = (certificate(&["a.org", "*.a.org"]), certificate(&["b.org"]));
        let secrets = secrets(&[("one", &one), ("two", &two)]);
        let claims = [claim("a.org", Some("one")), claim("b.org", Some("two"))];
        let (table, _) = empty().next(&claims, &secrets);
        for (server_name, host, expected) in [
            ("a.org", "a.org", true),
            ("a.org", "w.a.org", true),
            ("a.org", "b.org", false),
            ("b.org", "a.org", false),
            ("b.org", "unknown.org", false),
            ("unknown.org", "b.org", false),
            ("unknown.org", "other.org", true),
        ] {
            assert_eq!(
                table.may_serve(server_name, host),
                expected,
                "{server_name} {host}"
            );
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let ((cert, _), (_, key)) = (pem(&["a.org"]), pem(&["a.org"]));
        let result = Certificate::from_pem(cert.as_bytes(), key.as_bytes());
        assert_eq!(result.unwrap_err(), BadCertificate::KeyMismatch);
    }
}
