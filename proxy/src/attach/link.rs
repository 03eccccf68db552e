//! Links of BPF programs to cgroups and devices: made, pinned, and taken over from an earlier daemon.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{CgroupAttachMode, LinkOrder, Program, ProgramError, TcAttachType, XdpMode};
use tracing::{debug, warn};

use super::spot::{Side, Spot};
use super::{BoxError, Error};
use crate::devices::Device;
use crate::pins::file;
use crate::sys::{self, LinkTarget};

/// Puts `program` into the link at `pin`, if there is one and it attaches to `target`.
pub(super) fn take_over(
    name: &'static str,
    program: &Program,
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
    let program = program.fd().map_err(failed)?;
    sys::update_link(link.as_fd(), program.as_fd()).map_err(file("update", pin))?;
    debug!(program = name, "took over its link");
    Ok(true)
}

/// Links made one by one always stack with those of others.
pub(super) fn to_cgroup(program: &mut Program, cgroup: &File) -> Result<FdLink, BoxError> {
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

/// Attaches to traffic control, behind the programs of others; or to the driver itself, never to the kernel's imitation
/// of one, which would see packets that no driver gives.
pub(super) fn to_device(
    program: &mut Program,
    spot: Spot,
    device: &Device,
) -> Result<FdLink, BoxError> {
    match program {
        Program::SchedClassifier(program) => {
            let side = match spot.side {
                Side::Egress => TcAttachType::Egress,
                _ => TcAttachType::Ingress,
            };
            let order = TcAttachOptions::TcxOrder(LinkOrder::default());
            let link = program.attach_with_options(&device.name, side, order)?;
            Ok(program.take_link(link)?.try_into()?)
        }
        Program::Xdp(program) => {
            let link = program.attach_to_if_index(device.index, XdpMode::Driver)?;
            Ok(program.take_link(link)?.try_into()?)
        }
        _ => Err(ProgramError::UnexpectedProgramType.into()),
    }
}

pub(super) fn pin(name: &'static str, link: FdLink, path: &Path) -> Result<(), Error> {
    let pinned: PinnedLink = link
        .pin(path)
        .map_err(|source| Error::Pin { name, source })?;
    drop(pinned);
    Ok(())
}
