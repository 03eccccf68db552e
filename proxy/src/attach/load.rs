//! Programs given to the verifier.

use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use dataplane_ebpf::{Hook, PROGRAMS};
use tracing::warn;

use super::{Error, program};

/// How often a program is given to the verifier before an interruption counts as a failure.
const TRIES: usize = 5;

/// Loads every program of `object`. The kernel may refuse the one for drivers.
pub(super) fn object(mut loader: EbpfLoader<'_>, object: &[u8]) -> Result<Ebpf, Error> {
    let mut programs = loader.load(object).map_err(Error::Load)?;
    for entry in PROGRAMS {
        let loaded = load(entry.name, program(&mut programs, entry.name)?);
        match loaded {
            // Nothing depends on it.
            Err(error) if entry.hook == Hook::Xdp => warn!(
                error = &error as &dyn std::error::Error,
                "no driver can have its program"
            ),
            other => other?,
        }
    }
    Ok(programs)
}

fn load(name: &'static str, program: &mut Program) -> Result<(), Error> {
    let failed = |reason: String| Error::Program { name, reason };
    let load: &mut dyn FnMut() -> Result<(), ProgramError> = match program {
        Program::CgroupSockAddr(program) => &mut || program.load(),
        Program::CgroupSock(program) => &mut || program.load(),
        Program::SchedClassifier(program) => &mut || program.load(),
        Program::Xdp(program) => &mut || program.load(),
        other => {
            return Err(failed(format!(
                "it is of the unexpected type {:?}",
                other.prog_type()
            )));
        }
    };
    let mut loaded = load();
    for _ in 1..TRIES {
        if !loaded.as_ref().is_err_and(was_interrupted) {
            break;
        }
        loaded = load();
    }
    loaded.map_err(|error| failed(tail(&error.to_string())))
}

/// The verifier gives up with EAGAIN when a signal is pending for the thread (`bpf_check`), whatever signal that is.
fn was_interrupted(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(libc::EAGAIN))
}

/// The end of a long message: a verifier's log says last why it stopped.
fn tail(message: &str) -> String {
    let lines: Vec<&str> = message.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
