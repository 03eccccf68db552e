//! Reads image archives (OCI layouts and what `docker save` writes) and makes images out of files.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::layer::{self, unpacked};
use super::{
    ConfigDocument, FileContent, Image, ImageConfig, ImageError, ImageFile, ImageStore, Staged,
    digest, full_name,
};
use crate::fs::{Root, at};

/// Indexes may nest (an index per platform); this deep and no deeper.
const MAX_NESTING: usize = 4;
const NAME_ANNOTATIONS: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// One entry of a `docker save` archive's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: PathBuf,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<PathBuf>,
}

/// An OCI index or manifest, told apart by which lists it has.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

pub(super) fn load(
    store: &ImageStore,
    path: &Path,
    name: Option<&str>,
) -> Result<Vec<String>, ImageError> {
    if path.is_dir() {
        return load_dir(store, path, name);
    }
    let staged = Staged::new(store)?;
    extract(File::open(path).map_err(at(path))?, &staged.0)?;
    load_dir(store, &staged.0, name)
}

/// Extracts the plain files of an archive; whatever else is in it is not part of an image.
fn extract(archive: impl Read, dir: &Path) -> Result<(), ImageError> {
    for entry in tar::Archive::new(unpacked(archive)?).entries()? {
        let mut entry = entry?;
        if !entry.unpack_in(dir)? {
            return Err(ImageError::Archive(format!(
                "{} leaves the archive",
                entry.path()?.display()
            )));
        }
    }
    Ok(())
}

fn load_dir(store: &ImageStore, dir: &Path, name: Option<&str>) -> Result<Vec<String>, ImageError> {
    if dir.join("manifest.json").exists() {
        let images: Vec<SavedImage> = read_json(dir, Path::new("manifest.json"))?;
        load_saved(store, dir, &images, name)
    } else if dir.join("index.json").exists() {
        load_layout(store, dir, name)
    } else {
        Err(ImageError::Archive(
            "neither index.json (OCI layout) nor manifest.json (docker save) in it".into(),
        ))
    }
}

fn load_saved(
    store: &ImageStore,
    dir: &Path,
    images: &[SavedImage],
    name: Option<&str>,
) -> Result<Vec<String>, ImageError> {
    let mut loaded = Vec::new();
    for image in images {
        let tags = image.repo_tags.clone().unwrap_or_default();
        for name in names(name, tags)? {
            add_image(store, dir, &name, &image.config, &image.layers)?;
            loaded.push(name);
        }
    }
    Ok(loaded)
}

fn load_layout(
    store: &ImageStore,
    dir: &Path,
    name: Option<&str>,
) -> Result<Vec<String>, ImageError> {
    let index: Document = read_json(dir, Path::new("index.json"))?;
    let mut loaded = Vec::new();
    for entry in &index.manifests {
        let annotated = NAME_ANNOTATIONS
            .iter()
            .find_map(|key| entry.annotations.get(*key))
            .filter(|name| {
                // Some tools write only the tag here.
                name.contains('/') || name.contains(':')
            });
        let manifest = manifest(dir, &entry.digest, MAX_NESTING)?;
        let config = manifest
            .config
            .ok_or_else(|| ImageError::Archive("a manifest without a config".into()))?;
        let layers = manifest
            .layers
            .iter()
            .map(|layer| blob(&layer.digest))
            .collect::<Result<Vec<_>, _>>()?;
        for name in names(name, annotated.cloned().into_iter().collect())? {
            add_image(store, dir, &name, &blob(&config.digest)?, &layers)?;
            loaded.push(name);
        }
    }
    Ok(loaded)
}

/// The full names to load an image under.
fn names(given: Option<&str>, found: Vec<String>) -> Result<Vec<String>, ImageError> {
    let names = given.map_or(found, |name| vec![name.to_owned()]);
    if names.is_empty() {
        return Err(ImageError::Archive(
            "it names no image, and no name was given".into(),
        ));
    }
    names.iter().map(|name| full_name(name)).collect()
}

/// The image manifest behind `digest`, through indexes: the one for this machine.
fn manifest(dir: &Path, digest: &str, nesting: usize) -> Result<Document, ImageError> {
    let document: Document = read_json(dir, &blob(digest)?)?;
    if document.config.is_some() {
        return Ok(document);
    }
    let fits = |entry: &&Descriptor| {
        entry
            .platform
            .as_ref()
            .is_none_or(|p| p.os == "linux" && p.architecture == architecture())
    };
    match document.manifests.iter().find(fits) {
        Some(entry) if nesting > 0 => manifest(dir, &entry.digest, nesting - 1),
        Some(_) => Err(ImageError::Archive("indexes nest too deeply".into())),
        None => Err(ImageError::Archive(format!(
            "no manifest for linux/{} in the index",
            architecture()
        ))),
    }
}

