//! A container's environment: what the pod says, with references resolved and `$(NAME)` expanded. No I/O.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, PodSpec, Secret, Service};

use super::kinds;
use super::resources;

/// A container's configuration names something that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(pub(crate) String);

/// What environments and volumes refer to, fetched beforehand. A missing object is absent from the map.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) config_maps: BTreeMap<String, ConfigMap>,
    pub(crate) secrets: BTreeMap<String, Secret>,
}

/// The names of the ConfigMaps and Secrets that an environment refers to.
pub(crate) fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    for source in container.env_from.iter().flatten() {
        config_maps.extend(
            source
                .config_map_ref
                .iter()
                .map(|reference| reference.name.clone()),
        );
        secrets.extend(
            source
                .secret_ref
                .iter()
                .map(|reference| reference.name.clone()),
        );
    }
    for from in container
        .env
        .iter()
        .flatten()
        .filter_map(|variable| variable.value_from.as_ref())
    {
        config_maps.extend(
            from.config_map_key_ref
                .iter()
                .map(|reference| reference.name.clone()),
        );
        secrets.extend(
            from.secret_key_ref
                .iter()
                .map(|reference| reference.name.clone()),
        );
    }
    (config_maps, secrets)
}

/// What the machine and the node say about a pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    pub(crate) node_name: String,
    pub(crate) host_ips: Vec<IpAddr>,
    pub(crate) pod_ips: Vec<IpAddr>,
    /// The node's CPUs in thousandths and memory in bytes: a container's limits if it has none.
    pub(crate) capacity: (u64, u64),
}

/// The container's own variables in the order they are defined, on top of `base` (the image's and the services').
pub(crate) fn resolve(
    container: &Container,
    pod: &Pod,
    place: &Place,
    sources: &Sources,
    base: Vec<(String, String)>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut result = Variables::default();
    base.into_iter()
        .for_each(|(name, value)| result.set(name, value));
    for (name, value) in env_from(container, sources)? {
        result.set(name, value);
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(variable, container, pod, place, sources, &result)? {
            result.set(variable.name.clone(), value);
        }
    }
    Ok(result.0)
}

/// Variables in order, each name once.
#[derive(Default)]
struct Variables(Vec<(String, String)>);

impl Variables {
    fn set(&mut self, name: String, value: String) {
        match self.0.iter_mut().find(|(existing, _)| *existing == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((name, value)),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(existing, _)| existing == name)
            .map(|(_, value)| value.as_str())
    }
}

fn env_from(
    container: &Container,
    sources: &Sources,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut result = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.clone().unwrap_or_default();
        let data = if let Some(reference) = &source.config_map_ref {
            match sources.config_maps.get(&reference.name) {
                Some(map) => map.data.clone().unwrap_or_default(),
                None if reference.optional == Some(true) => BTreeMap::new(),
                None => {
                    return Err(ConfigError(format!(
                        "configmap {:?} not found",
                        reference.name
                    )));
                }
            }
        } else if let Some(reference) = &source.secret_ref {
            match sources.secrets.get(&reference.name) {
                Some(secret) => text_of(secret),
                None if reference.optional == Some(true) => BTreeMap::new(),
                None => {
                    return Err(ConfigError(format!(
                        "secret {:?} not found",
                        reference.name
                    )));
                }
            }
        } else {
            BTreeMap::new()
        };
        result.extend(
            data.into_iter()
                .map(|(key, value)| (format!("{prefix}{key}"), value)),
        );
    }
    Ok(result)
}

fn text_of(secret: &Secret) -> BTreeMap<String, String> {
    let data = secret.data.iter().flatten();
    data.map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned()))
        .collect()
}

