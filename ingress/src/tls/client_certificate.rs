//! Certificates of clients: who they are signed by, whom a route lets in, and what backends learn of them.
//!
//! A handshake asks for a certificate where a host's routes want one, and takes any: all that it proves is that the
//! client has the key. Whom to let in is the route's to say, for each request. So a connection that was opened for one
//! host is no way around what another asks for, and a client without a certificate gets an answer that it can read.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::annotations::Data;
use crate::annotations::client_certificate::{ClientCertificates, Verify};
use crate::message::answer::Reason;

/// The key of the certificates that clients' certificates are signed by.
const AUTHORITY_KEY: &str = "ca.crt";
/// The key of the list of those that were revoked, which may be missing.
const REVOKED_KEY: &str = "ca.crl";

const VERIFY: HeaderName = HeaderName::from_static("ssl-client-verify");
const SUBJECT: HeaderName = HeaderName::from_static("ssl-client-subject-dn");
const ISSUER: HeaderName = HeaderName::from_static("ssl-client-issuer-dn");
const CERTIFICATE: HeaderName = HeaderName::from_static("ssl-client-cert");

/// Who signs the certificates of clients.
pub struct Authority {
    roots: Vec<CertificateDer<'static>>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    verifier: Arc<dyn ClientCertVerifier>,
    config: OnceLock<Arc<ServerConfig>>,
}

/// Why a Secret says nothing about who signs the certificates of clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAuthority {
    /// It has no `ca.crt`, or there is no certificate in it.
    #[error("ca.crt contains no PEM certificate")]
    Missing,
    /// What is in `ca.crt` or `ca.crl` cannot be used.
    #[error("{key} is not valid: {why}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// Why.
        why: String,
    },
}

/// The certificate that a client has shown.
pub struct ClientCertificate {
    chain: Vec<CertificateDer<'static>>,
    /// As RFC 2253 writes it.
    subject: String,
    issuer: String,
    /// What the last authority to be asked about it said.
    verdict: RefCell<Option<(Arc<Authority>, Verdict)>>,
}

type Verdict = Result<(), Error>;

// Authorities.

impl Authority {
    /// Reads the authority in a Secret.
    pub fn from_secret(data: &Data) -> Result<Arc<Self>, BadAuthority> {
        let content = |key| data.get(key).map_or(&[][..], Vec::as_slice);
        let roots = CertificateDer::pem_slice_iter(content(AUTHORITY_KEY));
        let roots = roots
            .collect::<Result<Vec<_>, _>>()
            .map_err(|why| invalid(AUTHORITY_KEY, why))?;
        if roots.is_empty() {
            return Err(BadAuthority::Missing);
        }
        let revoked = CertificateRevocationListDer::pem_slice_iter(content(REVOKED_KEY));
        let revoked = revoked
            .collect::<Result<Vec<_>, _>>()
            .map_err(|why| invalid(REVOKED_KEY, why))?;
        let verifier = verifier(&roots, &revoked)?;
        Ok(Arc::new(Self {
            roots,
            revoked,
            verifier,
            config: OnceLock::new(),
        }))
    }

    /// TLS settings that ask a client for a certificate of this authority, made by `make` the first time.
    pub fn config(
        self: &Arc<Self>,
        make: impl FnOnce(Arc<dyn ClientCertVerifier>) -> Result<ServerConfig, Error>,
    ) -> Result<Arc<ServerConfig>, Error> {
        if let Some(config) = self.config.get() {
            return Ok(config.clone());
        }
        let asks = Arc::new(Asks(self.verifier.clone()));
        let made = Arc::new(make(asks)?);
        Ok(self.config.get_or_init(|| made).clone())
    }

    fn verify(&self, chain: &[CertificateDer<'_>]) -> Verdict {
        let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        let verified = self
            .verifier
            .verify_client_cert(leaf, intermediates, UnixTime::now());
        verified.map(drop)
    }
}

fn verifier(
    roots: &[CertificateDer<'static>],
    revoked: &[CertificateRevocationListDer<'static>],
) -> Result<Arc<dyn ClientCertVerifier>, BadAuthority> {
    let mut store = RootCertStore::empty();
    for root in roots {
        let added = store.add(root.clone());
        added.map_err(|why| invalid(AUTHORITY_KEY, why))?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider);
    let built = builder.with_crls(revoked.iter().cloned()).build();
    built.map_err(|why| invalid(REVOKED_KEY, why))
}

fn invalid(key: &'static str, why: impl fmt::Display) -> BadAuthority {
    let why = why.to_string();
    BadAuthority::Invalid { key, why }
}

impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots && self.revoked == other.revoked
    }
}

impl Eq for Authority {}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (roots, revoked) = (self.roots.len(), self.revoked.len());
        write!(f, "Authority({roots} roots, {revoked} revocation lists)")
    }
}

