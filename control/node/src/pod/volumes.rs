//! A pod's volumes: directories that its containers mount.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath, Pod,
    Secret, ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use kube::Api;
use kube::api::PostParams;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::env;
use super::files::{self, Files};
use super::kinds;
use super::resources;
use crate::agent::Agent;
use crate::fs::at;

const DEFAULT_MODE: i32 = 0o644;
/// Volumes from the API are small; this bounds their memory.
const API_VOLUME_SIZE: &str = "size=16m,mode=0755";
const TOKEN_SECONDS: i64 = 3607;

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {reason}")]
pub(crate) struct VolumeError {
    volume: String,
    reason: String,
}

/// Makes all volumes of a pod in its directory. Can be called again.
pub(crate) async fn prepare(agent: &Agent, pod: &Pod, dir: &Path) -> Result<(), VolumeError> {
    for volume in kinds::spec(pod).volumes.iter().flatten() {
        let failed = |reason: String| VolumeError {
            volume: volume.name.clone(),
            reason,
        };
        make(agent, pod, volume, dir).await.map_err(failed)?;
    }
    Ok(())
}

/// Brings volumes from the API up to date. A source that has gone missing leaves the old files.
pub(crate) async fn refresh(agent: &Agent, pod: &Pod, dir: &Path, addresses: &[IpAddr]) {
    for volume in kinds::spec(pod)
        .volumes
        .iter()
        .flatten()
        .filter(|volume| is_from_api(volume))
    {
        let path = path_of(dir, &volume.name);
        let refreshed = match collect(agent, pod, volume, addresses).await {
            Ok(files) => {
                files::publish(&path, &files, group(pod)).map_err(|error| error.to_string())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = refreshed {
            tracing::debug!(volume = volume.name, error, "a volume is not up to date");
        }
    }
}

/// True if [`refresh`] has anything to do for the pod.
pub(crate) fn has_from_api(pod: &Pod) -> bool {
    kinds::spec(pod).volumes.iter().flatten().any(is_from_api)
}

/// True if the pod's volume `name` is one whose files come from the API: containers only read those.
pub(crate) fn named_is_from_api(pod: &Pod, name: &str) -> bool {
    let mut volumes = kinds::spec(pod).volumes.iter().flatten();
    volumes.any(|volume| volume.name == name && is_from_api(volume))
}

fn is_from_api(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
}

/// Unmounts what [`prepare`] mounted in the pod's directory. Blocks.
pub(crate) fn unmount_all(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir.join("volumes"))
        .into_iter()
        .flatten()
        .flatten()
    {
        unmount(&entry.path())?;
    }
    unmount(&dir.join("shm"))
}

/// Unmounts a path if something is mounted there.
pub(crate) fn unmount(path: &Path) -> io::Result<()> {
    use nix::errno::Errno;
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(at(path)(error.into())),
    }
}

/// Where a volume of a prepared pod is.
pub(crate) fn path(dir: &Path, volume: &Volume) -> PathBuf {
    match &volume.host_path {
        Some(source) => PathBuf::from(&source.path),
        None => path_of(dir, &volume.name),
    }
}

fn path_of(dir: &Path, name: &str) -> PathBuf {
    dir.join("volumes").join(name)
}

fn group(pod: &Pod) -> Option<u32> {
    let context = kinds::spec(pod).security_context.as_ref()?;
    context.fs_group.and_then(|group| u32::try_from(group).ok())
}

async fn make(agent: &Agent, pod: &Pod, volume: &Volume, dir: &Path) -> Result<(), String> {
    let path = path_of(dir, &volume.name);
    if let Some(source) = &volume.host_path {
        return host_path(source);
    }
    fs::create_dir_all(&path).map_err(|error| at(&path)(error).to_string())?;
    if let Some(source) = &volume.empty_dir {
        return empty_dir(source, &path, group(pod)).map_err(|error| error.to_string());
    }
    if is_from_api(volume) {
        let files = collect(agent, pod, volume, &[]).await?;
        let secret = volume.secret.is_some() || volume.projected.is_some();
        let publish = || -> io::Result<()> {
            if secret && !is_mount(&path)? {
                mount_tmpfs(&path, API_VOLUME_SIZE)?;
            }
            files::publish(&path, &files, group(pod)).map(drop)
        };
        return publish().map_err(|error| error.to_string());
    }
    Err("this kind of volume is not supported".into())
}

