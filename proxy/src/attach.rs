//! The programs and maps in the kernel: loaded, pinned and attached so that they outlive the daemon.
//!
//! Under the pin directory `v<layout>/maps` holds every map and `v<layout>/links` every attachment. What an earlier daemon
//! pinned is adopted: its maps with all they hold, after a check that they are what this build declares, and its links by
//! putting this build's program in the old one's place, between two packets. A link whose cgroup or device is gone is
//! made anew.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::{MapInfo, MapType};
use aya::pin::PinError;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{CgroupAttachMode, Program, ProgramError, TcAttachType};
use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};
use dataplane_ebpf::abi::{self, LAYOUT_VERSION, maps};
use dataplane_ebpf::addr::Addr;
use dataplane_ebpf::flow::Flow;
use dataplane_ebpf::{Hook, OBJECT, PROGRAMS};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use tracing::{debug, info, warn};

use crate::devices::Device;
use crate::sys::{self, LinkTarget};

/// What the loader reports; its own errors differ from step to step.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where the BPF file system is by convention.
const BPFFS: &str = "/sys/fs/bpf";

/// The dataplane could not be put in place.
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
    /// The object was refused.
    #[error("cannot load the BPF object")]
    Load(#[source] EbpfError),
    /// A program was refused.
    #[error("cannot load the BPF program {name}: {reason}")]
    Program {
        /// The program.
        name: &'static str,
        /// Why, with the end of the verifier's log.
        reason: String,
    },
    /// A program could not be attached.
    #[error("cannot attach the BPF program {name} to {target}")]
    Attach {
        /// The program.
        name: &'static str,
        /// The cgroup or device.
        target: String,
        /// Why not.
        source: BoxError,
    },
    /// A link could not be pinned.
    #[error("cannot pin the link of the BPF program {name}")]
    Pin {
        /// The program.
        name: &'static str,
        /// Why not.
        source: PinError,
    },
}

/// How many entries the maps get that are made anew; zero for what this build declares.
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
    /// Connections, two entries each.
    pub conntrack: u32,
}

/// The loaded programs, and where they are attached.
pub struct Dataplane {
    programs: Ebpf,
    links: PathBuf,
    cgroup: PathBuf,
}

/// What a map must be for this build to use it.
struct Declaration {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
}

const fn declare<K, V>(name: &'static str, kind: MapType) -> Declaration {
    Declaration {
        name,
        kind,
        key: size_of::<K>(),
        value: size_of::<V>(),
    }
}

const DECLARATIONS: [Declaration; 12] = [
    declare::<abi::FrontendKey, abi::Frontend>(maps::FRONTENDS, MapType::Hash),
    declare::<abi::NodePortKey, abi::Frontend>(maps::NODEPORTS, MapType::Hash),
    declare::<Addr, abi::NodeAddress>(maps::NODE_ADDRESSES, MapType::Hash),
    declare::<u32, abi::Service>(maps::SERVICES, MapType::Array),
    declare::<u32, u32>(maps::SLOTS, MapType::Array),
    declare::<u32, abi::Backend>(maps::BACKENDS, MapType::Array),
    declare::<u32, abi::Node>(maps::NODE, MapType::Array),
    declare::<Flow, abi::Connection>(maps::CONNTRACK, MapType::LruHash),
    declare::<abi::SocketKey, abi::Peer>(maps::SOCKETS, MapType::LruHash),
    declare::<u32, abi::Peer>(maps::CONNECTED, MapType::SkStorage),
    declare::<u32, abi::Stats>(maps::STATS, MapType::PerCpuArray),
    declare::<u32, u64>(maps::DROPS, MapType::PerCpuArray),
];

impl Dataplane {
    /// Loads the programs with the maps pinned under `root`, which are adopted or made. Nothing is attached yet.
    pub fn open(root: &Path, cgroup: &Path, sizes: MapSizes) -> Result<Self, Error> {
        mount_bpffs(root)?;
        let (pinned_maps, links) = (directory(root).join("maps"), directory(root).join("links"));
        for path in [&pinned_maps, &links] {
            fs::create_dir_all(path).map_err(file("create", path))?;
        }
        for declaration in &DECLARATIONS {
            check_pin(&pinned_maps.join(declaration.name), declaration)?;
        }
        let mut programs = loader(&pinned_maps, sizes)
            .load(OBJECT)
            .map_err(Error::Load)?;
        for program in PROGRAMS {
            load(&mut programs, program.name)?;
        }
        Ok(Self {
            programs,
            links,
            cgroup: cgroup.to_owned(),
        })
    }

