//! Pulls an image from a registry into the store.

use std::fs::File;
use std::net::IpAddr;

use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use tokio::task::JoinError;

use super::archive::{described, diff_ids};
use super::{Image, ImageError, ImageStore, Staged, layer, parse_name};

/// Why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The registry could not be reached or refused.
    #[error("failed to pull and unpack image {name:?}: {source}")]
    Registry {
        /// The image's full name.
        name: String,
        /// What the registry or the way to it said.
        source: Box<OciDistributionError>,
    },
    /// What came cannot be stored.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The unpacking was cancelled or panicked.
    #[error("unpacking ended early: {0}")]
    Unpack(#[from] JoinError),
}

/// Who pulls.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User and password for the registry; none for anonymous.
    pub basic: Option<(String, String)>,
}

impl From<&Credentials> for RegistryAuth {
    fn from(credentials: &Credentials) -> Self {
        match &credentials.basic {
            Some((user, password)) => Self::Basic(user.clone(), password.clone()),
            None => Self::Anonymous,
        }
    }
}

impl ImageStore {
    /// Pulls the image `name`; `insecure` lists registries spoken to without TLS, besides this machine's own.
    /// Cancelling leaves complete layers in the store and nothing else.
    pub async fn pull(
        &self,
        name: &str,
        credentials: &Credentials,
        insecure: &[String],
    ) -> Result<Image, PullError> {
        let reference = parse_name(name)?;
        let failed = |source| PullError::Registry {
            name: reference.whole(),
            source: Box::new(source),
        };
        let client = client(&reference, insecure);
        let (manifest, digest, config) = client
            .pull_manifest_and_config(&reference, &credentials.into())
            .await
            .map_err(failed)?;

        let mut image = described(&reference.whole(), config.as_bytes(), manifest.layers.len())?;
        image.manifest = Some(digest);
        for (descriptor, diff_id) in manifest.layers.iter().zip(diff_ids(config.as_bytes())?) {
            let layer = match layer::existing(self, &diff_id)? {
                Some(layer) => layer,
                None => {
                    let staged = Staged::new(self)?;
                    let path = staged.0.join("blob");
                    let blob = tokio::fs::File::create(&path)
                        .await
                        .map_err(ImageError::from)?;
                    client
                        .pull_blob(&reference, descriptor, blob)
                        .await
                        .map_err(failed)?;
                    self.unpack(staged, diff_id).await?
                }
            };
            image.size += layer.size;
            image.layers.push(layer.name);
        }
        self.record(&image)?;
        Ok(image)
    }

    async fn unpack(&self, staged: Staged, diff_id: String) -> Result<layer::Layer, PullError> {
        let store = self.clone();
        let unpacking = tokio::task::spawn_blocking(move || {
            let blob = File::open(staged.0.join("blob"))?;
            layer::add(&store, blob, &diff_id)
        });
        Ok(unpacking.await??)
    }
}

fn client(reference: &Reference, insecure: &[String]) -> Client {
    let registry = reference.resolve_registry();
    let protocol = if is_local(registry) || insecure.iter().any(|host| host == registry) {
        ClientProtocol::Http
    } else {
        ClientProtocol::Https
    };
    let connect_timeout = Some(std::time::Duration::from_secs(15));
    let read_timeout = Some(std::time::Duration::from_secs(60));
    Client::new(ClientConfig {
        protocol,
        connect_timeout,
        read_timeout,
        ..ClientConfig::default()
    })
}

/// True for a registry on this machine, which needs no TLS.
fn is_local(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn only_registries_of_this_machine_go_without_tls() {
        for (registry, local) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("[::1]:5000", true),
            ("docker.io", false),
            ("10.0.0.1:5000", false),
            ("localhost.example.com", false),
        ] {
            assert_eq!(is_local(registry), local, "{registry}");
        }
    }
}
