//! Maps in memory, for tests: they keep to the rules of the real ones, check that the daemon does, and fail on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use dataplane_ebpf::abi::{
    Backend, BackendKey, Frontend, Kind, Name, Node, NodeAddress, Run, Service, SourceRange,
};
use model::TrafficPolicy;

use super::{Error, Maps, Settings, Sizes, is_used};
use crate::desired::{Entry, run_flag};

/// Says of the number of a write whether it fails.
type Failing = Box<dyn Fn(u64) -> bool>;

/// Maps in memory.
pub struct Fake {
    services: Vec<Service>,
    slots: Vec<u32>,
    backends: Vec<Backend>,
    entries: BTreeMap<Entry, Frontend>,
    ranges: BTreeSet<SourceRange>,
    local_backends: BTreeMap<BackendKey, u32>,
    names: BTreeMap<u32, Name>,
    /// What the programs would have written: by service id, and by backend id.
    pub counted: BTreeSet<u32>,
    /// How many local backends there is room for.
    pub local_backends_room: usize,
    /// The backend ids that connected UDP sockets got.
    pub udp_connected: BTreeSet<u32>,
    node_addresses: BTreeMap<IpAddr, NodeAddress>,
    node: Node,
    writes: u64,
    failing: Option<Failing>,
}

impl Fake {
    /// Empty maps.
    pub fn new(sizes: Sizes) -> Self {
        Self {
            services: vec![Service::default(); sizes.services as usize],
            slots: vec![0; sizes.slots as usize],
            backends: vec![Backend::default(); sizes.backends as usize],
            entries: BTreeMap::new(),
            ranges: BTreeSet::new(),
            local_backends: BTreeMap::new(),
            names: BTreeMap::new(),
            counted: BTreeSet::new(),
            local_backends_room: usize::MAX,
            udp_connected: BTreeSet::new(),
            node_addresses: BTreeMap::new(),
            node: Node::default(),
            writes: 0,
            failing: None,
        }
    }

    /// Maps of other, larger `sizes` that hold the same.
    pub fn copy_to(&self, sizes: Sizes) -> Self {
        let mut copy = Self::new(sizes);
        copy.services[..self.services.len()].copy_from_slice(&self.services);
        copy.slots[..self.slots.len()].copy_from_slice(&self.slots);
        copy.backends[..self.backends.len()].copy_from_slice(&self.backends);
        Self {
            entries: self.entries.clone(),
            ranges: self.ranges.clone(),
            local_backends: self.local_backends.clone(),
            names: self.names.clone(),
            counted: self.counted.clone(),
            udp_connected: self.udp_connected.clone(),
            node_addresses: self.node_addresses.clone(),
            node: self.node,
            ..copy
        }
    }

    /// Makes the writes fail for whose number `failing` is true.
    pub fn fail(&mut self, failing: Option<Failing>) {
        self.failing = failing;
    }

    /// How many writes there have been, failed ones included.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Whether nothing is left of any service: no entry, no range, no name, no local backend, no published run, no backend.
    pub fn is_empty(&self) -> bool {
        let empty = |run: Run| run.count() == 0;
        self.entries.is_empty()
            && self.ranges.is_empty()
            && self.local_backends.is_empty()
            && self.names.is_empty()
            && self
                .services
                .iter()
                .all(|service| empty(service.cluster) && empty(service.local))
            && self
                .backends
                .iter()
                .all(|backend| backend.flags & Backend::SERVING == 0)
    }

    fn write(&mut self, map: &'static str) -> Result<(), Error> {
        self.writes += 1;
        if self
            .failing
            .as_ref()
            .is_some_and(|failing| failing(self.writes))
        {
            let source = io::Error::from_raw_os_error(libc::EIO);
            return Err(Error {
                action: "write",
                map,
                source,
            });
        }
        Ok(())
    }

    /// Whoever reads `run` must find backends that are in use, and clients may be held to them.
    fn check_run(&self, run: Run, policy: TrafficPolicy) {
        for slot in run.base()..run.base() + run.count() {
            let id = self.slots[slot as usize];
            let backend = self.backends[id as usize];
            assert!(
                is_used(&backend),
                "slot {slot} names backend {id}, which is not written"
            );
            assert!(
                backend.flags & run_flag(policy) != 0,
                "slot {slot} names backend {id}, which is not marked as in the {policy:?} run"
            );
        }
    }

