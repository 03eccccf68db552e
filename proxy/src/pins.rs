//! The pin directory: where maps and links outlive the daemon, and whether the maps in it are those that this build
//! declares.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{MapInfo, MapType};
use aya::{EbpfLoader, VerifierLogLevel};
use dataplane_ebpf::abi::{self, LAYOUT_VERSION, maps};
use dataplane_ebpf::addr::Addr;
use dataplane_ebpf::flow::Flow;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use tracing::info;

/// The pin directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was to be done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A pinned map is not what this build declares.
    #[error("the map pinned at {} has another {property} ({found}) than this build's ({expected}); run with --cleanup to remove it", path.display())]
    OtherMap {
        /// The pin.
        path: PathBuf,
        /// What differs.
        property: &'static str,
        /// What the pinned map has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// A pinned map could not be looked at.
    #[error("cannot inspect the map pinned at {}", path.display())]
    Inspect {
        /// The pin.
        path: PathBuf,
        /// Why not.
        source: aya::maps::MapError,
    },
}

/// Where the BPF file system is by convention.
const BPFFS: &str = "/sys/fs/bpf";

/// How many entries the maps may have at most; zero for what this build allows. Those that hold what the API says begin
/// smaller and grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MapSizes {
    /// Frontends.
    pub frontends: u32,
    /// Service ids.
    pub services: u32,
    /// Slots.
    pub slots: u32,
    /// Backends.
    pub backends: u32,
    /// Connections, two entries each. They have all their room from the beginning.
    pub conntrack: u32,
}

/// What a map must be for this build to use it.
pub(crate) struct Declaration {
    pub(crate) name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    flags: u32,
}

/// Flags of `enum bpf_map_flags`.
const PREALLOCATED: u32 = 0;
const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1 << 10;

const fn declare<K, V>(name: &'static str, kind: MapType, flags: u32) -> Declaration {
    Declaration {
        name,
        kind,
        key: size_of::<K>(),
        value: size_of::<V>(),
        flags,
    }
}

pub(crate) const DECLARATIONS: [Declaration; 21] = [
    declare::<abi::FrontendKey, abi::Frontend>(maps::FRONTENDS, MapType::Hash, NO_PREALLOC),
    declare::<abi::NodePortKey, abi::Frontend>(maps::NODEPORTS, MapType::Hash, NO_PREALLOC),
    declare::<Addr, abi::NodeAddress>(maps::NODE_ADDRESSES, MapType::Hash, NO_PREALLOC),
    declare::<u32, abi::Service>(maps::SERVICES, MapType::Array, MMAPABLE),
    declare::<u32, u32>(maps::SLOTS, MapType::Array, MMAPABLE),
    declare::<u32, abi::Backend>(maps::BACKENDS, MapType::Array, MMAPABLE),
    declare::<u32, abi::Node>(maps::NODE, MapType::Array, PREALLOCATED),
    declare::<Flow, abi::Connection>(maps::CONNTRACK, MapType::LruHash, PREALLOCATED),
    declare::<abi::SocketKey, abi::Peer>(maps::SOCKETS, MapType::LruHash, PREALLOCATED),
    declare::<u32, abi::Peer>(maps::CONNECTED, MapType::SkStorage, NO_PREALLOC),
    declare::<u32, abi::Stats>(maps::STATS, MapType::PerCpuArray, PREALLOCATED),
    declare::<u32, u64>(maps::DROPS, MapType::PerCpuArray, PREALLOCATED),
    declare::<u32, abi::DropRecord>(maps::RECENT_DROPS, MapType::PerCpuArray, PREALLOCATED),
    declare::<abi::SourceRange, u32>(maps::SOURCE_RANGES, MapType::LpmTrie, NO_PREALLOC),
    declare::<abi::AffinityKey, abi::Affinity>(maps::AFFINITY, MapType::LruHash, PREALLOCATED),
    declare::<abi::FragmentKey, abi::FragmentPorts>(
        maps::FRAGMENTS,
        MapType::LruHash,
        PREALLOCATED,
    ),
    declare::<u32, u32>(maps::UDP_CONNECTED, MapType::Array, MMAPABLE),
    declare::<abi::BackendKey, u32>(maps::LOCAL_BACKENDS, MapType::Hash, NO_PREALLOC),
    declare::<u32, abi::Mac>(maps::XDP_DEVICES, MapType::Hash, NO_PREALLOC),
    declare::<u32, [u8; 8]>(maps::ADDRESS_FILTER, MapType::Array, MMAPABLE),
    declare::<u32, abi::Name>(maps::NAMES, MapType::Hash, NO_PREALLOC),
];

