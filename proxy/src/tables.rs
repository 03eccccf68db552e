//! What is installed in the maps, and how it is brought to what is desired.
//!
//! Every operation may be cut off by a failing write at any point and simply be repeated: what was written is recorded at
//! once, and each step compares before it writes. The order of steps is what keeps the promise that a reader in the
//! kernel sees a Service's old backends or its new ones: backends, slots, the run by one store, frontends; and the other
//! way when something goes. After a restart the state is read back from the maps ([`Tables::recover`]), and what nobody
//! desires any more is removed when everything that is desired is in ([`Tables::prune`]).

mod dsr;
mod entries;
mod ids;
mod installed;
mod port;
mod recover;
mod settings;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use dataplane_ebpf::abi::{Name, Run};
use dataplane_ebpf::addr::{Addr, Port as WirePort};
use model::{ServiceName, TrafficPolicy};
use tracing::info;

use crate::desired::{Port, PortKey};
use crate::maps::{self, Maps};
use crate::sorted::Sorted;
use entries::Entries;
use ids::{Ids, Runs};
use installed::Installed;

/// Why a Service port is not installed as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A write failed.
    #[error(transparent)]
    Maps(maps::Error),
    /// There is no room.
    #[error("{map} is full")]
    Full {
        /// The map.
        map: &'static str,
    },
}

/// A backend that is gone, or no longer serves while others do, and that a connected UDP socket once got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retired {
    /// Its id.
    pub id: u32,
    /// The generation that connections to it recorded.
    pub generation: u32,
    /// Where it listened.
    pub address: Addr,
    /// Where it listened.
    pub port: WirePort,
}

/// The policies, each of which has a run.
const POLICIES: [TrafficPolicy; 2] = [TrafficPolicy::Cluster, TrafficPolicy::Local];

/// The installed state of all Service ports.
#[derive(Debug)]
pub struct Tables<M> {
    maps: M,
    /// Boxed, for a tree's nodes are half empty when it grows in order.
    ports: BTreeMap<Arc<PortKey>, Box<Installed>>,
    /// What an earlier daemon left and nobody has asked for yet, by service id.
    orphans: BTreeMap<u32, Box<Installed>>,
    /// What an earlier daemon called the orphans, and ids that have nothing but a name.
    orphan_names: BTreeMap<u32, Name>,
    entries: Entries,
    services: Ids,
    backends: Ids,
    slots: Runs,
    /// The runs of services in quarantine: readers that have just found the service still use them.
    leaving: BTreeMap<u32, [Option<Run>; 2]>,
    retired: Vec<Retired>,
    full: Option<&'static str>,
}

/// How much of the tables is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Service ids: Service ports, one a family.
    pub services: u64,
    /// Backend ids.
    pub backends: u64,
    /// Slots, those in quarantine included.
    pub slots: u64,
    /// Frontends and node ports.
    pub entries: u64,
}

impl<M: Maps> Tables<M> {
    /// Takes over what is in `maps`, be it nothing.
    pub fn recover(maps: M, now: Instant) -> Result<Self, Error> {
        let sizes = maps.sizes();
        let entries = Entries::recover(&maps)?;
        let (mut backends, known_backends) = recover::backends(&maps)?;
        let mut owners: BTreeSet<u32> = entries.services();
        let mut ranges = recover::source_ranges(&maps)?;
        let orphan_names: BTreeMap<u32, Name> = maps.names()?.into_iter().collect();
        owners.extend(backends.keys());
        let mut dsr = recover::local_backends(&maps)?;
        owners.extend(ranges.keys());
        owners.extend(dsr.keys());
        owners.extend(orphan_names.keys());
        owners.retain(|id| *id < sizes.services);

        let mut slots = Runs::new(sizes.slots);
        let mut orphans = BTreeMap::new();
        let mut used_backends = BTreeSet::new();
        for id in owners {
            let held: Sorted<_, _> = backends.remove(&id).into_iter().flatten().collect();
            used_backends.extend(held.values().map(|held| held.id));
            let mut installed = recover::service(&maps, &mut slots, id, held)?;
            installed.source_ranges = ranges.remove(&id).unwrap_or_default();
            installed.dsr = dsr.remove(&id).unwrap_or_default();
            orphans.insert(id, Box::new(installed));
        }
        let mut backend_ids = Ids::new(sizes.backends, &known_backends);
        // What an earlier daemon had in quarantine goes through all of it.
        for id in known_backends.difference(&used_backends) {
            backend_ids.retire(*id, now);
        }
        let used_services = orphans.keys().copied().collect();
        if !orphans.is_empty() {
            info!(
                services = orphans.len(),
                backends = used_backends.len(),
                "took over what was installed"
            );
        }
        Ok(Self {
            maps,
            ports: BTreeMap::new(),
            orphans,
            orphan_names,
            entries,
            services: Ids::new(sizes.services, &used_services),
            backends: backend_ids,
            slots,
            leaving: BTreeMap::new(),
            retired: Vec::new(),
            full: None,
        })
    }