    /// What was loaded; its maps can be taken out.
    pub fn programs(&mut self) -> &mut Ebpf {
        &mut self.programs
    }

    /// Attaches every program to the cgroup or to each of the `uplinks`, taking over the links there are, and lets go of
    /// the devices that are no uplinks any more.
    pub fn attach<'a>(
        &mut self,
        uplinks: impl IntoIterator<Item = &'a Device> + Clone,
    ) -> Result<(), Error> {
        let mut wanted = BTreeSet::new();
        for program in PROGRAMS {
            match program.hook {
                Hook::SocketAddress | Hook::Socket => {
                    self.attach_cgroup(program.name)?;
                    wanted.insert(self.links.join(program.name));
                }
                Hook::Ingress | Hook::Egress => {
                    for device in uplinks.clone() {
                        self.attach_device(program.name, program.hook, device)?;
                        wanted.insert(self.device_pin(program.name, device));
                    }
                }
            }
        }
        self.detach_others(&wanted)
    }

    fn attach_cgroup(&mut self, name: &'static str) -> Result<(), Error> {
        let cgroup = File::open(&self.cgroup).map_err(file("open", &self.cgroup))?;
        let id = cgroup
            .metadata()
            .map_err(file("inspect", &self.cgroup))?
            .ino();
        let pin = self.links.join(name);
        if self.take_over(name, &pin, LinkTarget::Cgroup(id))? {
            return Ok(());
        }
        let target = self.cgroup.display().to_string();
        let failed = |source| Error::Attach {
            name,
            target,
            source,
        };
        let link = attach_to_cgroup(self.program(name)?, &cgroup).map_err(failed)?;
        info!(program = name, cgroup = %self.cgroup.display(), "attached");
        pin_link(name, link, &pin)
    }

    fn attach_device(
        &mut self,
        name: &'static str,
        hook: Hook,
        device: &Device,
    ) -> Result<(), Error> {
        let pin = self.device_pin(name, device);
        if self.take_over(name, &pin, LinkTarget::Device(device.index))? {
            return Ok(());
        }
        let failed = |source| Error::Attach {
            name,
            target: device.name.clone(),
            source,
        };
        let link = attach_to_device(self.program(name)?, hook, &device.name).map_err(failed)?;
        info!(program = name, device = device.name, "attached");
        pin_link(name, link, &pin)
    }

    /// Puts the program called `name` into the link at `pin`, if there is one and it attaches to `target`.
    fn take_over(
        &mut self,
        name: &'static str,
        pin: &Path,
        target: LinkTarget,
    ) -> Result<bool, Error> {
        let link = match sys::open_pin(pin) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(file("open", pin)(error)),
        };
        let found = sys::link_target(link.as_fd()).map_err(file("inspect", pin))?;
        if found != target {
            warn!(
                program = name,
                ?found,
                ?target,
                "an old link attaches elsewhere; it is made anew"
            );
            fs::remove_file(pin).map_err(file("remove", pin))?;
            return Ok(false);
        }
        let failed = |source: ProgramError| Error::Program {
            name,
            reason: source.to_string(),
        };
        let program = self.program(name)?.fd().map_err(failed)?;
        sys::update_link(link.as_fd(), program.as_fd()).map_err(file("update", pin))?;
        debug!(program = name, "took over its link");
        Ok(true)
    }

    /// Removes the links that are not `wanted`, which detaches their programs.
    fn detach_others(&self, wanted: &BTreeSet<PathBuf>) -> Result<(), Error> {
        let pins = fs::read_dir(&self.links).map_err(file("list", &self.links))?;
        for pin in pins {
            let pin = pin.map_err(file("list", &self.links))?.path();
            if !wanted.contains(&pin) {
                info!(pin = %pin.display(), "detached");
                fs::remove_file(&pin).map_err(file("remove", &pin))?;
            }
        }
        Ok(())
    }

    fn program(&mut self, name: &'static str) -> Result<&mut Program, Error> {
        let missing = || Error::Program {
            name,
            reason: "the object file does not have it".to_owned(),
        };
        self.programs.program_mut(name).ok_or_else(missing)
    }

    fn device_pin(&self, name: &str, device: &Device) -> PathBuf {
        self.links.join(format!("{name}-{}", device.index))
    }
}

