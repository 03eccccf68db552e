//! The cluster's own certificate authority and what it signs: serving certificates, client certificates, kubeconfigs. All
//! keys are EC P-256; everything lives in `<data-dir>/pki`, readable by the owner only, and is made at first start.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

/// How long the authority is valid.
const CA_DAYS: i64 = 3650;
/// How long certificates are valid; they are made anew at each start.
const LEAF_DAYS: i64 = 365;

/// The authority could not be read, made or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key or certificate could not be made or understood.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A subject alternative name is neither an address nor a DNS name.
    #[error("{0:?} is neither an IP address nor a DNS name")]
    Name(String),
}

/// The authority.
#[derive(Debug)]
pub struct Pki {
    directory: PathBuf,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    account_key: String,
}

impl Pki {
    /// Opens the authority below a data directory, making it if there is none.
    pub fn open(data_dir: &Path) -> Result<Self, PkiError> {
        let directory = data_dir.join("pki");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(at(&directory))?;
        let (ca_file, key_file) = (directory.join("ca.crt"), directory.join("ca.key"));
        if !ca_file.exists() || !key_file.exists() {
            let key = new_key()?;
            let certificate = authority_params().self_signed(&key)?;
            write_private(&key_file, &key.serialize_pem())?;
            write_private(&ca_file, &certificate.pem())?;
        }
        let ca_pem = read(&ca_file)?;
        let key = KeyPair::from_pem(&read(&key_file)?)?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key)?;
        let account_key = Self::account_key(&directory)?;
        Ok(Self {
            directory,
            ca_pem,
            issuer,
            account_key,
        })
    }

    fn account_key(directory: &Path) -> Result<String, PkiError> {
        let file = directory.join("sa.key");
        if !file.exists() {
            write_private(&file, &new_key()?.serialize_pem())?;
        }
        read(&file)
    }

    /// The authority's certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The key that signs service account tokens, as PEM.
    pub fn service_account_key(&self) -> &str {
        &self.account_key
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A certificate to serve with under the given addresses and DNS names, and its key, both as PEM.
    pub fn serving_cert(
        &self,
        common_name: &str,
        names: &[impl AsRef<str>],
    ) -> Result<(String, String), PkiError> {
        let mut params = leaf_params(common_name, &[], ExtendedKeyUsagePurpose::ServerAuth);
        params.subject_alt_names = names
            .iter()
            .map(|name| alternative_name(name.as_ref()))
            .collect::<Result<_, _>>()?;
        self.sign(params)
    }

    /// A certificate of a user in groups, and its key, both as PEM.
    pub fn client_cert(
        &self,
        user: &str,
        groups: &[impl AsRef<str>],
    ) -> Result<(String, String), PkiError> {
        let groups: Vec<&str> = groups.iter().map(AsRef::as_ref).collect();
        self.sign(leaf_params(
            user,
            &groups,
            ExtendedKeyUsagePurpose::ClientAuth,
        ))
    }

    /// A complete kubeconfig for a user: server, authority, certificate and key within.
    pub fn client_kubeconfig(
        &self,
        server_url: &str,
        user: &str,
        groups: &[impl AsRef<str>],
    ) -> Result<String, PkiError> {
        let (certificate, key) = self.client_cert(user, groups)?;
        let (ca, certificate, key) = (
            BASE64.encode(&self.ca_pem),
            BASE64.encode(certificate),
            BASE64.encode(key),
        );
        Ok(format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: portolan\n  cluster:\n    server: {server_url}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: {user:?}\n  user:\n    \
             client-certificate-data: {certificate}\n    client-key-data: {key}\ncontexts:\n- name: portolan\n  \
             context:\n    cluster: portolan\n    user: {user:?}\ncurrent-context: portolan\n"
        ))
    }

    fn sign(&self, params: CertificateParams) -> Result<(String, String), PkiError> {
        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

/// Writes a file only its owner may read, whole or not at all.
pub fn write_private(path: &Path, content: &str) -> Result<(), PkiError> {
    let draft = path.with_extension("new");
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(at(path))
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    move |source| PkiError::File {
        path: path.to_owned(),
        source,
    }
}

fn new_key() -> Result<KeyPair, PkiError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

fn authority_params() -> CertificateParams {
    let mut params = named_params("portolan-ca", &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    set_validity(&mut params, CA_DAYS);
    params
}

fn leaf_params(
    common_name: &str,
    groups: &[&str],
    purpose: ExtendedKeyUsagePurpose,
) -> CertificateParams {
    let mut params = named_params(common_name, groups);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, LEAF_DAYS);
    params
}

fn named_params(common_name: &str, groups: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for group in groups {
        params
            .distinguished_name
            .push(DnType::OrganizationName, *group);
    }
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

/// From an hour ago, for clocks that differ.
fn set_validity(params: &mut CertificateParams, days: i64) {
    let now = jiff::Timestamp::now();
    let at = |timestamp: jiff::Timestamp| std::time::SystemTime::from(timestamp).into();
    params.not_before = at(now - jiff::SignedDuration::from_hours(1));
    params.not_after = at(now + jiff::SignedDuration::from_hours(24 * days));
}

fn alternative_name(name: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    name.try_into()
        .map(SanType::DnsName)
        .map_err(|_| PkiError::Name(name.to_owned()))
}
