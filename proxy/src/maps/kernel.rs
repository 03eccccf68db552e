//! The maps in the kernel. Arrays are mapped into memory and written without system calls; hashes take one each.

use std::io;
use std::mem::offset_of;
use std::net::IpAddr;
use std::os::fd::AsFd;

use aya::maps::lpm_trie::Key;
use aya::maps::{
    Array as SmallArray, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues,
};
use aya::util::nr_cpus;
use aya::{Ebpf, Pod};
use dataplane_ebpf::abi::{
    Backend, BackendKey, FilterPlace, Frontend, FrontendKey, Name, Node, NodeAddress, NodePortKey,
    Run, Service, SourceRange, Stats, maps,
};
use dataplane_ebpf::addr::Addr;
use model::TrafficPolicy;

use super::{Error, Maps, Settings, Sizes, is_used};
use crate::desired::Entry;
use crate::sys::Array;

/// The maps that the programs of one node read.
pub struct KernelMaps {
    services: Array<Service>,
    slots: Array<u32>,
    backends: Array<Backend>,
    frontends: HashMap<MapData, FrontendKey, Frontend>,
    node_ports: HashMap<MapData, NodePortKey, Frontend>,
    source_ranges: LpmTrie<MapData, RangeKey, u32>,
    local_backends: HashMap<MapData, BackendKey, u32>,
    names: HashMap<MapData, u32, Name>,
    stats: PerCpuArray<MapData, Stats>,
    udp_connected: Array<u32>,
    filter: Array<[u8; 8]>,
    node_addresses: HashMap<MapData, Addr, NodeAddress>,
    node: SmallArray<MapData, Node>,
}

/// What of a [`SourceRange`] the trie's prefix covers: the service and the address, word by word as they lie there.
type RangeKey = [u32; 5];

impl KernelMaps {
    /// Takes the maps out of what was loaded.
    pub fn take(programs: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            services: array(programs, maps::SERVICES)?,
            slots: array(programs, maps::SLOTS)?,
            backends: array(programs, maps::BACKENDS)?,
            frontends: hash(programs, maps::FRONTENDS)?,
            node_ports: hash(programs, maps::NODEPORTS)?,
            source_ranges: {
                let map = take(programs, maps::SOURCE_RANGES)?;
                LpmTrie::try_from(map).map_err(failed("open", maps::SOURCE_RANGES))?
            },
            local_backends: hash(programs, maps::LOCAL_BACKENDS)?,
            names: hash(programs, maps::NAMES)?,
            stats: {
                let map = take(programs, maps::STATS)?;
                PerCpuArray::try_from(map).map_err(failed("open", maps::STATS))?
            },
            udp_connected: array(programs, maps::UDP_CONNECTED)?,
            filter: array(programs, maps::ADDRESS_FILTER)?,
            node_addresses: hash(programs, maps::NODE_ADDRESSES)?,
            node: {
                let map = take(programs, maps::NODE)?;
                SmallArray::try_from(map).map_err(failed("open", maps::NODE))?
            },
        })
    }
}

impl KernelMaps {
    /// Lets the programs look at packets to `address`, before there is anything for them to find.
    fn let_through(&self, address: Addr) -> Result<(), Error> {
        let place = FilterPlace::of(address);
        self.filter
            .store_u8(place.entry, place.byte as usize, 1)
            .map_err(io_failed("write", maps::ADDRESS_FILTER))
    }
}

impl Maps for KernelMaps {
    fn sizes(&self) -> Sizes {
        Sizes {
            services: self.services.len(),
            backends: self.backends.len(),
            slots: self.slots.len(),
        }
    }

    fn backend(&self, id: u32) -> Result<Backend, Error> {
        self.backends
            .read(id)
            .map_err(io_failed("read", maps::BACKENDS))
    }

    fn backends(&self) -> Result<Vec<(u32, Backend)>, Error> {
        let used = |id, backend| is_used(&backend).then_some((id, backend));
        self.backends
            .scan(used)
            .map_err(io_failed("read", maps::BACKENDS))
    }

    fn service(&self, id: u32) -> Result<Service, Error> {
        self.services
            .read(id)
            .map_err(io_failed("read", maps::SERVICES))
    }

    fn slots(&self, run: Run) -> Result<Vec<u32>, Error> {
        let slots = (0..run.count()).map(|slot| self.slots.read(run.base().saturating_add(slot)));
        slots
            .collect::<io::Result<_>>()
            .map_err(io_failed("read", maps::SLOTS))
    }

