//! Traffic control as it was before tcx (Linux 6.6): a filter of the device's `clsact` queueing discipline.
//!
//! A filter is no link: nothing pins it, and it lives until it is deleted or its device goes. It is found again by its
//! place, a fixed priority and a fixed handle, and replaced there in one step (`cls_bpf_change`). A directory in the pin
//! directory records that it is there, made before and removed after the filter.

use std::fs;
use std::io;
use std::mem;
use std::path::Path;

use aya::programs::links::Link as _;
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{Program, ProgramError, SchedClassifier, TcAttachType};
use dataplane_ebpf::abi::LAYOUT_VERSION;
use nix::net::if_::if_nameindex;
use tracing::debug;

use super::BoxError;
use super::spot::{Side, Spot};
use crate::devices::Device;

/// Before the filters of those who leave the priority to the kernel, which begins at 49152.
const PRIORITY: u16 = 100;

/// Two layouts work side by side for a while, and so do two programs while a device turns from an uplink into one of a
/// pod: each has a handle of its own.
fn handle(layout: u32, side: Side) -> TcHandle {
    let program = match side {
        Side::Egress | Side::Ingress | Side::Driver => 0,
        Side::PodIngress => 1,
    };
    TcHandle::from(0x706f_0000 | layout << 4 | program)
}

/// Puts `program` at `spot`, in the place of the one that an earlier daemon put there. `pin` records it.
pub(super) fn attach(
    program: &mut Program,
    spot: Spot,
    device: &Device,
    pin: &Path,
) -> Result<(), BoxError> {
    let Program::SchedClassifier(program) = program else {
        return Err(ProgramError::UnexpectedProgramType.into());
    };
    let is_new = !pin.exists();
    if is_new {
        fs::create_dir(pin)?;
    }
    // Without the discipline, replacing fails; whoever else has made it already keeps it.
    let has_discipline = tc::qdisc_add_clsact(&device.name);
    let handle = handle(LAYOUT_VERSION, spot.side);
    let replaced = replace(program, spot, device, handle);
    let attached = match replaced {
        Ok(()) => Ok(()),
        Err(_) => create(program, spot, device, handle),
    };
    if let Err(error) = attached {
        debug!(device = device.name, ?has_discipline, "no filter");
        // An earlier daemon's filter may still be there.
        if is_new {
            fs::remove_dir(pin)?;
        }
        return Err(error.into());
    }
    Ok(())
}

fn replace(
    program: &mut SchedClassifier,
    spot: Spot,
    device: &Device,
    handle: TcHandle,
) -> Result<(), ProgramError> {
    let side = attach_type(spot.side);
    let old = SchedClassifierLink::attached(&device.name, side, PRIORITY, handle, None)?;
    let link = program.attach_to_link(old)?;
    // The filter outlives the daemon, but not the value that stands for it.
    mem::forget(program.take_link(link)?);
    Ok(())
}

fn create(
    program: &mut SchedClassifier,
    spot: Spot,
    device: &Device,
    handle: TcHandle,
) -> Result<(), ProgramError> {
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle,
        classid: None,
    });
    let link = program.attach_with_options(&device.name, attach_type(spot.side), options)?;
    mem::forget(program.take_link(link)?);
    Ok(())
}

/// Deletes the filter that `pin` of a layout with this `version` records. The discipline stays: others may use it, and
/// it costs nothing. A filter whose device is gone is gone with it.
pub(super) fn remove(pin: &Path, version: u32) -> io::Result<()> {
    let spot: Option<Spot> = pin.file_name().and_then(|name| name.to_str()?.parse().ok());
    if let Some(spot) = spot {
        let devices = if_nameindex()?;
        if let Some(known) = devices.iter().find(|known| known.index() == spot.device) {
            let device = Device {
                index: spot.device,
                name: known.name().to_string_lossy().into_owned(),
            };
            match delete(spot, &device.name, version) {
                // It went just now.
                Err(_) if !device.exists() => {}
                deleted => deleted?,
            }
        }
    }
    fs::remove_dir(pin)
}

fn delete(spot: Spot, device: &str, version: u32) -> io::Result<()> {
    let side = attach_type(spot.side);
    let link =
        SchedClassifierLink::attached(device, side, PRIORITY, handle(version, spot.side), None)?;
    // It may be gone already: with the discipline, or because a daemon died before it made it.
    if let Err(error) = link.detach() {
        debug!(device, ?error, "no filter to delete");
    }
    Ok(())
}

fn attach_type(side: Side) -> TcAttachType {
    match side {
        Side::Egress => TcAttachType::Egress,
        Side::Ingress | Side::PodIngress | Side::Driver => TcAttachType::Ingress,
    }
}
