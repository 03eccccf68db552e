//! The single owner of the world and the tables.
//!
//! [`Reconciler`] is the state and its transitions, without any waiting: events make Services due, and a round brings
//! every due Service to what it should be. [`crate::rounds`] is the loop around it. A Service whose writes fail is tried
//! again, ever more slowly, while all others go on. Until every source has been listed in full nothing is written at all:
//! what an earlier daemon left is newer than half a list.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use model::{Event, ServiceName, World};
use tracing::{info, warn};

use crate::addresses::{NodeAddresses, node_addresses};
use crate::desired::{View, desired};
use crate::devices::{self, Devices};
use crate::due::{Due, Queue};
use crate::maps::Maps;
use crate::news::{Gathered, News};
use crate::node::{self, ServiceCidrs, Settings};
use crate::standing::{Round, Standing, WithoutLocal};
use crate::sys;
use crate::tables::{Error, Tables};

/// The state of the proxy.
pub struct Reconciler<M> {
    settings: Settings,
    world: World,
    devices: Devices,
    /// Nothing until the devices have been seen.
    addresses: Option<NodeAddresses>,
    /// The devices that should be uplinks by the node's addresses, as it was said last.
    passed_by: BTreeMap<u32, IpAddr>,
    tables: Tables<M>,
    due: Queue,
    node: Due,
    /// What an earlier daemon left.
    leftovers: Due,
    phase: Phase,
    /// The Services that the first round could not install and that may yet come in. Until then their addresses look as if
    /// nobody had them. One that fails for good holds up nobody.
    missing: BTreeSet<ServiceName>,
    /// Everything has become due since the last round.
    all: bool,
    gathered: Gathered,
}

/// How far the daemon has got since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not everything is known yet; nothing may be written.
    Listing,
    /// Everything is known; some Services may not be in yet, and what an earlier daemon left over is still there.
    Filling,
    /// Only changes matter.
    Steady,
}

impl<M: Maps> Reconciler<M> {
    /// Takes over what is in `maps`.
    pub fn new(settings: Settings, maps: M) -> Result<Self, Error> {
        Ok(Self {
            world: World::new(settings.node_name.as_str()),
            settings,
            devices: Devices::default(),
            addresses: None,
            passed_by: BTreeMap::new(),
            tables: Tables::recover(maps, Instant::now())?,
            due: Queue::default(),
            node: Due::NEVER,
            leftovers: Due::NEVER,
            phase: Phase::Listing,
            missing: BTreeSet::new(),
            all: false,
            gathered: Gathered::new(SystemTime::now()),
        })
    }

    /// Takes in something that was seen in the API.
    pub fn see(&mut self, event: Event, now: Instant) {
        let is_node = matches!(event, Event::Node(_));
        if let Event::ServiceCidrs(_)
        | Event::ServiceCidr(_)
        | Event::ServiceCidrGone(_)
        | Event::UnservedAll(..)
        | Event::Unserved(..)
        | Event::UnservedGone(..) = event
        {
            self.node.now(now);
        }
        let triggers = self.gathered.triggers(&event);
        let changed = self.world.apply(event);
        for (service, at) in triggers {
            if changed.contains(&service) {
                self.gathered.trigger(service, at);
            }
        }
        // In the first round, all are due.
        if self.phase != Phase::Listing {
            for service in changed {
                self.due.now(service, now);
            }
        }
        if is_node && self.addresses.is_some() {
            self.sort_addresses(now);
        }
    }

    /// Takes in what the node's devices are.
    pub fn see_devices(&mut self, devices: Devices, now: Instant) {
        self.devices = devices;
        self.sort_addresses(now);
    }

    /// Brings everything that is due to what it should be.
    pub fn round(&mut self, now: Instant) -> Round {
        let mut round = Round {
            may_write: self.may_write(),
            ..Round::default()
        };
        if !round.may_write {
            return round;
        }
        let is_first = self.phase == Phase::Listing;
        if is_first {
            info!(
                services = self.world.services().count(),
                "everything is listed; the first round begins"
            );
            self.all = true;
            self.phase = Phase::Filling;
        }
        if let Err(error) = self.tables.release(now) {
            warn!(
                error = &error as &dyn std::error::Error,
                "freed entries could not be cleared yet"
            );
        }
        if self.node.is_due(now)
            && let Some(addresses) = &self.addresses
        {
            // Before everything is in, addresses that nobody seems to have may be those of Services.
            let cidrs = self.world.own_service_cidrs();
            let cidrs = cidrs.filter(|_| self.phase == Phase::Steady);
            let cidrs = cidrs.map(|ranges| ServiceCidrs::new(&ranges));
            let maps = self.tables.maps_mut();
            let result = node::write(&self.settings, addresses, cidrs.as_ref(), maps);
            self.node.settle(
                &result.map_err(Error::from),
                "what the programs know about the node",
                now,
            );
        }
        round.full = std::mem::take(&mut self.all);
        // To make all of them due would take longer than to see to them.
        let names = match is_first {
            true => self.all_names(),
            false => self.due.names(now),
        };
        for name in names {
            self.reconcile(&name, now, &mut round);
        }
        if is_first {
            self.missing = self.due.waiting().cloned().collect();
        }
        self.prune(now);
        round
    }

