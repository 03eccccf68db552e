//! Metrics about what is in effect when somebody asks: certificates, Ingresses that lead nowhere, who leads.
//!
//! Nothing is kept for them. There are at most [`MAX_SERIES`] of each, the first ones by name.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::OnceLock;

use model::ObjectName;
use tokio::sync::watch;

use super::series::MAX_SERIES;
use crate::observe::metrics::{Escaped, family, sample};
use crate::routes::{Route, Table, Target};
use crate::tls::Certificates;
use crate::tls::certificate::Facts;

/// The election that a gateway takes part in, if it does.
#[derive(Debug, Default)]
pub struct Election(OnceLock<(String, watch::Receiver<bool>)>);

impl Election {
    /// It is the one about `lease`, and `leads` says whether it is won. The first one counts.
    pub fn follow(&self, lease: &str, leads: watch::Receiver<bool>) {
        self.0.get_or_init(|| (lease.to_owned(), leads));
    }

    pub(super) fn write(&self, out: &mut String, common: &str) -> fmt::Result {
        let status = "nginx_ingress_controller_leader_election_status";
        family(out, status, "gauge", "Whether the gateway leads, by Lease")?;
        let Some((lease, leads)) = self.0.get() else {
            return Ok(());
        };
        let leads = u8::from(*leads.borrow());
        let labels = format_args!("{common},name=\"{}\"", Escaped(lease));
        sample(out, status, labels, leads)
    }
}

/// Writes what is known of the certificates of Secrets, by host. The `class` is the controller's.
pub(super) fn write_certificates(
    out: &mut String,
    class: &str,
    certificates: &Certificates,
) -> fmt::Result {
    let hosts = certificates.by_host();
    let mut hosts: Vec<_> = hosts
        .filter_map(|(host, secret, certificate)| {
            // As in ingress-nginx.
            let host = host.map_or_else(|| "_".to_owned(), |host| host.to_string());
            Some((host, secret?, certificate.facts()))
        })
        .collect();
    hosts.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
    hosts.truncate(MAX_SERIES);
    let labels = |(host, secret, facts): &(String, &ObjectName, &Facts)| {
        let (namespace, name, serial) = (&secret.namespace, &secret.name, &facts.serial);
        format!(
            "namespace=\"{namespace}\",class=\"{class}\",host=\"{host}\",secret_name=\"{name}\",\
             identifier=\"-{serial}\""
        )
    };
    let expiry = "nginx_ingress_controller_ssl_expire_time_seconds";
    family(
        out,
        expiry,
        "gauge",
        "When the certificate of a host expires, in seconds since 1970",
    )?;
    for host in &hosts {
        sample(out, expiry, labels(host), host.2.expires)?;
    }
    let info = "nginx_ingress_controller_ssl_certificate_info";
    family(out, info, "gauge", "The certificate of a host")?;
    for host in &hosts {
        let (labels, facts) = (labels(host), host.2);
        let labels = format_args!(
            "{labels},issuer_organization=\"{}\",issuer_common_name=\"{}\",serial_number=\"{}\",\
             public_key_algorithm=\"{}\"",
            Escaped(&facts.issuer_organization),
            Escaped(&facts.issuer_common_name),
            facts.serial,
            facts.key_algorithm,
        );
        sample(out, info, labels, 1)?;
    }
    Ok(())
}

/// Writes which Ingresses of `routes` name a Service that is not there, or one without endpoints. Others are left out.
pub(super) fn write_orphans(out: &mut String, common: &str, routes: &Table) -> fmt::Result {
    let orphans = "nginx_ingress_controller_orphan_ingress";
    family(
        out,
        orphans,
        "gauge",
        "Ingresses whose backend is missing, by what is missing of it",
    )?;
    let hosts = routes.hosts().iter();
    let all = hosts.flat_map(|(_, host)| host.routes());
    let all = all.flat_map(|route| [Some(route), route.canary.as_ref()]);
    let missing = all.flatten().filter_map(|route| {
        let name = &route.ingress.name;
        Some((name, missing(route)?))
    });
    let missing: BTreeSet<_> = missing.collect();
    for (ingress, missing) in missing.into_iter().take(MAX_SERIES) {
        let (namespace, name) = (&ingress.namespace, &ingress.name);
        let labels = format_args!(
            "{common},namespace=\"{namespace}\",ingress=\"{name}\",type=\"{missing}\""
        );
        sample(out, orphans, labels, 1)?;
    }
    Ok(())
}

/// What is missing of the backend of `route`, in ingress-nginx's words.
fn missing(route: &Route) -> Option<&'static str> {
    match &route.target {
        Target::Nowhere => Some("no-service"),
        Target::Backend(upstream) if upstream.is_empty() => Some("no-endpoint"),
        Target::Backend(_) | Target::WithSlash => None,
    }
}
