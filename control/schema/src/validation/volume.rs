//! Volumes of pods.

use std::collections::BTreeSet;

use super::causes::{At, Causes};
use super::{container, names};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
/// Fields a file of the downward API may show, besides single labels and annotations.
const FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// Checks the volumes of a pod spec; returns their names.
pub(super) fn all(spec: &At<'_>, causes: &mut Causes) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for volume in spec.items("volumes") {
        let name = volume.child("name");
        causes.required_and(&name, names::dns_label);
        if !name.is_empty() && !seen.insert(name.text().to_owned()) {
            causes.duplicate(&name, name.value);
        }
        source(&volume, causes);
    }
    seen
}

/// Exactly one source.
fn source(volume: &At<'_>, causes: &mut Causes) {
    let keys = volume.value.as_object().into_iter().flatten();
    let mut sources = keys
        .filter(|(key, value)| *key != "name" && !value.is_null())
        .map(|(key, _)| key.as_str());
    let Some(first) = sources.next() else {
        causes.required(volume, "must specify a volume type");
        return;
    };
    for other in sources {
        causes.forbidden(
            &volume.child(other),
            "may not specify more than 1 volume type",
        );
    }
    content(first, &volume.child(first), causes);
}

fn content(kind: &str, source: &At<'_>, causes: &mut Causes) {
    let at = |key: &str| source.child(key);
    match kind {
        "emptyDir" if at("sizeLimit").text().starts_with('-') => {
            causes.forbidden(
                &at("sizeLimit"),
                "SizeLimit field must be a valid resource quantity",
            );
        }
        "hostPath" => host_path(source, causes),
        "configMap" => {
            required(&at("name"), causes);
            files(source, causes);
        }
        "secret" => {
            required(&at("secretName"), causes);
            files(source, causes);
        }
        "downwardAPI" => {
            mode(&at("defaultMode"), causes);
            downward(source, causes);
        }
        "projected" => {
            mode(&at("defaultMode"), causes);
            source
                .items("sources")
                .iter()
                .for_each(|one| projection(one, causes));
        }
        "persistentVolumeClaim" => required(&at("claimName"), causes),
        _ => {}
    }
}

fn required(at: &At<'_>, causes: &mut Causes) {
    if at.is_empty() {
        causes.required(at, "");
    }
}

fn host_path(source: &At<'_>, causes: &mut Causes) {
    let path = source.child("path");
    required(&path, causes);
    if path.text().split('/').any(|part| part == "..") {
        causes.invalid(&path, "must not contain '..'");
    }
    let kinds = [
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    causes.one_of_if_set(&source.child("type"), &kinds);
}

/// Keys of a ConfigMap or Secret, shown as files.
fn files(source: &At<'_>, causes: &mut Causes) {
    mode(&source.child("defaultMode"), causes);
    for item in source.items("items") {
        required(&item.child("key"), causes);
        file_path(&item.child("path"), causes);
        mode(&item.child("mode"), causes);
    }
}

fn file_path(path: &At<'_>, causes: &mut Causes) {
    required(path, causes);
    container::inner_path(path, causes);
    if path.text().starts_with("..") && !path.text().starts_with("../") && path.text() != ".." {
        causes.invalid(path, "must not start with '..'");
    }
}

fn downward(source: &At<'_>, causes: &mut Causes) {
    for item in source.items("items") {
        file_path(&item.child("path"), causes);
        mode(&item.child("mode"), causes);
        let (field, resource) = (item.child("fieldRef"), item.child("resourceFieldRef"));
        match (field.is_set(), resource.is_set()) {
            (true, true) => causes.invalid(
                &item,
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            ),
            (true, false) => container::field_path(&field.child("fieldPath"), FIELDS, causes),
            (false, true) => {
                required(&resource.child("containerName"), causes);
                required(&resource.child("resource"), causes);
            }
            (false, false) => {
                causes.required(&item, "one of fieldRef and resourceFieldRef is required")
            }
        }
    }
}

fn projection(projection: &At<'_>, causes: &mut Causes) {
    for key in ["configMap", "secret"] {
        let source = projection.child(key);
        if source.is_set() {
            required(&source.child("name"), causes);
            files(&source, causes);
        }
    }
    downward(&projection.child("downwardAPI"), causes);
    let token = projection.child("serviceAccountToken");
    if token.is_set() {
        let seconds = token.child("expirationSeconds");
        if seconds.is_set() && seconds.number() < 600 {
            causes.invalid(&seconds, "may not specify a duration less than 10 minutes");
        }
        required(&token.child("path"), causes);
    }
}

fn mode(mode: &At<'_>, causes: &mut Causes) {
    if !(0..=0o777).contains(&mode.number()) {
        causes.invalid(mode, MODE);
    }
}
