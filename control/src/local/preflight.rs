//! What a machine must offer before a cluster can be built on it, asked all at once and answered with remedies.

use std::path::Path;

use anyhow::{Result, bail};
use nix::mount::{MsFlags, mount};

use super::place;

const BPFFS: &str = "/sys/fs/bpf";

/// Refuses to start with one message that names everything that is missing.
pub(crate) fn check() -> Result<()> {
    let missing: Vec<String> = [root(), cgroup2(), bpffs(), btf()]
        .into_iter()
        .flatten()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "this machine cannot run a cluster yet:\n  - {}",
        missing.join("\n  - ")
    );
}

fn root() -> Option<String> {
    (!nix::unistd::geteuid().is_root())
        .then(|| "root is needed for namespaces, cgroups and eBPF: run this with sudo".into())
}

fn cgroup2() -> Option<String> {
    place::cgroup2_mount()
        .err()
        .map(|error| format!("{error:#}"))
}

/// Mounts the BPF file system where it is missing, as systemd does at boot.
fn bpffs() -> Option<String> {
    let mounted = || {
        place::mounts("bpf")
            .is_ok_and(|points| points.iter().any(|point| point == Path::new(BPFFS)))
    };
    if mounted() {
        return None;
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>).err().map(|error| {
        format!("no BPF file system on {BPFFS} ({error}): a kernel with CONFIG_BPF_SYSCALL and `mount -t bpf bpf {BPFFS}` is needed")
    })
}

fn btf() -> Option<String> {
    (!Path::new("/sys/kernel/btf/vmlinux").exists())
        .then(|| "the kernel has no BTF (/sys/kernel/btf/vmlinux): one built with CONFIG_DEBUG_INFO_BTF is needed".into())
}
