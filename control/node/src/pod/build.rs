//! Translates a container of a pod into what the runtime understands. No I/O.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, SecurityContext, VolumeMount};

use super::env::{ConfigError, expand, expand_all};
use super::kinds;
use super::resources::{Qos, oom_score};
use super::volumes;
use crate::image::Image;
use crate::net::PodNamespaces;
use crate::runtime::cgroup::CgroupDirs;
use crate::runtime::{
    ContainerSpec, Mount, Namespaces, Process, Security, User, UserName, capabilities,
};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Everything a container is made of.
pub(crate) struct Parts<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) image: &'a Image,
    pub(crate) layers_dir: &'a Path,
    pub(crate) environment: &'a [(String, String)],
    /// The pod's directory.
    pub(crate) pod_dir: &'a Path,
    /// The container's directory of this attempt.
    pub(crate) dir: &'a Path,
    pub(crate) log: &'a Path,
    pub(crate) volumes: &'a BTreeMap<String, PathBuf>,
    pub(crate) namespaces: &'a PodNamespaces,
    /// The pod's cgroup.
    pub(crate) cgroup: &'a CgroupDirs,
    /// Name of the container's cgroup in it.
    pub(crate) cgroup_name: &'a str,
    /// The node's memory in bytes.
    pub(crate) memory: u64,
}

/// The runtime's specification of a container.
pub(crate) fn spec(parts: &Parts<'_>) -> Result<ContainerSpec, ConfigError> {
    let pod = kinds::spec(parts.pod);
    let context = parts.container.security_context.clone().unwrap_or_default();
    Ok(ContainerSpec {
        process: process(parts, &context)?,
        layers: parts
            .image
            .layers
            .iter()
            .map(|layer| parts.layers_dir.join(layer))
            .collect(),
        read_only: context.read_only_root_filesystem == Some(true),
        mounts: mounts(parts)?,
        namespaces: Namespaces {
            net: parts.namespaces.net.clone(),
            ipc: parts.namespaces.ipc.clone(),
            uts: Some(parts.namespaces.uts.clone()),
            host_pid: pod.host_pid == Some(true),
        },
        cgroups: parts.cgroup.child(parts.cgroup_name),
        shim_cgroups: parts.cgroup.child("shim"),
        oom_score: oom_score(Qos::of(pod), parts.container, parts.memory),
        log: parts.log.to_owned(),
    })
}

fn process(parts: &Parts<'_>, context: &SecurityContext) -> Result<Process, ConfigError> {
    let (container, config) = (parts.container, &parts.image.config);
    let arguments = arguments(container, config, parts.environment);
    if arguments.is_empty() {
        return Err(ConfigError("no command specified".into()));
    }
    let directory = container
        .working_dir
        .as_deref()
        .filter(|dir| !dir.is_empty());
    let directory = directory.or(Some(config.working_dir.as_str()).filter(|dir| !dir.is_empty()));
    let mut environment: Vec<String> = parts
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if !environment.iter().any(|pair| pair.starts_with("PATH=")) {
        environment.push(DEFAULT_PATH.to_owned());
    }
    let terminal = container.tty == Some(true);
    if terminal && !environment.iter().any(|pair| pair.starts_with("TERM=")) {
        environment.push("TERM=xterm".to_owned());
    }
    Ok(Process {
        arguments,
        environment,
        directory: Path::new("/").join(directory.unwrap_or("/")),
        user: user(parts, context),
        security: security(parts.pod, context)?,
        terminal,
        stdin: container.stdin == Some(true),
    })
}

/// The pod's command and arguments over the image's: a command of the pod's own makes the image's arguments void.
fn arguments(
    container: &Container,
    config: &crate::image::ImageConfig,
    environment: &[(String, String)],
) -> Vec<String> {
    let given = |list: &Option<Vec<String>>| {
        list.as_ref()
            .filter(|list| !list.is_empty())
            .map(|list| expand_all(list, environment))
    };
    let (command, args) = (given(&container.command), given(&container.args));
    match (command, args) {
        (Some(command), args) => [command, args.unwrap_or_default()].concat(),
        (None, Some(args)) => [config.entrypoint.clone(), args].concat(),
        (None, None) => [config.entrypoint.clone(), config.cmd.clone()].concat(),
    }
}

