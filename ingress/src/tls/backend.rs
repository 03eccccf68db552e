//! TLS to backends: who they must prove to be, and what we show them.
//!
//! A backend's certificate is verified unless an Ingress or the settings say otherwise. ingress-nginx does not, but then
//! whoever can answer at a pod's address is believed to be the pod.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use model::ObjectName;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;

use crate::forward::protocol::Http;
use crate::tls::certificate::Certificate;
use crate::tls::settings::{Suites, provider};

/// What an Ingress asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// Whether certificates are verified.
    pub verify: Option<bool>,
    /// Most certificates between a backend's own and one that is trusted.
    pub depth: Option<usize>,
    /// Whether a backend is told which name is expected of it.
    pub is_named: Option<bool>,
    /// Whether TLS 1.2 and 1.3 are spoken.
    pub versions: Option<(bool, bool)>,
    /// The suites of TLS 1.2.
    pub suites: Option<Suites>,
    /// Whom to trust, and who we are.
    pub trust: Option<Trust>,
}

/// What a Secret says of trust.
#[derive(Clone)]
pub struct Trust {
    /// The Secret. Two with the same content in different namespaces are still two.
    pub secret: ObjectName,
    /// What its content is told from another by.
    pub digest: [u8; 32],
    /// The certificates that are trusted, in place of the settings'.
    pub roots: Option<Arc<RootCertStore>>,
    /// What we show.
    pub identity: Option<Arc<Certificate>>,
}

/// How TLS is spoken to a backend. Two that ask for the same are the same.
pub struct BackendTls {
    asked: Asked,
    made: OnceLock<Result<Connectors, rustls::Error>>,
}

/// One for each version of HTTP.
#[derive(Clone)]
struct Connectors {
    one: TlsConnector,
    two: TlsConnector,
}

/// What holds for backends whose Ingress says nothing.
#[derive(Debug)]
pub struct Defaults {
    verify: bool,
    /// The certificates that are trusted; without them, those that the system trusts.
    roots: Option<Arc<RootCertStore>>,
    system: OnceLock<Arc<RootCertStore>>,
    tls: Arc<BackendTls>,
}

/// Why the file with trusted certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadRoots {
    /// It cannot be read, or is not PEM.
    #[error("cannot read certificates")]
    Read(#[source] rustls_pki_types::pem::Error),
    /// A certificate cannot be used.
    #[error("a certificate cannot be trusted")]
    Certificate(#[source] rustls::Error),
}

impl Defaults {
    /// Certificates are verified if `verify`, by those in `file`, else by those that the system trusts.
    pub fn new(verify: bool, file: Option<&Path>) -> Result<Self, BadRoots> {
        Ok(Self {
            verify,
            roots: file.map(read_roots).transpose()?.map(Arc::new),
            system: OnceLock::new(),
            tls: Arc::new(BackendTls::new(Asked::default())),
        })
    }

    /// TLS for requests of our own, to services that an Ingress names by URL.
    pub fn client_config(&self) -> Result<ClientConfig, rustls::Error> {
        self.tls.config(self)
    }

    /// TLS as nobody asked for it in particular.
    pub fn tls(&self) -> &Arc<BackendTls> {
        &self.tls
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let known = self.roots.as_ref();
        known
            .unwrap_or_else(|| self.system.get_or_init(|| Arc::new(system_roots())))
            .clone()
    }
}

/// The certificates in `file`, to be trusted.
pub(crate) fn read_roots(file: &Path) -> Result<RootCertStore, BadRoots> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(BadRoots::Read)? {
        let certificate = certificate.map_err(BadRoots::Read)?;
        roots.add(certificate).map_err(BadRoots::Certificate)?;
    }
    Ok(roots)
}

/// The certificates that the system trusts.
pub(crate) fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "cannot read certificates that the system trusts");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots
}

impl BackendTls {
    /// TLS as `asked` for.
    pub fn new(asked: Asked) -> Self {
        Self {
            asked,
            made: OnceLock::new(),
        }
    }

    /// What connects for that version of HTTP. It is made when the first request needs it.
    pub fn connector(
        &self,
        http: Http,
        defaults: &Defaults,
    ) -> Result<TlsConnector, rustls::Error> {
        let made = self.made.get_or_init(|| self.connectors(defaults));
        let connectors = made.as_ref().map_err(Clone::clone)?;
        Ok(match http {
            Http::One => connectors.one.clone(),
            Http::Two => connectors.two.clone(),
        })
    }

    fn connectors(&self, defaults: &Defaults) -> Result<Connectors, rustls::Error> {
        let config = self.config(defaults)?;
        let speaking = |protocol: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            TlsConnector::from(Arc::new(config))
        };
        Ok(Connectors {
            one: speaking(b"http/1.1"),
            two: speaking(b"h2"),
        })
    }

    fn config(&self, defaults: &Defaults) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(provider(self.asked.suites.as_ref()));
        let verifier = self.verifier(defaults, &provider)?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.versions())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let identity = self
            .asked
            .trust
            .as_ref()
            .and_then(|trust| trust.identity.as_ref());
        let mut config = match identity {
            Some(identity) => {
                config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.key())))
            }
            None => config.with_no_client_auth(),
        };
        config.enable_sni = self.asked.is_named.unwrap_or(true);
        Ok(config)
    }

    fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let (tls12, tls13) = self.asked.versions.unwrap_or((true, true));
        let all = [
            (tls12, &rustls::version::TLS12),
            (tls13, &rustls::version::TLS13),
        ];
        all.into_iter()
            .filter(|(is_spoken, _)| *is_spoken)
            .map(|(_, version)| version)
            .collect()
    }

    fn verifier(
        &self,
        defaults: &Defaults,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Verifier, rustls::Error> {
        let trusted = self
            .asked
            .trust
            .as_ref()
            .and_then(|trust| trust.roots.clone());
        let roots = || trusted.unwrap_or_else(|| defaults.roots());
        let build = || {
            let builder = WebPkiServerVerifier::builder_with_provider(roots(), provider.clone());
            builder
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))
        };
        let verify = self.asked.verify.unwrap_or(defaults.verify);
        Ok(Verifier {
            chain: verify.then(build).transpose()?,
            depth: self.asked.depth,
            provider: provider.clone(),
        })
    }
}

impl PartialEq for BackendTls {
    fn eq(&self, other: &Self) -> bool {
        self.asked == other.asked
    }
}

impl Eq for BackendTls {}

impl Hash for BackendTls {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Asked {
            verify,
            versions,
            trust,
            ..
        } = &self.asked;
        let digest = trust.as_ref().map(|trust| trust.digest);
        (verify, versions, digest).hash(state);
    }
}

impl fmt::Debug for BackendTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BackendTls").field(&self.asked).finish()
    }
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        (&self.secret, self.digest) == (&other.secret, other.digest)
    }
}

impl Eq for Trust {}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trust").field(&self.secret).finish()
    }
}

/// Checks what a backend shows: always that it has the key, and if wanted whose it is.
#[derive(Debug)]
struct Verifier {
    /// Nothing if it may be anybody's.
    chain: Option<Arc<WebPkiServerVerifier>>,
    depth: Option<usize>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        if self.depth.is_some_and(|depth| intermediates.len() > depth) {
            return Err(CertificateError::UnknownIssuer.into());
        }
        chain.verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
