//! Which backends on this node answer clients themselves (direct server return), so that packets which another node sends
//! on to them are known here by where they go. Each step compares before it writes, and records what it wrote at once.

use std::collections::BTreeMap;

use dataplane_ebpf::abi::{Backend, BackendKey, Service};

use super::{Error, Installed, Tables};
use crate::desired::Port;
use crate::maps::Maps;

/// The backends of `port` that are to be found here by their addresses, with their ids.
pub(super) fn dsr_backends(installed: &Installed, port: &Port) -> BTreeMap<BackendKey, u32> {
    if port.flags & Service::DSR == 0 {
        return BTreeMap::new();
    }
    let local = port.backends.iter();
    let local = local.filter(|(_, flags)| **flags & Backend::LOCAL != 0);
    let held = local.filter_map(|(listener, _)| {
        let (address, number) = *listener;
        let key = BackendKey::new(installed.id, address, number, port.protocol());
        Some((key, installed.backends.get(listener)?.id))
    });
    held.collect()
}

impl<M: Maps> Tables<M> {
    /// To come after the backends and before the entries.
    pub(super) fn add_dsr(
        &mut self,
        installed: &mut Installed,
        wanted: &BTreeMap<BackendKey, u32>,
    ) -> Result<(), Error> {
        let mut result = Ok(());
        for (key, id) in wanted {
            if installed.dsr.get(key) == Some(id) {
                continue;
            }
            match self.maps.insert_local_backend(*key, *id) {
                Ok(()) => {
                    installed.dsr.insert(*key, *id);
                }
                Err(error) => result = Err(error.into()),
            }
        }
        result
    }

    /// Removes those that are not `wanted` any more. To come after the settings and before the backends go.
    pub(super) fn remove_dsr(
        &mut self,
        installed: &mut Installed,
        wanted: &BTreeMap<BackendKey, u32>,
    ) -> Result<(), Error> {
        let gone = installed.dsr.keys();
        let gone: Vec<BackendKey> = gone.filter(|k| !wanted.contains_key(k)).copied().collect();
        for key in gone {
            self.maps.remove_local_backend(key)?;
            installed.dsr.remove(&key);
        }
        Ok(())
    }
}
