//! File system helpers: paths that cannot leave a root directory, and files that are either complete or absent.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat};
use nix::sys::stat::{Mode, mkdirat};

const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY);
/// How many links in a row are followed.
const MAX_LINKS: usize = 8;

/// A directory that paths of an image or of a container are resolved in: `..` and symbolic links end at its border
/// (`openat2` with `RESOLVE_IN_ROOT`).
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
}

impl Root {
    /// Opens the directory `path` as a root.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self {
            fd: open(path, flags, Mode::empty())?,
        })
    }

    /// Opens what `path` names inside the root, following links inside it.
    pub(crate) fn at(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        openat2(self.fd.as_fd(), path, how)
    }

    /// Opens the directory `path`, making what is missing of it. A link to nothing is followed: many an image has
    /// `/var/run` lead to a `/run` that it does not bring.
    pub(crate) fn make_dir(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.make_dir_through(path, MAX_LINKS)
    }

    fn make_dir_through(&self, path: &Path, links: usize) -> nix::Result<OwnedFd> {
        match self.at(path, DIRECTORY) {
            Err(Errno::ENOENT) if links > 0 => {}
            other => return other,
        }
        let Some(name) = path.file_name() else {
            // The path ends in `..` or is the root.
            return self.make_dir_through(&plain(path), links - 1);
        };
        let before = path.parent().unwrap_or(Path::new(""));
        let parent = self.make_dir_through(before, links)?;
        match mkdirat(parent.as_fd(), name, Mode::from_bits_truncate(0o755)) {
            Ok(()) => self.at(path, DIRECTORY),
            Err(Errno::EEXIST) => {
                let target = readlinkat(parent.as_fd(), name)?;
                self.make_dir_through(&before.join(target), links - 1)
            }
            Err(error) => Err(error),
        }
    }

    /// The directory that holds `path` (made if missing) and the last name of `path`.
    pub(crate) fn parent<'a>(&self, path: &'a Path) -> nix::Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        Ok((self.make_dir(path.parent().unwrap_or(Path::new("")))?, name))
    }

    /// Opens the file `path`, making an empty one (and its directories) if it is missing. A link to nothing is followed:
    /// images have them where programs of a running system would make files.
    pub(crate) fn make_file(&self, path: &Path) -> nix::Result<OwnedFd> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            match self.at(&path, OFlag::O_PATH) {
                Err(Errno::ENOENT) => {}
                other => return other,
            }
            let (dir, name) = self.parent(&path)?;
            let how = OpenHow::new()
                .flags(OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
                .mode(Mode::from_bits_truncate(0o644))
                .resolve(ResolveFlag::RESOLVE_BENEATH);
            match openat2(dir.as_fd(), name, how) {
                Err(Errno::ELOOP) => {}
                other => return other,
            }
            let target = readlinkat(dir.as_fd(), name)?;
            path = path.parent().unwrap_or(Path::new("")).join(target);
        }
        Err(Errno::ELOOP)
    }
}

/// The path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            _ => {}
        }
    }
    plain
}

/// A path that names an open file for calls that take only paths, such as `mount`; good for as long as it is open.
#[derive(Debug)]
pub(crate) struct FdPath<'fd> {
    path: PathBuf,
    _fd: BorrowedFd<'fd>,
}

impl Deref for FdPath<'_> {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for FdPath<'_> {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// The path that names the open file `fd`.
pub(crate) fn fd_path(fd: BorrowedFd<'_>) -> FdPath<'_> {
    FdPath {
        path: PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
        _fd: fd,
    }
}

/// Writes a file so that after a crash it is either the old or the new one, and durable once this returns.
pub(crate) fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let staged = dir.join(format!(".{}.new", name.to_string_lossy()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&staged)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(&staged, path)?;
    File::open(dir)?.sync_all()
}

/// Writes a file at once, without waiting for the disk: for state that a reboot makes void anyway.
pub(crate) fn write_at_once(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let staged = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
    fs::write(&staged, content)?;
    fs::rename(&staged, path)
}

/// Turns "not found" into success: for removals.
pub(crate) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The error of a path, with the path.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |error| io::Error::new(error.kind(), format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing step fails the test")]

    use super::*;

    #[test]
    fn paths_stay_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        let inside = dir.path().join("inside");
        fs::create_dir(&outside).unwrap();
        fs::create_dir(&inside).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../outside", inside.join("relative")).unwrap();

        let root = Root::open(&inside).unwrap();
        // The links end inside: nothing is made outside.
        for path in ["../outside/a", "relative/b", "absolute/c", "/../../d"] {
            let made = root.make_file(Path::new(path));
            assert!(made.is_ok(), "{path}: {made:?}");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{path}");
        }
        assert!(inside.join("outside/a").exists() && inside.join("outside/b").exists());
    }

    #[test]
    fn links_to_nothing_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.make_dir(Path::new("etc")).unwrap();
        std::os::unix::fs::symlink("../run/resolve/stub", dir.path().join("etc/resolv.conf"))
            .unwrap();
        root.make_file(Path::new("/etc/resolv.conf")).unwrap();
        assert!(dir.path().join("run/resolve/stub").is_file());
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        assert!(root.make_file(Path::new("loop")).is_err());
    }

    #[test]
    fn missing_directories_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.make_file(Path::new("/a/b/c")).unwrap();
        assert!(dir.path().join("a/b/c").is_file());
        root.make_dir(Path::new("a/d/e")).unwrap();
        assert!(dir.path().join("a/d/e").is_dir());
    }
}
