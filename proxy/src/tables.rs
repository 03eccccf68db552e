//! What is installed in the maps, and how it is brought to what is desired.
//!
//! Every operation may be cut off by a failing write at any point and simply be repeated: what was written is recorded at
//! once, and each step compares before it writes. The order of steps is what keeps the promise that a reader in the
//! kernel sees a Service's old backends or its new ones: backends, slots, the run by one store, frontends; and the other
//! way when something goes. After a restart the state is read back from the maps ([`Tables::recover`]), and what nobody
//! desires any more is removed when everything that is desired is in ([`Tables::prune`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use dataplane_ebpf::abi::{self, Frontend, Run, Service};
use dataplane_ebpf::addr::{Addr, Port as WirePort, Protocol as WireProtocol};
use model::ServiceName;
use model::TrafficPolicy;
use tracing::{info, warn};

use crate::desired::{Entry, Listener, Port, PortKey, Target};
use crate::entries::Entries;
use crate::ids::{Ids, Runs};
use crate::maps::{self, Maps, Settings, next_generation, run_of};

/// Why a Service port is not installed as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A write failed.
    #[error(transparent)]
    Maps(#[from] maps::Error),
    /// There is no room.
    #[error("{map} is full")]
    Full {
        /// The map.
        map: &'static str,
    },
}

/// The owner of a backend that was taken away.
const NOBODY: u32 = u32::MAX;

/// The policies, each of which has a run.
const POLICIES: [TrafficPolicy; 2] = [TrafficPolicy::Cluster, TrafficPolicy::Local];

