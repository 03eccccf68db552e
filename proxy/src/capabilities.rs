//! The few rights of root that the daemon needs, and giving up all others.
//!
//! Rights belong to threads, and a new thread has those of the one that starts it. Tests tell that these are enough and
//! that none is too much.

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use tracing::{debug, warn};

/// What the daemon needs as long as it runs: BPF for maps and programs, NET_ADMIN to attach them, and PERFMON because the
/// verifier else refuses programs that compare pointers into a packet.
pub const DAEMON: [Capability; 3] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
];

/// What the thread needs that closes sockets in the network namespaces of pods: SYS_ADMIN to enter them, and SYS_PTRACE
/// to find those that only a process names.
pub const NAMESPACES: [Capability; 4] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
];

/// Gives up every right of the calling thread but those `wanted`. Missing ones are named, but are no error: SYS_ADMIN, if
/// it is there, stays then, since it stands for BPF and PERFMON too.
pub fn keep(wanted: &[Capability]) -> Result<(), CapsError> {
    let have = caps::read(None, CapSet::Permitted)?;
    let mut kept: CapsHashSet = wanted.iter().copied().collect();
    kept.retain(|right| have.contains(right));
    if DAEMON.iter().any(|right| !have.contains(right)) {
        let missing: Vec<&Capability> = DAEMON
            .iter()
            .filter(|right| !have.contains(right))
            .collect();
        warn!(
            ?missing,
            "the daemon was started without rights that it needs"
        );
        kept.extend(have.get(&Capability::CAP_SYS_ADMIN));
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    debug!(?kept, "gave up all other rights");
    Ok(())
}