    /// Whether clients in some ranges may use the load balancer's addresses of the service at `id`.
    fn has_ranges(&self, id: u32) -> bool {
        self.ranges.iter().any(|range| range.service == id)
    }

    /// A backend keeps its address while readers can find it: by an entry's service and one of its runs.
    fn check_unnamed(&self, id: u32) {
        let found = self.entries.values();
        let found = found.filter(|frontend| frontend.kind != Kind::ADDRESS);
        let found: BTreeSet<u32> = found.map(|frontend| frontend.service).collect();
        for service in found.iter().map(|id| &self.services[*id as usize]) {
            for run in [service.cluster, service.local] {
                let base = if run.count() == 0 {
                    0
                } else {
                    run.base() as usize
                };
                let slots = &self.slots[base..base + run.count() as usize];
                assert!(
                    !slots.contains(&id),
                    "backend {id} is in the published {run:?}"
                );
            }
        }
    }

    /// Nobody may be reading the slots that are about to be written.
    fn check_unpublished(&self, written: Run) {
        for service in &self.services {
            for run in [service.cluster, service.local] {
                let apart = run.base() + run.count() <= written.base()
                    || written.base() + written.count() <= run.base();
                assert!(
                    run.count() == 0 || apart,
                    "{written:?} overlaps the published {run:?}"
                );
            }
        }
    }
}

impl Maps for Fake {
    fn sizes(&self) -> Sizes {
        let length = |length: usize| u32::try_from(length).expect("made from a u32");
        Sizes {
            services: length(self.services.len()),
            backends: length(self.backends.len()),
            slots: length(self.slots.len()),
        }
    }

    fn backend(&self, id: u32) -> Result<Backend, Error> {
        Ok(self.backends[id as usize])
    }

    fn backends(&self) -> Result<Vec<(u32, Backend)>, Error> {
        let used = (0..)
            .zip(&self.backends)
            .filter(|(_, backend)| is_used(backend));
        Ok(used.map(|(id, backend)| (id, *backend)).collect())
    }

    fn service(&self, id: u32) -> Result<Service, Error> {
        Ok(self.services[id as usize])
    }

    fn slots(&self, run: Run) -> Result<Vec<u32>, Error> {
        let base = run.base() as usize;
        Ok(self.slots[base..base + run.count() as usize].to_vec())
    }

    fn entries(&self) -> Result<Vec<(Entry, Frontend)>, Error> {
        Ok(self
            .entries
            .iter()
            .map(|(entry, frontend)| (*entry, *frontend))
            .collect())
    }

    fn source_ranges(&self) -> Result<Vec<SourceRange>, Error> {
        Ok(self.ranges.iter().copied().collect())
    }

    fn names(&self) -> Result<Vec<(u32, Name)>, Error> {
        Ok(self.names.iter().map(|(id, name)| (*id, *name)).collect())
    }

    fn local_backends(&self) -> Result<Vec<(BackendKey, u32)>, Error> {
        let backends = self.local_backends.iter();
        Ok(backends.map(|(key, id)| (*key, *id)).collect())
    }

    fn is_udp_connected(&self, id: u32) -> Result<bool, Error> {
        Ok(self.udp_connected.contains(&id))
    }

    fn node_addresses(&self) -> Result<Vec<(IpAddr, NodeAddress)>, Error> {
        Ok(self
            .node_addresses
            .iter()
            .map(|(address, value)| (*address, *value))
            .collect())
    }

    fn node(&self) -> Result<Node, Error> {
        Ok(self.node)
    }

    fn write_backend(&mut self, id: u32, backend: Backend) -> Result<(), Error> {
        self.write("BACKENDS")?;
        let old = self.backends[id as usize];
        if (old.address, old.port) != (backend.address, backend.port)
            || old.generation != backend.generation
        {
            self.check_unnamed(id);
            let mut found = self.local_backends.values();
            assert!(
                !found.any(|local| *local == id),
                "backend {id} is found by its address"
            );
        }
        self.backends[id as usize] = backend;
        Ok(())
    }

    fn write_slots(&mut self, run: Run, ids: &[u32]) -> Result<(), Error> {
        self.write("SLOTS")?;
        self.check_unpublished(run);
        let base = run.base() as usize;
        self.slots[base..base + ids.len()].copy_from_slice(ids);
        Ok(())
    }

