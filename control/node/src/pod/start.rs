//! Starts one container: image, configuration, runtime.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{ConfigMap, Container as ApiContainer, Pod, Secret};

use super::build::{self, Parts};
use super::env::{self, ConfigError, Sources};
use super::kinds;
use super::machine::{ImageSeen, StartFailure};
use super::prepare::{self, hostname};
use super::resources;
use super::volumes;
use crate::agent::Agent;
use crate::events::Level;
use crate::fs::ignore_missing;
use crate::image::{Credentials, Image, full_name};
use crate::runtime::{Container, RuntimeError};

/// Starts a container of a prepared pod for the `attempt`-th time.
pub(crate) async fn start(
    agent: &Arc<Agent>,
    pod: &Pod,
    name: &str,
    attempt: u32,
) -> Result<(Container, ImageSeen), StartFailure> {
    let (_, container) =
        kinds::container(kinds::spec(pod), name).ok_or_else(|| config("no such container"))?;
    let image = image(agent, pod, container).await?;
    let created = create(agent, pod, container, &image, attempt).await;
    let tell = |level, reason, message| agent.recorder.pod(pod, Some(name), level, reason, message);
    match created {
        Ok(running) => {
            tell(
                Level::Normal,
                "Created",
                format!("Created container: {name}"),
            );
            tell(
                Level::Normal,
                "Started",
                format!("Started container {name}"),
            );
            let id = image
                .manifest
                .as_ref()
                .map_or_else(|| image.id.clone(), |digest| pinned(&image.name, digest));
            Ok((
                running,
                ImageSeen {
                    name: image.name,
                    id,
                },
            ))
        }
        Err(failure) => {
            let message = match &failure {
                StartFailure::Run(message) | StartFailure::Config { message, .. } => message,
                StartFailure::Image { message, .. } => message,
            };
            tell(Level::Warning, "Failed", format!("Error: {message}"));
            Err(failure)
        }
    }
}

/// The name of an image by its digest.
fn pinned(name: &str, digest: &str) -> String {
    let repository = name
        .rsplit_once('@')
        .map_or(name, |(repository, _)| repository);
    let repository = match repository.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => repository,
    };
    format!("{repository}@{digest}")
}

fn config(message: impl Into<String>) -> StartFailure {
    StartFailure::Config {
        reason: "CreateContainerConfigError",
        message: message.into(),
    }
}

impl From<ConfigError> for StartFailure {
    fn from(error: ConfigError) -> Self {
        config(error.0)
    }
}

/// The container's image, pulled if its policy says so. An image that was loaded and not pulled has no registry to ask,
/// so it is used as it is whatever the policy.
async fn image(
    agent: &Arc<Agent>,
    pod: &Pod,
    container: &ApiContainer,
) -> Result<Image, StartFailure> {
    let asked = container.image.as_deref().unwrap_or_default();
    let tell = |level, reason, message| {
        agent
            .recorder
            .pod(pod, Some(&container.name), level, reason, message)
    };
    let full = full_name(asked).map_err(|_| {
        let message = format!("Failed to apply default image tag {asked:?}: couldn't parse image name {asked:?}: invalid reference format");
        tell(Level::Warning, "InspectFailed", message.clone());
        tell(Level::Warning, "Failed", "Error: InvalidImageName".into());
        StartFailure::Image { reason: "InvalidImageName", message }
    })?;
    let present = agent
        .images
        .get(&full)
        .map_err(|error| config(error.to_string()))?;
    let policy = container
        .image_pull_policy
        .as_deref()
        .unwrap_or(if full.ends_with(":latest") {
            "Always"
        } else {
            "IfNotPresent"
        });
    match (present, policy) {
        (Some(image), policy) if policy != "Always" || image.manifest.is_none() => {
            tell(
                Level::Normal,
                "Pulled",
                format!("Container image {asked:?} already present on machine"),
            );
            Ok(image)
        }
        (None, "Never") => {
            let message =
                format!("Container image {asked:?} is not present with pull policy of Never");
            tell(Level::Warning, "ErrImageNeverPull", message.clone());
            tell(Level::Warning, "Failed", "Error: ErrImageNeverPull".into());
            Err(StartFailure::Image {
                reason: "ErrImageNeverPull",
                message,
            })
        }
        _ => pull(agent, pod, container, asked).await,
    }
}