/// The value of one variable; none if it refers to something optional that is missing.
fn value_of(
    variable: &EnvVar,
    container: &Container,
    pod: &Pod,
    place: &Place,
    sources: &Sources,
    defined: &Variables,
) -> Result<Option<String>, ConfigError> {
    let Some(from) = &variable.value_from else {
        let value = variable.value.as_deref().unwrap_or_default();
        return Ok(Some(expand(value, |name| defined.get(name))));
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(reference) = &from.config_map_key_ref {
        let map = sources.config_maps.get(&reference.name);
        let value = map.and_then(|map| map.data.as_ref()?.get(&reference.key).cloned());
        return found(
            value,
            map.is_some(),
            reference.optional,
            "configmap",
            "ConfigMap",
            &reference.name,
            &reference.key,
            namespace,
        );
    }
    if let Some(reference) = &from.secret_key_ref {
        let secret = sources.secrets.get(&reference.name);
        let value = secret.and_then(|secret| secret.data.as_ref()?.get(&reference.key));
        let value = value.map(|value| String::from_utf8_lossy(&value.0).into_owned());
        return found(
            value,
            secret.is_some(),
            reference.optional,
            "secret",
            "Secret",
            &reference.name,
            &reference.key,
            namespace,
        );
    }
    if let Some(reference) = &from.field_ref {
        return field(&reference.field_path, pod, place).map(Some);
    }
    if let Some(reference) = &from.resource_field_ref {
        let divisor = reference
            .divisor
            .as_ref()
            .map(|quantity| quantity.0.as_str());
        return resource(
            &reference.resource,
            reference.container_name.as_deref(),
            divisor,
            container,
            pod,
            place,
        )
        .map(Some);
    }
    Ok(Some(String::new()))
}

#[expect(
    clippy::too_many_arguments,
    reason = "they are the parts of one message"
)]
fn found(
    value: Option<String>,
    exists: bool,
    optional: Option<bool>,
    kind: &str,
    title: &str,
    name: &str,
    key: &str,
    namespace: &str,
) -> Result<Option<String>, ConfigError> {
    match (value, exists) {
        (Some(value), _) => Ok(Some(value)),
        (None, _) if optional == Some(true) => Ok(None),
        (None, true) => Err(ConfigError(format!(
            "couldn't find key {key} in {title} {namespace}/{name}"
        ))),
        (None, false) => Err(ConfigError(format!("{kind} {name:?} not found"))),
    }
}

