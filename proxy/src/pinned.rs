//! The pinned maps of a node, opened for reading only. Works with and without a daemon, and while one writes.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::Pod;
use dataplane_ebpf::abi::maps as names;
use dataplane_ebpf::abi::{
    self, Affinity, AffinityKey, Backend, Connection, DropRecord, FragmentKey, FragmentPorts,
    Frontend, FrontendKey, Kind, LAYOUT_VERSION, Node, NodeAddress, NodePortKey, Peer, Run,
    Service, SocketKey, SourceRange, Stats,
};
use dataplane_ebpf::addr::Addr;
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;
use serde::Serialize;

use crate::maps::{self, is_used};
use crate::sys::Table;

/// Why the maps cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No daemon has been here, or it pins elsewhere.
    #[error(
        "no dataplane is pinned under {}: is portolan-proxy running on this node, and with this --bpf-root?",
        root.display()
    )]
    NothingPinned {
        /// Where.
        root: PathBuf,
    },
    /// Another build's daemon was here.
    #[error(
        "the dataplane pinned under {} has the layout {found}, but this program reads v{LAYOUT_VERSION}: use the one of the daemon's version",
        root.display()
    )]
    OtherLayout {
        /// Where.
        root: PathBuf,
        /// What is pinned there.
        found: String,
    },
    /// A directory or a pin could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A map could not be read.
    #[error(transparent)]
    Maps(#[from] maps::Error),
}

/// The directory that a node's maps and links are pinned in.
#[derive(Debug, Clone)]
pub(crate) struct PinDirectory(PathBuf);

impl PinDirectory {
    /// The one of this build's layout under `root`.
    pub(crate) fn find(root: &Path) -> Result<Self, Error> {
        let directory = root.join(format!("v{LAYOUT_VERSION}"));
        match fs::metadata(directory.join("maps")) {
            Ok(_) => Ok(Self(directory)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing(root)),
            Err(source) => Err(Error::Read {
                path: directory,
                source,
            }),
        }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// What is in the folder `part` of it, in order; nothing if there is no such folder.
    pub(crate) fn list(&self, part: &str) -> Result<Vec<PathBuf>, Error> {
        let path = self.0.join(part);
        let failed = |source| Error::Read {
            path: path.clone(),
            source,
        };
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut paths = paths.collect::<io::Result<Vec<_>>>().map_err(failed)?;
        paths.sort();
        Ok(paths)
    }

    /// The map called `name`.
    pub(crate) fn map<K: Pod, V: Pod>(&self, name: &'static str) -> Result<Map<K, V>, Error> {
        let path = self.0.join("maps").join(name);
        let table = Table::open(&path).map_err(|source| maps::Error {
            action: "open",
            map: name,
            source,
        })?;
        Ok(Map { name, table })
    }
}

/// Nothing of this build's layout is pinned: nothing at all, or another build's.
fn missing(root: &Path) -> Error {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let other = names.into_iter().find(|name| {
        name.strip_prefix('v')
            .is_some_and(|number| number.parse::<u32>().is_ok())
    });
    let root = root.to_owned();
    match other {
        Some(found) => Error::OtherLayout { root, found },
        None => Error::NothingPinned { root },
    }
}

/// How full a map is.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Usage {
    /// Its name.
    pub(crate) map: &'static str,
    /// How many entries it holds.
    pub(crate) entries: u64,
    /// How many fit.
    pub(crate) size: u32,
}

impl Usage {
    /// The part that is in use.
    pub(crate) fn share(&self) -> f64 {
        self.entries as f64 / f64::from(self.size.max(1))
    }
}

/// A pinned map, with errors that name it.
#[derive(Debug)]
pub(crate) struct Map<K, V> {
    name: &'static str,
    table: Table<K, V>,
}

impl<K: Pod, V: Pod> Map<K, V> {
    /// How many entries fit.
    pub(crate) fn size(&self) -> u32 {
        self.table.size()
    }

    /// How full it is, by counting. Only for maps whose entries come and go.
    pub(crate) fn usage(&self) -> Result<Usage, Error> {
        let mut entries = 0;
        self.each(|_, _| entries += 1)?;
        Ok(self.usage_of(entries))
    }

    /// How full it is with so many `entries`.
    pub(crate) fn usage_of(&self, entries: u64) -> Usage {
        Usage {
            map: self.name,
            entries,
            size: self.size(),
        }
    }

    /// The value of `key`.
    pub(crate) fn get(&self, key: &K) -> Result<Option<V>, Error> {
        self.table.get(key).map_err(|error| self.failed(error))
    }

    /// The values of `key`, one for each CPU; none if there is no such key.
    pub(crate) fn values(&self, key: &K) -> Result<Vec<V>, Error> {
        let values = self.table.values(key).map_err(|error| self.failed(error))?;
        Ok(values.unwrap_or_default())
    }

    /// Visits every entry and the values it has, one or one for each CPU.
    pub(crate) fn each(&self, visit: impl FnMut(K, &[V])) -> Result<(), Error> {
        self.table.each(visit).map_err(|error| self.failed(error))
    }

    fn failed(&self, source: io::Error) -> Error {
        let map = self.name;
        Error::Maps(maps::Error {
            action: "read",
            map,
            source,
        })
    }
}

