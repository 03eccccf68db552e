//! A registry of images on this machine, for as long as a test needs it.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::eventually;

/// Where it listens.
pub(crate) const ADDRESS: &str = "127.0.0.1:5000";

/// Debian's `docker-registry`.
pub(crate) struct Registry {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Registry {
    pub(crate) fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let storage = dir.path().join("storage");
        let config = json!({
            "version": 0.1, "log": {"level": "error"}, "http": {"addr": ADDRESS},
            "storage": {"filesystem": {"rootdirectory": storage}},
        });
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config.to_string())?;
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().context("starting docker-registry")?;
        let registry = Self { child, _dir: dir };
        eventually("the registry listens", || {
            Ok(TcpStream::connect(ADDRESS).map(drop)?)
        })?;
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child
            .kill()
            .and_then(|()| self.child.wait().map(drop))
            .ok();
    }
}

/// Pushes an image of one gzip layer that runs this program. It keeps its name, since busybox goes by that.
pub(crate) async fn push(name: &str, program: &Path) -> Result<()> {
    let file = program.file_name().context("no program")?;
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_path_with_name(program, file)?;
    let content = builder.into_inner()?;
    let hash: String = Sha256::digest(&content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &content)?;
    let layer = ImageLayer::oci_v1_gzip(packed.finish()?, None);
    let entrypoint = Path::new("/").join(file);
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Entrypoint": [entrypoint]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{hash}")]},
    });
    let config = Config::oci_v1(serde_json::to_vec(&config)?, None);
    let client = Client::new(ClientConfig {
        protocol: ClientProtocol::Http,
        ..ClientConfig::default()
    });
    let reference: Reference = name.parse()?;
    client
        .push(&reference, &[layer], config, &RegistryAuth::Anonymous, None)
        .await?;
    Ok(())
}
