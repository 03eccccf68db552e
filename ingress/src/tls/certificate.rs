//! A certificate chain with its key, checked when it is read, not when a client comes.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::AttributeTypeAndValue;

use crate::message::host::HostPattern;

/// The key of the certificate chain in a Secret of type `kubernetes.io/tls`.
pub const CERTIFICATE_KEY: &str = "tls.crt";
/// The key of the private key in it.
pub const PRIVATE_KEY_KEY: &str = "tls.key";

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    names: Vec<HostPattern>,
    facts: Facts,
}

/// What a leaf certificate says of itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Facts {
    /// When it expires, in seconds since 1970. An expired one is served all the same: a warning that a user can click away
    /// is better than no answer.
    pub expires: i64,
    /// Its serial number, decimal.
    pub serial: String,
    /// Who issued it, empty where that is not said.
    pub issuer_organization: String,
    /// See [`issuer_organization`](Self::issuer_organization).
    pub issuer_common_name: String,
    /// What its key is for, like `ECDSA`.
    pub key_algorithm: &'static str,
}

/// Why certificate and key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// The Secret has no `tls.crt`, or it contains no certificate.
    #[error("tls.crt contains no PEM certificate")]
    NoCertificate,
    /// The Secret has no `tls.key`, or it contains no key.
    #[error("tls.key contains no PEM private key")]
    NoKey,
    /// A certificate cannot be parsed.
    #[error("tls.crt is not valid: {0}")]
    Certificate(String),
    /// The key cannot be used.
    #[error("tls.key is not valid: {0}")]
    Key(String),
    /// The key belongs to another certificate.
    #[error("tls.key does not belong to the first certificate in tls.crt")]
    KeyMismatch,
    /// No certificate could be made.
    #[error("cannot make a certificate: {0}")]
    Make(String),
}

impl Certificate {
    /// Reads a chain, leaf first, and its key.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, BadCertificate> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(|error| BadCertificate::Certificate(error.to_string()))?;
        let key = match PrivateKeyDer::from_pem_slice(key) {
            Ok(key) => key,
            Err(rustls_pki_types::pem::Error::NoItemsFound) => return Err(BadCertificate::NoKey),
            Err(error) => return Err(BadCertificate::Key(error.to_string())),
        };
        Self::new(chain, &key)
    }

    /// A certificate that no client trusts, for clients that ask for a host without one.
    pub fn self_signed() -> Result<Self, BadCertificate> {
        let make = |error: rcgen::Error| BadCertificate::Make(error.to_string());
        let names = vec!["portolan-ingress.invalid".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).map_err(make)?;
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        Self::new(vec![made.cert.der().clone()], &key)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'_>,
    ) -> Result<Self, BadCertificate> {
        let leaf = chain.first().ok_or(BadCertificate::NoCertificate)?;
        let (names, facts) = read_leaf(leaf)?;
        let key =
            any_supported_type(key).map_err(|error| BadCertificate::Key(error.to_string()))?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|_| BadCertificate::KeyMismatch)?;
        Ok(Self {
            key: Arc::new(key),
            names,
            facts,
        })
    }

    /// Chain and key, as TLS takes them.
    pub fn key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    /// Whether it is good for `host`.
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| name.covers(host))
    }

    /// Whether it is good for all hosts of `pattern`. Of a pattern for all hosts nothing can be said.
    pub fn covers_pattern(&self, pattern: &HostPattern) -> bool {
        match pattern {
            HostPattern::Exact(host) => self.covers(host),
            HostPattern::Wildcard(_) => self.names.contains(pattern),
            HostPattern::Any => true,
        }
    }

    /// The names that it is good for.
    pub fn names(&self) -> impl Iterator<Item = &HostPattern> {
        self.names.iter()
    }

    /// What it says of itself.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
}

/// The DNS names of a leaf certificate and what else it says. Clients have long ignored the common name.
fn read_leaf(leaf: &CertificateDer<'_>) -> Result<(Vec<HostPattern>, Facts), BadCertificate> {
    let bad = |error: &dyn std::fmt::Display| BadCertificate::Certificate(error.to_string());
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| bad(&error))?;
    let alternatives = leaf
        .subject_alternative_name()
        .map_err(|error| bad(&error))?;
    let alternatives = alternatives.map(|extension| &extension.value.general_names);
    let names = alternatives
        .into_iter()
        .flatten()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) if !name.is_empty() => {
                HostPattern::parse(&name.to_ascii_lowercase()).ok()
            }
            _ => None,
        });
    Ok((names.collect(), Facts::of(&leaf)))
}

impl Facts {
    fn of(leaf: &X509Certificate<'_>) -> Self {
        let issuer = leaf.issuer();
        let first = |name: Option<&AttributeTypeAndValue<'_>>| {
            let text = name.and_then(|name| name.as_str().ok());
            text.unwrap_or_default().to_owned()
        };
        Self {
            expires: leaf.validity().not_after.timestamp(),
            serial: leaf.serial.to_string(),
            issuer_organization: first(issuer.iter_organization().next()),
            issuer_common_name: first(issuer.iter_common_name().next()),
            key_algorithm: match leaf.public_key().parsed() {
                Ok(PublicKey::RSA(_)) => "RSA",
                Ok(PublicKey::EC(_)) => "ECDSA",
                Ok(_) if leaf.public_key().algorithm.algorithm == OID_SIG_ED25519 => "Ed25519",
                _ => "unknown",
            },
        }
    }
}

#[cfg(test)]
pub(crate) mod test {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    /// A self-signed certificate for `names` and its key, as PEM.
    pub(crate) fn pem(names: &[&str]) -> (String, String) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    pub(crate) fn certificate(names: &[&str]) -> Arc<Certificate> {
        let (cert, key) = pem(names);
        Arc::new(Certificate::from_pem(cert.as_bytes(), key.as_bytes()).unwrap())
    }

    #[test]
    fn what_cannot_be_used_is_told_apart() {
        let (cert, key) = pem(&["a.org"]);
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let bad_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let check = |cert: &str, key: &str| {
            Certificate::from_pem(cert.as_bytes(), key.as_bytes()).unwrap_err()
        };
        assert_eq!(check("", &key), BadCertificate::NoCertificate);
        assert_eq!(check(&cert, ""), BadCertificate::NoKey);
        assert!(matches!(
            check(garbage, &key),
            BadCertificate::Certificate(_)
        ));
        assert!(matches!(check(&cert, bad_key), BadCertificate::Key(_)));
    }

    #[test]
    fn names_come_from_the_alternative_names() {
        let certificate = certificate(&["a.org", "*.b.org", "10.0.0.1"]);
        assert!(certificate.covers("a.org"));
        assert!(certificate.covers("x.b.org"));
        assert!(!certificate.covers("b.org"));
        let pattern = |text| HostPattern::parse(text).unwrap();
        assert!(certificate.covers_pattern(&pattern("*.b.org")));
        assert!(!certificate.covers_pattern(&pattern("*.a.org")));
    }
}
