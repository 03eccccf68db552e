//! The programs and maps in the kernel: loaded, pinned and attached so that they outlive the daemon.
//!
//! Under the pin directory `v<layout>/maps` holds every map, `v<layout>/links` every attachment that is a link, and
//! `v<layout>/filters` the places of those that are not. What an earlier daemon left is adopted: its maps with all they
//! hold, after a check that they are what this build declares, and its attachments by putting this build's program in the
//! old one's place, between two packets. A link whose cgroup or device is gone is made anew.

mod cleanup;
mod filter;
mod growth;
mod link;
mod load;
mod spot;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::pin::PinError;
use aya::programs::Program;
use aya::{Ebpf, EbpfError};
use dataplane_ebpf::{Hook, OBJECT, PROGRAMS};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use tracing::{debug, info};

use crate::devices::{Device, Devices};
use crate::features::Features;
use crate::maps::{self, XdpDevices};
use crate::pins::{self, MapSizes, Pins, file};
use crate::sys::LinkTarget;
use crate::xdp::Xdp;
use spot::{Attachment, Side, Spot};

pub use cleanup::cleanup;
pub use growth::Growth;

/// What the loader reports; its own errors differ from step to step.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The dataplane could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pin directory is of no use.
    #[error(transparent)]
    Pins(#[from] pins::Error),
    /// A pinned map could not be used.
    #[error("cannot open the map {name}")]
    Map {
        /// The map.
        name: &'static str,
        /// Why not.
        source: aya::maps::MapError,
    },
    /// A map has its last size.
    #[error("{0} is full, and as large as it may become")]
    NoGrowth(String),
    /// Some programs use other maps than the rest.
    #[error("the programs could not go back to the maps they had; some of them use others")]
    Divided(#[source] Box<Error>),
    /// A map could not be written.
    #[error(transparent)]
    Maps(#[from] maps::Error),
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

impl Error {
    fn map(name: &'static str) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| Self::Map { name, source }
    }

    /// Whether only another start, which takes over every attachment, puts things in order.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Divided(_))
    }
}

/// The loaded programs, and where they are attached.
pub struct Dataplane {
    programs: Ebpf,
    pins: Pins,
    sizes: MapSizes,
    cgroup: PathBuf,
    features: Features,
    /// What runs on devices by the pin directory, whichever daemon attached it.
    attached: BTreeSet<Attachment>,
    /// The programs of this daemon among them.
    running: BTreeMap<Attachment, &'static str>,
    xdp: Xdp,
    xdp_devices: XdpDevices,
    /// The uplinks whose drivers take no program.
    without_driver: BTreeSet<u32>,
}

/// How the dataplane is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// How large maps may become.
    pub sizes: MapSizes,
    /// What the kernel can do.
    pub features: Features,
    /// The devices whose drivers get a program.
    pub xdp: Xdp,
}

impl Dataplane {
    /// Loads the programs with the maps pinned under `root`, which are adopted or made. Nothing is attached yet.
    pub fn open(root: &Path, cgroup: &Path, options: Options) -> Result<Self, Error> {
        check_cgroup(cgroup)?;
        let pins = Pins::open(root)?;
        let mut programs = load::object(pins.loader(options.sizes), OBJECT)?;
        Ok(Self {
            xdp_devices: XdpDevices::take(&mut programs)?,
            programs,
            attached: spot::list(&pins)?,
            pins,
            sizes: options.sizes,
            cgroup: cgroup.to_owned(),
            features: options.features,
            running: BTreeMap::new(),
            xdp: options.xdp,
            without_driver: BTreeSet::new(),
        })
    }

    /// What was loaded; its maps can be taken out.
    pub fn programs(&mut self) -> &mut Ebpf {
        &mut self.programs
    }

    /// Attaches the programs for sockets to the cgroup, taking over the links there are.
    pub fn attach_sockets(&mut self) -> Result<(), Error> {
        for program in PROGRAMS {
            if matches!(program.hook, Hook::SocketAddress | Hook::Socket) {
                self.attach_cgroup(program.name)?;
            }
        }
        Ok(())
    }

    /// Removes what a daemon with another layout left. Until this build's maps hold everything, the other's do the work.
    pub fn remove_other_layouts(&self) -> Result<(), Error> {
        Ok(cleanup::remove_other_layouts(&self.pins)?)
    }

    /// Forgets what is attached, so that the next [`Self::attach_devices`] looks at every device again.
    pub fn look_again(&mut self) -> Result<(), Error> {
        self.attached = spot::list(&self.pins)?;
        self.running.clear();
        Ok(())
    }

    /// Attaches the programs for packets to the `devices` that have none of this daemon's yet, taking over what is
    /// attached there, and lets go of all others. One that fails does not keep the others from it; what failed is
    /// returned. Without any uplink, those there were keep their programs: a route that is gone for a moment must not
    /// cost connections.
    pub fn attach_devices(&mut self, devices: &Devices) -> Vec<Error> {
        // What a driver refuses it may take once its device comes back: with other settings, or as another device.
        let is_uplink = |index: &u32| devices.uplinks.iter().any(|device| device.index == *index);
        self.without_driver.retain(is_uplink);
        let wanted = self.wanted(devices);
        let mut failed = Vec::new();
        for (attachment, (program, device)) in &wanted {
            if self.running.get(attachment) == Some(program) {
                continue;
            }
            match self.attach_device(program, *attachment, device) {
                Ok(()) => {
                    self.attached.insert(*attachment);
                    self.running.insert(*attachment, program);
                }
                Err(error) if attachment.spot.side == Side::Driver => {
                    info!(
                        error = &error as &dyn std::error::Error,
                        "the driver takes no program; traffic control does all of it"
                    );
                    self.without_driver.insert(device.index);
                }
                // Pods come and go, and their devices are often gone before they are seen.
                Err(error) if !device.exists() => debug!(?error, device = device.name, "gone"),
                Err(error) => failed.push(error),
            }
        }
        failed.extend(self.keep_drivers(devices).err());
        let others = self.attached.iter().filter(|attachment| {
            let is_kept = devices.uplinks.is_empty() && self.was_uplink(attachment.spot.device);
            !wanted.contains_key(attachment) && !is_kept
        });
        for attachment in others.copied().collect::<Vec<_>>() {
            match self.detach(attachment) {
                Ok(()) => {
                    self.attached.remove(&attachment);
                    self.running.remove(&attachment);
                }
                Err(error) => failed.push(error),
            }
        }
        failed
    }

    /// Which program belongs where. The order is one in which they can be attached while traffic flows: what translates
    /// replies comes before what translates requests.
    fn wanted<'a>(&self, devices: &'a Devices) -> BTreeMap<Attachment, (&'static str, &'a Device)> {
        let is_pod =
            |device: &&Device| !(devices.uplinks.is_empty() && self.was_uplink(device.index));
        let pods: Vec<&Device> = devices.pods.iter().filter(is_pod).collect();
        let uplinks: Vec<&Device> = devices.uplinks.iter().collect();
        let mut wanted = BTreeMap::new();
        for program in PROGRAMS {
            let Some(side) = Spot::side(program.hook) else {
                continue;
            };
            let chosen = match side {
                Side::Ingress => uplinks.clone(),
                Side::PodIngress => pods.clone(),
                Side::Egress => [&*uplinks, &*pods].concat(),
                Side::Driver => self.drivers(devices),
            };
            for device in chosen {
                let spot = Spot {
                    side,
                    device: device.index,
                };
                let is_link = self.features.tcx || side == Side::Driver;
                let attachment = Attachment { spot, is_link };
                wanted.insert(attachment, (program.name, device));
            }
        }
        wanted
    }

    /// The devices whose drivers are to have the program.
    fn drivers<'a>(&self, devices: &'a Devices) -> Vec<&'a Device> {
        let chosen = self.xdp.chosen(devices).into_keys();
        let fit = chosen.filter(|device| !self.without_driver.contains(&device.index));
        fit.collect()
    }

    /// Lets the program act on the devices that have it, before it leaves those that shall not have it any more.
    fn keep_drivers(&mut self, devices: &Devices) -> Result<(), Error> {
        if devices.uplinks.is_empty() {
            return Ok(());
        }
        let side = Side::Driver;
        let chosen = self.xdp.chosen(devices).into_iter();
        let running = chosen.filter(|(device, _)| {
            let device = device.index;
            let spot = Spot { side, device };
            let is_link = true;
            self.running.contains_key(&Attachment { spot, is_link })
        });
        let wanted = running.map(|(device, mac)| (device.index, mac)).collect();
        Ok(self.xdp_devices.keep(&wanted)?)
    }

    fn was_uplink(&self, device: u32) -> bool {
        let side = Side::Ingress;
        let spot = Spot { side, device };
        let is_there = |is_link| self.attached.contains(&Attachment { spot, is_link });
        is_there(true) || is_there(false)
    }

    fn attach_cgroup(&mut self, name: &'static str) -> Result<(), Error> {
        let cgroup = File::open(&self.cgroup).map_err(file("open", &self.cgroup))?;
        let id = cgroup
            .metadata()
            .map_err(file("inspect", &self.cgroup))?
            .ino();
        let pin = self.pins.links.join(name);
        let program = program(&mut self.programs, name)?;
        if link::take_over(name, program, &pin, LinkTarget::Cgroup(id))? {
            return Ok(());
        }
        let target = self.cgroup.display().to_string();
        let failed = |source| Error::Attach {
            name,
            target,
            source,
        };
        let link = link::to_cgroup(program, &cgroup).map_err(failed)?;
        info!(program = name, cgroup = %self.cgroup.display(), "attached");
        link::pin(name, link, &pin)
    }

    fn attach_device(
        &mut self,
        name: &'static str,
        attachment: Attachment,
        device: &Device,
    ) -> Result<(), Error> {
        let failed = |source| Error::Attach {
            name,
            target: device.name.clone(),
            source,
        };
        let pin = attachment.pin(&self.pins);
        let program = program(&mut self.programs, name)?;
        if !attachment.is_link {
            return filter::attach(program, attachment.spot, device, &pin).map_err(failed);
        }
        let target = LinkTarget::Device(device.index);
        if link::take_over(name, program, &pin, target)? {
            return Ok(());
        }
        let link = link::to_device(program, attachment.spot, device).map_err(failed)?;
        link::pin(name, link, &pin)?;
        // It was found by its name, which may be another device's by now.
        if !link::take_over(name, program, &pin, target)? {
            return Err(failed("another device has its name now".into()));
        }
        debug!(program = name, device = device.name, "attached");
        Ok(())
    }

    fn detach(&self, attachment: Attachment) -> Result<(), Error> {
        debug!(%attachment, "detached");
        Ok(cleanup::detach(&self.pins, &attachment.pin(&self.pins))?)
    }
}

fn program<'a>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, Error> {
    let missing = || Error::Program {
        name,
        reason: "the object file does not have it".to_owned(),
    };
    programs.program_mut(name).ok_or_else(missing)
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
