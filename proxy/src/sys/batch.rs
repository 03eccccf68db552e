//! Many entries of a map by one system call.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr;

use aya::Pod;

use super::fd_number;

/// `BPF_MAP_LOOKUP_BATCH` and `BPF_MAP_UPDATE_BATCH` of `enum bpf_cmd`.
const LOOKUP: libc::c_long = 24;
const UPDATE: libc::c_long = 26;

/// How many entries are read or written at once; no bucket of a hash has more.
const ENTRIES: u32 = 4096;

/// `struct bpf_attr` of these commands.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Some entries of a map: their keys and their values, each one after the other, and rubbish behind them.
pub(crate) struct Entries<'a> {
    pub(crate) count: u32,
    pub(crate) keys: &'a [u8],
    pub(crate) values: &'a [u8],
}

impl Entries<'_> {
    /// The keys and values as what they are.
    pub(crate) fn iter<K: Pod, V: Pod>(&self) -> impl Iterator<Item = (K, V)> {
        let keys = self.keys.chunks_exact(size_of::<K>()).map(read);
        let values = self.values.chunks_exact(size_of::<V>()).map(read);
        keys.zip(values).take(self.count as usize)
    }
}

/// The value whose bytes these are.
#[expect(unsafe_code, reason = "makes a value of bytes")]
fn read<T: Pod>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>(), "all bytes of a value");
    // SAFETY: there are as many bytes as the value has, and any bit pattern is a legal `T`, which is `Pod`.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

/// Reads a map from its beginning to its end. Entries that come or go meanwhile may be missed.
pub(crate) struct BatchReader<'a> {
    map: BorrowedFd<'a>,
    keys: Vec<u8>,
    values: Vec<u8>,
    /// Where the kernel goes on: a number or a key.
    position: Vec<u8>,
    is_first: bool,
    is_last: bool,
}

impl<'a> BatchReader<'a> {
    /// Reads `map`, whose keys and values have these sizes; of a map by CPU, a value is all CPUs' values together, each
    /// filled up to eight bytes.
    pub(crate) fn new(map: BorrowedFd<'a>, key_size: usize, value_size: usize) -> Self {
        Self {
            map,
            keys: vec![0; key_size * ENTRIES as usize],
            values: vec![0; value_size * ENTRIES as usize],
            position: vec![0; key_size.max(8)],
            is_first: true,
            is_last: false,
        }
    }

    /// The entries that come next; nothing at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Entries<'_>>> {
        if self.is_last {
            return Ok(None);
        }
        let position = self.position.as_mut_ptr() as u64;
        let mut batch = Batch {
            in_batch: if self.is_first { 0 } else { position },
            out_batch: position,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: ENTRIES,
            map_fd: fd_number(self.map),
            elem_flags: 0,
            flags: 0,
        };
        self.is_first = false;
        match call(LOOKUP, &mut batch) {
            Ok(()) => {}
            // The count holds for what was left.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.is_last = true,
            Err(error) => return Err(error),
        }
        Ok(Some(Entries {
            count: batch.count,
            keys: &self.keys,
            values: &self.values,
        }))
    }
}

/// Copies all entries of the map `from` to `to`. Both have keys and values of the same sizes, see [`BatchReader::new`].
pub(crate) fn copy_map(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    key_size: usize,
    value_size: usize,
) -> io::Result<()> {
    let mut reader = BatchReader::new(from, key_size, value_size);
    while let Some(entries) = reader.next()? {
        if entries.count > 0 {
            update(to, &entries)?;
        }
    }
    Ok(())
}

fn update(map: BorrowedFd<'_>, entries: &Entries<'_>) -> io::Result<()> {
    let mut batch = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: entries.keys.as_ptr() as u64,
        values: entries.values.as_ptr() as u64,
        count: entries.count,
        map_fd: fd_number(map),
        elem_flags: 0,
        flags: 0,
    };
    call(UPDATE, &mut batch)
}

#[expect(unsafe_code, reason = "bpf(2)")]
fn call(command: libc::c_long, batch: &mut Batch) -> io::Result<()> {
    // SAFETY: the callers' buffers, which outlive the call, have room for `count` keys and values of the map's sizes and
    // for a position; the kernel reads and writes no more than these and `batch` itself.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            ptr::from_mut(batch),
            size_of::<Batch>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