/// Asks for a certificate of an authority, and takes whatever comes if the client has its key.
#[derive(Debug)]
struct Asks(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Asks {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

// Certificates.

impl ClientCertificate {
    /// The certificate at the head of `chain`. One that cannot be read has no names, and no authority vouches for it.
    pub fn new(chain: &[CertificateDer<'_>]) -> Self {
        let leaf = chain
            .first()
            .and_then(|leaf| X509Certificate::from_der(leaf).ok());
        let leaf = leaf.map(|(_, leaf)| leaf);
        let name =
            |name: fn(&X509Certificate<'_>) -> String| leaf.as_ref().map_or_else(String::new, name);
        Self {
            subject: name(|leaf| distinguished_name(leaf.subject())),
            issuer: name(|leaf| distinguished_name(leaf.issuer())),
            chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
            verdict: RefCell::default(),
        }
    }

    /// What `authority` says about it. Verifying costs more than most requests, so a connection remembers.
    fn verdict(&self, authority: &Arc<Authority>) -> Verdict {
        let mut known = self.verdict.borrow_mut();
        match &*known {
            Some((asked, verdict)) if Arc::ptr_eq(asked, authority) => verdict.clone(),
            _ => {
                let verdict = authority.verify(&self.chain);
                *known = Some((authority.clone(), verdict.clone()));
                verdict
            }
        }
    }

    /// As PEM, escaped so that it fits into a header.
    fn escaped(&self) -> String {
        let leaf = self.chain.first().map_or(&[][..], |leaf| leaf);
        let encoded = STANDARD.encode(leaf);
        let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(64));
            pem.extend([line, "\n"]);
            rest = after;
        }
        pem.push_str("-----END CERTIFICATE-----\n");
        pem.bytes().fold(String::new(), |mut escaped, byte| {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                escaped.push(char::from(byte));
            } else {
                escaped.push_str(&format!("%{byte:02X}"));
            }
            escaped
        })
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCertificate({})", self.subject)
    }
}

/// A name as RFC 2253 writes it, last part first: `CN=client,O=Example`.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let parts = name.iter_rdn().map(|part| {
        let attributes: Vec<_> = part.iter().map(attribute).collect();
        attributes.join("+")
    });
    let mut parts: Vec<_> = parts.collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type();
    let kind = oid2abbrev(oid, oid_registry()).map_or_else(|_| oid.to_id_string(), str::to_owned);
    let value = String::from_utf8_lossy(attribute.as_slice());
    let mut text = format!("{kind}=");
    let last = value.chars().count().saturating_sub(1);
    for (at, character) in value.chars().enumerate() {
        let is_edge =
            (character == ' ' && (at == 0 || at == last)) || (character == '#' && at == 0);
        if is_edge || ",+\"\\<>;".contains(character) {
            text.push('\\');
        }
        match character.is_control() {
            true => text.push('?'),
            false => text.push(character),
        }
    }
    text
}

// Requests.

/// Lets a request in or not, whose client has shown `certificate`, and makes `headers` say what is known about that.
pub fn admit(
    asked: &ClientCertificates,
    certificate: Option<&Rc<ClientCertificate>>,
    headers: &mut HeaderMap,
) -> Result<(), Reason> {
    for name in [VERIFY, SUBJECT, ISSUER, CERTIFICATE] {
        headers.remove(name);
    }
    let Some(authority) = &asked.authority else {
        return Ok(());
    };
    let Some(certificate) = certificate else {
        headers.insert(VERIFY, HeaderValue::from_static("NONE"));
        return match asked.verify {
            Verify::Required => Err(Reason::NoClientCertificate),
            Verify::Optional | Verify::OptionalAnyIssuer => Ok(()),
        };
    };
    let is_deep = certificate.chain.len() > asked.depth.saturating_add(1);
    let verdict = match certificate.verdict(authority) {
        Ok(()) if is_deep => return Err(Reason::BadClientCertificate),
        Ok(()) => HeaderValue::from_static("SUCCESS"),
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
            if asked.verify == Verify::OptionalAnyIssuer =>
        {
            HeaderValue::from_static("FAILED:unable to get local issuer certificate")
        }
        Err(error) => {
            tracing::debug!(%error, subject = certificate.subject, "client certificate refused");
            return Err(Reason::BadClientCertificate);
        }
    };
    let names = &asked.names;
    if names
        .as_ref()
        .is_some_and(|names| !names.is_match(&certificate.subject))
    {
        return Err(Reason::ClientCertificateRefused);
    }
    headers.insert(VERIFY, verdict);
    for (name, value) in [
        (SUBJECT, &certificate.subject),
        (ISSUER, &certificate.issuer),
    ] {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.insert(name, value);
        }
    }
    if asked.passes_on
        && let Ok(value) = HeaderValue::try_from(certificate.escaped())
    {
        headers.insert(CERTIFICATE, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    #[test]
    fn names_are_written_last_part_first_and_escaped() {
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "Example, Inc.");
        name.push(DnType::OrganizationalUnitName, "#1");
        name.push(DnType::CommonName, " cli=ent ");
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name = name;
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let certificate = ClientCertificate::new(&[made.der().clone()]);
        assert_eq!(
            certificate.subject,
            r"CN=\ cli=ent\ ,OU=\#1,O=Example\, Inc."
        );
        assert_eq!(certificate.issuer, certificate.subject);
        let escaped = certificate.escaped();
        assert!(
            escaped.starts_with("-----BEGIN%20CERTIFICATE-----%0A"),
            "{escaped}"
        );
        assert!(
            escaped.ends_with("%0A-----END%20CERTIFICATE-----%0A"),
            "{escaped}"
        );
    }

    #[test]
    fn what_is_no_certificate_has_no_name() {
        let garbage = CertificateDer::from(vec![1, 2, 3]);
        let certificate = ClientCertificate::new(&[garbage]);
        assert_eq!(certificate.subject, "");
    }

    #[test]
    fn a_secret_without_a_sound_authority_is_none() {
        let read = |key: &str, value: &str| {
            let data = Data::from([(key.to_owned(), value.as_bytes().to_vec())]);
            Authority::from_secret(&data).map(drop)
        };
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(read("tls.crt", garbage), Err(BadAuthority::Missing));
        assert_eq!(read("ca.crt", "nothing"), Err(BadAuthority::Missing));
        let bad = read("ca.crt", garbage);
        assert!(
            matches!(bad, Err(BadAuthority::Invalid { key: "ca.crt", .. })),
            "{bad:?}"
        );
    }
}
