//! One Service port: adopted or made, changed step by step, and removed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use dataplane_ebpf::abi::{Kind, Run};

use super::dsr::dsr_backends;
use super::installed::Installed;
use super::{Error, POLICIES, Tables, settings};
use crate::desired::{Listener, Port, PortKey};
use crate::maps::{Maps, Settings, next_generation, run_of};

impl<M: Maps> Tables<M> {
    /// Brings one port to what is desired.
    pub(super) fn put(&mut self, port: &Port, now: Instant) -> Result<(), Error> {
        let (key, mut installed) = match self.ports.remove_entry(&port.key) {
            Some(known) => known,
            None => (Arc::new(port.key.clone()), self.adopt_or_create(port)?),
        };
        let result = self.update(&key, &mut installed, port, now);
        self.ports.insert(key, installed);
        result
    }

    fn update(
        &mut self,
        key: &Arc<PortKey>,
        installed: &mut Installed,
        port: &Port,
        now: Instant,
    ) -> Result<(), Error> {
        self.reserve_entries(key, installed, port);
        self.write_name(installed, &port.key)?;
        self.write_backends(installed, port)?;
        for policy in POLICIES {
            self.publish(installed, policy, port, now)?;
        }
        self.settle_flags(installed, port)?;
        let dsr = dsr_backends(installed, port);
        // Without room, what other nodes send on for a backend here to answer itself is lost; all else goes on.
        let added = self.add_dsr(installed, &dsr);
        self.add_source_ranges(installed, port)?;
        self.write_settings(installed, port)?;
        self.write_entries(installed, port)?;
        self.remove_source_ranges(installed, &port.source_ranges)?;
        self.remove_dsr(installed, &dsr)?;
        let gone = installed
            .backends
            .keys()
            .filter(|listener| !port.backends.contains_key(listener));
        let gone: Vec<Listener> = gone.copied().collect();
        self.retire_backends(installed, gone, now)?;
        installed.backends.shrink();
        added
    }

    /// Removes one port.
    pub(super) fn remove(&mut self, key: &PortKey, now: Instant) -> Result<(), Error> {
        let Some((key, mut installed)) = self.ports.remove_entry(key) else {
            return Ok(());
        };
        let mut result = self.withdraw(&mut installed, &key);
        if result.is_ok() && self.entries.lead_to(installed.id) {
            // An earlier daemon had it for another port too, which has not taken over its entries yet.
            self.orphans.insert(installed.id, installed);
            return Ok(());
        }
        result = result.and_then(|()| self.dissolve(&mut installed, now));
        if result.is_err() {
            self.ports.insert(key, installed);
        }
        result
    }

    fn withdraw(&mut self, installed: &mut Installed, key: &PortKey) -> Result<(), Error> {
        for entry in installed.entries.keys() {
            self.entries.unclaim(*entry, key);
        }
        self.sync_entries(installed, &BTreeMap::new())
    }

    /// Frees everything that `installed` holds. No entry names it any more, but readers may just have found one that did:
    /// its runs stay until the quarantine is over.
    pub(super) fn dissolve(
        &mut self,
        installed: &mut Installed,
        now: Instant,
    ) -> Result<(), Error> {
        self.remove_dsr(installed, &BTreeMap::new())?;
        let all: Vec<Listener> = installed.backends.keys().copied().collect();
        self.retire_backends(installed, all, now)?;
        self.remove_source_ranges(installed, &BTreeSet::new())?;
        let runs = POLICIES.map(|policy| installed.published(policy).run);
        let runs = runs.map(|run| run.filter(|run| run.count() > 0));
        self.leaving.insert(installed.id, runs);
        self.services.retire(installed.id, now);
        Ok(())
    }

    /// The port as an earlier daemon left it, which is known by its cluster address; else anew. Other entries tell nothing:
    /// a node port may have passed from one Service to another meanwhile.
    fn adopt_or_create(&mut self, port: &Port) -> Result<Box<Installed>, Error> {
        let named = port
            .entries
            .iter()
            .filter(|(_, kind)| **kind == Kind::CLUSTER_IP)
            .filter_map(|(entry, _)| self.entries.service_at_cluster_ip(*entry));
        let orphan = named.into_iter().find_map(|id| self.orphans.remove(&id));
        let Some(mut installed) = orphan else {
            return self.create().map(Box::new);
        };
        let known = self.orphan_names.remove(&installed.id);
        installed.named = known == Some(settings::name(&port.key));
        Ok(installed)
    }

    fn create(&mut self) -> Result<Installed, Error> {
        let id = self
            .services
            .take()
            .ok_or(Error::Full { map: "SERVICES" })?;
        let created = self.init_service(id);
        if created.is_err() {
            self.services.give_back(id);
        }
        created
    }

    pub(super) fn clear_service(&mut self, id: u32) -> Result<(), Error> {
        let old = self.maps.service(id)?;
        for policy in POLICIES {
            if run_of(&old, policy) != Run::REFUSE {
                self.maps.publish(id, policy, Run::REFUSE)?;
            }
        }
        Ok(self.maps.remove_name(id)?)
    }

    fn init_service(&mut self, id: u32) -> Result<Installed, Error> {
        let old = self.maps.service(id)?;
        if old.generation != 0 {
            self.maps.clear_stats(id)?;
        }
        let settings = Settings {
            generation: next_generation(old.generation),
            flags: 0,
            affinity_seconds: 0,
            affinity_generation: next_generation(old.affinity_generation),
        };
        self.maps.write_service(id, settings)?;
        Ok(Installed::new(id, settings))
    }
}