    fn entries(&self) -> Result<Vec<(Entry, Frontend)>, Error> {
        let frontends = self
            .frontends
            .iter()
            .map(|item| item.map(|(key, value)| (Entry::Frontend(key), value)));
        let mut entries = frontends
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed("list", maps::FRONTENDS))?;
        for item in self.node_ports.iter() {
            let (key, value) = item.map_err(failed("list", maps::NODEPORTS))?;
            entries.push((Entry::NodePort(key.port, key.protocol, key.family), value));
        }
        Ok(entries)
    }

    fn source_ranges(&self) -> Result<Vec<SourceRange>, Error> {
        let ranges = self
            .source_ranges
            .iter()
            .map(|item| item.map(|(key, _)| range(&key)));
        ranges
            .collect::<Result<_, _>>()
            .map_err(failed("list", maps::SOURCE_RANGES))
    }

    fn names(&self) -> Result<Vec<(u32, Name)>, Error> {
        let names = self.names.iter().collect::<Result<_, _>>();
        names.map_err(failed("list", maps::NAMES))
    }

    fn local_backends(&self) -> Result<Vec<(BackendKey, u32)>, Error> {
        let backends = self.local_backends.iter().collect::<Result<_, _>>();
        backends.map_err(failed("list", maps::LOCAL_BACKENDS))
    }

    fn is_udp_connected(&self, id: u32) -> Result<bool, Error> {
        let word = self.udp_connected.read(id);
        word.map(|word| word != 0)
            .map_err(io_failed("read", maps::UDP_CONNECTED))
    }

    fn node_addresses(&self) -> Result<Vec<(IpAddr, NodeAddress)>, Error> {
        let addresses = self
            .node_addresses
            .iter()
            .map(|item| item.map(|(key, value)| (key.ip(), value)));
        addresses
            .collect::<Result<_, _>>()
            .map_err(failed("list", maps::NODE_ADDRESSES))
    }

    fn node(&self) -> Result<Node, Error> {
        self.node.get(&0, 0).map_err(failed("read", maps::NODE))
    }

    fn write_backend(&mut self, id: u32, backend: Backend) -> Result<(), Error> {
        let written = self.backends.read(id).and_then(|old| {
            // Whoever still looks at the old backend must not take the new one for it.
            self.backends.write(
                id,
                Backend {
                    generation: old.generation,
                    ..backend
                },
            )?;
            self.backends
                .store_u32(id, offset_of!(Backend, generation), backend.generation)
        });
        written.map_err(io_failed("write", maps::BACKENDS))
    }

    fn write_slots(&mut self, run: Run, ids: &[u32]) -> Result<(), Error> {
        let slots = (run.base()..)
            .zip(ids)
            .map(|(slot, id)| self.slots.write(slot, *id));
        slots
            .collect::<io::Result<()>>()
            .map_err(io_failed("write", maps::SLOTS))
    }

    fn write_service(&mut self, id: u32, settings: Settings) -> Result<(), Error> {
        let fields = [
            (
                offset_of!(Service, affinity_seconds),
                settings.affinity_seconds,
            ),
            (
                offset_of!(Service, affinity_generation),
                settings.affinity_generation,
            ),
            (offset_of!(Service, flags), settings.flags),
            (offset_of!(Service, generation), settings.generation),
        ];
        let fields = fields
            .into_iter()
            .map(|(offset, word)| self.services.store_u32(id, offset, word));
        fields
            .collect::<io::Result<()>>()
            .map_err(io_failed("write", maps::SERVICES))
    }

    fn publish(&mut self, id: u32, policy: TrafficPolicy, run: Run) -> Result<(), Error> {
        let offset = match policy {
            TrafficPolicy::Cluster => offset_of!(Service, cluster),
            TrafficPolicy::Local => offset_of!(Service, local),
        };
        self.services
            .store_u64(id, offset, run.word())
            .map_err(io_failed("write", maps::SERVICES))
    }

    fn insert_entry(&mut self, entry: Entry, frontend: Frontend) -> Result<(), Error> {
        match entry {
            Entry::Frontend(key) => {
                self.let_through(key.address)?;
                self.frontends
                    .insert(key, frontend, 0)
                    .map_err(failed("write", maps::FRONTENDS))
            }
            Entry::NodePort(port, protocol, family) => {
                let key = NodePortKey::new(port, protocol, family);
                self.node_ports
                    .insert(key, frontend, 0)
                    .map_err(failed("write", maps::NODEPORTS))
            }
        }
    }

    fn remove_entry(&mut self, entry: Entry) -> Result<(), Error> {
        match entry {
            Entry::Frontend(key) => absent_is_fine(self.frontends.remove(&key), maps::FRONTENDS),
            Entry::NodePort(port, protocol, family) => {
                let key = NodePortKey::new(port, protocol, family);
                absent_is_fine(self.node_ports.remove(&key), maps::NODEPORTS)
            }
        }
    }

    fn insert_source_range(&mut self, range: SourceRange) -> Result<(), Error> {
        self.source_ranges
            .insert(&range_key(range), 0, 0)
            .map_err(failed("write", maps::SOURCE_RANGES))
    }

    fn remove_source_range(&mut self, range: SourceRange) -> Result<(), Error> {
        let removed = self.source_ranges.remove(&range_key(range));
        absent_is_fine(removed, maps::SOURCE_RANGES)
    }

    fn insert_local_backend(&mut self, key: BackendKey, id: u32) -> Result<(), Error> {
        self.let_through(key.address)?;
        self.local_backends
            .insert(key, id, 0)
            .map_err(failed("write", maps::LOCAL_BACKENDS))
    }

    fn remove_local_backend(&mut self, key: BackendKey) -> Result<(), Error> {
        absent_is_fine(self.local_backends.remove(&key), maps::LOCAL_BACKENDS)
    }

    fn write_name(&mut self, id: u32, name: Name) -> Result<(), Error> {
        self.names
            .insert(id, name, 0)
            .map_err(failed("write", maps::NAMES))
    }

    fn remove_name(&mut self, id: u32) -> Result<(), Error> {
        absent_is_fine(self.names.remove(&id), maps::NAMES)
    }

    fn clear_stats(&mut self, id: u32) -> Result<(), Error> {
        let nothing = nr_cpus()
            .map_err(|(_, error)| error)
            .and_then(|cpus| PerCpuValues::try_from(vec![Stats::default(); cpus]))
            .map_err(io_failed("clear", maps::STATS))?;
        self.stats
            .set(id, nothing, 0)
            .map_err(failed("clear", maps::STATS))
    }

    fn clear_udp_connected(&mut self, id: u32) -> Result<(), Error> {
        self.udp_connected
            .write(id, 0)
            .map_err(io_failed("clear", maps::UDP_CONNECTED))
    }

    fn insert_node_address(&mut self, address: IpAddr, value: NodeAddress) -> Result<(), Error> {
        let key = Addr::from(address);
        self.let_through(key)?;
        self.node_addresses
            .insert(key, value, 0)
            .map_err(failed("write", maps::NODE_ADDRESSES))
    }

    fn remove_node_address(&mut self, address: IpAddr) -> Result<(), Error> {
        absent_is_fine(
            self.node_addresses.remove(&Addr::from(address)),
            maps::NODE_ADDRESSES,
        )
    }

    fn write_node(&mut self, node: Node) -> Result<(), Error> {
        self.node
            .set(0, node, 0)
            .map_err(failed("write", maps::NODE))
    }
}