/// The value of a downward API field.
pub(crate) fn field(path: &str, pod: &Pod, place: &Place) -> Result<String, ConfigError> {
    let meta = &pod.metadata;
    let spec = kinds::spec(pod);
    let list = |addresses: &[IpAddr]| {
        addresses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    let first = |addresses: &[IpAddr]| {
        addresses
            .first()
            .map(ToString::to_string)
            .unwrap_or_default()
    };
    let map = |map: &Option<BTreeMap<String, String>>| {
        map.iter()
            .flatten()
            .map(|(key, value)| format!("{key}={value:?}"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    if let Some((name, key)) = path
        .strip_suffix("']")
        .and_then(|path| path.split_once("['"))
    {
        let map = match name {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(ConfigError(format!("unsupported fieldPath: {path}"))),
        };
        return Ok(map
            .as_ref()
            .and_then(|map| map.get(key))
            .cloned()
            .unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => map(&meta.labels),
        "metadata.annotations" => map(&meta.annotations),
        "spec.nodeName" => place.node_name.clone(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => first(&place.host_ips),
        "status.hostIPs" => list(&place.host_ips),
        "status.podIP" => first(&place.pod_ips),
        "status.podIPs" => list(&place.pod_ips),
        _ => return Err(ConfigError(format!("unsupported fieldPath: {path}"))),
    })
}

/// The value of a downward API resource, as a whole number of `divisor`s, rounded up.
pub(crate) fn resource(
    resource: &str,
    of: Option<&str>,
    divisor: Option<&str>,
    container: &Container,
    pod: &Pod,
    place: &Place,
) -> Result<String, ConfigError> {
    let container = match of {
        Some(name) => kinds::container(kinds::spec(pod), name).map(|(_, container)| container),
        None => Some(container),
    };
    let container = container
        .ok_or_else(|| ConfigError(format!("container {} not found", of.unwrap_or_default())))?;
    let (cpu, memory) = (
        u128::from(place.capacity.0),
        u128::from(place.capacity.1) * 1000,
    );
    let value = match resource {
        "limits.cpu" => resources::limit(container, "cpu").unwrap_or(cpu),
        "limits.memory" => resources::limit(container, "memory").unwrap_or(memory),
        "requests.cpu" => resources::request(container, "cpu").unwrap_or(0),
        "requests.memory" => resources::request(container, "memory").unwrap_or(0),
        _ => {
            return Err(ConfigError(format!(
                "unsupported container resource : {resource}"
            )));
        }
    };
    let divisor = divisor
        .and_then(resources::parse)
        .filter(|&divisor| divisor > 0)
        .unwrap_or(1000);
    Ok(value.div_ceil(divisor).to_string())
}

/// Replaces `$(NAME)` by the variable's value; unknown names stay as they are, and `$$` is a `$`.
pub(crate) fn expand<'a>(text: &str, get: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = rest
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match get(name) {
                Some(value) => result.push_str(value),
                None => result.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            result.push('$');
        }
    }
    result.push_str(rest);
    result
}

/// Arguments or a command with variables expanded.
pub(crate) fn expand_all(texts: &[String], variables: &[(String, String)]) -> Vec<String> {
    let get = |name: &str| {
        variables
            .iter()
            .find(|(existing, _)| existing == name)
            .map(|(_, value)| value.as_str())
    };
    texts.iter().map(|text| expand(text, get)).collect()
}

/// The variables that tell a pod about services: those of its namespace if it wants them, and the API server's always.
pub(crate) fn of_services<'a>(
    services: impl Iterator<Item = &'a Service>,
    namespace: &str,
    spec: &PodSpec,
) -> Vec<(String, String)> {
    let links = spec.enable_service_links != Some(false);
    let mut chosen: Vec<(&str, &Service)> = services
        .filter_map(|service| {
            let of = service.metadata.namespace.as_deref()?;
            let name = service.metadata.name.as_deref()?;
            let api = of == "default" && name == "kubernetes";
            (api || (links && of == namespace)).then_some((name, service))
        })
        .collect();
    chosen.sort_by_key(|(name, _)| *name);
    chosen
        .into_iter()
        .flat_map(|(name, service)| of_service(name, service))
        .collect()
}

fn of_service(name: &str, service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else {
        return vec![];
    };
    let Some(address) = spec
        .cluster_ip
        .as_deref()
        .filter(|ip| !ip.is_empty() && *ip != "None")
    else {
        return vec![];
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else {
        return vec![];
    };
    let shown = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let prefix = upper(name);
    let protocol = |protocol: &Option<String>| {
        protocol
            .clone()
            .unwrap_or_else(|| "TCP".into())
            .to_lowercase()
    };
    let mut result = vec![
        (format!("{prefix}_SERVICE_HOST"), address.to_owned()),
        (format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            result.push((
                format!("{prefix}_SERVICE_PORT_{}", upper(name)),
                port.port.to_string(),
            ));
        }
    }
    result.push((
        format!("{prefix}_PORT"),
        format!("{}://{shown}:{}", protocol(&first.protocol), first.port),
    ));
    for port in ports {
        let protocol = protocol(&port.protocol);
        let prefix = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        result.push((
            prefix.clone(),
            format!("{protocol}://{shown}:{}", port.port),
        ));
        result.push((format!("{prefix}_PROTO"), protocol));
        result.push((format!("{prefix}_PORT"), port.port.to_string()));
        result.push((format!("{prefix}_ADDR"), address.to_owned()));
    }
    result
}

#[cfg(test)]
mod tests;
