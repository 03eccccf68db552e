//! Images: pulled by name from a real registry, and loaded from archives.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use harness::{Cluster, REGISTRY, eventually, same};
use serde_json::{Value, json};

use crate::Scenario;

/// All scenarios of this file.
pub(crate) const ALL: &[Scenario] = &[
    ("an_image_is_pulled_from_a_registry_by_name", pulled),
    ("a_docker_save_archive_is_loaded", loaded),
];

fn pulled(cluster: &Cluster) -> Result<()> {
    let dir = scratch(cluster, "registry")?;
    let image = Image::build(&dir)?;
    let _registry = Registry::start(cluster, &dir)?;
    eventually("the registry answers", || {
        curl(cluster, &["--fail", &format!("http://{REGISTRY}/v2/")])
    })?;
    image.push(cluster, "team/app", "v1")?;
    let name = format!("{REGISTRY}/team/app:v1");
    cluster.kubectl(&["run", "pulled", &format!("--image={name}")])?;
    cluster.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "--timeout=60s",
        "pod/pulled",
    ])?;
    eventually("an event says that it was pulled", || {
        let described = cluster.kubectl(&["describe", "pod", "pulled"])?;
        ensure!(
            described.contains(&format!("Successfully pulled image \"{name}\"")),
            "{described}"
        );
        Ok(())
    })?;
    says_its_line(cluster, "pulled")
}

fn loaded(cluster: &Cluster) -> Result<()> {
    let dir = scratch(cluster, "archive")?;
    Image::build(&dir)?.load(cluster, &dir, "docker.io/team/loaded:v1")?;
    cluster.kubectl(&["run", "loaded", "--image=team/loaded:v1"])?;
    cluster.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "--timeout=60s",
        "pod/loaded",
    ])?;
    says_its_line(cluster, "loaded")
}

/// The image's command comes from its configuration, its file from its layer.
fn says_its_line(cluster: &Cluster, pod: &str) -> Result<()> {
    eventually("the container has spoken", || {
        same(
            "log",
            cluster.kubectl(&["logs", pod])?.as_str(),
            "from the layer\n",
        )
    })?;
    cluster
        .kubectl(&["delete", "pod", pod, "--grace-period=1"])
        .map(drop)
}

