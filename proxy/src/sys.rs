//! System calls that no library offers: what is pinned, maps read and copied many entries at a time or mapped into memory,
//! links of BPF programs, and the cookie of a network namespace. The only module of this package with unsafe code.

mod array;
mod batch;
mod link;
mod table;

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

pub(crate) use array::Array;
pub(crate) use batch::{BatchReader, copy_map};
pub(crate) use link::{LinkTarget, link_info, link_target, update_link};
pub(crate) use table::Table;

/// `BPF_OBJ_GET` of `enum bpf_cmd`.
const OBJ_GET: libc::c_long = 7;
/// `BPF_F_RDONLY` of `enum bpf_map_flags`.
const RDONLY: u32 = 1 << 3;

/// Opens what is pinned at `path`.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    obj_get(path, 0)
}

/// Opens the map pinned at `path` so that the kernel refuses to write anything through it.
pub(crate) fn open_pin_read_only(path: &Path) -> io::Result<OwnedFd> {
    obj_get(path, RDONLY)
}

#[expect(unsafe_code, reason = "bpf(2)")]
fn obj_get(path: &Path, file_flags: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct ObjGet {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = ObjGet {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags,
    };
    // SAFETY: the kernel reads `attributes` and the path it points to, both of which live until after the call.
    let fd = unsafe { bpf(OBJ_GET, &mut attributes) }?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Calls `bpf(2)`; returns the descriptor that it gives, if it gives one.
///
/// # Safety
/// `attributes` is `union bpf_attr` as `command` has it, without padding, and each pointer in it is to memory that the
/// kernel may read or write as that command does.
#[expect(unsafe_code, reason = "bpf(2)")]
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<RawFd> {
    let (attributes, size) = (ptr::from_mut(attributes), size_of::<T>());
    // SAFETY: the kernel reads and writes no more of `attributes` than its size, and the caller answers for the rest.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

/// The cookie of the network namespace that `socket` was made in.
#[expect(unsafe_code, reason = "getsockopt(2)")]
pub(crate) fn netns_cookie(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length =
        libc::socklen_t::try_from(mem::size_of_val(&cookie)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes into `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(cookie)
    }
}

/// Gives memory that was freed back to the kernel: reading a long list leaves much of it behind.
#[expect(unsafe_code, reason = "malloc_trim(3)")]
pub(crate) fn trim_memory() {
    // SAFETY: the allocator locks its own state and moves nothing that is in use.
    unsafe { libc::malloc_trim(0) };
}

fn fd_number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}
