//! Ingresses and their classes.

use std::net::IpAddr;

use serde_json::Value;

use super::causes::{At, Causes};
use super::names;

const MAX_CONTROLLER: usize = 250;

pub(super) fn spec(spec: &At<'_>, causes: &mut Causes) {
    let default = spec.child("defaultBackend");
    if spec.child("rules").is_empty() && !default.is_set() {
        let none = Value::Array(Vec::new());
        let value = if spec.child("rules").is_set() {
            spec.child("rules").value
        } else {
            &none
        };
        causes.invalid_value(
            spec,
            value,
            "either `defaultBackend` or `rules` must be specified",
        );
    }
    if default.is_set() {
        backend(&default, causes);
    }
    for rule in spec.items("rules") {
        host(&rule.child("host"), causes);
        let http = rule.child("http");
        if http.is_set() && http.child("paths").is_empty() {
            causes.required(&http.child("paths"), "");
        }
        for one in http.items("paths") {
            path(&one, causes);
        }
    }
    tls(spec, causes);
    let class = spec.child("ingressClassName");
    if class.is_set() {
        causes.invalid_all(&class, names::dns_subdomain(class.text()));
    }
}

fn host(host: &At<'_>, causes: &mut Causes) {
    if host.is_empty() {
        return;
    }
    if host.text().parse::<IpAddr>().is_ok() {
        causes.invalid(host, "must be a DNS name, not an IP address");
    }
    causes.invalid_all(host, host_syntax(host.text()));
}

fn host_syntax(host: &str) -> names::Problems {
    if host.contains('*') {
        names::wildcard_subdomain(host)
    } else {
        names::dns_subdomain(host)
    }
}

fn path(one: &At<'_>, causes: &mut Causes) {
    let (path, kind) = (one.child("path"), one.child("pathType"));
    if !kind.is_set() {
        causes.required(&kind, "pathType must be specified");
        return;
    }
    let is_absolute = path.text().starts_with('/');
    match kind.text() {
        "Exact" | "Prefix" => {
            if !is_absolute {
                causes.invalid(&path, "must be an absolute path");
            }
            exact_path(&path, causes);
        }
        "ImplementationSpecific" if !is_absolute && !path.is_empty() => {
            causes.invalid(&path, "must be an absolute path");
        }
        "ImplementationSpecific" => {}
        _ => causes.one_of(&kind, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    backend(&one.child("backend"), causes);
}

fn exact_path(path: &At<'_>, causes: &mut Causes) {
    for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
        if path.text().contains(sequence) {
            causes.invalid(path, &format!("must not contain '{sequence}'"));
        }
    }
    for suffix in ["/..", "/."] {
        if path.text().ends_with(suffix) {
            causes.invalid(path, &format!("cannot end with '{suffix}'"));
        }
    }
}

fn backend(backend: &At<'_>, causes: &mut Causes) {
    let (service, resource) = (backend.child("service"), backend.child("resource"));
    let nothing = Value::from("");
    match (service.is_set(), resource.is_set()) {
        (true, true) => causes.invalid_value(
            backend,
            &nothing,
            "cannot set both resource and service backends",
        ),
        (true, false) => service_backend(backend, &service, causes),
        (false, true) => {
            for key in ["kind", "name"] {
                if resource.child(key).is_empty() {
                    causes.required(&resource.child(key), "");
                }
            }
        }
        (false, false) => {
            causes.invalid_value(backend, &nothing, "resource or service backend is required")
        }
    }
}

fn service_backend(backend: &At<'_>, service: &At<'_>, causes: &mut Causes) {
    causes.required_and(&service.child("name"), names::dns_1035_label);
    let (name, number) = (
        service.child("port").child("name"),
        service.child("port").child("number"),
    );
    match (!name.is_empty(), number.number() != 0) {
        (true, true) => causes.invalid_value(
            backend,
            &Value::from(""),
            "cannot set both port name & port number",
        ),
        (true, false) => causes.invalid_all(&name, names::port_name(name.text())),
        (false, true) => causes.invalid_all(&number, names::port_number(number.number())),
        (false, false) => causes.required(backend, "port name or number is required"),
    }
}

fn tls(spec: &At<'_>, causes: &mut Causes) {
    for entry in spec.items("tls") {
        for host in entry.items("hosts") {
            causes.invalid_all(&host, host_syntax(host.text()));
        }
        let secret = entry.child("secretName");
        if !secret.is_empty() {
            causes.invalid_all(&secret, names::dns_subdomain(secret.text()));
        }
    }
}

pub(super) fn class(spec: &At<'_>, causes: &mut Causes) {
    let controller = spec.child("controller");
    if controller.is_empty() {
        causes.required(&controller, "");
    } else {
        if controller.text().len() > MAX_CONTROLLER {
            causes.too_long(&controller, MAX_CONTROLLER);
        }
        domain_path(&controller, causes);
    }
    let parameters = spec.child("parameters");
    if parameters.is_set() {
        class_parameters(&parameters, causes);
    }
}

/// A domain, a slash and a path.
fn domain_path(at: &At<'_>, causes: &mut Causes) {
    match at.text().split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            causes.invalid_all(at, names::dns_subdomain(domain));
        }
        _ => causes.invalid(
            at,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        ),
    }
}

fn class_parameters(parameters: &At<'_>, causes: &mut Causes) {
    for key in ["kind", "name"] {
        if parameters.child(key).is_empty() {
            causes.required(&parameters.child(key), "");
        }
    }
    let (scope, namespace) = (parameters.child("scope"), parameters.child("namespace"));
    match scope.text() {
        "Namespace" if !namespace.is_set() => {
            causes.required(&namespace, "`parameters.scope` is set to 'Namespace'");
        }
        "Cluster" if namespace.is_set() => {
            causes.forbidden(&namespace, "`parameters.scope` is set to 'Cluster'")
        }
        "Namespace" | "Cluster" => {}
        "" => causes.required(&scope, ""),
        _ => causes.one_of(&scope, &["Cluster", "Namespace"]),
    }
}

pub(super) fn class_update(new: &At<'_>, old: &At<'_>, causes: &mut Causes) {
    causes.immutable(
        &new.child("spec").child("controller"),
        &old.child("spec").child("controller"),
    );
}