/// This machine's architecture in the words of images.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn blob(digest: &str) -> Result<PathBuf, ImageError> {
    match digest.split_once(':') {
        Some((algorithm, hex))
            if !hex.is_empty()
                && (algorithm.to_owned() + hex)
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric()) =>
        {
            Ok(Path::new("blobs").join(algorithm).join(hex))
        }
        _ => Err(ImageError::Archive(format!("not a digest: {digest:?}"))),
    }
}

fn add_image(
    store: &ImageStore,
    dir: &Path,
    name: &str,
    config: &Path,
    layers: &[PathBuf],
) -> Result<(), ImageError> {
    let config = read(dir, config)?;
    let mut image = described(name, &config, layers.len())?;
    for (layer, diff_id) in layers.iter().zip(diff_ids(&config)?) {
        let added = layer::add(store, open_inside(dir, layer)?, &diff_id)?;
        image.size += added.size;
        image.layers.push(added.name);
    }
    store.record(&image)
}

/// The image that a configuration document describes, without its layers yet.
pub(super) fn described(name: &str, config: &[u8], layers: usize) -> Result<Image, ImageError> {
    let document: ConfigDocument = serde_json::from_slice(config)?;
    if document.rootfs.diff_ids.len() != layers {
        let diff_ids = document.rootfs.diff_ids.len();
        return Err(ImageError::Archive(format!(
            "{layers} layers, but the configuration lists {diff_ids}"
        )));
    }
    Ok(Image {
        name: name.to_owned(),
        id: digest(config),
        manifest: None,
        layers: Vec::new(),
        size: 0,
        config: document.config.unwrap_or_default(),
    })
}

/// The digests of the layers' contents.
pub(super) fn diff_ids(config: &[u8]) -> Result<Vec<String>, ImageError> {
    Ok(serde_json::from_slice::<ConfigDocument>(config)?
        .rootfs
        .diff_ids)
}

fn read_json<T: DeserializeOwned>(dir: &Path, path: &Path) -> Result<T, ImageError> {
    Ok(serde_json::from_slice(&read(dir, path)?)?)
}

fn read(dir: &Path, path: &Path) -> Result<Vec<u8>, ImageError> {
    let mut content = Vec::new();
    open_inside(dir, path)?.read_to_end(&mut content)?;
    Ok(content)
}

/// Opens a file of an archive; links in it cannot lead out.
fn open_inside(dir: &Path, path: &Path) -> Result<File, ImageError> {
    let opened = Root::open(dir)?.at(path, nix::fcntl::OFlag::O_RDONLY);
    Ok(File::from(opened.map_err(|error| at(path)(error.into()))?))
}

