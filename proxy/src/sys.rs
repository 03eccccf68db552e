//! System calls that no library offers: arrays of the kernel mapped into memory, links of BPF programs, and the cookie of
//! a network namespace. The only module of this package with unsafe code.

pub(crate) mod read;

mod batch;

use std::cell::Cell;
use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use aya::Pod;

pub(crate) use batch::{BatchReader, copy_map};

/// `BPF_OBJ_GET`, `BPF_OBJ_GET_INFO_BY_FD` and `BPF_LINK_UPDATE` of `enum bpf_cmd`.
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_UPDATE: libc::c_long = 29;
/// `BPF_LINK_TYPE_CGROUP`, `BPF_LINK_TYPE_XDP` and `BPF_LINK_TYPE_TCX` of `enum bpf_link_type`.
const LINK_TYPE_CGROUP: u32 = 3;
const LINK_TYPE_XDP: u32 = 6;
const LINK_TYPE_TCX: u32 = 11;

/// An array map whose values are mapped into memory: a store is seen by the kernel at once, without a system call.
///
/// Only the beginning is mapped, as far as it has been used. The memory is the kernel's either way, but what is mapped
/// counts as the process's.
#[derive(Debug)]
pub(crate) struct Array<T> {
    map: OwnedFd,
    length: u32,
    window: Cell<Window>,
    values: PhantomData<T>,
}

/// The mapped beginning of an array.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: NonNull<u8>,
    bytes: usize,
}

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

// SAFETY: the mapping belongs to the process, not to a thread.
#[expect(
    unsafe_code,
    reason = "the pointer is to memory that any thread may use"
)]
unsafe impl<T: Send> Send for Array<T> {}

impl<T: Pod> Array<T> {
    /// The kernel rounds the size of each value up to eight bytes (`array_map_alloc`).
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);
    /// The least that is mapped; a multiple of every page size.
    const STEP: usize = 1 << 16;

    /// Maps the array `map`, which was created mappable with `length` values of type `T`.
    pub(crate) fn map(map: BorrowedFd<'_>, length: u32) -> io::Result<Self> {
        let map = map.try_clone_to_owned()?;
        let window = Cell::new(map_window(
            map.as_fd(),
            Self::STEP.min(Self::bytes(length)),
        )?);
        Ok(Self {
            map,
            length,
            window,
            values: PhantomData,
        })
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> u32 {
        self.length
    }

    /// All values, in order. They are mapped only for as long as this takes.
    pub(crate) fn scan<R>(&self, keep: impl Fn(u32, T) -> Option<R>) -> io::Result<Vec<R>> {
        let whole = Self::map(self.map.as_fd(), self.length)?;
        let values = (0..self.length).filter_map(|index| {
            whole
                .read(index)
                .map(|value| keep(index, value))
                .transpose()
        });
        values.collect()
    }

    /// The value at `index`. It may be torn if another process writes it, of which there is none.
    #[expect(unsafe_code, reason = "reads mapped memory")]
    pub(crate) fn read(&self, index: u32) -> io::Result<T> {
        let value = self.value(index)?;
        // SAFETY: `value` is in bounds, aligned and any bit pattern is a legal `T`, which is `Pod`.
        Ok(unsafe { value.as_ptr().read_volatile() })
    }

    /// Stores a whole value. Readers in the kernel may see a part of it: only for values that nothing names yet.
    #[expect(unsafe_code, reason = "writes mapped memory")]
    pub(crate) fn write(&self, index: u32, new: T) -> io::Result<()> {
        let value = self.value(index)?;
        // SAFETY: `value` is in bounds and aligned, and no reference to it exists in this process.
        unsafe { value.as_ptr().write_volatile(new) };
        Ok(())
    }

    /// Stores the byte at `offset` of a value, and touches no other.
    #[expect(unsafe_code, reason = "writes mapped memory")]
    pub(crate) fn store_u8(&self, index: u32, offset: usize, byte: u8) -> io::Result<()> {
        let value = self.value(index)?;
        assert!(offset < size_of::<T>(), "a byte of the value");
        // SAFETY: in bounds by the assertion.
        let byte_at = unsafe { AtomicU8::from_ptr(value.as_ptr().byte_add(offset).cast()) };
        byte_at.store(byte, Ordering::Release);
        Ok(())
    }

    /// Stores the word at `offset` of a value at once, after everything that was stored before.
    #[expect(unsafe_code, reason = "writes mapped memory")]
    pub(crate) fn store_u32(&self, index: u32, offset: usize, word: u32) -> io::Result<()> {
        let value = self.value(index)?;
        assert!(
            offset.is_multiple_of(4) && offset + 4 <= size_of::<T>(),
            "a field of the value"
        );
        // SAFETY: in bounds and aligned by the assertion, since values start at multiples of eight bytes.
        let word_at = unsafe { AtomicU32::from_ptr(value.as_ptr().byte_add(offset).cast()) };
        word_at.store(word, Ordering::Release);
        Ok(())
    }

    /// Stores the double word at `offset` of a value at once, after everything that was stored before.
    #[expect(unsafe_code, reason = "writes mapped memory")]
    pub(crate) fn store_u64(&self, index: u32, offset: usize, word: u64) -> io::Result<()> {
        let value = self.value(index)?;
        assert!(
            offset.is_multiple_of(8) && offset + 8 <= size_of::<T>(),
            "a field of the value"
        );
        // SAFETY: in bounds and aligned by the assertion, since values start at multiples of eight bytes.
        let word_at = unsafe { AtomicU64::from_ptr(value.as_ptr().byte_add(offset).cast()) };
        word_at.store(word, Ordering::Release);
        Ok(())
    }

    #[expect(unsafe_code, reason = "points into mapped memory")]
    fn value(&self, index: u32) -> io::Result<NonNull<T>> {
        if index >= self.length {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "index beyond the end of the map",
            ));
        }
        let start = index as usize * Self::STRIDE;
        if start + Self::STRIDE > self.window.get().bytes {
            self.grow(start + Self::STRIDE)?;
        }
        // SAFETY: the window holds the value, whose last byte it was grown to if need be.
        Ok(unsafe { self.window.get().start.byte_add(start).cast() })
    }

    /// Maps at least `bytes`, twice as much as before or more.
    fn grow(&self, bytes: usize) -> io::Result<()> {
        let bytes = bytes.next_power_of_two().min(Self::bytes(self.length));
        let old = self.window.replace(map_window(self.map.as_fd(), bytes)?);
        unmap_window(old);
        Ok(())
    }

    /// The size of the whole array in memory.
    fn bytes(length: u32) -> usize {
        const PAGE: usize = 4096;
        (length as usize * Self::STRIDE).next_multiple_of(PAGE)
    }
}