/// Where growth ends when nothing else was asked for.
const ENTRIES: u32 = 1 << 20;
const SLOTS: u32 = 1 << 24;

impl MapSizes {
    /// The largest size of the map called `name`; nothing if it does not grow.
    fn limit(self, name: &str) -> Option<u32> {
        let (asked, default) = match name {
            maps::FRONTENDS => (self.frontends, ENTRIES),
            maps::SERVICES | maps::STATS | maps::NAMES => (self.services, ENTRIES),
            maps::SLOTS => (self.slots, SLOTS),
            maps::BACKENDS | maps::UDP_CONNECTED => (self.backends, ENTRIES),
            maps::NODEPORTS | maps::SOURCE_RANGES => (0, ENTRIES),
            _ => return None,
        };
        Some(if asked == 0 { default } else { asked })
    }

    /// The size after `size` of the map called `name`, if it may grow at all.
    pub(crate) fn next(self, name: &str, size: u32) -> Option<u32> {
        let limit = self.limit(name)?;
        (size < limit).then(|| size.saturating_mul(2).min(limit))
    }

    /// The size with which the map called `name` is made, if it is not the `declared` one.
    fn first(self, name: &str, declared: u32) -> Option<u32> {
        match self.limit(name) {
            Some(limit) => (limit < declared).then_some(limit),
            None => (name == maps::CONNTRACK && self.conntrack != 0).then_some(self.conntrack),
        }
    }
}

/// The maps that may be made with another size than they are declared with.
const SIZES: [(&str, u32); 9] = [
    (maps::FRONTENDS, maps::FRONTENDS_SIZE),
    (maps::NODEPORTS, maps::NODEPORTS_SIZE),
    (maps::SERVICES, maps::SERVICES_SIZE),
    (maps::STATS, maps::SERVICES_SIZE),
    (maps::NAMES, maps::SERVICES_SIZE),
    (maps::SLOTS, maps::SLOTS_SIZE),
    (maps::BACKENDS, maps::BACKENDS_SIZE),
    (maps::UDP_CONNECTED, maps::BACKENDS_SIZE),
    (maps::CONNTRACK, maps::CONNTRACK_SIZE),
];

/// The directories of one layout under the root.
#[derive(Debug, Clone)]
pub(crate) struct Pins {
    /// Holds the directories of all layouts.
    pub(crate) root: PathBuf,
    /// Holds every map by its name.
    pub(crate) maps: PathBuf,
    /// Holds every link.
    pub(crate) links: PathBuf,
    /// Records every filter by a directory.
    pub(crate) filters: PathBuf,
}

impl Pins {
    /// Makes the directories of this build's layout under `root` and checks the maps in them.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        mount_bpffs(root)?;
        let directory = root.join(layout());
        let pins = Self {
            root: root.to_owned(),
            maps: directory.join("maps"),
            links: directory.join("links"),
            filters: directory.join("filters"),
        };
        for path in [&pins.maps, &pins.links, &pins.filters] {
            fs::create_dir_all(path).map_err(file("create", path))?;
        }
        // What a daemon left that died while it made room.
        remove_pins(&pins.next())?;
        for declaration in &DECLARATIONS {
            check(&pins.maps.join(declaration.name), declaration)?;
        }
        Ok(pins)
    }

    /// A loader that adopts the pinned maps and pins those it makes.
    pub(crate) fn loader(&self, sizes: MapSizes) -> EbpfLoader<'static> {
        let mut loader = self.loader_at(&self.maps);
        for (name, declared) in SIZES {
            if let Some(size) = sizes.first(name, declared) {
                loader.map_max_entries(name, size);
            }
        }
        loader
    }

    /// The same in another directory, where maps have the sizes declared.
    pub(crate) fn loader_at(&self, directory: &Path) -> EbpfLoader<'static> {
        let mut loader = EbpfLoader::new();
        // A load error carries the verifier's log; statistics alone are enough when nothing fails.
        loader.verifier_log_level(VerifierLogLevel::STATS);
        for declaration in &DECLARATIONS {
            loader.map_pin_path(declaration.name, directory.join(declaration.name));
        }
        loader
    }

    /// An empty directory for maps that shall replace the present ones.
    pub(crate) fn next_maps(&self) -> Result<PathBuf, Error> {
        let next = self.next();
        remove_pins(&next)?;
        fs::create_dir(&next).map_err(file("create", &next))?;
        Ok(next)
    }

    fn next(&self) -> PathBuf {
        self.maps.with_file_name("maps-next")
    }
}

