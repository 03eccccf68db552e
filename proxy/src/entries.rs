//! Which Service port each frontend and node port belongs to.
//!
//! Two Services may claim the same address and port: for a moment, while one takes over from another, or for long, by
//! mistake. The first in order of names has it then, whichever came first, so that all nodes agree and no order of events
//! matters. When it lets go, the entry goes to the next one by a single write.

use std::collections::{BTreeSet, HashMap};

use dataplane_ebpf::abi::{Frontend, Kind};
use tracing::warn;

use crate::desired::{Entry, PortKey};
use crate::maps::Maps;
use crate::tables::Error;

/// All entries: who wants them, and what is in the maps.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    /// In order of names. Nearly every entry has one claimant.
    claims: HashMap<Entry, Vec<(PortKey, Frontend)>>,
    installed: HashMap<Entry, Frontend>,
}

impl Entries {
    /// The entries in `maps`, claimed by nobody.
    pub(crate) fn recover(maps: &impl Maps) -> Result<Self, Error> {
        let installed = maps.entries()?.into_iter().collect();
        Ok(Self {
            claims: HashMap::new(),
            installed,
        })
    }

    /// How many entries are in the maps.
    pub(crate) fn len(&self) -> usize {
        self.installed.len()
    }

    /// The service ids that entries in the maps name.
    pub(crate) fn services(&self) -> BTreeSet<u32> {
        let frontends = self
            .installed
            .values()
            .filter(|frontend| frontend.kind != Kind::ADDRESS);
        frontends.map(|frontend| frontend.service).collect()
    }

    /// The service that `entry` in the maps names, if it is there as a cluster address.
    pub(crate) fn service_at_cluster_ip(&self, entry: Entry) -> Option<u32> {
        let frontend = self.installed.get(&entry)?;
        (frontend.kind == Kind::CLUSTER_IP).then_some(frontend.service)
    }

    /// Notes that `port` wants `entry` to be `frontend`.
    pub(crate) fn claim(&mut self, entry: Entry, port: &PortKey, frontend: Frontend) {
        let claims = self.claims.entry(entry).or_default();
        match claims.binary_search_by(|(claimant, _)| claimant.cmp(port)) {
            Ok(place) => claims[place].1 = frontend,
            Err(place) => {
                claims.reserve_exact(1);
                claims.insert(place, (port.clone(), frontend));
                warn_of_conflict(entry, claims);
            }
        }
    }

    /// Notes that `port` no longer wants `entry`.
    pub(crate) fn unclaim(&mut self, entry: Entry, port: &PortKey) {
        if let Some(claims) = self.claims.get_mut(&entry) {
            claims.retain(|(claimant, _)| claimant != port);
            if claims.is_empty() {
                self.claims.remove(&entry);
            }
        }
    }

    /// Brings `entry` in the maps to what is claimed.
    pub(crate) fn sync(&mut self, entry: Entry, maps: &mut impl Maps) -> Result<(), Error> {
        let first = self.claims.get(&entry).and_then(|claims| claims.first());
        let wanted = first.map(|(_, frontend)| frontend);
        if self.installed.get(&entry) == wanted {
            return Ok(());
        }
        match wanted {
            Some(frontend) => {
                maps.insert_entry(entry, *frontend)?;
                self.installed.insert(entry, *frontend);
            }
            None => {
                maps.remove_entry(entry)?;
                self.installed.remove(&entry);
            }
        }
        Ok(())
    }

    /// Removes every entry from the maps that nobody claims.
    pub(crate) fn remove_unclaimed(&mut self, maps: &mut impl Maps) -> Result<(), Error> {
        let unclaimed = self
            .installed
            .keys()
            .filter(|entry| !self.claims.contains_key(entry));
        let unclaimed: Vec<Entry> = unclaimed.copied().collect();
        let mut result = Ok(());
        for entry in unclaimed {
            result = result.and(self.sync(entry, maps));
        }
        result
    }
}

/// The ports of one Service share its whole addresses; anything else should have a single claimant.
fn warn_of_conflict(entry: Entry, claims: &[(PortKey, Frontend)]) {
    if claims.len() > 1
        && claims
            .iter()
            .all(|(_, frontend)| frontend.kind != Kind::ADDRESS)
    {
        let claimants: Vec<String> = claims
            .iter()
            .map(|(port, _)| port.name.to_string())
            .collect();
        warn!(
            ?entry,
            ?claimants,
            "several Services claim one address and port; the first has it"
        );
    }
}
