//! Arrays of the kernel mapped into memory.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use aya::Pod;

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
