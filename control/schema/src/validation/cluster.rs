//! Nodes, leases and events.

use serde_json::Value;

use super::causes::{At, Causes};
use super::names;

pub(super) fn node(spec: &At<'_>, causes: &mut Causes) {
    for taint in spec.items("taints") {
        let at = |key: &str| taint.child(key);
        causes.invalid_all(&at("key"), names::qualified_name(at("key").text()));
        causes.invalid_all(&at("value"), names::label_value(at("value").text()));
        if at("effect").is_empty() {
            causes.required(&at("effect"), "");
        } else {
            causes.one_of(
                &at("effect"),
                &["NoExecute", "NoSchedule", "PreferNoSchedule"],
            );
        }
    }
    for range in spec.items("podCIDRs") {
        if range.text().parse::<ipnetwork::IpNetwork>().is_err() || !range.text().contains('/') {
            causes.invalid(
                &range,
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            );
        }
    }
}

/// Ranges of pod addresses, once given, stay.
pub(super) fn node_update(new: &At<'_>, old: &At<'_>, causes: &mut Causes) {
    let (ranges, before) = (
        new.child("spec").child("podCIDRs"),
        old.child("spec").child("podCIDRs"),
    );
    if !before.is_empty() && ranges.value != before.value {
        causes.forbidden(
            &ranges,
            "node updates may not change podCIDR except from \"\" to valid",
        );
    }
}

pub(super) fn lease(spec: &At<'_>, causes: &mut Causes) {
    let duration = spec.child("leaseDurationSeconds");
    if duration.is_set() && duration.number() <= 0 {
        causes.invalid(&duration, "must be greater than 0");
    }
    causes.not_negative(&spec.child("leaseTransitions"));
    let holder = spec.child("holderIdentity");
    if holder.is_set() && holder.is_empty() {
        causes.invalid(&holder, "must not be empty");
    }
}

/// An event is in its object's namespace; of objects without one, in `default`.
pub(super) fn event(event: &At<'_>, causes: &mut Causes) {
    let about = event.child("involvedObject").child("namespace");
    let own = event.child("metadata").child("namespace");
    let expected = if about.is_empty() {
        "default"
    } else {
        about.text()
    };
    let in_system = about.is_empty() && own.text() == "kube-system";
    if own.text() != expected && !in_system {
        causes.invalid_value(
            &about,
            &Value::from(about.text()),
            "does not match event.namespace",
        );
    }
}
