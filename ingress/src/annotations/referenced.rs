//! What Ingresses name beside Services: the Secrets and ConfigMaps of annotations, of whose kinds nothing else is ever read,
//! and names outside the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use model::ObjectName;

/// The entries of a Secret or a ConfigMap.
pub type Data = BTreeMap<String, Vec<u8>>;

/// What an Ingress names beside Services.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// A Secret.
    Secret(ObjectName),
    /// A ConfigMap.
    ConfigMap(ObjectName),
    /// A name in DNS, for which one of its Services stands.
    ExternalName(Box<str>),
}

/// What was found where an annotation points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The object, with this content.
    Present(Data),
    /// Nothing.
    Absent,
    /// The API does not let us see, and why.
    Hidden(String),
}

/// What was found of all objects that annotations name, as far as anybody has looked.
#[derive(Debug, Default)]
pub struct Referenced(BTreeMap<Reference, Seen>);

impl Referenced {
    /// What was found, if anybody has looked.
    pub fn get(&self, reference: &Reference) -> Option<&Seen> {
        self.0.get(reference)
    }

    /// Takes in what was found. What was seen stays when sight is lost. Says whether that changed anything.
    pub fn put(&mut self, reference: Reference, seen: Seen) -> bool {
        if matches!(seen, Seen::Hidden(_)) && self.0.contains_key(&reference) {
            return false;
        }
        let is_new = self.0.get(&reference) != Some(&seen);
        self.0.insert(reference, seen);
        is_new
    }

    /// Forgets all but `wanted`.
    pub fn keep(&mut self, wanted: &BTreeSet<Reference>) {
        self.0.retain(|reference, _| wanted.contains(reference));
    }
}

/// What `secret` contains.
pub fn secret_data(secret: &Secret) -> Data {
    let entries = secret.data.iter().flatten();
    entries
        .map(|(key, ByteString(value))| (key.clone(), value.clone()))
        .collect()
}

/// What `map` contains.
pub fn config_map_data(map: &ConfigMap) -> Data {
    let texts = map.data.iter().flatten();
    let texts = texts.map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let bytes = map.binary_data.iter().flatten();
    let bytes = bytes.map(|(key, ByteString(value))| (key.clone(), value.clone()));
    texts.chain(bytes).collect()
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(name) => write!(f, "Secret {name}"),
            Self::ConfigMap(name) => write!(f, "ConfigMap {name}"),
            Self::ExternalName(name) => f.write_str(name),
        }
    }
}