/// A directory for the files of a scenario, gone with the cluster.
pub(crate) fn scratch(cluster: &Cluster, name: &str) -> Result<std::path::PathBuf> {
    let dir = cluster.state_dir().join(name);
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// An image of one layer, as files.
pub(crate) struct Image {
    layer: std::path::PathBuf,
    layer_digest: String,
    config: Vec<u8>,
    config_digest: String,
}

impl Image {
    fn build(dir: &Path) -> Result<Image> {
        let root = dir.join("root");
        std::fs::create_dir_all(root.join("bin"))?;
        std::fs::copy("/bin/busybox", root.join("bin/busybox"))?;
        std::fs::write(root.join("line"), "from the layer\n")?;
        let script = "/bin/busybox cat /line; exec /bin/busybox sleep 3600";
        let command = json!({"Cmd": ["/bin/busybox", "sh", "-c", script]});
        Image::pack(dir, &root, &command)
    }

    /// The files below `root`, run as the configuration `run_as` says.
    pub(crate) fn pack(dir: &Path, root: &Path, run_as: &Value) -> Result<Image> {
        let layer = dir.join("layer.tar");
        run(Command::new("tar")
            .arg("-C")
            .arg(root)
            .arg("-cf")
            .arg(&layer)
            .arg("."))?;
        let layer_digest = digest(&layer)?;
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": run_as,
            "rootfs": {"type": "layers", "diff_ids": [&layer_digest]},
        });
        let config = serde_json::to_vec(&config)?;
        let file = dir.join("config.json");
        std::fs::write(&file, &config)?;
        let config_digest = digest(&file)?;
        Ok(Image {
            layer,
            layer_digest,
            config,
            config_digest,
        })
    }

    /// Puts it where the cluster's nodes find it by `name`.
    pub(crate) fn load(&self, cluster: &Cluster, dir: &Path, name: &str) -> Result<()> {
        let archive = self.save(dir, name)?;
        let mut command = cluster.portolan();
        let store = cluster.state_dir().join("images");
        let output = command
            .args(["image", "load", "--image-dir"])
            .arg(&store)
            .arg(&archive)
            .output()?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            printed.contains(name),
            "{printed}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// What `docker save` would write.
    fn save(&self, dir: &Path, name: &str) -> Result<std::path::PathBuf> {
        let manifest =
            json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
        std::fs::write(dir.join("manifest.json"), serde_json::to_vec(&manifest)?)?;
        let archive = dir.join("saved.tar");
        run(Command::new("tar")
            .arg("-C")
            .arg(dir)
            .arg("-cf")
            .arg(&archive)
            .args(["manifest.json", "config.json", "layer.tar"]))?;
        Ok(archive)
    }

    fn push(&self, cluster: &Cluster, repository: &str, tag: &str) -> Result<()> {
        let config = self.layer.with_file_name("config.json");
        push_blob(cluster, repository, &self.layer, &self.layer_digest)?;
        push_blob(cluster, repository, &config, &self.config_digest)?;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind,
            "config": self.descriptor("application/vnd.oci.image.config.v1+json", &self.config_digest, self.config.len() as u64),
            "layers": [self.descriptor("application/vnd.oci.image.layer.v1.tar", &self.layer_digest, std::fs::metadata(&self.layer)?.len())],
        });
        let url = format!("http://{REGISTRY}/v2/{repository}/manifests/{tag}");
        let header = format!("Content-Type: {kind}");
        curl(
            cluster,
            &[
                "--fail",
                "-X",
                "PUT",
                "-H",
                &header,
                "--data-binary",
                &manifest.to_string(),
                &url,
            ],
        )
        .map(drop)
    }

    fn descriptor(&self, kind: &str, digest: &str, size: u64) -> Value {
        json!({"mediaType": kind, "digest": digest, "size": size})
    }
}

/// The registry protocol's monolithic upload: a POST for the place, a PUT with the content.
fn push_blob(cluster: &Cluster, repository: &str, file: &Path, digest: &str) -> Result<()> {
    let start = format!("http://{REGISTRY}/v2/{repository}/blobs/uploads/");
    let headers = curl(
        cluster,
        &["--fail", "-X", "POST", "-D", "-", "-o", "/dev/null", &start],
    )?;
    let location = headers.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .starts_with("location:")
            .then(|| line[9..].trim().to_owned())
    });
    let location = location.context("the registry named no place to upload to")?;
    let content = format!("@{}", file.display());
    let kind = "Content-Type: application/octet-stream";
    curl(
        cluster,
        &[
            "--fail",
            "-X",
            "PUT",
            "-H",
            kind,
            "--data-binary",
            &content,
            &format!("{location}&digest={digest}"),
        ],
    )
    .map(drop)
}

/// Debian's registry, serving from a directory on the cluster's machine until dropped.
struct Registry(Child);

impl Registry {
    fn start(cluster: &Cluster, dir: &Path) -> Result<Registry> {
        let config = dir.join("registry.yml");
        let storage = dir.join("storage");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{REGISTRY}'}}\n",
                storage.display()
            ),
        )?;
        let mut command = cluster.host().command("docker-registry");
        command
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Registry(
            command.spawn().context("starting docker-registry")?,
        ))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // nsenter becomes the registry, so this is the registry's own process.
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("ending docker-registry: {error}");
        }
    }
}

fn curl(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let mut command = cluster.host().command("curl");
    run(command
        .args(["--silent", "--show-error", "--max-time", "20"])
        .args(arguments))
}

fn digest(file: &Path) -> Result<String> {
    let line = run(Command::new("sha256sum").arg(file))?;
    Ok(format!(
        "sha256:{}",
        line.split(' ').next().unwrap_or_default()
    ))
}

/// What the command printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
