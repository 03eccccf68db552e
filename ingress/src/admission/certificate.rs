//! The certificate of the admission webhook, from files that somebody renews now and then.
//!
//! Reviews are few, so the files are read again for each connection: no timer, and never a stale certificate. While
//! they cannot be used, because only one of them has been written yet or for whatever reason, the last good ones count.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::sign::SingleCertAndKey;

use crate::tls::certificate::{BadCertificate, Certificate};

/// The files, and what was last seen in them.
#[derive(Debug)]
pub(super) struct Files {
    chain: PathBuf,
    key: PathBuf,
    good: Option<Good>,
    /// What was wrong the last time, so that it is said once.
    complaint: Option<String>,
}

/// The last content that could be used.
#[derive(Debug)]
struct Good {
    content: Content,
    config: Arc<ServerConfig>,
}

#[derive(PartialEq, Eq)]
struct Content {
    chain: Vec<u8>,
    key: Vec<u8>,
}

/// A key is nobody's business.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Content")
    }
}

#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("cannot read {path}: {source}")]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Certificate(#[from] BadCertificate),
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl Files {
    /// Nothing has been read yet.
    pub(super) fn new(chain: PathBuf, key: PathBuf) -> Self {
        Self {
            chain,
            key,
            good: None,
            complaint: None,
        }
    }

    /// TLS with the certificate of now, or the last one that could be used, if there has been one.
    pub(super) async fn config(&mut self) -> Option<Arc<ServerConfig>> {
        match self.read().await {
            Ok(()) => self.complaint = None,
            Err(error) => self.complain(error.to_string()),
        }
        self.good.as_ref().map(|good| good.config.clone())
    }

    async fn read(&mut self) -> Result<(), Unusable> {
        let content = Content {
            chain: contents(&self.chain).await?,
            key: contents(&self.key).await?,
        };
        if self
            .good
            .as_ref()
            .is_none_or(|good| good.content != content)
        {
            let config = Arc::new(config(&content)?);
            self.good = Some(Good { content, config });
        }
        Ok(())
    }

    fn complain(&mut self, complaint: String) {
        if self.complaint.as_ref() != Some(&complaint) {
            let is_served = self.good.is_some();
            tracing::warn!(%complaint, is_served, "the admission webhook's certificate cannot be used");
            self.complaint = Some(complaint);
        }
    }
}

async fn contents(path: &PathBuf) -> Result<Vec<u8>, Unusable> {
    let read = tokio::fs::read(path).await;
    read.map_err(|source| Unusable::File {
        path: path.clone(),
        source,
    })
}

fn config(content: &Content) -> Result<ServerConfig, Unusable> {
    let certificate = Certificate::from_pem(&content.chain, &content.key)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.key())));
    Ok(config)
}