async fn pull(
    agent: &Arc<Agent>,
    pod: &Pod,
    container: &ApiContainer,
    asked: &str,
) -> Result<Image, StartFailure> {
    let tell = |level, reason, message| {
        agent
            .recorder
            .pod(pod, Some(&container.name), level, reason, message)
    };
    tell(Level::Normal, "Pulling", format!("Pulling image {asked:?}"));
    let began = Instant::now();
    let credentials = credentials(agent, pod, asked).await;
    match agent
        .images
        .pull(asked, &credentials, &agent.args.insecure_registry)
        .await
    {
        Ok(image) => {
            let took = format!("{:.3}s", began.elapsed().as_secs_f64());
            let size = image.size;
            let message = format!(
                "Successfully pulled image {asked:?} in {took} ({took} including waiting). Image size: {size} bytes."
            );
            tell(Level::Normal, "Pulled", message);
            Ok(image)
        }
        Err(error) => {
            tell(
                Level::Warning,
                "Failed",
                format!("Failed to pull image {asked:?}: {error}"),
            );
            tell(Level::Warning, "Failed", "Error: ErrImagePull".into());
            Err(StartFailure::Image {
                reason: "ErrImagePull",
                message: error.to_string(),
            })
        }
    }
}

/// The pod's credentials for an image's registry; none if no pull secret knows it.
async fn credentials(agent: &Agent, pod: &Pod, image: &str) -> Credentials {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let full = full_name(image).unwrap_or_default();
    let registry = full.split('/').next().unwrap_or_default();
    for reference in kinds::spec(pod).image_pull_secrets.iter().flatten() {
        match agent.get::<Secret>(namespace, &reference.name).await {
            Ok(Some(secret)) => {
                if let Some(basic) = credentials_in(&secret, registry) {
                    return Credentials { basic: Some(basic) };
                }
            }
            Ok(None) => tracing::debug!(secret = reference.name, "no such pull secret"),
            Err(error) => {
                tracing::warn!(secret = reference.name, error, "cannot read a pull secret")
            }
        }
    }
    Credentials::default()
}

/// User and password for a registry in a secret of type `kubernetes.io/dockerconfigjson`.
fn credentials_in(secret: &Secret, registry: &str) -> Option<(String, String)> {
    use base64::Engine;
    let config = secret.data.as_ref()?.get(".dockerconfigjson")?;
    let config: serde_json::Value = serde_json::from_slice(&config.0).ok()?;
    let auths = config.get("auths")?.as_object()?;
    let host = |key: &str| {
        let key = key
            .trim_start_matches("https://")
            .trim_start_matches("http://");
        let host = key.split('/').next().unwrap_or_default().to_owned();
        if host == "index.docker.io" {
            "docker.io".to_owned()
        } else {
            host
        }
    };
    let (_, entry) = auths.iter().find(|(key, _)| host(key) == registry)?;
    let text = |name: &str| {
        entry
            .get(name)
            .and_then(|value| value.as_str())
            .map(str::to_owned)
    };
    if let (Some(user), Some(password)) = (text("username"), text("password")) {
        return Some((user, password));
    }
    let auth = base64::engine::general_purpose::STANDARD
        .decode(text("auth")?)
        .ok()?;
    let (user, password) = std::str::from_utf8(&auth).ok()?.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

async fn create(
    agent: &Arc<Agent>,
    pod: &Pod,
    container: &ApiContainer,
    image: &Image,
    attempt: u32,
) -> Result<Container, StartFailure> {
    let pod_dir = agent.pod_dir(pod);
    let record = prepare::find(&pod_dir).map_err(|error| config(error.to_string()))?;
    let record = record.ok_or_else(|| config("the pod is not prepared"))?;
    let environment = environment(agent, pod, container, image, &record.addresses).await?;
    let dir = attempt_dir(&pod_dir, &container.name, attempt);
    let spec = build::spec(&Parts {
        pod,
        container,
        image,
        layers_dir: &agent.images.layers_dir(),
        environment: &environment,
        pod_dir: &pod_dir,
        dir: &dir,
        log: &log_path(&pod_dir, &container.name, attempt),
        volumes: &volume_paths(pod, &pod_dir),
        namespaces: &record.namespaces,
        cgroup: &record.cgroup,
        cgroup_name: &format!("{}-{attempt}", container.name),
        memory: agent.capacity.memory,
    })?;
    make_dir(&pod_dir, &dir, &container.name, attempt)
        .map_err(|error| config(error.to_string()))?;
    let limits = resources::limits(container);
    Container::start(&agent.args.shim, &dir, spec, limits)
        .await
        .map_err(|error| match error {
            RuntimeError::Start(message) => StartFailure::Run(message),
            RuntimeError::Io(error) => StartFailure::Config {
                reason: "CreateContainerError",
                message: error.to_string(),
            },
        })
}

/// Makes the directory of an attempt, and forgets the attempts before the last one.
fn make_dir(pod_dir: &Path, dir: &Path, name: &str, attempt: u32) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join("termination-log"), "")?;
    // Programs of any user may write their last words.
    fs::set_permissions(
        dir.join("termination-log"),
        std::os::unix::fs::PermissionsExt::from_mode(0o666),
    )?;
    if let Some(old) = attempt.checked_sub(2) {
        ignore_missing(fs::remove_dir_all(attempt_dir(pod_dir, name, old)))?;
        for file in crate::runtime::log::files(&log_path(pod_dir, name, old)) {
            ignore_missing(fs::remove_file(file))?;
        }
    }
    Ok(())
}