    /// Brings the Service called `name` to `desired`, its entries in the maps. Ports are tried one by one, and the first
    /// error is returned when all have been.
    pub fn apply(
        &mut self,
        name: &ServiceName,
        desired: &[Port],
        now: Instant,
    ) -> Result<(), Error> {
        let mut result = Ok(());
        for port in desired {
            result = result.and(self.put(port, now));
        }
        // New ports come before old ones go, so that an address that moves from one to the other is never without.
        let is_wanted = |key: &PortKey| desired.iter().any(|port| port.key == *key);
        let ports = self.ports_of(name);
        let gone: Vec<PortKey> = ports.filter(|key| !is_wanted(key)).cloned().collect();
        for key in gone {
            result = result.and(self.remove(&key, now));
        }
        if let Err(Error::Full { map }) = result {
            self.full = Some(map);
        }
        result
    }

    /// Whether something is still there that an earlier daemon left: entries lead to it that others could not take over yet.
    pub fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// Removes what an earlier daemon left and nobody has asked for. To be called once everything desired was applied.
    pub fn prune(&mut self, now: Instant) -> Result<(), Error> {
        let mut result = self.entries.remove_unclaimed(&mut self.maps);
        let unnamed = self.orphans.keys().copied();
        let unnamed: Vec<u32> = unnamed.filter(|id| !self.entries.lead_to(*id)).collect();
        for id in unnamed {
            if let Some(mut installed) = self.orphans.remove(&id) {
                let done = self.dissolve(&mut installed, now);
                if done.is_err() {
                    self.orphans.insert(id, installed);
                }
                result = result.and(done);
            }
        }
        self.orphan_names = BTreeMap::new();
        result
    }

    /// The backends for whose connected UDP sockets something has to be done, since this was asked last.
    pub fn take_retired(&mut self) -> Vec<Retired> {
        std::mem::take(&mut self.retired)
    }

    /// The map that something did not fit into, since this was asked last.
    pub fn take_full(&mut self) -> Option<&'static str> {
        self.full.take()
    }

    /// Goes on with `maps`, which hold what the present ones do and have room for more.
    pub fn grow(&mut self, maps: M) {
        let sizes = maps.sizes();
        self.maps = maps;
        self.services.grow(sizes.services);
        self.backends.grow(sizes.backends);
        self.slots.grow(sizes.slots);
    }

    /// Frees what has been in quarantine long enough.
    pub fn release(&mut self, now: Instant) -> Result<(), Error> {
        self.slots.release(now);
        while let Some(id) = self.services.next_released(now) {
            if let Err(error) = self.clear_service(id) {
                self.services.retire(id, now);
                return Err(error);
            }
            for run in self.leaving.remove(&id).into_iter().flatten().flatten() {
                self.slots.give_back(run);
            }
            self.services.give_back(id);
        }
        while let Some(id) = self.backends.next_released(now) {
            if let Err(error) = self.clear_backend(id) {
                self.backends.retire(id, now);
                return Err(error);
            }
            self.backends.give_back(id);
        }
        Ok(())
    }

    /// When [`Self::release`] has something to do next.
    pub fn next_release(&self) -> Option<Instant> {
        let next = [
            self.services.next_release(),
            self.backends.next_release(),
            self.slots.next_release(),
        ];
        next.into_iter().flatten().min()
    }

    /// The Services that have anything installed, in order of names.
    pub fn services(&self) -> BTreeSet<ServiceName> {
        self.ports
            .keys()
            .map(|key| key.name.service.clone())
            .collect()
    }

    /// The ports of the Service called `name` that have anything installed.
    fn ports_of<'a>(&'a self, name: &'a ServiceName) -> impl Iterator<Item = &'a PortKey> {
        let all = self.ports.range::<PortKey, _>(PortKey::first_of(name)..);
        let all = all.map(|(key, _)| key.as_ref());
        all.take_while(move |key| key.name.service == *name)
    }

    /// How much is in use.
    pub fn usage(&self) -> Usage {
        let slots = u64::from(self.maps.sizes().slots);
        Usage {
            services: self.services.used() as u64,
            backends: self.backends.used() as u64,
            slots: slots - self.slots.free(),
            entries: self.entries.len() as u64,
        }
    }

    /// The maps.
    pub fn maps(&self) -> &M {
        &self.maps
    }

    /// The maps, for what concerns no Service.
    pub fn maps_mut(&mut self) -> &mut M {
        &mut self.maps
    }

    /// Gives up the maps, as a daemon does that ends.
    pub fn into_maps(self) -> M {
        self.maps
    }
}

impl From<maps::Error> for Error {
    fn from(error: maps::Error) -> Self {
        match error.is_full() {
            true => Self::Full { map: error.map },
            false => Self::Maps(error),
        }
    }
}