/// True if something is mounted at `path`.
fn is_mount(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let parent = path.parent().map(fs::metadata).transpose()?;
    Ok(parent.is_some_and(|parent| fs::metadata(path).is_ok_and(|own| own.dev() != parent.dev())))
}

/// Mounts a file system in memory, whose device nodes mean nothing.
pub(crate) fn mount_tmpfs(path: &Path, options: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options))
        .map_err(|error| at(path)(error.into()))
}

fn empty_dir(source: &EmptyDirVolumeSource, path: &Path, group: Option<u32>) -> io::Result<()> {
    if source.medium.as_deref() == Some("Memory") && !is_mount(path)? {
        let limit = source
            .size_limit
            .as_ref()
            .and_then(|limit| resources::parse(&limit.0))
            .map(|milli| milli / 1000);
        mount_tmpfs(
            path,
            &limit.map_or_else(String::new, |bytes| format!("size={bytes}")),
        )?;
    }
    std::os::unix::fs::chown(path, None, group)?;
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn host_path(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = PathBuf::from(&source.path);
    let kind = fs::metadata(&path).map(|metadata| metadata.file_type());
    let is = |test: fn(&fs::FileType) -> bool| kind.as_ref().is_ok_and(test);
    let fits = match source.type_.as_deref().unwrap_or_default() {
        "" => kind.is_ok() || fs::create_dir_all(&path).is_ok(),
        "DirectoryOrCreate" => {
            is(fs::FileType::is_dir) || (kind.is_err() && fs::create_dir_all(&path).is_ok())
        }
        "FileOrCreate" => {
            is(fs::FileType::is_file) || (kind.is_err() && fs::File::create(&path).is_ok())
        }
        "Directory" => is(fs::FileType::is_dir),
        "File" => is(fs::FileType::is_file),
        "Socket" => is(FileTypeExt::is_socket),
        "CharDevice" => is(FileTypeExt::is_char_device),
        "BlockDevice" => is(FileTypeExt::is_block_device),
        _ => false,
    };
    if fits {
        Ok(())
    } else {
        let kind = source.type_.as_deref().unwrap_or_default();
        Err(format!(
            "hostPath type check failed: {} is not of type {kind:?}",
            path.display()
        ))
    }
}

/// The files of a volume from the API.
async fn collect(
    agent: &Agent,
    pod: &Pod,
    volume: &Volume,
    addresses: &[IpAddr],
) -> Result<Files, String> {
    let collector = Collector {
        agent,
        pod,
        addresses,
    };
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        return collector
            .config_map(&source.name, source.items.as_deref(), source.optional, mode)
            .await;
    }
    if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        return collector
            .secret(name, source.items.as_deref(), source.optional, mode)
            .await;
    }
    if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        return collector.downward(source.items.as_deref().unwrap_or_default(), mode);
    }
    let mut files = Files::new();
    if let Some(source) = &volume.projected {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for projection in source.sources.iter().flatten() {
            files.extend(collector.projection(projection, mode).await?);
        }
    }
    Ok(files)
}

struct Collector<'a> {
    agent: &'a Agent,
    pod: &'a Pod,
    addresses: &'a [IpAddr],
}