/// The maps of a node.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub(crate) frontends: Map<FrontendKey, Frontend>,
    pub(crate) node_ports: Map<NodePortKey, Frontend>,
    pub(crate) node_addresses: Map<Addr, NodeAddress>,
    pub(crate) services: Map<u32, Service>,
    pub(crate) slots: Map<u32, u32>,
    pub(crate) backends: Map<u32, Backend>,
    pub(crate) node: Map<u32, Node>,
    pub(crate) conntrack: Map<Flow, Connection>,
    pub(crate) affinity: Map<AffinityKey, Affinity>,
    pub(crate) sockets: Map<SocketKey, Peer>,
    pub(crate) fragments: Map<FragmentKey, FragmentPorts>,
    pub(crate) source_ranges: Map<SourceRange, u32>,
    pub(crate) stats: Map<u32, Stats>,
    pub(crate) drops: Map<u32, u64>,
    pub(crate) recent_drops: Map<u32, DropRecord>,
    pub(crate) names: Map<u32, abi::Name>,
}

impl Pinned {
    /// Opens the maps pinned under `root`.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let directory = PinDirectory::find(root)?;
        Ok(Self {
            frontends: directory.map(names::FRONTENDS)?,
            node_ports: directory.map(names::NODEPORTS)?,
            node_addresses: directory.map(names::NODE_ADDRESSES)?,
            services: directory.map(names::SERVICES)?,
            slots: directory.map(names::SLOTS)?,
            backends: directory.map(names::BACKENDS)?,
            node: directory.map(names::NODE)?,
            conntrack: directory.map(names::CONNTRACK)?,
            affinity: directory.map(names::AFFINITY)?,
            sockets: directory.map(names::SOCKETS)?,
            fragments: directory.map(names::FRAGMENTS)?,
            source_ranges: directory.map(names::SOURCE_RANGES)?,
            stats: directory.map(names::STATS)?,
            drops: directory.map(names::DROPS)?,
            recent_drops: directory.map(names::RECENT_DROPS)?,
            names: directory.map(names::NAMES)?,
        })
    }

    /// The name of service `id`, if the daemon has written one.
    pub(crate) fn name(&self, id: u32) -> Result<Option<String>, Error> {
        Ok(self.names.get(&id)?.and_then(|name| text(&name)))
    }

    /// All names by service id.
    pub(crate) fn all_names(&self) -> Result<HashMap<u32, String>, Error> {
        let mut all = HashMap::new();
        self.names.each(|id, names| {
            all.extend(names.first().and_then(text).map(|name| (id, name)));
        })?;
        Ok(all)
    }

    /// The backend ids in the slots of `run`; a run that reaches beyond the end of the map ends there.
    pub(crate) fn run(&self, run: Run) -> Result<Vec<u32>, Error> {
        let end = run
            .base()
            .saturating_add(run.count())
            .min(self.slots.size());
        let mut ids = Vec::new();
        for slot in run.base()..end {
            ids.extend(self.slots.get(&slot)?);
        }
        Ok(ids)
    }

    /// All slots: for those who look at many runs.
    pub(crate) fn all_slots(&self) -> Result<Vec<u32>, Error> {
        let mut slots = Vec::with_capacity(self.slots.size() as usize);
        self.slots.each(|_, values| slots.extend(values))?;
        Ok(slots)
    }

    /// All backends that were given an address and not cleared since, with their ids.
    pub(crate) fn used_backends(&self) -> Result<Vec<(u32, Backend)>, Error> {
        let mut all = Vec::new();
        self.backends.each(|id, values| {
            let used = values.iter().filter(|backend| is_used(backend));
            all.extend(used.map(|backend| (id, *backend)));
        })?;
        Ok(all)
    }

    /// How full the maps are that the daemon writes.
    pub(crate) fn usage_by_daemon(&self) -> Result<Vec<Usage>, Error> {
        let mut slots = 0;
        self.services.each(|_, values| {
            for service in values {
                slots += u64::from(service.cluster.count()) + u64::from(service.local.count());
            }
        })?;
        Ok(vec![
            self.frontends.usage()?,
            self.node_ports.usage()?,
            self.node_addresses.usage()?,
            self.services.usage_of(self.used_services()?),
            self.slots.usage_of(slots),
            self.backends.usage_of(self.used_backends()?.len() as u64),
            self.source_ranges.usage()?,
        ])
    }

    /// How many services there are that a frontend leads to.
    fn used_services(&self) -> Result<u64, Error> {
        let mut ids = HashSet::new();
        let mut add = |values: &[Frontend]| {
            let named = values.iter().filter(|value| value.kind != Kind::ADDRESS);
            ids.extend(named.map(|frontend| frontend.service));
        };
        self.frontends.each(|_, values| add(values))?;
        self.node_ports.each(|_, values| add(values))?;
        Ok(ids.len() as u64)
    }

    /// How often each of the reasons of [`Drop::ALL`] was met, over all CPUs.
    pub(crate) fn drop_counts(&self) -> Result<Vec<(Drop, u64)>, Error> {
        let mut counts = Vec::new();
        for reason in Drop::ALL {
            let values = self.drops.values(&(reason as u32))?;
            counts.push((reason, values.iter().sum()));
        }
        Ok(counts)
    }
}

/// Adds `counts` to `sum`; a counter that is full begins anew at zero.
pub(crate) fn add(sum: &mut Stats, counts: &[Stats]) {
    for count in counts {
        sum.connections = sum.connections.wrapping_add(count.connections);
        sum.packets = sum.packets.wrapping_add(count.packets);
        sum.bytes = sum.bytes.wrapping_add(count.bytes);
        sum.drops = sum.drops.wrapping_add(count.drops);
    }
}

fn text(name: &abi::Name) -> Option<String> {
    Some(name.text().to_owned()).filter(|text| !text.is_empty())
}
