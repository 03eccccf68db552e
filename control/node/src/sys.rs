//! System calls that no safe wrapper offers: all of this package's `unsafe` is here.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The proof that this process has one thread; it is for programs that never start another.
#[derive(Debug)]
pub(crate) struct SingleThread(());

impl SingleThread {
    /// Counts this process' threads.
    pub(crate) fn check() -> io::Result<Self> {
        match std::fs::read_dir("/proc/self/task")?.count() {
            1 => Ok(Self(())),
            count => Err(io::Error::other(format!(
                "{count} threads where there should be one"
            ))),
        }
    }

    /// Forks.
    pub(crate) fn fork(&self) -> nix::Result<ForkResult> {
        #[expect(unsafe_code, reason = "fork copies only the calling thread")]
        // SAFETY: the child of a process with threads could find locks that nobody will ever release; there was only
        // this thread when `self` was made, and whoever makes one starts none, so the child is a complete copy and may
        // run any code.
        unsafe {
            nix::unistd::fork()
        }
    }
}

/// A descriptor of the process `pid`, which becomes readable when the process ends.
pub(crate) fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    #[expect(unsafe_code, reason = "pidfd_open has no wrapper in nix")]
    // SAFETY: the call takes two integers and touches no memory; what it returns is checked before it is owned, and
    // nobody else can know the new descriptor.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0))?;
        let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Sends a signal to the very process the descriptor was opened for.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: Signal) -> nix::Result<()> {
    #[expect(unsafe_code, reason = "pidfd_send_signal has no wrapper in nix")]
    // SAFETY: the signal information may be null, by the call's contract; no other pointer is passed.
    let result = unsafe {
        let info = std::ptr::null::<libc::siginfo_t>();
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal as libc::c_int,
            info,
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// Marks every descriptor from `first` on to be closed by `exec`.
pub(crate) fn close_on_exec_from(first: u32) -> nix::Result<()> {
    #[expect(unsafe_code, reason = "close_range has no wrapper in nix")]
    // SAFETY: with CLOSE_RANGE_CLOEXEC the call closes nothing now, so no owner of a descriptor is betrayed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Errno::result(result).map(drop)
}

/// Takes a capability out of the set that a program may ever gain.
pub(crate) fn drop_bounding(capability: u8) -> nix::Result<()> {
    #[expect(unsafe_code, reason = "PR_CAPBSET_DROP has no wrapper in nix")]
    // SAFETY: this option reads one integer.
    let result = unsafe {
        libc::prctl(
            libc::PR_CAPBSET_DROP,
            libc::c_ulong::from(capability),
            0,
            0,
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// Empties the set of capabilities that survive `exec` without the file's consent.
pub(crate) fn clear_inheritable() -> nix::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Default, Clone, Copy)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    /// _LINUX_CAPABILITY_VERSION_3: two words of sets.
    const VERSION: u32 = 0x2008_0522;
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut sets = [Sets::default(); 2];
    #[expect(unsafe_code, reason = "capget and capset have no wrapper in nix")]
    // SAFETY: both structures have the layout of the kernel's cap_user_header_t and two cap_user_data_t, which is what
    // version 3 reads and writes, and they live across the calls.
    unsafe {
        Errno::result(libc::syscall(
            libc::SYS_capget,
            &raw mut header,
            sets.as_mut_ptr(),
        ))?;
        sets.iter_mut().for_each(|set| set.inheritable = 0);
        Errno::result(libc::syscall(
            libc::SYS_capset,
            &raw mut header,
            sets.as_ptr(),
        ))?;
    }
    Ok(())
}

/// Makes the terminal `fd` the controlling one of this session.
pub(crate) fn set_controlling_terminal(fd: BorrowedFd<'_>) -> nix::Result<()> {
    #[expect(unsafe_code, reason = "TIOCSCTTY has no wrapper in nix")]
    // SAFETY: TIOCSCTTY takes an integer argument.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) };
    Errno::result(result).map(drop)
}

/// Sets a terminal's size.
pub(crate) fn set_window_size(fd: BorrowedFd<'_>, columns: u16, rows: u16) -> nix::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    #[expect(unsafe_code, reason = "TIOCSWINSZ has no wrapper in nix")]
    // SAFETY: TIOCSWINSZ reads one winsize, which lives across the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(result).map(drop)
}

/// Installs a seccomp filter for this thread and all that it becomes.
pub(crate) fn install_seccomp(filter: &[libc::sock_filter]) -> nix::Result<()> {
    let len = u16::try_from(filter.len()).map_err(|_| Errno::EINVAL)?;
    let program = libc::sock_fprog {
        len,
        filter: filter.as_ptr().cast_mut(),
    };
    #[expect(unsafe_code, reason = "seccomp has no wrapper in nix")]
    // SAFETY: `program` points to `len` instructions that live across the call; the kernel only reads and verifies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    Errno::result(result).map(drop)
}

/// Becomes the program `path`; returns only the error.
pub(crate) fn exec(path: &CString, arguments: &[CString], environment: &[CString]) -> Errno {
    match nix::unistd::execve(path, arguments, environment) {
        Ok(infallible) => match infallible {},
        Err(error) => error,
    }
}

/// Makes descriptor `to` (0, 1 or 2) a copy of `fd`.
pub(crate) fn redirect(fd: BorrowedFd<'_>, to: Standard) -> nix::Result<()> {
    match to {
        Standard::Input => nix::unistd::dup2_stdin(fd),
        Standard::Output => nix::unistd::dup2_stdout(fd),
        Standard::Error => nix::unistd::dup2_stderr(fd),
    }
}

/// The three standard descriptors.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Standard {
    /// Descriptor 0.
    Input,
    /// Descriptor 1.
    Output,
    /// Descriptor 2.
    Error,
}

/// Ends this process at once, running nothing: for the child of a fork.
pub(crate) fn exit_now(code: i32) -> ! {
    #[expect(unsafe_code, reason = "_exit has no safe wrapper")]
    // SAFETY: _exit never returns and runs no code of this process.
    unsafe {
        libc::_exit(code)
    }
}

/// Opens `/dev/null`.
pub(crate) fn dev_null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?
        .into())
}

/// Lets the agent's runtime wait for a descriptor.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(unsafe_code, reason = "the registration trusts `as_raw_fd`")]
    // SAFETY: an `OwnedFd` is the same open descriptor for as long as it lives, and only the `AsyncFd` can drop it.
    unsafe {
        AsyncFd::register_with_interest(fd, interest).map_err(Into::into)
    }
}
