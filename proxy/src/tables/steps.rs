//! The steps by which one Service port is brought to what it should be. Each compares before it writes, and records what
//! it wrote at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use dataplane_ebpf::abi::{self, Frontend, Kind, Run};
use dataplane_ebpf::addr::Protocol as WireProtocol;
use dataplane_ebpf::maglev;
use model::TrafficPolicy;

use super::installed::{Held, Published};
use super::{Error, Installed, Retired, Tables};
use crate::desired::{Entry, Listener, Port, PortKey, Target};
use crate::maps::{Maps, next_generation};

/// The flags that say in which runs a backend is.
const RUN_FLAGS: u8 = abi::Backend::IN_CLUSTER_RUN | abi::Backend::IN_LOCAL_RUN;

/// The owner of a backend that was taken away.
const NOBODY: u32 = u32::MAX;

impl<M: Maps> Tables<M> {
    /// Takes in new backends and the flags of known ones. Either all new ones fit or none is kept, so that a Service that
    /// does not fit takes no room from others. Backends count as in the runs in which they were until these are replaced,
    /// and in which they will be, so that no client that is held to one loses it in between.
    pub(super) fn write_backends(
        &mut self,
        installed: &mut Installed,
        port: &Port,
    ) -> Result<(), Error> {
        let mut added = Vec::new();
        let mut result = Ok(());
        let others_serve = port.backends.values().any(|flags| is_serving(*flags));
        for (listener, flags) in &port.backends {
            let written = match installed.backends.get(listener) {
                Some(held) => {
                    if others_serve && is_serving(held.flags) && !is_serving(*flags) {
                        self.report_retired(held.id)?;
                    }
                    self.write_flags(*held, flags | held.flags & RUN_FLAGS)
                }
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

    /// Takes the flags of runs from the backends that are in them no longer. Those that are gone lose all flags later.
    pub(super) fn settle_flags(
        &mut self,
        installed: &mut Installed,
        port: &Port,
    ) -> Result<(), Error> {
        for (listener, flags) in &port.backends {
            if let Some(held) = installed.backends.get_mut(listener) {
                *held = self.write_flags(*held, *flags)?;
            }
        }
        Ok(())
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
            let last = maps.backend(id)?.generation;
            if last != 0 {
                maps.clear_udp_connected(id)?;
            }
            maps.write_backend(
                id,
                abi::Backend {
                    address,
                    port,
                    protocol,
                    flags,
                    generation: next_generation(last),
                    service: owner,
                    reserved: 0,
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

    /// Publishes what new connections under `policy` get, if that is another run than the one they get now.
    pub(super) fn publish(
        &mut self,
        installed: &mut Installed,
        policy: TrafficPolicy,
        port: &Port,
        now: Instant,
    ) -> Result<(), Error> {
        let old = installed.published(policy).clone();
        let (run, ids) = match port.target(policy) {
            Target::Refuse => (Run::REFUSE, Vec::new()),
            Target::Drop => (Run::DROP, Vec::new()),
            Target::Backends(listeners) => {
                let ids = slots(installed, listeners, port.flags);
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

    /// Reserves what `port` is addressed by, without a write: what is installed for it stays, whatever fails after this.
    pub(super) fn reserve_entries(
        &mut self,
        key: &Arc<PortKey>,
        installed: &mut Installed,
        port: &Port,
    ) {
        for (entry, kind) in &port.entries {
            let frontend = Frontend::new(service_in_entry(installed.id, *kind), *kind);
            self.entries.reserve(*entry, key, frontend);
            installed.entries.insert(*entry, ());
        }
    }

    /// Brings the entries to what `port` is addressed by now.
    pub(super) fn write_entries(
        &mut self,
        installed: &mut Installed,
        port: &Port,
    ) -> Result<(), Error> {
        for entry in installed.entries.keys() {
            match port.entries.contains_key(entry) {
                true => self.entries.claim(*entry, &port.key),
                false => self.entries.unclaim(*entry, &port.key),
            }
        }
        self.sync_entries(installed, &port.entries)
    }

    /// Writes every entry that `installed` has reserved; afterwards it has those `wanted`.
    pub(super) fn sync_entries(
        &mut self,
        installed: &mut Installed,
        wanted: &BTreeMap<Entry, Kind>,
    ) -> Result<(), Error> {
        let mut result = Ok(());
        for entry in installed.entries.keys() {
            result = result.and(self.entries.sync(*entry, &mut self.maps));
        }
        result?;
        installed.entries = wanted.keys().map(|entry| (*entry, ())).collect();
        Ok(())
    }

    /// Tells connections that these backends are gone. Their addresses stay until the quarantine is over, for readers that
    /// have just found them.
    pub(super) fn retire_backends(
        &mut self,
        installed: &mut Installed,
        gone: Vec<Listener>,
        now: Instant,
    ) -> Result<(), Error> {
        // From the end: that is where a sorted row lets go of one cheaply.
        for listener in gone.into_iter().rev() {
            let Some(held) = installed.backends.get(&listener) else {
                continue;
            };
            let old = self.maps.backend(held.id)?;
            let generation = next_generation(old.generation);
            self.report_retired(held.id)?;
            self.maps.write_backend(
                held.id,
                abi::Backend {
                    // Readers that have just found it have to reach it in the way they always did.
                    flags: old.flags & abi::Backend::LOCAL,
                    generation,
                    service: NOBODY,
                    ..old
                },
            )?;
            self.backends.retire(held.id, now);
            installed.backends.remove(&listener);
        }
        Ok(())
    }

    /// Lets it be known that connected UDP sockets talk to the backend at `id` for no good, if there are any.
    fn report_retired(&mut self, id: u32) -> Result<(), Error> {
        if self.maps.is_udp_connected(id)? {
            let backend = self.maps.backend(id)?;
            self.retired.push(Retired {
                id,
                generation: backend.generation,
                address: backend.address,
                port: backend.port,
            });
        }
        Ok(())
    }

    /// A connection that found the backend just before it was taken away has its last generation: that one ends here.
    pub(super) fn clear_backend(&mut self, id: u32) -> Result<(), Error> {
        self.report_retired(id)?;
        let generation = next_generation(self.maps.backend(id)?.generation);
        let cleared = abi::Backend {
            generation,
            ..abi::Backend::default()
        };
        Ok(self.maps.write_backend(id, cleared)?)
    }
}

/// The ids for the slots of a run of `listeners`: each once, or its share of a Maglev table.
fn slots(installed: &Installed, listeners: &[Listener], flags: u32) -> Vec<u32> {
    let held = listeners.iter().filter_map(|l| installed.backends.get(l));
    let mut ids: Vec<u32> = held.map(|held| held.id).collect();
    ids.shrink_to_fit();
    if flags & abi::Service::MAGLEV == 0 || ids.len() != listeners.len() {
        return ids;
    }
    let table = maglev::table(listeners, maglev::size_for(listeners.len()));
    let positions = table.into_iter().filter_map(|p| usize::try_from(p).ok());
    positions.filter_map(|p| ids.get(p).copied()).collect()
}

/// Whether a backend with these flags answers.
fn is_serving(flags: u8) -> bool {
    flags & abi::Backend::SERVING != 0
}

/// The entry of a whole address names no service: those that share it would take turns in it.
fn service_in_entry(id: u32, kind: abi::Kind) -> u32 {
    if kind == abi::Kind::ADDRESS { 0 } else { id }
}
