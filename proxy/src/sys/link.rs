//! Links of BPF programs: what they attach where, and other programs put into them.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use super::{bpf, fd_number};

/// `BPF_OBJ_GET_INFO_BY_FD` and `BPF_LINK_UPDATE` of `enum bpf_cmd`.
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_UPDATE: libc::c_long = 29;
/// `BPF_LINK_TYPE_CGROUP`, `BPF_LINK_TYPE_XDP` and `BPF_LINK_TYPE_TCX` of `enum bpf_link_type`.
const LINK_TYPE_CGROUP: u32 = 3;
const LINK_TYPE_XDP: u32 = 6;
const LINK_TYPE_TCX: u32 = 11;

/// A link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    /// The id of the program that it runs.
    pub(crate) program: u32,
    /// Where it runs.
    pub(crate) target: LinkTarget,
}

/// What a link attaches its program to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkTarget {
    /// The cgroup with this id, which is the inode number of its directory.
    Cgroup(u64),
    /// The device with this index in its network namespace; zero if the device is gone.
    Device(u32),
    /// Something that we never attach to.
    Other,
}

/// Puts `program` in the place of the one that `link` runs now. Nothing passes in between without either.
#[expect(unsafe_code, reason = "bpf(2)")]
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct LinkUpdate {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let mut attributes = LinkUpdate {
        link_fd: fd_number(link),
        new_prog_fd: fd_number(program),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: the kernel reads these integers alone.
    unsafe { bpf(LINK_UPDATE, &mut attributes) }?;
    Ok(())
}

/// What `link` attaches its program to.
pub(crate) fn link_target(link: BorrowedFd<'_>) -> io::Result<LinkTarget> {
    Ok(link_info(link)?.target)
}

/// What `link` attaches where.
#[expect(unsafe_code, reason = "bpf(2)")]
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    #[repr(C)]
    struct InfoByFd {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    /// The start of `struct bpf_link_info`, with room for what newer kernels add.
    #[repr(C)]
    struct RawLinkInfo {
        kind: u32,
        id: u32,
        prog_id: u32,
        padding: u32,
        target: [u32; 2],
        rest: [u64; 8],
    }
    let mut info = MaybeUninit::<RawLinkInfo>::zeroed();
    let mut attributes = InfoByFd {
        bpf_fd: fd_number(link),
        info_len: u32::try_from(size_of::<RawLinkInfo>()).map_err(io::Error::other)?,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the kernel writes at most `info_len` bytes into `info`, which lives until after the call.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    // SAFETY: zeroed before the call, and integers take any bit pattern.
    let info = unsafe { info.assume_init() };
    let [low, high] = info.target;
    let target = match info.kind {
        LINK_TYPE_CGROUP => LinkTarget::Cgroup(u64::from(high) << 32 | u64::from(low)),
        LINK_TYPE_TCX | LINK_TYPE_XDP => LinkTarget::Device(low),
        _ => LinkTarget::Other,
    };
    let program = info.prog_id;
    Ok(LinkInfo { program, target })
}
