//! The sample application: its images, made from files on this machine, and its manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use control_api::pki::Pki;
use control_node::image::{FileContent, ImageConfig, ImageFile, ImageStore};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::discovery::ApiResource;
use kube::{Client, ResourceExt as _};
use serde::Deserialize as _;

use super::layout::Layout;

/// The host under which the sample's Ingress answers.
pub(crate) const HOST: &str = "hello.portolan.test";
/// The sample's Deployment, Service and Ingress.
pub(crate) const NAME: &str = "hello";
const TLS_SECRET: &str = "hello-tls";
const MANIFEST: &str = include_str!("sample.yaml");
const BUSYBOX: &str = "/bin/busybox";

/// Puts the sample's images into the store that the nodes share.
pub(crate) fn import_images(layout: &Layout) -> Result<()> {
    let store = ImageStore::open(&layout.image_dir()).context("opening the image store")?;
    let server = [ImageFile {
        path: "/serve-hostname".into(),
        content: FileContent::Copy(serve_hostname()?),
    }];
    let config = ImageConfig {
        entrypoint: vec!["/serve-hostname".into()],
        ..Default::default()
    };
    store
        .import_files("portolan.dev/serve-hostname:v1", &server, &config)
        .context("making the image serve-hostname")?;
    if !Path::new(BUSYBOX).exists() {
        tracing::warn!(
            "{BUSYBOX} is missing, so there is no busybox image: `apt-get install busybox-static` brings it"
        );
        return Ok(());
    }
    let config = ImageConfig {
        cmd: vec!["sh".into()],
        env: vec!["PATH=/bin".into()],
        ..Default::default()
    };
    store
        .import_files("busybox:v1", &busybox()?, &config)
        .context("making the image busybox")?;
    Ok(())
}

/// The program under its own name, and a link for each of its applets.
fn busybox() -> Result<Vec<ImageFile>> {
    let list = Command::new(BUSYBOX)
        .arg("--list")
        .output()
        .context("asking busybox for its applets")?;
    let link = |applet: &str| ImageFile {
        path: Path::new("/bin").join(applet),
        content: FileContent::Link("busybox".into()),
    };
    let applets = String::from_utf8_lossy(&list.stdout);
    let mut files: Vec<ImageFile> = applets
        .lines()
        .filter(|applet| *applet != "busybox")
        .map(link)
        .collect();
    files.push(ImageFile {
        path: BUSYBOX.into(),
        content: FileContent::Copy(BUSYBOX.into()),
    });
    files.push(ImageFile {
        path: "/tmp".into(),
        content: FileContent::Directory(0o1777),
    });
    Ok(files)
}

fn serve_hostname() -> Result<PathBuf> {
    let path = std::env::current_exe()
        .context("finding this program's own path")?
        .with_file_name("serve-hostname");
    path.is_file().then_some(path.clone()).with_context(|| {
        format!(
            "{} is missing: build it with `make build` (it must be linked statically, because its image holds nothing else)",
            path.display()
        )
    })
}

/// Creates or updates the sample's objects; running it again changes nothing.
pub(crate) async fn apply(client: &Client, pki: &Pki) -> Result<()> {
    apply_certificate(client, pki).await?;
    for document in serde_norway::Deserializer::from_str(MANIFEST) {
        let object =
            DynamicObject::deserialize(document).context("parsing the sample's manifest")?;
        apply_object(client, &object)
            .await
            .with_context(|| format!("applying the sample's {}", object.name_any()))?;
    }
    Ok(())
}

async fn apply_object(client: &Client, object: &DynamicObject) -> Result<()> {
    let types = object
        .types
        .as_ref()
        .context("the sample's objects name their types")?;
    let resource = ApiResource::from_gvk(&types.try_into()?);
    let api: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    api.patch(
        &object.name_any(),
        &PatchParams::apply("portolan-up").force(),
        &Patch::Apply(object),
    )
    .await?;
    Ok(())
}

/// The sample's certificate is signed by the cluster's own authority, so that `curl --cacert` verifies it.
async fn apply_certificate(client: &Client, pki: &Pki) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    if secrets.get_opt(TLS_SECRET).await?.is_some() {
        return Ok(());
    }
    let (certificate, key) = pki.serving_cert(HOST, &[HOST.to_owned()])?;
    let data = BTreeMap::from([
        ("tls.crt".to_owned(), ByteString(certificate.into_bytes())),
        ("tls.key".to_owned(), ByteString(key.into_bytes())),
    ]);
    let secret = Secret {
        metadata: kube::api::ObjectMeta {
            name: Some(TLS_SECRET.into()),
            ..Default::default()
        },
        type_: Some("kubernetes.io/tls".into()),
        data: Some(data),
        ..Default::default()
    };
    secrets
        .create(&Default::default(), &secret)
        .await
        .context("creating the sample's certificate")?;
    Ok(())
}