/// The name of the directory of this build's layout.
pub(crate) fn layout() -> String {
    format!("v{LAYOUT_VERSION}")
}

/// What is in `directory`; nothing if there is none.
pub(crate) fn list(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file("list", directory)(error)),
    };
    let paths = entries.map(|entry| Ok(entry?.path()));
    let paths: io::Result<_> = paths.collect();
    paths.map_err(file("list", directory))
}

/// Removes `directory`, if it is there, and the pins in it.
pub(crate) fn remove_pins(directory: &Path) -> Result<(), Error> {
    remove_all(directory, |pin| fs::remove_file(pin))
}

/// Removes `directory`, if it is there, and all in it by `remove_one`.
pub(crate) fn remove_all(
    directory: &Path,
    remove_one: impl Fn(&Path) -> io::Result<()>,
) -> Result<(), Error> {
    if !directory.exists() {
        return Ok(());
    }
    let remove_one = |path: &PathBuf| remove_one(path).map_err(file("remove", path));
    all(&list(directory)?, remove_one)?;
    fs::remove_dir(directory).map_err(file("remove", directory))
}

/// Does `work` with all `items`, also after one that fails, and returns the first error.
pub(crate) fn all<T>(items: &[T], work: impl Fn(&T) -> Result<(), Error>) -> Result<(), Error> {
    let done = items.iter().map(work);
    done.fold(Ok(()), Result::and)
}

/// Makes sure that `root` is in a BPF file system: the one at its usual place if it lies there, else one of its own.
fn mount_bpffs(root: &Path) -> Result<(), Error> {
    let place = if root.starts_with(BPFFS) {
        Path::new(BPFFS)
    } else {
        root
    };
    if !place.exists() {
        fs::create_dir_all(place).map_err(file("create", place))?;
    }
    let kind = statfs(place)
        .map_err(|errno| file("inspect", place)(errno.into()))?
        .filesystem_type();
    if kind == BPF_FS_MAGIC {
        return Ok(());
    }
    info!(path = %place.display(), "mounting a BPF file system");
    mount(
        Some("bpf"),
        place,
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    )
    .map_err(|errno| file("mount a BPF file system on", place)(errno.into()))
}

/// The loader takes whatever is pinned, so what is pinned has to be looked at first.
fn check(path: &Path, declaration: &Declaration) -> Result<(), Error> {
    if !path.exists() {
        return Ok(());
    }
    let inspect = |source| Error::Inspect {
        path: path.to_owned(),
        source,
    };
    let info = MapInfo::from_pin(path).map_err(inspect)?;
    let kind = info.map_type().map_err(inspect)?;
    let properties = [
        (
            "type",
            format!("{kind:?}"),
            format!("{:?}", declaration.kind),
        ),
        (
            "key size",
            info.key_size().to_string(),
            declaration.key.to_string(),
        ),
        (
            "value size",
            info.value_size().to_string(),
            declaration.value.to_string(),
        ),
        (
            "flags",
            format!("{:#x}", info.map_flags()),
            format!("{:#x}", declaration.flags),
        ),
    ];
    for (property, found, expected) in properties {
        if found != expected {
            return Err(Error::OtherMap {
                path: path.to_owned(),
                property,
                found,
                expected,
            });
        }
    }
    Ok(())
}

pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File {
        action,
        path: path.to_owned(),
        source,
    }
}