pub(super) fn import(
    store: &ImageStore,
    name: &str,
    files: &[ImageFile],
    config: &ImageConfig,
) -> Result<String, ImageError> {
    let name = full_name(name)?;
    let tar = pack(files)?;
    let diff_id = digest(&tar);
    let layer = layer::add(store, tar.as_slice(), &diff_id)?;
    let document = serde_json::json!({
        "architecture": architecture(), "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    let mut image = described(&name, &serde_json::to_vec(&document)?, 1)?;
    image.size = layer.size;
    image.layers.push(layer.name);
    store.record(&image)?;
    Ok(name)
}

/// A tar of the files in the order given, the same bytes for the same files.
fn pack(files: &[ImageFile]) -> Result<Vec<u8>, ImageError> {
    let mut builder = tar::Builder::new(Vec::new());
    for file in files {
        let path: PathBuf = file
            .path
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .collect();
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        header.set_mode(0o644);
        match &file.content {
            FileContent::Copy(source) => {
                let metadata = fs::metadata(source).map_err(at(source))?;
                header.set_size(metadata.size());
                header.set_mode(metadata.permissions().mode());
                builder.append_data(&mut header, path, File::open(source).map_err(at(source))?)?;
            }
            FileContent::Bytes(content) => {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, path, content.as_slice())?;
            }
            FileContent::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, path, target)?;
            }
            FileContent::Directory(mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                builder.append_data(&mut header, path, io::empty())?;
            }
        }
    }
    Ok(builder.into_inner()?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing step fails the test")]

    use super::*;

    fn config() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/bin/hello".into()],
            ..ImageConfig::default()
        }
    }

    fn hello() -> Vec<ImageFile> {
        vec![ImageFile {
            path: "/bin/hello".into(),
            content: FileContent::Bytes(b"#!".to_vec()),
        }]
    }

    #[test]
    fn images_made_of_files_can_be_found_and_made_again() {
        crate::testing::require_root();
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        for _ in 0..2 {
            assert_eq!(
                store.import_files("hello", &hello(), &config()).unwrap(),
                "docker.io/library/hello:latest"
            );
        }
        let image = store.get("hello").unwrap().unwrap();
        assert_eq!(image.config, config());
        assert!(
            store
                .layers_dir()
                .join(&image.layers[0])
                .join("bin/hello")
                .is_file()
        );
        assert_eq!(store.list().unwrap(), [image]);
        assert_eq!(store.get("absent").unwrap(), None);
        assert_eq!(fs::read_dir(store.staging()).unwrap().count(), 0);
    }

    /// Writes an OCI layout or a docker archive of one image into `dir`.
    fn write_archive(dir: &Path, docker: bool, diff_id: Option<&str>) {
        let tar = pack(&hello()).unwrap();
        let diff_id = diff_id.map_or_else(|| digest(&tar), str::to_owned);
        let document = serde_json::json!({"config": config(), "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
        let config = serde_json::to_vec(&document).unwrap();
        let put = |content: &[u8]| {
            let path = dir.join(blob(&digest(content)).unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
            digest(content)
        };
        let layer = put(&zstd::encode_all(tar.as_slice(), 1).unwrap());
        let config = put(&config);
        if docker {
            let manifest = serde_json::json!([{
                "Config": blob(&config).unwrap(), "RepoTags": ["saved:1"], "Layers": [blob(&layer).unwrap()],
            }]);
            fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
        } else {
            let manifest =
                serde_json::json!({"config": {"digest": config}, "layers": [{"digest": layer}]});
            let manifest = put(manifest.to_string().as_bytes());
            let name =
                serde_json::json!({"org.opencontainers.image.ref.name": "example.com/laid-out:2"});
            let index =
                serde_json::json!({"manifests": [{"digest": manifest, "annotations": name}]});
            fs::write(dir.join("index.json"), index.to_string()).unwrap();
        }
    }

    fn check(docker: bool, packed: bool, expected: &str) {
        crate::testing::require_root();
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("archive");
        fs::create_dir(&archive).unwrap();
        write_archive(&archive, docker, None);
        let path = if packed {
            let mut builder =
                tar::Builder::new(File::create(dir.path().join("archive.tar")).unwrap());
            builder.append_dir_all(".", &archive).unwrap();
            builder.finish().unwrap();
            dir.path().join("archive.tar")
        } else {
            archive
        };
        let store = ImageStore::open(&dir.path().join("store")).unwrap();
        assert_eq!(store.load_archive(&path, None).unwrap(), [expected]);
        let image = store.get(expected).unwrap().unwrap();
        assert!(
            store
                .layers_dir()
                .join(&image.layers[0])
                .join("bin/hello")
                .is_file()
        );
        assert_eq!(
            store.load_archive(&path, Some("other")).unwrap(),
            ["docker.io/library/other:latest"]
        );
    }

    #[test]
    fn oci_layouts_and_docker_archives_are_loaded() {
        check(false, false, "example.com/laid-out:2");
        check(false, true, "example.com/laid-out:2");
        check(true, true, "docker.io/library/saved:1");
    }

    #[test]
    fn a_layer_that_is_not_what_was_promised_is_refused() {
        crate::testing::require_root();
        let dir = tempfile::tempdir().unwrap();
        let wrong = format!("sha256:{}", "0".repeat(64));
        write_archive(dir.path(), true, Some(&wrong));
        let store = ImageStore::open(&dir.path().join("store")).unwrap();
        let error = store.load_archive(dir.path(), None).unwrap_err();
        assert!(matches!(error, ImageError::LayerDigest { .. }), "{error}");
        assert_eq!(store.get("saved:1").unwrap(), None);
    }

    #[test]
    fn what_is_no_image_archive_is_named_so() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&dir.path().join("store")).unwrap();
        assert!(
            store
                .load_archive(dir.path(), None)
                .unwrap_err()
                .to_string()
                .contains("neither index.json")
        );
        fs::write(dir.path().join("text"), "hello").unwrap();
        assert!(store.load_archive(&dir.path().join("text"), None).is_err());
        assert!(
            store
                .load_archive(&dir.path().join("missing"), None)
                .unwrap_err()
                .to_string()
                .contains("missing")
        );
    }
}