/// The installed state of all Service ports.
#[derive(Debug)]
pub struct Tables<M> {
    maps: M,
    ports: BTreeMap<PortKey, Installed>,
    /// What an earlier daemon left and nobody has asked for yet, by service id.
    orphans: BTreeMap<u32, Installed>,
    entries: Entries,
    services: Ids,
    backends: Ids,
    slots: Runs,
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

/// The installed state of one Service port.
#[derive(Debug)]
struct Installed {
    id: u32,
    settings: Settings,
    cluster: Published,
    local: Published,
    backends: BTreeMap<Listener, Held>,
    /// Every entry that this port has claimed or may still be named by.
    entries: BTreeSet<Entry>,
}

/// A run and what is in its slots.
#[derive(Debug, Clone)]
struct Published {
    /// Nothing if the map holds a run that makes no sense.
    run: Option<Run>,
    ids: Vec<u32>,
}

/// A backend id in use.
#[derive(Debug, Clone, Copy)]
struct Held {
    id: u32,
    flags: u8,
}

impl<M: Maps> Tables<M> {
    /// Takes over what is in `maps`, be it nothing.
    pub fn recover(maps: M) -> Result<Self, Error> {
        let sizes = maps.sizes();
        let entries = Entries::recover(&maps)?;
        let backends = recover_backends(&maps)?;
        let mut owners: BTreeSet<u32> = entries.services();
        owners.extend(backends.keys());
        owners.retain(|id| *id < sizes.services);

        let mut slots = Runs::new(sizes.slots);
        let mut orphans = BTreeMap::new();
        let mut used_backends = BTreeSet::new();
        for id in owners {
            let held = backends.get(&id).cloned().unwrap_or_default();
            used_backends.extend(held.values().map(|held| held.id));
            let installed = recover_service(&maps, &mut slots, id, held)?;
            orphans.insert(id, installed);
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
            entries,
            services: Ids::new(sizes.services, &used_services),
            backends: Ids::new(sizes.backends, &used_backends),
            slots,
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
        let wanted: BTreeSet<&PortKey> = desired.iter().map(|port| &port.key).collect();
        let gone: Vec<PortKey> = self
            .ports_of(name)
            .filter(|key| !wanted.contains(key))
            .cloned()
            .collect();
        for key in gone {
            result = result.and(self.remove(&key, now));
        }
        result
    }

    /// Removes what an earlier daemon left and nobody has asked for. To be called once everything desired was applied.
    pub fn prune(&mut self, now: Instant) -> Result<(), Error> {
        let mut result = self.entries.remove_unclaimed(&mut self.maps);
        let named = self.entries.services();
        let unnamed: Vec<u32> = self
            .orphans
            .keys()
            .copied()
            .filter(|id| !named.contains(id))
            .collect();
        for id in unnamed {
            if let Some(mut installed) = self.orphans.remove(&id) {
                let done = self.dissolve(&mut installed, now);
                if done.is_err() {
                    self.orphans.insert(id, installed);
                }
                result = result.and(done);
            }
        }
        result
    }

    /// Frees what has been in quarantine long enough.
    pub fn release(&mut self, now: Instant) -> Result<(), Error> {
        self.slots.release(now);
        while let Some(id) = self.services.next_released(now) {
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
        let all = self
            .ports
            .range(PortKey::first_of(name)..)
            .map(|(key, _)| key);
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

// One port.

impl<M: Maps> Tables<M> {
    fn put(&mut self, port: &Port, now: Instant) -> Result<(), Error> {
        let mut installed = self.find_or_create(port)?;
        let result = self.update(&mut installed, port, now);
        self.ports.insert(port.key.clone(), installed);
        result
    }

    fn update(
        &mut self,
        installed: &mut Installed,
        port: &Port,
        now: Instant,
    ) -> Result<(), Error> {
        self.write_backends(installed, port)?;
        for policy in POLICIES {
            self.publish(installed, policy, port.target(policy), now)?;
        }
        self.write_settings(installed, port)?;
        self.claim_entries(installed, port)?;
        let gone = installed
            .backends
            .keys()
            .filter(|listener| !port.backends.contains_key(listener));
        let gone: Vec<Listener> = gone.copied().collect();
        self.retire_backends(installed, gone, now)
    }

    fn remove(&mut self, key: &PortKey, now: Instant) -> Result<(), Error> {
        let Some(mut installed) = self.ports.remove(key) else {
            return Ok(());
        };
        let result = self.withdraw(&mut installed, key, now);
        if result.is_err() {
            self.ports.insert(key.clone(), installed);
        }
        result
    }

    fn withdraw(
        &mut self,
        installed: &mut Installed,
        key: &PortKey,
        now: Instant,
    ) -> Result<(), Error> {
        for entry in &installed.entries {
            self.entries.unclaim(*entry, key);
        }
        self.sync_entries(installed, &BTreeSet::new())?;
        self.dissolve(installed, now)
    }

    /// Frees everything that `installed` holds. No entry names it any more.
    fn dissolve(&mut self, installed: &mut Installed, now: Instant) -> Result<(), Error> {
        for policy in POLICIES {
            self.publish(installed, policy, &Target::Refuse, now)?;
        }
        let all: Vec<Listener> = installed.backends.keys().copied().collect();
        self.retire_backends(installed, all, now)?;
        self.services.retire(installed.id, now);
        Ok(())
    }

    /// The port as it is installed; else as an earlier daemon left it, which is known by one of its entries; else anew.
    fn find_or_create(&mut self, port: &Port) -> Result<Installed, Error> {
        if let Some(installed) = self.ports.remove(&port.key) {
            return Ok(installed);
        }
        let named = port
            .entries
            .keys()
            .filter_map(|entry| self.entries.service_of(*entry));
        let orphan = named.into_iter().find_map(|id| self.orphans.remove(&id));
        orphan.map_or_else(|| self.create(), Ok)
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

    fn init_service(&mut self, id: u32) -> Result<Installed, Error> {
        let old = self.maps.service(id)?;
        for policy in POLICIES {
            if run_of(&old, policy) != Run::REFUSE {
                self.maps.publish(id, policy, Run::REFUSE)?;
            }
        }
        let generation = next_generation(old.generation);
        let settings = Settings {
            generation,
            flags: 0,
            affinity_seconds: 0,
        };
        self.maps.write_service(id, settings)?;
        Ok(Installed::new(id, settings))
    }
}

// The steps.

impl<M: Maps> Tables<M> {
    /// Takes in new backends and the flags of known ones. Either all new ones fit or none is kept, so that a Service that
    /// does not fit takes no room from others.
    fn write_backends(&mut self, installed: &mut Installed, port: &Port) -> Result<(), Error> {
        let mut added = Vec::new();
        let mut result = Ok(());
        for (listener, flags) in &port.backends {
            let written = match installed.backends.get(listener) {
                Some(held) => self.write_flags(*held, *flags),
                None => {
                    added.push(*listener);
                    self.new_backend(installed.id, *listener, port.protocol(), *flags)
                }
            };
            match written {
                Ok(held) => {
                    installed.backends.insert(*listener, held);
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if result.is_err() {
            for listener in added {
                self.forget_backend(installed, listener)?;
            }
        }
        result
    }

    /// Takes back a backend that nothing has ever named.
    fn forget_backend(
        &mut self,
        installed: &mut Installed,
        listener: Listener,
    ) -> Result<(), Error> {
        if let Some(held) = installed.backends.get(&listener) {
            self.clear_backend(held.id)?;
            self.backends.give_back(held.id);
            installed.backends.remove(&listener);
        }
        Ok(())
    }

    fn write_flags(&mut self, held: Held, flags: u8) -> Result<Held, Error> {
        if held.flags != flags {
            let old = self.maps.backend(held.id)?;
            self.maps
                .write_backend(held.id, abi::Backend { flags, ..old })?;
        }
        Ok(Held { flags, ..held })
    }

    fn new_backend(
        &mut self,
        owner: u32,
        (address, port): Listener,
        protocol: WireProtocol,
        flags: u8,
    ) -> Result<Held, Error> {
        let id = self
            .backends
            .take()
            .ok_or(Error::Full { map: "BACKENDS" })?;
        let write = |maps: &mut M| {
            let generation = next_generation(maps.backend(id)?.generation);
            let reserved = owned_by(owner);
            maps.write_backend(
                id,
                abi::Backend {
                    address,
                    port,
                    protocol,
                    flags,
                    generation,
                    reserved,
                },
            )
        };
        match write(&mut self.maps) {
            Ok(()) => Ok(Held { id, flags }),
            Err(error) => {
                self.backends.give_back(id);
                Err(error.into())
            }
        }
    }

    fn publish(
        &mut self,
        installed: &mut Installed,
        policy: TrafficPolicy,
        target: &Target,
        now: Instant,
    ) -> Result<(), Error> {
        let old = installed.published(policy).clone();
        let (run, ids) = match target {
            Target::Refuse => (Run::REFUSE, Vec::new()),
            Target::Drop => (Run::DROP, Vec::new()),
            Target::Backends(listeners) => {
                let ids: Vec<u32> = listeners
                    .iter()
                    .filter_map(|l| installed.backends.get(l))
                    .map(|h| h.id)
                    .collect();
                if ids == old.ids {
                    return Ok(());
                }
                (self.new_run(&ids)?, ids)
            }
        };
        if Some(run) == old.run {
            return Ok(());
        }
        if let Err(error) = self.maps.publish(installed.id, policy, run) {
            if run.count() > 0 {
                self.slots.give_back(run);
            }
            return Err(error.into());
        }
        if let Some(old) = old.run {
            self.slots.retire(old, now);
        }
        *installed.published_mut(policy) = Published {
            run: Some(run),
            ids,
        };
        Ok(())
    }

    fn new_run(&mut self, ids: &[u32]) -> Result<Run, Error> {
        let count = u32::try_from(ids.len()).map_err(|_| Error::Full { map: "SLOTS" })?;
        let run = self.slots.take(count).ok_or(Error::Full { map: "SLOTS" })?;
        if let Err(error) = self.maps.write_slots(run, ids) {
            self.slots.give_back(run);
            return Err(error.into());
        }
        Ok(run)
    }

    fn write_settings(&mut self, installed: &mut Installed, port: &Port) -> Result<(), Error> {
        let generation = installed.settings.generation;
        let settings = Settings {
            generation,
            flags: port.flags,
            affinity_seconds: port.affinity_seconds,
        };
        if settings != installed.settings {
            self.maps.write_service(installed.id, settings)?;
            installed.settings = settings;
        }
        Ok(())
    }

    fn claim_entries(&mut self, installed: &mut Installed, port: &Port) -> Result<(), Error> {
        for (entry, kind) in &port.entries {
            self.entries.claim(
                *entry,
                &port.key,
                Frontend::new(service_in_entry(installed.id, *kind), *kind),
            );
        }
        let wanted: BTreeSet<Entry> = port.entries.keys().copied().collect();
        for entry in installed.entries.difference(&wanted) {
            self.entries.unclaim(*entry, &port.key);
        }
        self.sync_entries(installed, &wanted)
    }

    /// Writes every entry that `installed` had or is to have; afterwards it has those `wanted`.
    fn sync_entries(
        &mut self,
        installed: &mut Installed,
        wanted: &BTreeSet<Entry>,
    ) -> Result<(), Error> {
        installed.entries.extend(wanted);
        let mut result = Ok(());
        for entry in &installed.entries {
            result = result.and(self.entries.sync(*entry, &mut self.maps));
        }
        result?;
        installed.entries.clone_from(wanted);
        Ok(())
    }

    /// Tells connections that these backends are gone. Their addresses stay until the quarantine is over, for readers that
    /// have just found them.
    fn retire_backends(
        &mut self,
        installed: &mut Installed,
        gone: Vec<Listener>,
        now: Instant,
    ) -> Result<(), Error> {
        for listener in gone {
            let Some(held) = installed.backends.get(&listener) else {
                continue;
            };
            let old = self.maps.backend(held.id)?;
            let generation = next_generation(old.generation);
            let reserved = owned_by(NOBODY);
            self.maps.write_backend(
                held.id,
                abi::Backend {
                    flags: 0,
                    generation,
                    reserved,
                    ..old
                },
            )?;
            self.backends.retire(held.id, now);
            installed.backends.remove(&listener);
        }
        Ok(())
    }

    /// A connection that found the backend just before it was taken away has its last generation: that one ends here.
    fn clear_backend(&mut self, id: u32) -> Result<(), Error> {
        let generation = next_generation(self.maps.backend(id)?.generation);
        let cleared = abi::Backend {
            generation,
            ..abi::Backend::default()
        };
        Ok(self.maps.write_backend(id, cleared)?)
    }
}

impl Installed {
    fn new(id: u32, settings: Settings) -> Self {
        let nothing = Published {
            run: Some(Run::REFUSE),
            ids: Vec::new(),
        };
        Self {
            id,
            settings,
            cluster: nothing.clone(),
            local: nothing,
            backends: BTreeMap::new(),
            entries: BTreeSet::new(),
        }
    }

    fn published(&self, policy: TrafficPolicy) -> &Published {
        match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }

    fn published_mut(&mut self, policy: TrafficPolicy) -> &mut Published {
        match policy {
            TrafficPolicy::Cluster => &mut self.cluster,
            TrafficPolicy::Local => &mut self.local,
        }
    }
}

/// A backend belongs to one service, so that connections move when a pod leaves that service, though it may stay in
/// another. The kernel does not need to know by which; an earlier daemon's successor does.
fn owned_by(service: u32) -> [u32; 2] {
    [service, 0]
}

/// The service that `backend` belongs to.
fn owner(backend: &abi::Backend) -> u32 {
    backend.reserved[0]
}

/// The entry of a whole address names no service: those that share it would take turns in it.
fn service_in_entry(id: u32, kind: abi::Kind) -> u32 {
    if kind == abi::Kind::ADDRESS { 0 } else { id }
}

// Recovery.

/// All backends in use, by the service that owns them.
fn recover_backends(maps: &impl Maps) -> Result<BTreeMap<u32, BTreeMap<Listener, Held>>, Error> {
    let mut backends: BTreeMap<u32, BTreeMap<Listener, Held>> = BTreeMap::new();
    for id in 0..maps.sizes().backends {
        let backend = maps.backend(id)?;
        if (backend.address, backend.port) != (Addr::UNSPECIFIED, WirePort::NONE) {
            let listener = (backend.address, backend.port);
            let held = Held {
                id,
                flags: backend.flags,
            };
            backends
                .entry(owner(&backend))
                .or_default()
                .insert(listener, held);
        }
    }
    Ok(backends)
}

fn recover_service(
    maps: &impl Maps,
    slots: &mut Runs,
    id: u32,
    backends: BTreeMap<Listener, Held>,
) -> Result<Installed, Error> {
    let service: Service = maps.service(id)?;
    let mut installed = Installed::new(id, Settings::of(&service));
    installed.backends = backends;
    for policy in POLICIES {
        let run = run_of(&service, policy);
        let published = if run.count() == 0 {
            Published {
                run: Some(run),
                ids: Vec::new(),
            }
        } else if slots.reserve(run) {
            Published {
                run: Some(run),
                ids: maps.slots(run)?,
            }
        } else {
            warn!(
                service = id,
                ?run,
                "a run lies outside its map or in another one; it will be replaced"
            );
            Published {
                run: None,
                ids: Vec::new(),
            }
        };
        *installed.published_mut(policy) = published;
    }
    Ok(installed)
}
