//! What one Service port has besides backends and frontends: its name, its settings, and who may use its load balancer's
//! addresses. Each step compares before it writes, and records what it wrote at once.

use std::collections::BTreeSet;

use dataplane_ebpf::abi::{Name, SourceRange};

use super::{Error, Installed, Tables};
use crate::desired::{Port, PortKey, Range};
use crate::maps::{Maps, Settings, next_generation};

impl<M: Maps> Tables<M> {
    pub(super) fn write_name(
        &mut self,
        installed: &mut Installed,
        key: &PortKey,
    ) -> Result<(), Error> {
        if !installed.named {
            self.maps.write_name(installed.id, name(key))?;
            installed.named = true;
        }
        Ok(())
    }

    /// Affinity that is switched on begins anew: whatever clients were held to before is void.
    pub(super) fn write_settings(
        &mut self,
        installed: &mut Installed,
        port: &Port,
    ) -> Result<(), Error> {
        let old = installed.settings;
        let is_switched_on = old.affinity_seconds == 0 && port.affinity_seconds != 0;
        let settings = Settings {
            generation: old.generation,
            flags: port.flags,
            affinity_seconds: port.affinity_seconds,
            affinity_generation: match is_switched_on {
                true => next_generation(old.affinity_generation),
                false => old.affinity_generation,
            },
        };
        if settings != old {
            self.maps.write_service(installed.id, settings)?;
            installed.settings = settings;
        }
        Ok(())
    }

    /// Lets in the clients that may use the load balancer's addresses from now on. To come before the settings, which
    /// close these addresses to everybody else.
    pub(super) fn add_source_ranges(
        &mut self,
        installed: &mut Installed,
        port: &Port,
    ) -> Result<(), Error> {
        for range in &port.source_ranges {
            if !installed.source_ranges.contains(range) {
                let (address, length) = *range;
                let added = SourceRange::new(installed.id, address, length);
                self.maps.insert_source_range(added)?;
                installed.source_ranges.insert(*range);
            }
        }
        Ok(())
    }

    /// Removes the ranges that are not `wanted` any more. To come after the settings and the entries.
    pub(super) fn remove_source_ranges(
        &mut self,
        installed: &mut Installed,
        wanted: &BTreeSet<Range>,
    ) -> Result<(), Error> {
        let gone: Vec<Range> = installed
            .source_ranges
            .difference(wanted)
            .copied()
            .collect();
        for range in gone {
            let (address, length) = range;
            let removed = SourceRange::new(installed.id, address, length);
            self.maps.remove_source_range(removed)?;
            installed.source_ranges.remove(&range);
        }
        Ok(())
    }
}

/// The name of a service id: its port without the protocol, which its frontends tell.
pub(super) fn name(key: &PortKey) -> Name {
    let (service, port) = (&key.name.service, &key.name.port);
    match &**port {
        "" => Name::new(&service.to_string()),
        port => Name::new(&format!("{service}:{port}")),
    }
}
