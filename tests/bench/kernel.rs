//! What the daemon has installed, read from the maps it pinned.

use std::collections::BTreeSet;
use std::fs;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use dataplane_ebpf::abi::{Backend, Frontend, FrontendKey, LAYOUT_VERSION, Run, Service, maps};
use dataplane_ebpf::addr::{Port, Protocol};
use nix::libc;

use crate::objects::{Cluster, PORT};

/// The maps that say which backends a service has.
pub(crate) struct Installed {
    directory: PathBuf,
    /// Which directory had that name: when maps grow, another one takes its place.
    inode: u64,
    frontends: HashMap<MapData, FrontendKey, Frontend>,
    services: Mapped<Service>,
    slots: Mapped<u32>,
    backends: Mapped<Backend>,
}

/// What a map takes.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) map: String,
    pub(crate) entries: u32,
    pub(crate) bytes: u64,
}

/// An array map in this process's memory, for reading.
struct Mapped<T> {
    start: NonNull<u8>,
    length: u32,
    values: PhantomData<T>,
}

/// The directory of the pinned maps.
pub(crate) fn directory(pins: &Path) -> PathBuf {
    pins.join(format!("v{LAYOUT_VERSION}/maps"))
}

impl Installed {
    /// The maps pinned under `pins`, if the daemon has got that far.
    pub(crate) fn open(pins: &Path) -> Result<Self> {
        let directory = directory(pins);
        // Before the maps: if they change meanwhile, these are not current.
        let inode = fs::metadata(&directory)?.ino();
        let open = |name: &str| {
            MapData::from_pin(directory.join(name))
                .with_context(|| format!("opening the map {name}"))
        };
        Ok(Self {
            inode,
            frontends: HashMap::try_from(Map::HashMap(open(maps::FRONTENDS)?))?,
            services: Mapped::open(&open(maps::SERVICES)?)?,
            slots: Mapped::open(&open(maps::SLOTS)?)?,
            backends: Mapped::open(&open(maps::BACKENDS)?)?,
            directory,
        })
    }

    /// Whether these are still the maps that the daemon writes.
    pub(crate) fn is_current(&self) -> bool {
        fs::metadata(&self.directory).is_ok_and(|found| found.ino() == self.inode)
    }

    /// How many services have backends.
    pub(crate) fn served(&self) -> usize {
        (0..self.services.length)
            .filter(|id| self.run(*id).count() > 0)
            .count()
    }

    /// The id that a service has at its cluster IP.
    pub(crate) fn id(&self, cluster: &Cluster, service: u32) -> Option<u32> {
        let protocol = match cluster.protocol {
            "udp" => Protocol::UDP,
            _ => Protocol::TCP,
        };
        let address = SocketAddr::from((cluster.cluster_ip(service), PORT));
        self.id_at(address, protocol)
    }

    /// The id of the service at an address.
    pub(crate) fn id_at(&self, address: SocketAddr, protocol: Protocol) -> Option<u32> {
        let key = FrontendKey::new(address.ip().into(), Port::new(address.port()), protocol);
        self.frontends.get(&key, 0).ok().map(|found| found.service)
    }

    /// The backends that a new connection to a service gets.
    pub(crate) fn run(&self, id: u32) -> Run {
        Run::from_word(
            self.services
                .word(id, std::mem::offset_of!(Service, cluster)),
        )
    }

    /// Whether every service has exactly the endpoints it should.
    pub(crate) fn is_right(&self, cluster: &Cluster) -> bool {
        (0..cluster.services).all(|number| {
            let endpoints: BTreeSet<Ipv4Addr> = cluster.endpoints(number).into_iter().collect();
            let Some(id) = self.id(cluster, number) else {
                return false;
            };
            let run = self.run(id);
            let found: BTreeSet<_> = (run.base()..run.base() + run.count())
                .map(|slot| self.backends.get(self.slots.get(slot)).address.ip())
                .collect();
            found == endpoints.into_iter().map(Into::into).collect()
        })
    }
}

/// What every map of the daemon takes in the kernel.
pub(crate) fn memory(pins: &Path) -> Result<Vec<Memory>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory(pins))? {
        let path = entry?.path();
        let data = MapData::from_pin(&path)?;
        let info = fs::read_to_string(format!(
            "/proc/self/fdinfo/{}",
            data.fd().as_fd().as_raw_fd()
        ))?;
        let field = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|value| value.trim().parse().ok())
        };
        all.push(Memory {
            map: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            entries: data.info()?.max_entries(),
            bytes: field("memlock:").context("a map's memory")?,
        });
    }
    all.sort_by_key(|memory| std::cmp::Reverse(memory.bytes));
    Ok(all)
}

impl<T: Pod> Mapped<T> {
    /// The kernel rounds the size of each value up to eight bytes (`array_map_alloc`).
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    #[expect(unsafe_code, reason = "no safe wrapper maps a BPF array")]
    fn open(map: &MapData) -> Result<Self> {
        let length = map.info()?.max_entries();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length as usize * Self::STRIDE,
                libc::PROT_READ,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        ensure!(
            start != libc::MAP_FAILED,
            "mapping a map: {}",
            std::io::Error::last_os_error()
        );
        Ok(Self {
            start: NonNull::new(start.cast()).context("mapped at zero")?,
            length,
            values: PhantomData,
        })
    }

    fn at(&self, index: u32) -> NonNull<u8> {
        assert!(index < self.length, "{index} of {}", self.length);
        #[expect(unsafe_code, reason = "reads mapped memory")]
        // SAFETY: within the mapping by the assertion.
        unsafe {
            self.start.add(index as usize * Self::STRIDE)
        }
    }

    #[expect(unsafe_code, reason = "reads mapped memory")]
    fn get(&self, index: u32) -> T {
        // SAFETY: within the mapping and aligned; any bits are a `T`, which is `Pod`.
        unsafe { self.at(index).cast::<T>().read_volatile() }
    }

    /// The double word at `offset` of a value, read at once.
    #[expect(unsafe_code, reason = "reads mapped memory")]
    fn word(&self, index: u32, offset: usize) -> u64 {
        assert!(offset + 8 <= size_of::<T>() && offset.is_multiple_of(8));
        // SAFETY: within the value and aligned, by the assertions; the kernel's memory outlives `self`.
        unsafe { AtomicU64::from_ptr(self.at(index).add(offset).cast().as_ptr()) }
            .load(Ordering::Acquire)
    }
}

impl<T> Drop for Mapped<T> {
    #[expect(unsafe_code, reason = "no safe wrapper maps a BPF array")]
    fn drop(&mut self) {
        let bytes = self.length as usize * size_of::<T>().next_multiple_of(8);
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        let result = unsafe { libc::munmap(self.start.as_ptr().cast(), bytes) };
        debug_assert_eq!(result, 0);
    }
}
