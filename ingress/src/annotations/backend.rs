//! How an Ingress wants its backends spoken to: `backend-protocol`, `secure-backends` and `proxy-ssl-*`.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use sha2::{Digest, Sha256};

use super::{Annotations, Data};
use crate::forward::protocol::{Http, Protocol, Security};
use crate::tls::backend::{Asked, BackendTls, Trust};
use crate::tls::certificate::{CERTIFICATE_KEY, Certificate, PRIVATE_KEY_KEY};
use crate::tls::settings::suites;

/// The key of the certificates that are trusted in a Secret.
const AUTHORITY_KEY: &str = "ca.crt";

/// What an Ingress says of its backends.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// What they speak, whatever their Service says.
    pub protocol: Option<Protocol>,
    /// The name that their certificates must have.
    pub name: Option<ServerName<'static>>,
    /// How their certificates are checked.
    pub tls: Option<Arc<BackendTls>>,
}

impl Backend {
    /// Reads the annotations.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        let secure = from.flag("secure-backends") == Some(true);
        let protocol = read_protocol(from).or(secure.then_some(Protocol::HTTPS));
        let name = from.get("proxy-ssl-name", |text| {
            ServerName::try_from(text.to_owned())
        });
        let asked = read_tls(from);
        if protocol.is_some_and(|protocol| protocol.security != Security::Clear) {
            warn(from, asked.verify);
        }
        Self {
            protocol,
            name,
            tls: (asked != Asked::default()).then(|| Arc::new(BackendTls::new(asked))),
        }
    }
}

fn read_protocol(from: &mut Annotations<'_>) -> Option<Protocol> {
    const NAME: &str = "backend-protocol";
    let text = from.text(NAME)?.to_ascii_uppercase();
    match text.as_str() {
        "HTTP" => Some(Protocol::default()),
        "HTTPS" => Some(Protocol::HTTPS),
        "AUTO_HTTP" => Some(Protocol {
            http: Http::One,
            security: Security::LikeClient,
        }),
        "GRPC" => Some(Protocol::H2C),
        "GRPCS" => Some(Protocol::H2),
        "FCGI" => {
            let instead = "put a server that speaks HTTP before the FastCGI application";
            from.refuse(NAME, "FastCGI is not spoken", instead);
            None
        }
        _ => {
            from.invalid(NAME, "is none of HTTP, HTTPS, AUTO_HTTP, GRPC, GRPCS");
            None
        }
    }
}

/// Says that certificates are checked where ingress-nginx would not.
fn warn(from: &mut Annotations<'_>, verify: Option<bool>) {
    if verify.is_some() {
        return;
    }
    let how = "the backend's certificate is verified, for SERVICE.NAMESPACE.svc unless proxy-ssl-name names another; \
        proxy-ssl-verify \"off\" turns that off";
    for name in ["backend-protocol", "secure-backends"] {
        from.differs(name, how);
    }
}

fn read_tls(from: &mut Annotations<'_>) -> Asked {
    let on_or_off = [("on", true), ("off", false)];
    Asked {
        verify: from.choice("proxy-ssl-verify", &on_or_off),
        depth: from.number("proxy-ssl-verify-depth", 0..=10),
        is_named: from.choice("proxy-ssl-server-name", &on_or_off),
        versions: from.get("proxy-ssl-protocols", versions),
        suites: from.get("proxy-ssl-ciphers", suites),
        trust: read_trust(from),
    }
}

/// The versions of TLS in a list of nginx's names, as (1.2, 1.3). Older ones are left out.
fn versions(text: &str) -> Result<(bool, bool), &'static str> {
    let has = |name| text.split_whitespace().any(|word| word == name);
    match (has("TLSv1.2"), has("TLSv1.3")) {
        (false, false) => Err("names neither TLSv1.2 nor TLSv1.3, and nothing older is spoken"),
        found => Ok(found),
    }
}

