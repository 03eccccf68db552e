//! Which Service port each frontend and node port belongs to.
//!
//! Two Services may claim the same address and port: for a moment, while one takes over from another, or for long, by
//! mistake. The first in order of names has it then, whichever came first, so that all nodes agree and no order of events
//! matters. When it lets go, the entry goes to the next one by a single write.
//!
//! A cluster address comes before all that: the API server gave it to one Service, while the others are whatever somebody
//! wrote into theirs (CVE-2020-8554). It waits for its Service even where that is not in yet.

use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;

use dataplane_ebpf::abi::{Frontend, Kind};
use smallvec::SmallVec;
use tracing::warn;

use super::Error;
use crate::desired::{Entry, PortKey};
use crate::maps::Maps;

/// All entries: who wants them, and what is in the maps.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    all: HashMap<Entry, State>,
    /// How many entries are in the maps.
    installed: usize,
    /// How many entries in the maps lead to each service.
    leading: HashMap<u32, usize>,
    /// Every Service there is has claimed what it wants. Until then nobody knows whose cluster addresses those are that an
    /// earlier daemon left.
    all_claimed: bool,
}

/// An entry that somebody wants, or that is in the maps.
#[derive(Debug, Default)]
struct State {
    /// Cluster addresses first, then in order of names. Nearly every entry has one claimant.
    claims: SmallVec<[Claim; 1]>,
    /// What it is in the maps.
    installed: Option<Frontend>,
}

/// That a Service port wants an entry.
#[derive(Debug)]
struct Claim {
    port: Arc<PortKey>,
    frontend: Frontend,
    /// Whether everything that the frontend leads to is there.
    is_ready: bool,
}

impl Entries {
    /// The entries in `maps`, claimed by nobody.
    pub(crate) fn recover(maps: &impl Maps) -> Result<Self, Error> {
        let mut entries = Self::default();
        for (entry, frontend) in maps.entries()? {
            entries.note(entry, Some(frontend));
        }
        Ok(entries)
    }

    /// How many entries are in the maps.
    pub(crate) fn len(&self) -> usize {
        self.installed
    }

    /// The service ids that entries in the maps name.
    pub(crate) fn services(&self) -> BTreeSet<u32> {
        self.leading.keys().copied().collect()
    }

    /// Whether an entry in the maps leads to the service `id`.
    pub(crate) fn lead_to(&self, id: u32) -> bool {
        self.leading.contains_key(&id)
    }

    /// The service that `entry` in the maps names, if it is there as a cluster address.
    pub(crate) fn service_at_cluster_ip(&self, entry: Entry) -> Option<u32> {
        let frontend = self.all.get(&entry)?.installed?;
        (frontend.kind == Kind::CLUSTER_IP).then_some(frontend.service)
    }

    /// Notes that `port` will want `entry` to be `frontend`. If it already is, it stays.
    pub(crate) fn reserve(&mut self, entry: Entry, port: &Arc<PortKey>, frontend: Frontend) {
        let claims = &mut self.all.entry(entry).or_default().claims;
        let known = claims.iter().position(|claim| claim.port == *port);
        if let Some(known) = known
            && is_given(claims[known].frontend.kind) == is_given(frontend.kind)
        {
            claims[known].frontend = frontend;
            return;
        }
        let claim = Claim {
            port: port.clone(),
            frontend,
            is_ready: known.is_some_and(|known| claims.remove(known).is_ready),
        };
        let place = claims.partition_point(|other| other.rank() < claim.rank());
        claims.insert(place, claim);
        warn_of_conflict(entry, claims);
    }

    /// Notes that `port`, which has reserved `entry`, wants it now.
    pub(crate) fn claim(&mut self, entry: Entry, port: &PortKey) {
        let state = self.all.get_mut(&entry).into_iter();
        let claims = state.flat_map(|state| &mut state.claims);
        for claim in claims.filter(|claim| *claim.port == *port) {
            claim.is_ready = true;
        }
    }

    /// Notes that `port` no longer wants `entry`.
    pub(crate) fn unclaim(&mut self, entry: Entry, port: &PortKey) {
        if let Some(state) = self.all.get_mut(&entry) {
            state.claims.retain(|claim| *claim.port != *port);
            self.forget_unless_used(entry);
        }
    }