/// Removes every program, link and map under `root`: traffic is no longer translated. Returns whether there was anything.
pub fn cleanup(root: &Path) -> Result<bool, Error> {
    let directory = directory(root);
    if !directory.exists() {
        return Ok(false);
    }
    // First what runs, then what it works with.
    for part in ["links", "maps"] {
        let path = directory.join(part);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(file("remove", &path))?;
        }
    }
    fs::remove_dir_all(&directory).map_err(file("remove", &directory))?;
    Ok(true)
}

/// The directory of the maps and links whose layout this build knows.
fn directory(root: &Path) -> PathBuf {
    root.join(format!("v{LAYOUT_VERSION}"))
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

fn loader(pinned_maps: &Path, sizes: MapSizes) -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    // A load error carries the verifier's log; statistics alone are enough when nothing fails.
    loader.verifier_log_level(VerifierLogLevel::STATS);
    for declaration in &DECLARATIONS {
        loader.map_pin_path(declaration.name, pinned_maps.join(declaration.name));
    }
    let sizes = [
        (maps::FRONTENDS, sizes.frontends),
        (maps::SERVICES, sizes.services),
        (maps::STATS, sizes.services),
        (maps::SLOTS, sizes.slots),
        (maps::BACKENDS, sizes.backends),
        (maps::CONNTRACK, sizes.conntrack),
    ];
    for (name, size) in sizes.into_iter().filter(|(_, size)| *size != 0) {
        loader.map_max_entries(name, size);
    }
    loader
}

/// The loader takes whatever is pinned, so what is pinned has to be looked at first.
fn check_pin(path: &Path, declaration: &Declaration) -> Result<(), Error> {
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

fn load(programs: &mut Ebpf, name: &'static str) -> Result<(), Error> {
    let failed = |reason: String| Error::Program { name, reason };
    let program = programs
        .program_mut(name)
        .ok_or_else(|| failed("the object file does not have it".to_owned()))?;
    let loaded = match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        other => {
            return Err(failed(format!(
                "it is of the unexpected type {:?}",
                other.prog_type()
            )));
        }
    };
    loaded.map_err(|error| failed(tail(&error.to_string())))
}

/// The end of a long message: a verifier's log says last why it stopped.
fn tail(message: &str) -> String {
    let lines: Vec<&str> = message.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// Links made one by one always stack with those of others.
fn attach_to_cgroup(program: &mut Program, cgroup: &File) -> Result<FdLink, BoxError> {
    let mode = CgroupAttachMode::Single;
    match program {
        Program::CgroupSockAddr(program) => {
            let link = program.attach(cgroup, mode)?;
            Ok(program.take_link(link)?.try_into()?)
        }
        Program::CgroupSock(program) => {
            let link = program.attach(cgroup, mode)?;
            Ok(program.take_link(link)?.try_into()?)
        }
        _ => Err(ProgramError::UnexpectedProgramType.into()),
    }
}

fn attach_to_device(program: &mut Program, hook: Hook, device: &str) -> Result<FdLink, BoxError> {
    let Program::SchedClassifier(program) = program else {
        return Err(ProgramError::UnexpectedProgramType.into());
    };
    let side = if hook == Hook::Ingress {
        TcAttachType::Ingress
    } else {
        TcAttachType::Egress
    };
    let link = program.attach(device, side)?;
    let link = program.take_link(link)?.try_into();
    link.map_err(|_| {
        "this kernel has no links for traffic control (tcx), which Linux 6.6 brought".into()
    })
}

fn pin_link(name: &'static str, link: FdLink, path: &Path) -> Result<(), Error> {
    let pinned: PinnedLink = link
        .pin(path)
        .map_err(|source| Error::Pin { name, source })?;
    drop(pinned);
    Ok(())
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File {
        action,
        path: path.to_owned(),
        source,
    }
}
