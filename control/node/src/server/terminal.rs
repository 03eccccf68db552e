//! A pseudo terminal for a program in a container.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// The agent's end of a terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    master: AsyncFd<OwnedFd>,
}

impl Terminal {
    /// A new terminal, and the program's three streams on its other end.
    pub(super) fn open() -> io::Result<(Self, [Stdio; 3])> {
        let pty = nix::pty::openpty(None, None)?;
        for fd in [pty.master.as_fd(), pty.slave.as_fd()] {
            fcntl(fd, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        }
        fcntl(
            pty.master.as_fd(),
            FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_RDWR),
        )?;
        let streams = [
            pty.slave.try_clone()?.into(),
            pty.slave.try_clone()?.into(),
            pty.slave.into(),
        ];
        Ok((
            Self {
                master: sys::watch(pty.master, Interest::READABLE | Interest::WRITABLE)?,
            },
            streams,
        ))
    }

    /// Reads what the program says; nothing once it has ended. Cancel safe.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.master.readable().await?;
            match ready.try_io(|master| nix::unistd::read(master, buffer).map_err(io::Error::from))
            {
                // The other end is closed.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::EIO as i32) => return Ok(0),
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// Writes what the user types.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.master.writable().await?;
            match ready.try_io(|master| nix::unistd::write(master, bytes).map_err(io::Error::from))
            {
                Ok(count) => bytes = &bytes[count?..],
                Err(_would_block) => {}
            }
        }
        Ok(())
    }

    /// Tells the program the window's size.
    pub(super) fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        Ok(sys::set_window_size(self.master.as_fd(), columns, rows)?)
    }
}
