//! A node of the test's own: a cgroup, a pin directory, and the daemon as `run` builds it, but for the API.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use model::Event;
use proxy::attach::{self, Dataplane, Options};
use proxy::devices::Devices;
use proxy::features::Features;
use proxy::maps::KernelMaps;
use proxy::node::{Settings, netns_cookie};
use proxy::pins::MapSizes;
use proxy::reconcile::Reconciler;
use proxy::xdp::Xdp;

/// A cgroup and a pin directory of our own, gone again at the end.
pub(crate) struct Place {
    pub(crate) cgroup: PathBuf,
    /// The cgroup that the test was started in.
    pub(crate) home: PathBuf,
    pub(crate) bpf: PathBuf,
    pub(crate) features: Features,
    /// The cgroup is the whole process's: one test at a time.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

const BPFFS: &str = "/sys/fs/bpf";
const PREFIX: &str = "portolan-proxy-test-";

impl Place {
    /// As if the kernel had these `features`.
    pub(crate) fn new(features: Features) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let root = cgroup2_root();
        remove_leftovers(&root);
        let path = fs::read_to_string("/proc/self/cgroup").unwrap();
        let home = path
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap();
        let name = format!("{PREFIX}{}", std::process::id());
        let place = Self {
            cgroup: root.join(&name),
            home: root.join(home),
            bpf: Path::new(BPFFS).join(name),
            features,
            _alone: alone,
        };
        fs::create_dir(&place.cgroup).unwrap();
        // A socket belongs to the cgroup its process was in when it was made.
        join(&place.cgroup).unwrap();
        place
    }
}

/// Removes what tests left that were killed.
fn remove_leftovers(root: &Path) {
    for parent in [root, Path::new(BPFFS)] {
        for entry in fs::read_dir(parent).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap_or_default();
            let is_left = name
                .strip_prefix(PREFIX)
                .is_some_and(|pid| !Path::new("/proc").join(pid).exists());
            if is_left {
                // Another test may be at it too.
                drop(attach::cleanup(&entry.path()));
                drop(fs::remove_dir(entry.path()));
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let cleanup = [
            join(&self.home),
            attach::cleanup(&self.bpf)
                .map(|_| ())
                .map_err(io::Error::other),
            fs::remove_dir(&self.bpf),
            fs::remove_dir(&self.cgroup),
        ];
        for result in cleanup {
            if let Err(error) = result {
                eprintln!("cleaning up: {error}");
            }
        }
    }
}

fn cgroup2_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mut mounts = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    mounts
        .find(|mount| mount[2] == "cgroup2")
        .map(|mount| mount[1].into())
        .unwrap()
}

fn join(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
}

/// A daemon as `run` builds it, but for the API.
pub(crate) struct Daemon {
    pub(crate) dataplane: Dataplane,
    pub(crate) reconciler: Reconciler<KernelMaps>,
    devices: Devices,
}

impl Daemon {
    pub(crate) fn start(place: &Place, devices: &Devices) -> Self {
        let options = Options {
            sizes: MapSizes::default(),
            features: place.features,
            xdp: Xdp::Off,
        };
        Self::with(place, devices, options)
    }

    pub(crate) fn with(place: &Place, devices: &Devices, options: Options) -> Self {
        let mut dataplane = Dataplane::open(&place.bpf, &place.cgroup, options).unwrap();
        let maps = KernelMaps::take(dataplane.programs()).unwrap();
        dataplane.attach_sockets().unwrap();
        let failed = dataplane.attach_devices(devices);
        assert!(failed.is_empty(), "{failed:?}");
        let settings = Settings {
            node_name: "here".to_owned(),
            node_port_addresses: "192.0.2.0/24,2001:db8::/32,127.0.0.0/8,::1/128"
                .parse()
                .unwrap(),
            algorithm: model::Algorithm::Random,
            masquerade_ports: (61_000, 65_535),
            netns_cookie: netns_cookie().unwrap(),
        };
        let reconciler = Reconciler::new(settings, maps).unwrap();
        Self {
            dataplane,
            reconciler,
            devices: devices.clone(),
        }
    }

    /// Sees `events` and does what they ask for.
    pub(crate) fn see(&mut self, events: impl IntoIterator<Item = Event>) {
        let now = Instant::now();
        self.reconciler.see_devices(self.devices.clone(), now);
        for event in events {
            self.reconciler.see(event, now);
        }
        let round = self.reconciler.round(now);
        assert_eq!(round.failed, 0);
        assert!(self.reconciler.is_steady());
    }
}