    /// Brings `entry` in the maps to what is claimed.
    pub(crate) fn sync(&mut self, entry: Entry, maps: &mut impl Maps) -> Result<(), Error> {
        let Some(State {
            claims: all,
            installed,
        }) = self.all.get(&entry)
        else {
            return Ok(());
        };
        let is_given_to_one = all.first().is_some_and(Claim::is_given);
        let claims = all.iter().filter(|c| c.is_given() == is_given_to_one);
        let wanted = claims.clone().find(|claim| claim.is_ready);
        let wanted = wanted.map(|claim| claim.frontend);
        let is_own = |claim: &Claim| installed.is_some_and(|i| i.service == claim.frontend.service);
        let is_reserved = wanted.is_none() && claims.clone().any(is_own);
        let is_left = !self.all_claimed && installed.is_some_and(|i| is_given(i.kind));
        let is_kept = is_left && wanted.is_some_and(|frontend| !is_given(frontend.kind));
        if is_reserved || is_kept || *installed == wanted {
            return Ok(());
        }
        match wanted {
            Some(frontend) => {
                maps.insert_entry(entry, frontend)?;
                self.note(entry, Some(frontend));
            }
            None => {
                maps.remove_entry(entry)?;
                self.note(entry, None);
            }
        }
        Ok(())
    }

    /// Notes what `entry` in the maps is now.
    fn note(&mut self, entry: Entry, frontend: Option<Frontend>) {
        let state = self.all.entry(entry).or_default();
        let old = mem::replace(&mut state.installed, frontend);
        self.installed += usize::from(frontend.is_some());
        self.installed -= usize::from(old.is_some());
        self.forget_unless_used(entry);
        let leads = |frontend: &Frontend| frontend.kind != Kind::ADDRESS;
        if let Some(old) = old.filter(leads)
            && let Some(count) = self.leading.get_mut(&old.service)
        {
            *count -= 1;
            if *count == 0 {
                self.leading.remove(&old.service);
            }
        }
        if let Some(new) = frontend.filter(leads) {
            *self.leading.entry(new.service).or_default() += 1;
        }
    }

    /// Keeps no state of what nobody wants and is in no map.
    fn forget_unless_used(&mut self, entry: Entry) {
        let is_unused = |state: &State| state.claims.is_empty() && state.installed.is_none();
        if self.all.get(&entry).is_some_and(is_unused) {
            self.all.remove(&entry);
        }
    }

    /// Takes every entry from those who do not claim it, now that all have claimed what they want.
    pub(crate) fn remove_unclaimed(&mut self, maps: &mut impl Maps) -> Result<(), Error> {
        self.all_claimed = true;
        let is_claimed = |state: &State| {
            let mut wanted = state.claims.iter().map(|claim| claim.frontend);
            state.installed.is_none_or(|is| wanted.any(|w| w == is))
        };
        let unclaimed = self.all.iter().filter(|(_, state)| !is_claimed(state));
        let unclaimed: Vec<Entry> = unclaimed.map(|(entry, _)| *entry).collect();
        let mut result = Ok(());
        for entry in unclaimed {
            result = result.and(self.sync(entry, maps));
        }
        result
    }
}

impl Claim {
    /// Whether the API server gave the address.
    fn is_given(&self) -> bool {
        is_given(self.frontend.kind)
    }

    /// What decides who comes first.
    fn rank(&self) -> (bool, &PortKey) {
        (!self.is_given(), &self.port)
    }
}

/// Whether the API server gave addresses of this `kind` to one Service, and nobody chose them.
fn is_given(kind: Kind) -> bool {
    kind == Kind::CLUSTER_IP || kind == Kind::ADDRESS
}

/// The ports of one Service share its whole addresses; anything else should have a single claimant.
fn warn_of_conflict(entry: Entry, claims: &[Claim]) {
    let is_shared = |claim: &Claim| claim.frontend.kind == Kind::ADDRESS;
    if claims.len() > 1 && !claims.iter().any(is_shared) {
        let claimants = claims.iter().map(|claim| claim.port.name.to_string());
        let claimants: Vec<String> = claimants.collect();
        warn!(
            ?entry,
            ?claimants,
            "several Services claim one address and port; the first of these has it"
        );
    }
}
