//! Hosts that an Ingress gets by annotations beside those of its rules.

use super::ingress::{Part, PathRule, Reading, TlsClaim};
use crate::annotations::hosts::{Hosts, other_www};
use crate::message::host::HostPattern;

/// Adds to `reading` the hosts that `asked` gives it.
pub(super) fn add(reading: &mut Reading, asked: &Hosts) {
    let own: Vec<HostPattern> = reading.parts.keys().cloned().collect();
    for alias in &asked.aliases {
        let mut part = Part {
            is_alias: true,
            ..Part::default()
        };
        for host in &own {
            let served = reading.parts.get(host).cloned().unwrap_or_default();
            for rule in served.paths {
                let is_it = |other: &PathRule| {
                    (other.kind, &other.route.path) == (rule.kind, &rule.route.path)
                };
                if !part.paths.iter().any(is_it) {
                    part.paths.push(rule);
                }
            }
            part.slashless.extend(served.slashless);
            part.default = part.default.or(served.default);
        }
        add_part(reading, alias, own.first(), part);
    }
    for host in own.iter().filter(|_| asked.www) {
        let HostPattern::Exact(name) = host else {
            continue;
        };
        let other = HostPattern::Exact(other_www(name).into());
        let part = Part {
            moved: Some(name.clone()),
            ..Part::default()
        };
        add_part(reading, &other, Some(host), part);
    }
}

/// Adds `host`, which has the certificate of `like`. What the object has already stays.
fn add_part(reading: &mut Reading, host: &HostPattern, like: Option<&HostPattern>, part: Part) {
    if reading.parts.contains_key(host) {
        return;
    }
    reading.parts.insert(host.clone(), part);
    let mut claims = reading.claims.iter();
    let claim = claims.find(|claim| Some(&claim.host) == like).cloned();
    if let Some(claim) = claim.filter(|_| reading.claims.iter().all(|claim| claim.host != *host)) {
        reading.claims.push(TlsClaim {
            host: host.clone(),
            ..claim
        });
    }
}
