//! Probes and lifecycle hooks: what is done to find out about a container.

use serde_json::Value;

use super::causes::{At, Causes};
use super::names;

const HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];

/// Checks a probe; `name` is its field.
pub(super) fn probe(probe: &At<'_>, name: &str, causes: &mut Causes) {
    if !probe.is_set() {
        return;
    }
    handler(probe, &HANDLERS, causes);
    for key in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        causes.not_negative(&probe.child(key));
    }
    let grace = probe.child("terminationGracePeriodSeconds");
    if grace.is_set() && grace.number() <= 0 {
        causes.invalid(&grace, "must be greater than 0");
    }
    let threshold = probe.child("successThreshold");
    if name == "readinessProbe" {
        if grace.is_set() {
            causes.invalid(&grace, "must not be set for readinessProbes");
        }
    } else if threshold.is_set() && threshold.number() != 1 {
        causes.invalid(&threshold, "must be 1");
    }
}

/// Exactly one of the known handlers, and what each needs.
pub(super) fn handler(handler: &At<'_>, known: &[&str], causes: &mut Causes) {
    let mut present = known
        .iter()
        .map(|key| (*key, handler.child(key)))
        .filter(|(_, at)| at.is_set());
    let Some((kind, at)) = present.next() else {
        causes.required(handler, "must specify a handler type");
        return;
    };
    for (_, other) in present {
        causes.forbidden(&other, "may not specify more than 1 handler type");
    }
    match kind {
        "exec" if at.child("command").is_empty() => causes.required(&at.child("command"), ""),
        "httpGet" => http_get(&at, causes),
        "tcpSocket" => port_or_name(&at.child("port"), causes),
        "grpc" => causes.invalid_all(
            &at.child("port"),
            names::port_number(at.child("port").number()),
        ),
        _ => {}
    }
}

fn http_get(get: &At<'_>, causes: &mut Causes) {
    if get.child("path").is_empty() {
        causes.required(&get.child("path"), "");
    }
    port_or_name(&get.child("port"), causes);
    causes.one_of(&get.child("scheme"), &["HTTP", "HTTPS"]);
    for header in get.items("httpHeaders") {
        let name = header.child("name");
        causes.invalid_all(&name, names::header_name(name.text()));
    }
}

/// A port's number or name.
pub(super) fn port_or_name(port: &At<'_>, causes: &mut Causes) {
    let problems = match port.value {
        Value::String(name) => names::port_name(name),
        value => names::port_number(value.as_i64().unwrap_or(0)),
    };
    let zero = Value::from(0);
    let value = if port.is_set() { port.value } else { &zero };
    for problem in problems {
        causes.invalid_value(port, value, &problem);
    }
}