impl Collector<'_> {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    async fn projection(&self, projection: &VolumeProjection, mode: i32) -> Result<Files, String> {
        if let Some(source) = &projection.config_map {
            return self
                .config_map(&source.name, source.items.as_deref(), source.optional, mode)
                .await;
        }
        if let Some(source) = &projection.secret {
            return self
                .secret(&source.name, source.items.as_deref(), source.optional, mode)
                .await;
        }
        if let Some(source) = &projection.downward_api {
            return self.downward(source.items.as_deref().unwrap_or_default(), mode);
        }
        if let Some(source) = &projection.service_account_token {
            return self.token(source).await;
        }
        Err("this kind of projection is not supported".into())
    }

    async fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
    ) -> Result<Files, String> {
        let Some(map) = self.agent.get::<ConfigMap>(self.namespace(), name).await? else {
            return missing(optional, format!("configmap {name:?} not found"));
        };
        let text = map
            .data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, text)| (key, text.into_bytes()));
        let binary = map
            .binary_data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, bytes)| (key, bytes.0));
        choose(text.chain(binary).collect(), items, optional, mode)
    }

    async fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
    ) -> Result<Files, String> {
        let Some(secret) = self.agent.get::<Secret>(self.namespace(), name).await? else {
            return missing(optional, format!("secret {name:?} not found"));
        };
        let data = secret
            .data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, bytes)| (key, bytes.0));
        choose(data.collect(), items, optional, mode)
    }

    fn downward(&self, items: &[DownwardAPIVolumeFile], mode: i32) -> Result<Files, String> {
        let place = self.agent.place(self.addresses);
        let mut files = Files::new();
        for item in items {
            let value = if let Some(field) = &item.field_ref {
                env::field(&field.field_path, self.pod, &place)
            } else if let Some(resource) = &item.resource_field_ref {
                let divisor = resource
                    .divisor
                    .as_ref()
                    .map(|quantity| quantity.0.as_str());
                let of = resource.container_name.as_deref();
                let Some((_, container)) = kinds::containers(kinds::spec(self.pod)).next() else {
                    continue;
                };
                env::resource(&resource.resource, of, divisor, container, self.pod, &place)
            } else {
                continue;
            };
            let value = value.map_err(|error| error.to_string())?;
            insert(
                &mut files,
                &item.path,
                value.into_bytes(),
                item.mode.unwrap_or(mode),
            )?;
        }
        Ok(files)
    }

    async fn token(&self, source: &ServiceAccountTokenProjection) -> Result<Files, String> {
        let account = kinds::spec(self.pod)
            .service_account_name
            .as_deref()
            .unwrap_or("default");
        let api: Api<ServiceAccount> = Api::namespaced(self.agent.client.clone(), self.namespace());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(source.audience.clone().into_iter().collect()),
                expiration_seconds: Some(source.expiration_seconds.unwrap_or(TOKEN_SECONDS)),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: self.pod.metadata.name.clone(),
                    uid: self.pod.metadata.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let answer = api
            .create_token_request(account, &PostParams::default(), &request)
            .await;
        let answer = answer.map_err(|error| format!("failed to fetch token: {error}"))?;
        let token = answer
            .status
            .and_then(|status| status.token)
            .unwrap_or_default();
        let mut files = Files::new();
        insert(&mut files, &source.path, token.into_bytes(), DEFAULT_MODE)?;
        Ok(files)
    }
}

fn missing(optional: Option<bool>, message: String) -> Result<Files, String> {
    if optional == Some(true) {
        Ok(Files::new())
    } else {
        Err(message)
    }
}

/// All keys, or the chosen ones under their paths.
fn choose(
    mut data: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: i32,
) -> Result<Files, String> {
    let mut files = Files::new();
    match items.filter(|items| !items.is_empty()) {
        None => {
            for (key, content) in data {
                insert(&mut files, &key, content, mode)?;
            }
        }
        Some(items) => {
            for item in items {
                match data.remove(&item.key) {
                    Some(content) => {
                        insert(&mut files, &item.path, content, item.mode.unwrap_or(mode))?
                    }
                    None if optional == Some(true) => {}
                    None => {
                        return Err(format!("references non-existent config key: {}", item.key));
                    }
                }
            }
        }
    }
    Ok(files)
}

fn insert(files: &mut Files, path: &str, content: Vec<u8>, mode: i32) -> Result<(), String> {
    let path = PathBuf::from(path);
    if !files::is_inside(&path) {
        return Err(format!("invalid path {}", path.display()));
    }
    files.insert(path, (content, mode.cast_unsigned() & 0o777));
    Ok(())
}
