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

use aya::pin::PinError;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{CgroupAttachMode, Program, ProgramError, TcAttachType};
use aya::{Ebpf, EbpfError};
use dataplane_ebpf::{Hook, OBJECT, PROGRAMS};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use tracing::{debug, info, warn};

use crate::devices::Device;
use crate::pins::{self, MapSizes, Pins, file};
use crate::sys::{self, LinkTarget};

/// How often a program is given to the verifier before an interruption counts as a failure.
const LOAD_TRIES: usize = 5;

/// What the loader reports; its own errors differ from step to step.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The dataplane could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pin directory is of no use.
    #[error(transparent)]
    Pins(#[from] pins::Error),
    /// The cgroup is none that programs can be attached to.
    #[error("{} is not a directory of a cgroup v2 hierarchy", .0.display())]
    NotCgroup2(PathBuf),
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

/// The loaded programs, and where they are attached.
pub struct Dataplane {
    programs: Ebpf,
    pins: Pins,
    cgroup: PathBuf,
}

impl Dataplane {
    /// Loads the programs with the maps pinned under `root`, which are adopted or made. Nothing is attached yet.
    pub fn open(root: &Path, cgroup: &Path, sizes: MapSizes) -> Result<Self, Error> {
        check_cgroup(cgroup)?;
        let pins = Pins::open(root, sizes)?;
        let mut programs = pins.loader(sizes).load(OBJECT).map_err(Error::Load)?;
        for program in PROGRAMS {
            load(&mut programs, program.name)?;
        }
        Ok(Self {
            programs,
            pins,
            cgroup: cgroup.to_owned(),
        })
    }

    /// What was loaded; its maps can be taken out.
    pub fn programs(&mut self) -> &mut Ebpf {
        &mut self.programs
    }

    /// Attaches the programs for sockets to the cgroup, taking over the links there are.
    pub fn attach_sockets(&mut self) -> Result<(), Error> {
        for program in PROGRAMS {
            if !is_for_devices(program.hook) {
                self.attach_cgroup(program.name)?;
            }
        }
        Ok(())
    }

    /// Removes what a daemon with another layout left. Until this build's maps hold everything, the other's do the work.
    pub fn remove_other_layouts(&self) -> Result<(), Error> {
        Ok(self.pins.remove_other_layouts()?)
    }

    /// Attaches the programs for packets to each of the `uplinks`, taking over the links there are, and lets go of the
    /// devices that are no uplinks any more. One that fails does not keep the others from it; what failed is returned.
    /// Without any uplink everything stays as it is: a route that is gone for a moment must not cost connections.
    pub fn attach_uplinks(&mut self, uplinks: &BTreeSet<Device>) -> Vec<Error> {
        if uplinks.is_empty() {
            return Vec::new();
        }
        let mut failed = Vec::new();
        let mut wanted = BTreeSet::new();
        for program in PROGRAMS {
            if !is_for_devices(program.hook) {
                wanted.insert(self.pins.links.join(program.name));
                continue;
            }
            if program.hook == Hook::Pod {
                continue;
            }
            for device in uplinks {
                wanted.insert(self.device_pin(program.name, device));
                failed.extend(self.attach_device(program.name, program.hook, device).err());
            }
        }
        failed.extend(self.detach_others(&wanted).err());
        failed
    }

    fn attach_cgroup(&mut self, name: &'static str) -> Result<(), Error> {
        let cgroup = File::open(&self.cgroup).map_err(file("open", &self.cgroup))?;
        let id = cgroup
            .metadata()
            .map_err(file("inspect", &self.cgroup))?
            .ino();
        let pin = self.pins.links.join(name);
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
            Err(error) => return Err(file("open", pin)(error).into()),
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
        let pins = fs::read_dir(&self.pins.links).map_err(file("list", &self.pins.links))?;
        for pin in pins {
            let pin = pin.map_err(file("list", &self.pins.links))?.path();
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
        self.pins.links.join(format!("{name}-{}", device.index))
    }
}

fn is_for_devices(hook: Hook) -> bool {
    match hook {
        Hook::Ingress | Hook::Egress | Hook::Pod | Hook::Xdp => true,
        Hook::SocketAddress | Hook::Socket => false,
    }
}

/// Programs for sockets are attached to the second version of cgroups only; a hybrid host has both.
fn check_cgroup(path: &Path) -> Result<(), Error> {
    let kind = statfs(path).map_err(|errno| file("inspect", path)(errno.into()))?;
    if kind.filesystem_type() == CGROUP2_SUPER_MAGIC {
        Ok(())
    } else {
        Err(Error::NotCgroup2(path.to_owned()))
    }
}

fn load(programs: &mut Ebpf, name: &'static str) -> Result<(), Error> {
    let failed = |reason: String| Error::Program { name, reason };
    let program = programs
        .program_mut(name)
        .ok_or_else(|| failed("the object file does not have it".to_owned()))?;
    let load: &mut dyn FnMut() -> Result<(), ProgramError> = match program {
        Program::CgroupSockAddr(program) => &mut || program.load(),
        Program::CgroupSock(program) => &mut || program.load(),
        Program::SchedClassifier(program) => &mut || program.load(),
        other => {
            return Err(failed(format!(
                "it is of the unexpected type {:?}",
                other.prog_type()
            )));
        }
    };
    let mut loaded = load();
    for _ in 1..LOAD_TRIES {
        if !loaded.as_ref().is_err_and(was_interrupted) {
            break;
        }
        loaded = load();
    }
    loaded.map_err(|error| failed(tail(&error.to_string())))
}

/// The verifier gives up with EAGAIN when a signal is pending for the thread (`bpf_check`), whatever signal that is.
fn was_interrupted(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(nix::errno::Errno::EAGAIN as i32))
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
