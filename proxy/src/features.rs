//! What the running kernel can do of what not every kernel can that is old enough to be in use.

use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use tracing::{debug, warn};

use crate::sock_diag::SockDiag;

/// The oldest kernel that the dataplane was tried on.
const OLDEST: (u8, u8) = (6, 1);

/// Features of the kernel that the dataplane can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Links of programs to devices for traffic control.
    pub tcx: bool,
}

impl Features {
    /// Asks the kernel, and says in the log what it lacks.
    pub fn probe() -> Self {
        let (major, minor) = OLDEST;
        let oldest = KernelVersion::new(major, minor, 0);
        if KernelVersion::current().is_ok_and(|current| current < oldest) {
            warn!("the kernel is older than Linux {major}.{minor}, the oldest that was tried");
        }
        let tcx = has_tcx();
        if !tcx {
            warn!(
                "the kernel has no tcx, which Linux 6.6 brought: packets are translated by filters of clsact, whose \
                 order with those of others is fixed and which are not removed with the pin directory, only by --cleanup"
            );
        }
        if !can_destroy_sockets() {
            warn!(
                "the kernel cannot destroy sockets (CONFIG_INET_DIAG_DESTROY, since Linux 4.5): programs with connected \
                 UDP sockets go on sending to a backend that is gone"
            );
        }
        Self { tcx }
    }
}

fn can_destroy_sockets() -> bool {
    match SockDiag::open().and_then(|mut diag| diag.can_destroy()) {
        Ok(can) => can,
        Err(error) => {
            debug!(?error, "cannot tell whether sockets can be destroyed");
            true
        }
    }
}

/// Loopback is in every network namespace. A kernel without tcx does not know the question (EINVAL).
fn has_tcx() -> bool {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => true,
        Err(ProgramError::SyscallError(error)) => {
            error.io_error.raw_os_error() != Some(libc::EINVAL)
        }
        Err(_) => false,
    }
}
