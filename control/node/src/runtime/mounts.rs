//! Builds a container's root, in the container's own mount namespace and before it is entered.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, pivot_root};

use super::{ContainerSpec, Mount};
use crate::fs::{Root, at, fd_path};

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// What would tell about, or reach into, the machine.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Builds the root of the container in `dir` and makes it this process' root.
pub(super) fn enter_root(dir: &Path, spec: &ContainerSpec) -> io::Result<()> {
    // What is mounted from here on stays here, but what the machine mounts (or unmounts) still arrives.
    mount_on(
        "",
        Path::new("/"),
        "",
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        "",
    )?;
    let path = dir.join("rootfs");
    mount_overlay(dir, &path, &spec.layers)?;
    let root = Root::open(&path)?;
    let privileged = spec.process.security.privileged;
    mount_kernel(&root, privileged)?;
    mount_devices(&root, privileged)?;
    if !privileged {
        // Before anything of the pod's own is there that could lead elsewhere.
        for path in MASKED.map(Path::new) {
            mask(&root, path).map_err(at(path))?;
        }
        for path in READ_ONLY.map(Path::new) {
            protect(&root, path).map_err(at(path))?;
        }
    }
    for mount in &spec.mounts {
        bind(&root, mount).map_err(at(&mount.target))?;
    }
    pivot(&path)?;
    make_directory(&spec.process.directory)?;
    if spec.read_only {
        remount(Path::new("/"), MsFlags::MS_NODEV | MsFlags::MS_RDONLY)?;
    }
    Ok(())
}

/// The program's directory; images often name one that they do not bring.
fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir_all(path) {
        Err(error) if error.raw_os_error() == Some(libc::EROFS) => Ok(()),
        other => other.map_err(at(path)),
    }
}

fn mount_overlay(dir: &Path, target: &Path, layers: &[PathBuf]) -> io::Result<()> {
    let (upper, work, empty) = (dir.join("upper"), dir.join("work"), dir.join("empty"));
    for path in [&upper, &work, &empty, &target.to_path_buf()] {
        fs::create_dir_all(path).map_err(at(path))?;
    }
    // Relative names, because mount options get one page.
    let lower: Vec<String> = match layers.first().and_then(|layer| layer.parent()) {
        Some(parent) => {
            chdir(parent)?;
            layers
                .iter()
                .rev()
                .filter_map(|layer| Some(layer.file_name()?.to_string_lossy().into_owned()))
                .collect()
        }
        None => vec![escaped(&empty)],
    };
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        escaped(&upper),
        escaped(&work)
    );
    mount_on("overlay", target, "overlay", MsFlags::MS_NODEV, &options)
}

/// A path as overlayfs' options want it.
fn escaped(path: &Path) -> String {
    path.display()
        .to_string()
        .replace('\\', "\\\\")
        .replace(':', "\\:")
        .replace(',', "\\,")
}

/// `/proc` and `/sys`.
fn mount_kernel(root: &Root, privileged: bool) -> io::Result<()> {
    let careful = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_at(root, "proc", "proc", careful, "")?;
    let sys = if privileged {
        careful
    } else {
        careful | MsFlags::MS_RDONLY
    };
    mount_at(root, "sys", "sysfs", sys, "")?;
    // A view of the container's own group, where version 2 is all there is.
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        mount_at(root, "sys/fs/cgroup", "cgroup2", sys, "")?;
    }
    Ok(())
}

fn mount_devices(root: &Root, privileged: bool) -> io::Result<()> {
    if privileged {
        let target = root.make_dir(Path::new("dev"))?;
        mount_on(
            "/dev",
            &fd_path(target.as_fd()),
            "",
            MsFlags::MS_BIND | MsFlags::MS_REC,
            "",
        )?;
    } else {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount_at(root, "dev", "tmpfs", flags, "mode=755,size=65536k")?;
        for name in DEVICES {
            let target = root.make_file(&Path::new("dev").join(name))?;
            let source = format!("/dev/{name}");
            mount_on(&source, &fd_path(target.as_fd()), "", MsFlags::MS_BIND, "")?;
        }
        let dev = root.at(Path::new("dev"), OFlag::O_PATH)?;
        let dev = fd_path(dev.as_fd());
        for (name, target) in LINKS {
            symlink(target, dev.join(name))?;
        }
    }
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_at(
        root,
        "dev/pts",
        "devpts",
        safe,
        "newinstance,ptmxmode=0666,mode=0620,gid=5",
    )?;
    match mount_at(root, "dev/mqueue", "mqueue", safe | MsFlags::MS_NODEV, "") {
        // The kernel is built without message queues.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// Mounts a file system of the kernel at a directory of the root, made if missing.
fn mount_at(
    root: &Root,
    target: &str,
    kind: &str,
    flags: MsFlags,
    options: &str,
) -> io::Result<()> {
    let target = root.make_dir(Path::new(target))?;
    mount_on(kind, &fd_path(target.as_fd()), kind, flags, options)
}

fn mount_on(
    source: &str,
    target: &Path,
    kind: &str,
    flags: MsFlags,
    options: &str,
) -> io::Result<()> {
    let some = |text| Some(text).filter(|text: &&str| !text.is_empty());
    let what = if kind.is_empty() { source } else { kind };
    mount(some(source), target, some(kind), flags, some(options)).map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("mounting {what}: {error}"))
    })
}

