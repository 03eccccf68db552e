//! The names of the cluster's zone: where Services, pods and the server itself live in it.

use hickory_proto::rr::Name;

use crate::Error;

/// The cluster's zone and the fixed names in it.
#[derive(Debug, Clone)]
pub(crate) struct Zone {
    /// The zone itself: `cluster.local.`
    pub(crate) apex: Name,
    /// Above every Service: `svc.cluster.local.`
    pub(crate) services: Name,
    /// Above every pod address: `pod.cluster.local.`
    pub(crate) pods: Name,
    /// Above the server: `dns.cluster.local.`
    pub(crate) dns: Name,
    /// This server: `ns.dns.cluster.local.`
    pub(crate) server: Name,
    /// Who is responsible for the zone, as a name: `hostmaster.cluster.local.`
    pub(crate) mailbox: Name,
    /// Where the version of the schema is written: `dns-version.cluster.local.`
    pub(crate) version: Name,
}

impl Zone {
    /// The zone of the cluster domain `domain`, with or without final dot.
    pub(crate) fn new(domain: &str) -> Result<Self, Error> {
        let error = |reason: String| Error::Domain {
            domain: domain.to_owned(),
            reason,
        };
        let mut apex = Name::from_ascii(domain).map_err(|source| error(source.to_string()))?;
        apex.set_fqdn(true);
        if apex.is_root() {
            return Err(error("it is empty".to_owned()));
        }
        let below = |parent: &Name, label: &str| {
            child(parent, label).ok_or_else(|| error("it is too long".to_owned()))
        };
        let dns = below(&apex, "dns")?;
        Ok(Self {
            services: below(&apex, "svc")?,
            pods: below(&apex, "pod")?,
            server: below(&dns, "ns")?,
            mailbox: below(&apex, "hostmaster")?,
            version: below(&apex, "dns-version")?,
            dns,
            apex,
        })
    }

    /// True if `name` is the zone's.
    pub(crate) fn contains(&self, name: &Name) -> bool {
        self.apex.zone_of(name)
    }

    /// The name above all Services of a namespace.
    pub(crate) fn namespace(&self, namespace: &str) -> Option<Name> {
        child(&self.services, namespace)
    }
}

/// The name `label.parent`, unless that is too long for a name.
pub(crate) fn child(parent: &Name, label: &str) -> Option<Name> {
    parent.prepend_label(label.as_bytes()).ok()
}