    /// When [`Self::round`] has something to do next, should nothing happen until then.
    pub fn next_round(&self) -> Option<Instant> {
        if !self.may_write() {
            return None;
        }
        if self.phase == Phase::Listing {
            return Some(Instant::now());
        }
        [
            self.due.next(),
            self.node.at,
            self.leftovers.at,
            self.tables.next_release(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Since when there is something that should be different and is not for want of room. A daemon that does not know
    /// everything yet is not behind.
    pub fn behind_since(&self) -> Option<Instant> {
        if self.phase == Phase::Listing {
            return None;
        }
        let since = [self.due.oldest(), self.node.since];
        since.into_iter().flatten().min()
    }

    /// Whether the first round is over: every Service is in, and nothing is left of an earlier daemon.
    pub fn is_steady(&self) -> bool {
        self.phase == Phase::Steady
    }

    /// How it stands, for those who answer for the node's health.
    pub fn standing(&self) -> Standing {
        Standing {
            behind_since: self.behind_since(),
            is_steady: self.is_steady(),
            is_leaving: self.world.node().is_some_and(|node| node.leaving),
        }
    }

    /// The world as it was last seen.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The installed state.
    pub fn tables(&self) -> &Tables<M> {
        &self.tables
    }

    /// What others have to know, since this was asked last.
    pub fn take_news(&mut self) -> News {
        self.gathered.take()
    }

    /// How many Service ports are without an endpoint that their policy allows.
    pub fn without_local(&self) -> WithoutLocal {
        self.gathered.without_local()
    }

    /// How many Services are not installed as they should be.
    pub fn waiting(&self) -> usize {
        self.due.len()
    }

    /// The installed state, to ask what has come up.
    pub fn tables_mut(&mut self) -> &mut Tables<M> {
        &mut self.tables
    }

    /// Goes on with `maps`, which hold what the present ones do and have room for more.
    pub fn grow(&mut self, maps: M, now: Instant) {
        self.tables.grow(maps);
        self.due.all_anew(now);
    }

    /// The maps.
    pub fn maps_mut(&mut self) -> &mut M {
        self.tables.maps_mut()
    }

    /// Gives up the maps, as a daemon does that ends.
    pub fn into_maps(self) -> M {
        self.tables.into_maps()
    }

    fn may_write(&self) -> bool {
        self.world.is_complete() && self.addresses.is_some()
    }

    fn all_due(&mut self, now: Instant) {
        self.all = true;
        for name in self.all_names() {
            self.due.now(name, now);
        }
    }

    /// The Services that there are or that have anything installed.
    fn all_names(&self) -> Vec<ServiceName> {
        let names = self.world.services().map(|service| service.name.clone());
        let gone = self.tables.services().into_iter();
        let gone = gone.filter(|name| self.world.service(name).is_none());
        names.chain(gone).collect()
    }

    fn reconcile(&mut self, name: &ServiceName, now: Instant, round: &mut Round) {
        let Some(addresses) = &self.addresses else {
            return;
        };
        let view = View {
            world: &self.world,
            addresses,
            algorithm: self.settings.algorithm,
        };
        let desired = desired(view, name);
        let result = self.tables.apply(name, &desired, now);
        // The maps may grow, and then it fits: nobody needs to hear of that.
        let is_news = self.due.has_failed(name) || !matches!(result, Err(Error::Full { .. }));
        self.gathered
            .reconciled(&self.world, name, &desired, &result, is_news);
        self.due.settle(name, &result, now);
        match result {
            Ok(()) => round.applied += 1,
            Err(_) => round.failed += 1,
        }
        if is_news && self.due.tell(name) {
            round.newly_failed += 1;
        }
    }

    fn prune(&mut self, now: Instant) {
        if self.phase == Phase::Filling {
            self.missing.retain(|name| self.due.has_hope(name));
            if !self.missing.is_empty() {
                return;
            }
            if self.leftovers.at.is_none() {
                self.leftovers.now(now);
            }
        }
        if self.leftovers.at.is_none() && self.tables.has_orphans() {
            self.leftovers = Due::later(now);
        }
        if !self.leftovers.is_due(now) {
            return;
        }
        let result = self.tables.prune(now);
        self.leftovers
            .settle(&result, "what an earlier daemon left", now);
        if result.is_ok() && self.phase == Phase::Filling {
            let usage = self.tables.usage();
            let waiting = self.due.len();
            info!(?usage, waiting, "the tables hold what they should");
            sys::trim_memory();
            self.node.now(now);
            self.phase = Phase::Steady;
        }
        if result.is_ok() && self.tables.has_orphans() {
            self.leftovers = Due::later(now);
        }
    }

    fn sort_addresses(&mut self, now: Instant) {
        let internal = self.world.node().map_or(&[][..], |node| &node.internal_ips);
        let uplinks = self
            .devices
            .uplinks
            .iter()
            .map(|device| device.index)
            .collect();
        let passed_by = self.devices.passed_by(internal);
        if passed_by != self.passed_by {
            devices::warn_of_passed_by(&passed_by);
            self.passed_by = passed_by;
        }
        let wanted = &self.settings.node_port_addresses;
        let addresses = node_addresses(wanted, &self.devices.addresses, &uplinks, internal);
        let old = self.addresses.replace(addresses);
        let (old, new) = (old.as_ref(), self.addresses.as_ref());
        if old == new {
            return;
        }
        // Which backends are on this node depends on its addresses, and who may use a load balancer's on the primary one.
        let decisive = |addresses: &NodeAddresses| (addresses.own.clone(), addresses.primary);
        let is_decisive = old.map(decisive) != new.map(decisive);
        info!(addresses = ?new, "the node's addresses");
        if let Some(addresses) = new {
            self.gathered.addresses(addresses.node_port.clone());
        }
        self.node.now(now);
        if is_decisive {
            self.all_due(now);
        }
    }
}