impl<T> Drop for Array<T> {
    fn drop(&mut self) {
        unmap_window(self.window.get());
    }
}

#[expect(unsafe_code, reason = "mmap(2)")]
fn map_window(map: BorrowedFd<'_>, bytes: usize) -> io::Result<Window> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let (flags, fd) = (libc::MAP_SHARED, map.as_raw_fd());
    // SAFETY: a fresh shared mapping, placed by the kernel, touches no existing memory.
    let start = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, fd, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start = NonNull::new(start.cast());
    let start = start.ok_or_else(|| io::Error::other("mmap returned the null page"))?;
    Ok(Window { start, bytes })
}

#[expect(unsafe_code, reason = "munmap(2)")]
fn unmap_window(window: Window) {
    // SAFETY: exactly the range that `map_window` got; pointers into it are made anew for each access.
    let result = unsafe { libc::munmap(window.start.as_ptr().cast(), window.bytes) };
    debug_assert_eq!(result, 0, "the range is a mapping");
}

/// Opens what is pinned at `path`.
#[expect(unsafe_code, reason = "bpf(2)")]
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct ObjGet {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjGet {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: the kernel reads `attributes` and the path it points to, both of which live until after the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            OBJ_GET,
            &raw const attributes,
            size_of::<ObjGet>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
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
    let attributes = LinkUpdate {
        link_fd: fd_number(link),
        new_prog_fd: fd_number(program),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: the kernel reads as many bytes as it is told, all of them initialised.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            LINK_UPDATE,
            &raw const attributes,
            size_of::<LinkUpdate>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
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
    let attributes = InfoByFd {
        bpf_fd: fd_number(link),
        info_len: u32::try_from(size_of::<RawLinkInfo>()).map_err(io::Error::other)?,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the kernel writes at most `info_len` bytes into `info`, which lives until after the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            OBJ_GET_INFO_BY_FD,
            &raw const attributes,
            size_of::<InfoByFd>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
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