/// The Secret with what is trusted and what we show.
fn read_trust(from: &mut Annotations<'_>) -> Option<Trust> {
    const NAME: &str = "proxy-ssl-secret";
    let secret = from.object_name(NAME);
    let trust = from.secret(NAME, |data| {
        let identity = read_identity(data)?;
        let roots = read_roots(data)?;
        if identity.is_none() && roots.is_none() {
            return Err(format!("has neither {AUTHORITY_KEY} nor {CERTIFICATE_KEY}"));
        }
        Ok((identity, roots, digest(data)))
    });
    let (secret, (identity, roots, digest)) = secret.zip(trust)?;
    Some(Trust {
        secret,
        digest,
        roots,
        identity,
    })
}

fn read_identity(data: &Data) -> Result<Option<Arc<Certificate>>, String> {
    let (Some(chain), Some(key)) = (data.get(CERTIFICATE_KEY), data.get(PRIVATE_KEY_KEY)) else {
        return Ok(None);
    };
    let certificate = Certificate::from_pem(chain, key).map_err(|error| error.to_string())?;
    Ok(Some(Arc::new(certificate)))
}

fn read_roots(data: &Data) -> Result<Option<Arc<RootCertStore>>, String> {
    let Some(pem) = data.get(AUTHORITY_KEY) else {
        return Ok(None);
    };
    let bad = |error: &dyn std::fmt::Display| format!("{AUTHORITY_KEY}: {error}");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| bad(&error))?;
        roots.add(certificate).map_err(|error| bad(&error))?;
    }
    match roots.is_empty() {
        true => Err(bad(&"contains no PEM certificate")),
        false => Ok(Some(Arc::new(roots))),
    }
}

fn digest(data: &Data) -> [u8; 32] {
    let mut digest = Sha256::new();
    for key in [AUTHORITY_KEY, CERTIFICATE_KEY, PRIVATE_KEY_KEY] {
        let value = data.get(key).map(Vec::as_slice).unwrap_or_default();
        digest.update((value.len() as u64).to_be_bytes());
        digest.update(value);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::policy::tests::{read, verdict};

    fn backend(annotations: &[(&str, &str)]) -> Backend {
        let policy = read(annotations).policy;
        let backend = policy.and_then(|policy| std::sync::Arc::into_inner(policy)?.backend);
        backend.map(|backend| *backend).unwrap_or_default()
    }

    #[test]
    fn protocols_have_the_names_of_ingress_nginx() {
        for (text, expected) in [
            ("HTTP", Some(Protocol::default())),
            ("https", Some(Protocol::HTTPS)),
            ("GRPC", Some(Protocol::H2C)),
            ("GRPCS", Some(Protocol::H2)),
            ("FCGI", None),
            ("AJP", None),
        ] {
            let annotations = [("backend-protocol", text)];
            assert_eq!(backend(&annotations).protocol, expected, "{text}");
            let word = verdict(&read(&annotations), "backend-protocol").0;
            let expected = match text {
                "HTTP" | "GRPC" => "same",
                "FCGI" => "refused",
                "AJP" => "invalid",
                _ => "differs",
            };
            assert_eq!(word, expected, "{text}");
        }
        assert_eq!(
            backend(&[("secure-backends", "true")]).protocol,
            Some(Protocol::HTTPS)
        );
        let both = [("secure-backends", "true"), ("backend-protocol", "GRPC")];
        assert_eq!(backend(&both).protocol, Some(Protocol::H2C));
    }

    #[test]
    fn what_is_verified_otherwise_than_in_ingress_nginx_is_said() {
        let of = |annotations: &[(&str, &str)]| verdict(&read(annotations), "backend-protocol").0;
        assert_eq!(of(&[("backend-protocol", "HTTPS")]), "differs");
        let off = ("proxy-ssl-verify", "off");
        assert_eq!(of(&[("backend-protocol", "HTTPS"), off]), "same");
    }

    #[test]
    fn lists_keep_what_can_be_had() {
        assert_eq!(versions("SSLv3 TLSv1 TLSv1.2"), Ok((true, false)));
        assert_eq!(versions("TLSv1.3 TLSv1.2"), Ok((true, true)));
        assert!(versions("TLSv1").is_err() && versions("").is_err());
    }
}