/// Where an attempt's state is.
pub(crate) fn attempt_dir(pod_dir: &Path, name: &str, attempt: u32) -> PathBuf {
    pod_dir.join(name).join(attempt.to_string())
}

/// Where an attempt's log is.
pub(crate) fn log_path(pod_dir: &Path, name: &str, attempt: u32) -> PathBuf {
    pod_dir.join(name).join(format!("{attempt}.log"))
}

/// Where the volumes are that were made when the pod was prepared.
fn volume_paths(pod: &Pod, dir: &Path) -> BTreeMap<String, PathBuf> {
    let volumes = kinds::spec(pod).volumes.iter().flatten();
    volumes
        .map(|volume| (volume.name.clone(), volumes::path(dir, volume)))
        .collect()
}

async fn environment(
    agent: &Agent,
    pod: &Pod,
    container: &ApiContainer,
    image: &Image,
    addresses: &[std::net::IpAddr],
) -> Result<Vec<(String, String)>, StartFailure> {
    let spec = kinds::spec(pod);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut base: Vec<(String, String)> = image
        .config
        .env
        .iter()
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    base.push((
        "HOSTNAME".into(),
        if spec.host_network == Some(true) {
            agent.args.name.clone()
        } else {
            hostname(pod)
        },
    ));
    base.extend(agent.args.cluster_service_env.iter().cloned());
    let services = agent.services.state();
    base.extend(env::of_services(
        services.iter().map(AsRef::as_ref),
        namespace,
        spec,
    ));

    let sources = sources(agent, namespace, container).await?;
    let addresses = if spec.host_network == Some(true) {
        &agent.args.node_ip
    } else {
        addresses
    };
    Ok(env::resolve(
        container,
        pod,
        &agent.place(addresses),
        &sources,
        base,
    )?)
}

async fn sources(
    agent: &Agent,
    namespace: &str,
    container: &ApiContainer,
) -> Result<Sources, StartFailure> {
    let (config_maps, secrets) = env::references(container);
    let mut sources = Sources::default();
    for name in config_maps {
        if let Some(found) = agent
            .get::<ConfigMap>(namespace, &name)
            .await
            .map_err(config)?
        {
            sources.config_maps.insert(name, found);
        }
    }
    for name in secrets {
        if let Some(found) = agent
            .get::<Secret>(namespace, &name)
            .await
            .map_err(config)?
        {
            sources.secrets.insert(name, found);
        }
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing step fails the test")]

    use super::*;

    #[test]
    fn pull_secrets_are_found_by_registry() {
        use base64::Engine;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let config = serde_json::json!({"auths": {
            "https://index.docker.io/v1/": {"auth": encode("me:secret")},
            "localhost:5000": {"username": "you", "password": "pass"},
        }});
        let secret: Secret = serde_json::from_value(
            serde_json::json!({"data": {".dockerconfigjson": encode(&config.to_string())}}),
        )
        .unwrap();
        let found = |registry| {
            credentials_in(&secret, registry).map(|(user, password)| format!("{user}/{password}"))
        };
        assert_eq!(found("docker.io").as_deref(), Some("me/secret"));
        assert_eq!(found("localhost:5000").as_deref(), Some("you/pass"));
        assert_eq!(found("ghcr.io"), None);
    }

    #[test]
    fn pulled_images_are_named_by_digest() {
        assert_eq!(
            pinned("docker.io/library/a:1", "sha256:x"),
            "docker.io/library/a@sha256:x"
        );
        assert_eq!(
            pinned("localhost:5000/a", "sha256:x"),
            "localhost:5000/a@sha256:x"
        );
    }
}