fn range_key(range: SourceRange) -> Key<RangeKey> {
    let [a, b, c, d] = range.address.words();
    Key::new(range.bits, [range.service, a, b, c, d])
}

fn range(key: &Key<RangeKey>) -> SourceRange {
    let [service, a, b, c, d] = key.data();
    SourceRange {
        bits: key.prefix_len(),
        service,
        address: Addr::from_words([a, b, c, d]),
    }
}

fn array<T: Pod>(programs: &mut Ebpf, name: &'static str) -> Result<Array<T>, Error> {
    let Map::Array(data) = take(programs, name)? else {
        return Err(unexpected(name));
    };
    let info = data.info().map_err(failed("open", name))?;
    Array::map(data.fd().as_fd(), info.max_entries()).map_err(io_failed("map", name))
}

pub(super) fn hash<K: Pod, V: Pod>(
    programs: &mut Ebpf,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, Error> {
    HashMap::try_from(take(programs, name)?).map_err(failed("open", name))
}

pub(super) fn take(programs: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    let missing = || io_failed("open", name)(io::ErrorKind::NotFound.into());
    programs.take_map(name).ok_or_else(missing)
}

/// The map called `name` is of another type than this build declares.
pub(super) fn unexpected(name: &'static str) -> Error {
    failed("open", name)(MapError::InvalidName {
        name: name.to_owned(),
    })
}

pub(super) fn absent_is_fine(result: Result<(), MapError>, map: &'static str) -> Result<(), Error> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other.map_err(failed("remove from", map)),
    }
}

pub(super) fn failed(action: &'static str, map: &'static str) -> impl FnOnce(MapError) -> Error {
    move |error| {
        let source = match error {
            MapError::SyscallError(error) => error.io_error,
            other => io::Error::other(other),
        };
        Error {
            action,
            map,
            source,
        }
    }
}

pub(super) fn io_failed(
    action: &'static str,
    map: &'static str,
) -> impl FnOnce(io::Error) -> Error {
    move |source| Error {
        action,
        map,
        source,
    }
}
