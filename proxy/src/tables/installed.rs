//! What one Service port has in the maps.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_ebpf::abi::{BackendKey, Run};
use model::TrafficPolicy;

use crate::desired::{Entry, Listener, Range};
use crate::maps::Settings;
use crate::sorted::Sorted;

/// The installed state of one Service port.
#[derive(Debug)]
pub(super) struct Installed {
    pub(super) id: u32,
    /// Whether the name in the maps is right.
    pub(super) named: bool,
    pub(super) settings: Settings,
    pub(super) source_ranges: BTreeSet<Range>,
    /// The backends here that answer clients themselves. Nearly always none.
    pub(super) dsr: BTreeMap<BackendKey, u32>,
    pub(super) cluster: Published,
    pub(super) local: Published,
    pub(super) backends: Sorted<Listener, Held>,
    /// Every entry that this port has claimed or may still be named by.
    pub(super) entries: Sorted<Entry, ()>,
}

/// A run and what is in its slots.
#[derive(Debug, Clone)]
pub(super) struct Published {
    /// Nothing if the map holds a run that makes no sense.
    pub(super) run: Option<Run>,
    pub(super) ids: Vec<u32>,
}

/// A backend id in use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) id: u32,
    pub(super) flags: u8,
}

impl Installed {
    /// A port that has an id and these settings, and nothing else.
    pub(super) fn new(id: u32, settings: Settings) -> Self {
        let nothing = Published {
            run: Some(Run::REFUSE),
            ids: Vec::new(),
        };
        Self {
            id,
            named: false,
            settings,
            source_ranges: BTreeSet::new(),
            dsr: BTreeMap::new(),
            cluster: nothing.clone(),
            local: nothing,
            backends: Sorted::default(),
            entries: Sorted::default(),
        }
    }

    pub(super) fn published(&self, policy: TrafficPolicy) -> &Published {
        match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }

    pub(super) fn published_mut(&mut self, policy: TrafficPolicy) -> &mut Published {
        match policy {
            TrafficPolicy::Cluster => &mut self.cluster,
            TrafficPolicy::Local => &mut self.local,
        }
    }
}
