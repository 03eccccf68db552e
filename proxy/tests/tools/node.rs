//! A node's pinned maps without a daemon: what the tools read, written by the test itself.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, Pod};
use dataplane_ebpf::OBJECT;
use dataplane_ebpf::abi::{
    Backend, FilterPlace, Frontend, FrontendKey, Kind, LAYOUT_VERSION, Name, NodePortKey, Run,
    Service, SourceRange, maps,
};
use dataplane_ebpf::addr::{Addr, Family, Port, Protocol};
use serde_json::Value;

const BPFFS: &str = "/sys/fs/bpf";
const PREFIX: &str = "portolan-tools-test-";

/// Every map that the tools read.
const MAPS: [&str; 16] = [
    maps::FRONTENDS,
    maps::NODEPORTS,
    maps::NODE_ADDRESSES,
    maps::SERVICES,
    maps::SLOTS,
    maps::BACKENDS,
    maps::NODE,
    maps::CONNTRACK,
    maps::SOCKETS,
    maps::STATS,
    maps::DROPS,
    maps::RECENT_DROPS,
    maps::SOURCE_RANGES,
    maps::AFFINITY,
    maps::FRAGMENTS,
    maps::NAMES,
];

/// The maps, pinned in a directory of their own that goes at the end.
pub(crate) struct Node {
    pub(crate) ebpf: Ebpf,
    pub(crate) root: PathBuf,
    slots: u32,
}

impl Node {
    /// Empty maps that are small, and so quick to read in a build that is not optimised.
    pub(crate) fn small() -> Self {
        Self::new(&[
            (maps::SERVICES, 256),
            (maps::STATS, 256),
            (maps::BACKENDS, 256),
            (maps::SLOTS, 1024),
            (maps::CONNTRACK, 4096),
        ])
    }

