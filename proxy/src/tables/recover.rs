//! Reads back from the maps what an earlier daemon installed.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_ebpf::abi::{BackendKey, Service};
use tracing::warn;

use super::ids::Runs;
use super::installed::{Held, Published};
use super::{Error, Installed, POLICIES};
use crate::desired::{Listener, Range};
use crate::maps::{Maps, Settings, run_of};
use crate::sorted::Sorted;

/// How many bits of a source range name its service.
const SERVICE_BITS: u32 = 32;

/// Backends by the service that owns them.
type Backends = BTreeMap<u32, BTreeMap<Listener, Held>>;

/// All backends in use, by the service that owns them, and their ids.
pub(super) fn backends(maps: &impl Maps) -> Result<(Backends, BTreeSet<u32>), Error> {
    let mut backends = Backends::new();
    let mut ids = BTreeSet::new();
    for (id, backend) in maps.backends()? {
        let listener = (backend.address, backend.port);
        ids.insert(id);
        let held = Held {
            id,
            flags: backend.flags,
        };
        backends
            .entry(backend.service)
            .or_default()
            .insert(listener, held);
    }
    Ok((backends, ids))
}

/// All source ranges, by service.
pub(super) fn source_ranges(maps: &impl Maps) -> Result<BTreeMap<u32, BTreeSet<Range>>, Error> {
    let mut ranges: BTreeMap<u32, BTreeSet<Range>> = BTreeMap::new();
    for range in maps.source_ranges()? {
        let prefix = (range.address, range.bits.saturating_sub(SERVICE_BITS));
        ranges.entry(range.service).or_default().insert(prefix);
    }
    Ok(ranges)
}

/// All backends that answer clients themselves, by service.
pub(super) fn local_backends(
    maps: &impl Maps,
) -> Result<BTreeMap<u32, BTreeMap<BackendKey, u32>>, Error> {
    let mut backends: BTreeMap<u32, BTreeMap<BackendKey, u32>> = BTreeMap::new();
    for (key, id) in maps.local_backends()? {
        backends.entry(key.service).or_default().insert(key, id);
    }
    Ok(backends)
}

pub(super) fn service(
    maps: &impl Maps,
    slots: &mut Runs,
    id: u32,
    backends: Sorted<Listener, Held>,
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
