//! The node's images: loaded from archives, made from files or pulled from a registry, ready to be mounted.
//!
//! A layer is kept unpacked, in overlayfs' own form (whiteouts as devices 0/0), under the digest of its content; the
//! packed blob is not kept, because a node never pushes. An image is one small record per name that lists its layers.
//! Records and layers appear by `rename`, so that several nodes of one machine share a store without talking to each
//! other; a lock file only keeps them from unpacking the same layer twice at once.

mod archive;
mod layer;
mod pull;

pub(crate) use archive::architecture;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use oci_client::Reference;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::fs::{at, ignore_missing, write_durably};
pub use pull::{Credentials, PullError};

/// What can go wrong with images at hand.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The name is not an image reference.
    #[error("couldn't parse image reference {name:?}: {reason}")]
    Name {
        /// The name as given.
        name: String,
        /// What the parser disliked.
        reason: String,
    },
    /// The archive is neither an OCI layout nor what `docker save` writes, or contradicts itself.
    #[error("invalid image archive: {0}")]
    Archive(String),
    /// A layer's content is not what the image's configuration promises.
    #[error("layer {expected} has the content {found}")]
    LayerDigest {
        /// The digest in the image's configuration.
        expected: String,
        /// The digest of the content.
        found: String,
    },
    /// A layer holds something that may not be unpacked.
    #[error("layer entry {path:?}: {reason}")]
    LayerEntry {
        /// The entry's path in the layer.
        path: String,
        /// Why it was refused.
        reason: String,
    },
    /// The store's files could not be read or written.
    #[error("image store: {0}")]
    Io(#[from] io::Error),
    /// A document of the image is not valid JSON.
    #[error("image document: {0}")]
    Json(#[from] serde_json::Error),
}

/// What an image says about running it (the OCI image configuration's `config`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `USER`: a name or id, with an optional `:group`.
    pub user: String,
    /// `NAME=VALUE` pairs.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// The program and its first arguments.
    #[serde(deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// Arguments, or the program when there is no entry point.
    #[serde(deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// Where the program starts.
    pub working_dir: String,
    /// The signal that asks the program to stop, SIGTERM when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
}

fn null_is_default<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(from)?.unwrap_or_default())
}

/// The whole configuration document, of which we read only this.
#[derive(Debug, Deserialize)]
struct ConfigDocument {
    #[serde(default)]
    config: Option<ImageConfig>,
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The full name, such as `docker.io/library/busybox:latest`.
    pub name: String,
    /// Digest of the configuration, `sha256:...`: the image's identity.
    pub id: String,
    /// Digest of the manifest it was pulled by, if it was pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Names of its layers' directories in the store, lowest first.
    pub layers: Vec<String>,
    /// Unpacked size in bytes.
    pub size: u64,
    /// How to run it.
    pub config: ImageConfig,
}

/// A file of an image made by [`ImageStore::import_files`].
#[derive(Debug, Clone)]
pub struct ImageFile {
    /// Where it goes in the image.
    pub path: PathBuf,
    /// Its content.
    pub content: FileContent,
}

/// What a file of an image made here is.
#[derive(Debug, Clone)]
pub enum FileContent {
    /// A copy of this file of the machine, with its mode.
    Copy(PathBuf),
    /// These bytes, with mode 0644.
    Bytes(Vec<u8>),
    /// A symbolic link to this target.
    Link(PathBuf),
    /// A directory of this mode.
    Directory(u32),
}

/// A directory of images.
#[derive(Debug, Clone)]
pub struct ImageStore {
    dir: PathBuf,
}

impl ImageStore {
    /// Opens the store in `dir`, making it if it is missing.
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        for part in ["layers", "names", "staging"] {
            let part = dir.join(part);
            fs::create_dir_all(&part).map_err(at(&part))?;
        }
        // Relative paths would break once the runtime has changed its directory.
        Ok(Self {
            dir: dir.canonicalize().map_err(at(dir))?,
        })
    }

    /// The image of this name, if it is here.
    pub fn get(&self, name: &str) -> Result<Option<Image>, ImageError> {
        let name = full_name(name)?;
        match fs::read(self.record_path(&name)) {
            Ok(record) => Ok(Some(serde_json::from_slice(&record)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All images, by name.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut images = Vec::new();
        for entry in fs::read_dir(self.dir.join("names"))? {
            let path = entry?.path();
            if path
                .file_name()
                .is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
            {
                images.push(serde_json::from_slice::<Image>(&fs::read(path)?)?);
            }
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    /// Loads the images of an OCI layout (a directory or a tar of one) or of a `docker save` archive, packed by gzip or
    /// zstd or not at all; gives their full names. `name` names the image when the archive does not.
    pub fn load_archive(&self, path: &Path, name: Option<&str>) -> Result<Vec<String>, ImageError> {
        archive::load(self, path, name)
    }

    /// Makes an image of one layer out of files; gives its full name. Directories on the way are made with mode 0755.
    pub fn import_files(
        &self,
        name: &str,
        files: &[ImageFile],
        config: &ImageConfig,
    ) -> Result<String, ImageError> {
        archive::import(self, name, files, config)
    }

    /// Directory of the layers; [`Image::layers`] are names in it.
    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.dir.join("layers")
    }

    fn staging(&self) -> PathBuf {
        self.dir.join("staging")
    }

    fn record_path(&self, full_name: &str) -> PathBuf {
        self.dir
            .join("names")
            .join(full_name.replace('%', "%25").replace('/', "%2F"))
    }

    /// Writes the record that makes an image visible.
    fn record(&self, image: &Image) -> Result<(), ImageError> {
        Ok(write_durably(
            &self.record_path(&image.name),
            &serde_json::to_vec(image)?,
        )?)
    }

    /// Takes the store's lock; it is released when the file is dropped.
    fn lock(&self) -> Result<File, ImageError> {
        let path = self.dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(at(&path))?;
        file.lock()?;
        Ok(file)
    }

    /// Directory of a layer of this digest.
    fn layer_path(&self, diff_id: &str) -> PathBuf {
        self.layers_dir().join(layer_name(diff_id))
    }
}

/// The name of a layer's directory: half of its digest, so that the list of a hundred layers fits into one page, which
/// is all that mount options get.
fn layer_name(diff_id: &str) -> String {
    diff_id
        .trim_start_matches("sha256:")
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(32)
        .collect()
}

/// The full form of an image name: registry, repository and tag or digest.
pub fn full_name(name: &str) -> Result<String, ImageError> {
    Ok(parse_name(name)?.whole())
}

fn parse_name(name: &str) -> Result<Reference, ImageError> {
    name.parse()
        .map_err(|error: oci_client::ParseError| ImageError::Name {
            name: name.to_owned(),
            reason: error.to_string(),
        })
}

/// Digest of `content` in the usual form.
fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(content)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Removes a staging directory however its use ends.
struct Staged(PathBuf);

impl Staged {
    fn new(store: &ImageStore) -> Result<Self, ImageError> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let unique = format!(
            "{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = store.staging().join(unique);
        // A process of the same id may have died here.
        ignore_missing(fs::remove_dir_all(&path))?;
        fs::create_dir(&path).map_err(at(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = ignore_missing(fs::remove_dir_all(&self.0)) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove a staging directory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        for (name, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("grafana/grafana", "docker.io/grafana/grafana:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
        ] {
            assert_eq!(full_name(name).expect("valid"), full);
        }
        assert!(full_name("docker.io/UPPER/case").is_err());
        assert!(full_name("").is_err());
    }
}