    /// Empty maps of these sizes, and all others as declared.
    pub(crate) fn new(sizes: &[(&'static str, u32)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}", std::process::id());
        let root = Path::new(BPFFS).join(name);
        let directory = root.join(format!("v{LAYOUT_VERSION}/maps"));
        fs::create_dir_all(&directory).unwrap();
        let mut loader = EbpfLoader::new();
        for name in MAPS {
            loader.map_pin_path(name, directory.join(name));
        }
        for (name, size) in sizes {
            loader.map_max_entries(name, *size);
        }
        let ebpf = loader.load(OBJECT).unwrap();
        Self {
            ebpf,
            root,
            slots: 0,
        }
    }

    /// Makes service `id` called `name`, with these backends in each of its runs.
    pub(crate) fn add_service(&mut self, id: u32, name: &str, cluster: &[u32], local: &[u32]) {
        let (cluster, local) = (self.add_run(cluster), self.add_run(local));
        self.set_service(id, cluster, local, 0);
        self.hash(maps::NAMES)
            .insert(id, Name::new(name), 0)
            .unwrap();
    }

    pub(crate) fn set_service(&mut self, id: u32, cluster: Run, local: Run, flags: u32) {
        let service = Service {
            cluster,
            local,
            generation: 1,
            flags,
            ..Service::default()
        };
        self.array(maps::SERVICES).set(id, service, 0).unwrap();
    }

    pub(crate) fn add_run(&mut self, backends: &[u32]) -> Run {
        let base = self.slots;
        for backend in backends {
            let slot = self.slots;
            self.array(maps::SLOTS).set(slot, *backend, 0).unwrap();
            self.slots += 1;
        }
        match backends.len() {
            0 => Run::REFUSE,
            count => Run::new(base, count.try_into().unwrap()),
        }
    }

    pub(crate) fn add_backend(&mut self, id: u32, service: u32, address: &str, flags: u8) {
        let address: IpAddr = address.parse().unwrap();
        let backend = Backend {
            address: address.into(),
            port: Port::new(8080),
            protocol: Protocol::TCP,
            flags,
            generation: 5,
            service,
            reserved: 0,
        };
        self.array(maps::BACKENDS).set(id, backend, 0).unwrap();
    }

    pub(crate) fn add_frontend(&mut self, service: u32, address: &str, port: u16, kind: Kind) {
        let address = Addr::from(address.parse::<IpAddr>().unwrap());
        let key = match kind {
            Kind::ADDRESS => FrontendKey::whole_address(address),
            _ => FrontendKey::new(address, Port::new(port), Protocol::TCP),
        };
        let frontend = Frontend::new(service, kind);
        self.let_through(address);
        self.hash(maps::FRONTENDS).insert(key, frontend, 0).unwrap();
    }

    /// Lets the programs look at packets to `address`.
    pub(crate) fn let_through(&mut self, address: Addr) {
        let place = FilterPlace::of(address);
        let mut filter = self.array::<[u8; 8]>(maps::ADDRESS_FILTER);
        let mut entry = filter.get(&place.entry, 0).unwrap();
        entry[place.byte as usize] = 1;
        filter.set(place.entry, entry, 0).unwrap();
    }

    pub(crate) fn add_node_port(&mut self, service: u32, port: u16) {
        let key = NodePortKey::new(Port::new(port), Protocol::TCP, Family::V4);
        let frontend = Frontend::new(service, Kind::NODE_PORT);
        self.hash(maps::NODEPORTS).insert(key, frontend, 0).unwrap();
    }

    /// Gives the first CPU's value, and the same to all others.
    pub(crate) fn set_on_all_cpus<V: Pod>(&mut self, map: &str, index: u32, value: V) -> usize {
        let cpus = nr_cpus().unwrap();
        let mut array: PerCpuArray<&mut MapData, V> =
            self.ebpf.map_mut(map).unwrap().try_into().unwrap();
        let values = PerCpuValues::try_from(vec![value; cpus]).unwrap();
        array.set(index, values, 0).unwrap();
        cpus
    }

    pub(crate) fn hash<K: Pod, V: Pod>(&mut self, map: &str) -> HashMap<&mut MapData, K, V> {
        self.ebpf.map_mut(map).unwrap().try_into().unwrap()
    }

    pub(crate) fn array<V: Pod>(&mut self, map: &str) -> Array<&mut MapData, V> {
        self.ebpf.map_mut(map).unwrap().try_into().unwrap()
    }

    /// Lets clients use service `service` whose first `length` bits, counted in the mapped form, are those of `address`.
    pub(crate) fn add_source_range(&mut self, service: u32, address: &str, length: u32) {
        let address = Addr::from(address.parse::<IpAddr>().unwrap());
        let SourceRange {
            bits,
            service,
            address,
        } = SourceRange::new(service, address, length);
        let [a, b, c, d] = address.words();
        let map = self.ebpf.map_mut(maps::SOURCE_RANGES).unwrap();
        let mut ranges: LpmTrie<_, [u32; 5], u32> = map.try_into().unwrap();
        let key = Key::new(bits, [service, a, b, c, d]);
        ranges.insert(&key, 0, 0).unwrap();
    }

    /// What a command prints.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        run(&self.root, arguments)
    }

    /// What a command prints as JSON, which must be one document, and its exit code.
    pub(crate) fn json(&self, arguments: &[&str]) -> (Value, i32) {
        let output = self.run(&[arguments, &["-o", "json"]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(error, "", "{arguments:?}");
        let value = serde_json::from_slice(&output.stdout).unwrap();
        (value, output.status.code().unwrap())
    }

    /// What a command prints as text, which must succeed, without repeated spaces.
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        lines.map(|line| line + "\n").collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.root) {
            eprintln!("cleaning up: {error}");
        }
    }
}

/// How much memory a command may use, in KiB.
const MEMORY: &str = "65536";

/// Runs the program on what is pinned under `root`. It has little memory: an operator needs it when a node is in trouble.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> Output {
    Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -d {MEMORY} && exec \"$0\" \"$@\""))
        .arg(env!("CARGO_BIN_EXE_portolan-proxy"))
        .args(arguments)
        .arg("--bpf-root")
        .arg(root)
        .output()
        .unwrap()
}

/// Removes what tests left that were killed.
fn remove_leftovers() {
    for entry in fs::read_dir(BPFFS).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap_or_default();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|name| name.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another test may be at it too.
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}