fn bind(root: &Root, mount: &Mount) -> io::Result<()> {
    let source = open_source(mount)?;
    let directory = fs::metadata(fd_path(source.as_fd()))?.is_dir();
    let target = if directory {
        root.make_dir(&mount.target)?
    } else {
        root.make_file(&mount.target)?
    };
    let (source, target) = (fd_path(source.as_fd()), fd_path(target.as_fd()));
    mount_on(
        &source.to_string_lossy(),
        &target,
        "",
        MsFlags::MS_BIND | MsFlags::MS_REC,
        "",
    )?;
    // The descriptor still names what is below the new mount.
    let mounted = root.at(&mount.target, OFlag::O_PATH)?;
    let device = fs::metadata(fd_path(mounted.as_fd())).is_ok_and(|file| {
        let kind = file.file_type();
        kind.is_char_device() || kind.is_block_device()
    });
    let mut flags = if device {
        MsFlags::empty()
    } else {
        MsFlags::MS_NODEV
    };
    flags.set(MsFlags::MS_RDONLY, mount.read_only);
    remount(&fd_path(mounted.as_fd()), flags)
}

fn open_source(mount: &Mount) -> io::Result<OwnedFd> {
    let Some(sub_path) = &mount.sub_path else {
        let opened = nix::fcntl::open(
            &mount.source,
            OFlag::O_PATH | OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        );
        return opened.map_err(|error| at(&mount.source)(error.into()));
    };
    let volume = Root::open(&mount.source)?;
    match volume.at(sub_path, OFlag::O_PATH) {
        Err(Errno::ENOENT) => Ok(volume.make_dir(sub_path)?),
        other => Ok(other?),
    }
}

/// Adds `flags` to those the mount at `path` has.
fn remount(path: &Path, flags: MsFlags) -> io::Result<()> {
    let has = statvfs(path)?.flags();
    let mut all = flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    for (flag, mount_flag) in [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ] {
        all.set(mount_flag, all.contains(mount_flag) || has.contains(flag));
    }
    mount_on("", path, "", all, "")
}

fn pivot(path: &Path) -> io::Result<()> {
    chdir(path)?;
    // The old root is stacked below the new one, and taken away from there: no directory for it is needed.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}

/// Covers what `path` names in the root, if anything. The null device is the machine's: it is no file of the container
/// that decides what covers another.
fn mask(root: &Root, path: &Path) -> io::Result<()> {
    let target = match root.at(path, OFlag::O_PATH) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other?,
    };
    let target = fd_path(target.as_fd());
    if fs::metadata(&target)?.is_dir() {
        mount_on("tmpfs", &target, "tmpfs", MsFlags::MS_RDONLY, "size=0k")
    } else {
        mount_on("/dev/null", &target, "", MsFlags::MS_BIND, "")
    }
}

/// Makes what `path` names in the root read-only, if anything.
fn protect(root: &Root, path: &Path) -> io::Result<()> {
    let target = match root.at(path, OFlag::O_PATH) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other?,
    };
    let target = fd_path(target.as_fd());
    mount_on(
        &target.to_string_lossy(),
        &target,
        "",
        MsFlags::MS_BIND | MsFlags::MS_REC,
        "",
    )?;
    // The descriptor still names what is below the new mount.
    let mounted = root.at(path, OFlag::O_PATH)?;
    remount(&fd_path(mounted.as_fd()), MsFlags::MS_RDONLY)
}