fn user(parts: &Parts<'_>, context: &SecurityContext) -> User {
    let pod = kinds::spec(parts.pod)
        .security_context
        .clone()
        .unwrap_or_default();
    let id =
        |own: Option<i64>, pods: Option<i64>| own.or(pods).and_then(|id| u32::try_from(id).ok());
    let groups = pod
        .supplemental_groups
        .iter()
        .flatten()
        .copied()
        .chain(pod.fs_group);
    User {
        name: match id(context.run_as_user, pod.run_as_user) {
            Some(uid) => UserName::Id(uid),
            None => UserName::Image(parts.image.config.user.clone()),
        },
        group: id(context.run_as_group, pod.run_as_group),
        groups: groups
            .filter_map(|group| u32::try_from(group).ok())
            .collect(),
        must_not_be_root: context.run_as_non_root.or(pod.run_as_non_root) == Some(true),
    }
}

fn security(pod: &Pod, context: &SecurityContext) -> Result<Security, ConfigError> {
    let privileged = context.privileged == Some(true);
    let capabilities = if privileged {
        capabilities::all()
    } else {
        let wanted = context.capabilities.clone().unwrap_or_default();
        let (add, drop) = (
            wanted.add.unwrap_or_default(),
            wanted.drop.unwrap_or_default(),
        );
        capabilities::choose(&add, &drop)
            .map_err(|name| ConfigError(format!("unknown capability {name:?}")))?
    };
    let pods = kinds::spec(pod)
        .security_context
        .as_ref()
        .and_then(|context| context.seccomp_profile.as_ref());
    let profile = context
        .seccomp_profile
        .as_ref()
        .or(pods)
        .map(|profile| profile.type_.as_str());
    Ok(Security {
        capabilities,
        privileged,
        no_new_privileges: context.allow_privilege_escalation == Some(false),
        seccomp: profile == Some("RuntimeDefault") && !privileged,
    })
}

/// The pod's volumes and the files that every container gets, outer paths before inner ones.
fn mounts(parts: &Parts<'_>) -> Result<Vec<Mount>, ConfigError> {
    let mut mounts = Vec::new();
    for mount in parts.container.volume_mounts.iter().flatten() {
        mounts.push(volume_mount(parts, mount)?);
    }
    let file = |name: &str, target: &str, read_only| Mount {
        source: parts.pod_dir.join(name),
        sub_path: None,
        target: target.into(),
        read_only,
    };
    let host_ipc = kinds::spec(parts.pod).host_ipc == Some(true);
    let shm = if host_ipc {
        Mount {
            source: "/dev/shm".into(),
            ..file("", "/dev/shm", false)
        }
    } else {
        file("shm", "/dev/shm", false)
    };
    let message = parts
        .container
        .termination_message_path
        .as_deref()
        .unwrap_or(TERMINATION_LOG);
    let message = Mount {
        source: parts.dir.join("termination-log"),
        ..file("", message, false)
    };
    for own in [
        file("hosts", "/etc/hosts", false),
        file("hostname", "/etc/hostname", false),
        file("resolv.conf", "/etc/resolv.conf", false),
        shm,
        message,
    ] {
        if !mounts.iter().any(|mount| mount.target == own.target) {
            mounts.push(own);
        }
    }
    mounts.sort_by_key(|mount| mount.target.components().count());
    Ok(mounts)
}

fn volume_mount(parts: &Parts<'_>, mount: &VolumeMount) -> Result<Mount, ConfigError> {
    let source = parts.volumes.get(&mount.name).ok_or_else(|| {
        ConfigError(format!(
            "cannot find volume {:?} to mount into container {:?}",
            mount.name, parts.container.name
        ))
    })?;
    let get = |name: &str| {
        parts
            .environment
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    };
    let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => Some(path.clone()),
        (_, Some(text)) if !text.is_empty() => Some(expand(text, get)),
        _ => None,
    };
    Ok(Mount {
        source: source.clone(),
        sub_path: sub_path.map(PathBuf::from),
        target: PathBuf::from(&mount.mount_path),
        read_only: volumes::named_is_from_api(parts.pod, &mount.name)
            || mount.read_only == Some(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageConfig;

    #[test]
    fn the_pods_command_replaces_the_images() {
        let config = ImageConfig {
            entrypoint: vec!["entry".into()],
            cmd: vec!["cmd".into()],
            ..ImageConfig::default()
        };
        let check = |command: &[&str], args: &[&str], expected: &[&str]| {
            let owned = |list: &[&str]| Some(list.iter().map(|&text| text.to_owned()).collect());
            let container = Container {
                command: owned(command),
                args: owned(args),
                ..Container::default()
            };
            assert_eq!(
                arguments(&container, &config, &[("A".into(), "1".into())]),
                expected
            );
        };
        check(&[], &[], &["entry", "cmd"]);
        check(&[], &["x$(A)"], &["entry", "x1"]);
        check(&["run"], &[], &["run"]);
        check(&["run"], &["x"], &["run", "x"]);
    }
}
