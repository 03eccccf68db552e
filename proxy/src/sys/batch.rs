//! Many entries of a map by one system call.

use std::io;
use std::os::fd::BorrowedFd;

use aya::Pod;

use super::{bpf, fd_number};

/// `BPF_MAP_LOOKUP_BATCH` and `BPF_MAP_UPDATE_BATCH` of `enum bpf_cmd`.
const LOOKUP: libc::c_long = 24;
const UPDATE: libc::c_long = 26;

/// About how many bytes are read or written at once.
const BYTES: usize = 1 << 20;

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

/// Some entries of a map.
pub(crate) struct Entries<'a> {
    count: u32,
    keys: &'a [u8],
    key_size: usize,
    values: &'a [u8],
    value_size: usize,
}

impl Entries<'_> {
    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The bytes of each key and value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let keys = self.keys.chunks_exact(self.key_size);
        let values = self.values.chunks_exact(self.value_size);
        keys.zip(values).take(self.count as usize)
    }

    /// The keys and values as what they are.
    pub(crate) fn typed<K: Pod, V: Pod>(&self) -> impl Iterator<Item = (K, V)> {
        self.iter().map(|(key, value)| (read(key), read(value)))
    }
}

/// The value whose bytes these are.
#[expect(unsafe_code, reason = "makes a value of bytes")]
pub(super) fn read<T: Pod>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>(), "all bytes of a value");
    // SAFETY: there are as many bytes as the value has, and any bit pattern is a legal `T`, which is `Pod`.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

/// Reads a map from its beginning to its end. Entries that come or go meanwhile may be missed.
pub(crate) struct BatchReader<'a> {
    map: BorrowedFd<'a>,
    key_size: usize,
    value_size: usize,
    keys: Vec<u8>,
    values: Vec<u8>,
    /// Where the last batch ended: a key, or in a hash the number of a bucket. Nothing before the first one.
    position: Option<Vec<u8>>,
    is_last: bool,
}

impl<'a> BatchReader<'a> {
    /// Reads `map`, whose keys and values have these sizes; of a map by CPU, a value is all CPUs' values together, each
    /// filled up to eight bytes.
    pub(crate) fn new(map: BorrowedFd<'a>, key_size: usize, value_size: usize) -> Self {
        let room = BYTES / (key_size + value_size);
        Self::with_room(map, key_size, value_size, room.max(64))
    }

    /// Reads so many entries at once.
    fn with_room(map: BorrowedFd<'a>, key_size: usize, value_size: usize, room: usize) -> Self {
        Self {
            map,
            key_size,
            value_size,
            keys: vec![0; key_size * room],
            values: vec![0; value_size * room],
            position: None,
            is_last: false,
        }
    }

    /// The entries that come next; nothing at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Entries<'_>>> {
        if self.is_last {
            return Ok(None);
        }
        let count = loop {
            match self.read_on() {
                // A bucket of the hash has more entries than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    self.keys.resize(2 * self.keys.len(), 0);
                    self.values.resize(2 * self.values.len(), 0);
                }
                // An entry was deleted while the kernel stood on it (`generic_map_lookup_batch`).
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                read => break read?,
            }
        };
        Ok(Some(Entries {
            count,
            keys: &self.keys,
            key_size: self.key_size,
            values: &self.values,
            value_size: self.value_size,
        }))
    }

    /// Reads on from the position, which moves only if that succeeds; how many entries there were.
    #[expect(unsafe_code, reason = "bpf(2)")]
    fn read_on(&mut self) -> io::Result<u32> {
        let mut next = vec![0u8; self.key_size.max(size_of::<u64>())];
        let mut batch = Batch {
            in_batch: self.position.as_ref().map_or(0, |at| at.as_ptr() as u64),
            out_batch: next.as_mut_ptr() as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: u32::try_from(self.keys.len() / self.key_size).map_err(io::Error::other)?,
            map_fd: fd_number(self.map),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel writes at most `count` keys and values of the map's sizes, for which there is room, and a
        // position, which is a key or a word; it reads one that it wrote before.
        match unsafe { bpf(LOOKUP, &mut batch) } {
            // The count holds for what was left.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.is_last = true,
            read => {
                read?;
                self.position = Some(next);
            }
        }
        Ok(batch.count)
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

#[expect(unsafe_code, reason = "bpf(2)")]
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
    // SAFETY: the kernel reads `count` keys and values, which are there.
    unsafe { bpf(UPDATE, &mut batch) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};

    use nix::unistd::Uid;

    use super::*;

    /// Two kinds of `enum bpf_map_type`, whose batches end at a bucket and at a key.
    const HASH: u32 = 1;
    const ARRAY: u32 = 2;

    /// A map of `u64` by `u32`.
    #[expect(unsafe_code, reason = "bpf(2)")]
    fn create(kind: u32, entries: u32) -> OwnedFd {
        #[repr(C)]
        struct Create {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
        }
        const MAP_CREATE: libc::c_long = 0;
        let mut attributes = Create {
            map_type: kind,
            key_size: 4,
            value_size: 8,
            max_entries: entries,
        };
        // SAFETY: there is no pointer in it, and nobody else knows the descriptor.
        unsafe {
            let fd = bpf(MAP_CREATE, &mut attributes).expect("a map can be made");
            OwnedFd::from_raw_fd(fd)
        }
    }

    fn fill(map: &OwnedFd, wanted: &BTreeMap<u32, u64>) {
        let keys: Vec<u8> = wanted.keys().flat_map(|key| key.to_ne_bytes()).collect();
        let values = wanted.values().flat_map(|value| value.to_ne_bytes());
        let entries = Entries {
            count: u32::try_from(wanted.len()).expect("few"),
            keys: &keys,
            key_size: 4,
            values: &values.collect::<Vec<u8>>(),
            value_size: 8,
        };
        update(map.as_fd(), &entries).expect("there is room");
    }

    fn all(mut reader: BatchReader<'_>) -> BTreeMap<u32, u64> {
        let mut found = BTreeMap::new();
        while let Some(entries) = reader.next().expect("the map can be read") {
            for (key, value) in entries.typed::<u32, u64>() {
                assert_eq!(found.insert(key, value), None, "{key} comes once");
            }
        }
        found
    }

    #[test]
    fn every_entry_comes_once_however_few_fit_at_once() {
        if !Uid::effective().is_root() {
            eprintln!("not tested: maps need root");
            return;
        }
        let wanted: BTreeMap<u32, u64> = (0..1000).map(|key| (key, u64::from(key) + 7)).collect();
        for kind in [HASH, ARRAY] {
            let map = create(kind, 1000);
            fill(&map, &wanted);
            // Of a thousand buckets, some have more entries than one.
            for room in [1, 100, 1000, 5000] {
                let reader = BatchReader::with_room(map.as_fd(), 4, 8, room);
                assert_eq!(
                    all(reader),
                    wanted,
                    "{room} of a map of kind {kind} at once"
                );
            }
            let copy = create(kind, 2000);
            copy_map(map.as_fd(), copy.as_fd(), 4, 8).expect("there is room");
            let mut copied = all(BatchReader::new(copy.as_fd(), 4, 8));
            // An array has all its entries from the start.
            copied.retain(|_, value| *value != 0);
            assert_eq!(copied, wanted);
        }
    }
}