    fn write_service(&mut self, id: u32, settings: Settings) -> Result<(), Error> {
        self.write("SERVICES")?;
        assert!(
            settings.flags & Service::SOURCE_RANGES == 0 || self.has_ranges(id),
            "service {id} is closed to everybody"
        );
        let service = &mut self.services[id as usize];
        let Settings {
            generation,
            flags,
            affinity_seconds,
            affinity_generation,
        } = settings;
        *service = Service {
            generation,
            flags,
            affinity_seconds,
            affinity_generation,
            ..*service
        };
        Ok(())
    }

    fn publish(&mut self, id: u32, policy: TrafficPolicy, run: Run) -> Result<(), Error> {
        self.write("SERVICES")?;
        self.check_run(run, policy);
        let service = &mut self.services[id as usize];
        match policy {
            TrafficPolicy::Cluster => service.cluster = run,
            TrafficPolicy::Local => service.local = run,
        }
        Ok(())
    }

    fn insert_entry(&mut self, entry: Entry, frontend: Frontend) -> Result<(), Error> {
        self.write("FRONTENDS")?;
        if frontend.kind != Kind::ADDRESS {
            assert!(
                self.names.contains_key(&frontend.service),
                "{entry:?} leads to a service without a name"
            );
        }
        self.entries.insert(entry, frontend);
        Ok(())
    }

    fn remove_entry(&mut self, entry: Entry) -> Result<(), Error> {
        self.write("FRONTENDS")?;
        self.entries.remove(&entry);
        Ok(())
    }

    fn insert_source_range(&mut self, range: SourceRange) -> Result<(), Error> {
        self.write("SOURCE_RANGES")?;
        self.ranges.insert(range);
        Ok(())
    }

    fn remove_source_range(&mut self, range: SourceRange) -> Result<(), Error> {
        self.write("SOURCE_RANGES")?;
        self.ranges.remove(&range);
        let id = range.service;
        let reachable = |frontend: &Frontend| {
            frontend.kind == Kind::LOAD_BALANCER
                && frontend.service == id
                && self.services[id as usize].flags & Service::SOURCE_RANGES != 0
        };
        assert!(
            self.has_ranges(id) || !self.entries.values().any(reachable),
            "service {id} is closed to everybody"
        );
        Ok(())
    }

    fn insert_local_backend(&mut self, key: BackendKey, id: u32) -> Result<(), Error> {
        self.write("LOCAL_BACKENDS")?;
        let backend = self.backends[id as usize];
        assert!(
            backend.service == key.service && backend.flags & Backend::LOCAL != 0,
            "{key:?} is not backend {id}"
        );
        if self.local_backends.len() >= self.local_backends_room {
            let source = io::Error::from_raw_os_error(libc::E2BIG);
            return Err(Error {
                action: "write",
                map: "LOCAL_BACKENDS",
                source,
            });
        }
        self.local_backends.insert(key, id);
        Ok(())
    }

    fn remove_local_backend(&mut self, key: BackendKey) -> Result<(), Error> {
        self.write("LOCAL_BACKENDS")?;
        self.local_backends.remove(&key);
        Ok(())
    }

    fn write_name(&mut self, id: u32, name: Name) -> Result<(), Error> {
        self.write("NAMES")?;
        self.names.insert(id, name);
        Ok(())
    }

    fn remove_name(&mut self, id: u32) -> Result<(), Error> {
        self.write("NAMES")?;
        self.names.remove(&id);
        Ok(())
    }

    fn clear_stats(&mut self, id: u32) -> Result<(), Error> {
        self.write("STATS")?;
        self.counted.remove(&id);
        Ok(())
    }

    fn clear_udp_connected(&mut self, id: u32) -> Result<(), Error> {
        self.write("UDP_CONNECTED")?;
        self.udp_connected.remove(&id);
        Ok(())
    }

    fn insert_node_address(&mut self, address: IpAddr, value: NodeAddress) -> Result<(), Error> {
        self.write("NODE_ADDRESSES")?;
        self.node_addresses.insert(address, value);
        Ok(())
    }

    fn remove_node_address(&mut self, address: IpAddr) -> Result<(), Error> {
        self.write("NODE_ADDRESSES")?;
        self.node_addresses.remove(&address);
        Ok(())
    }

    fn write_node(&mut self, node: Node) -> Result<(), Error> {
        self.write("NODE")?;
        self.node = node;
        Ok(())
    }
}
