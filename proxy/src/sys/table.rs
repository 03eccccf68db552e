//! Pinned maps of known types, for reading only: the kernel itself refuses to write through them.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aya::Pod;
use aya::maps::{MapData, MapType};
use aya::util::nr_cpus;

use super::batch::{BatchReader, read};
use super::{bpf, fd_number, open_pin_read_only};

/// `BPF_MAP_LOOKUP_ELEM` of `enum bpf_cmd`.
const MAP_LOOKUP_ELEM: libc::c_long = 1;

/// A pinned map of `V` by `K`, for reading only.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    map: OwnedFd,
    /// How many entries fit.
    size: u32,
    /// How many values each key has: one, or in maps per CPU one for each.
    copies: usize,
    types: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Opens the map pinned at `path`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let map = open_pin_read_only(path)?;
        let info = MapData::from_fd(map.try_clone()?).and_then(|data| data.info());
        let info = info.map_err(io::Error::other)?;
        let kind = info.map_type().map_err(io::Error::other)?;
        let is_expected = info.key_size() as usize == size_of::<K>()
            && info.value_size() as usize == size_of::<V>();
        if !is_expected {
            let message = "its keys or values have another size than this build's";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let copies = match kind {
            MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash => {
                nr_cpus().map_err(|(_, error)| error)?
            }
            _ => 1,
        };
        // The kernel rounds each CPU's value up to eight bytes (`bpf_map_value_size`).
        assert!(
            copies == 1 || size_of::<V>().is_multiple_of(8),
            "whole words"
        );
        Ok(Self {
            map,
            size: info.max_entries(),
            copies,
            types: PhantomData,
        })
    }

    /// How many entries fit.
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// The value of `key`; of a map per CPU, the first CPU's.
    pub(crate) fn get(&self, key: &K) -> io::Result<Option<V>> {
        Ok(self.values(key)?.and_then(|values| values.first().copied()))
    }

    /// The values of `key`: one, or in a map per CPU one for each.
    #[expect(unsafe_code, reason = "bpf(2)")]
    pub(crate) fn values(&self, key: &K) -> io::Result<Option<Vec<V>>> {
        #[repr(C)]
        struct Lookup {
            map_fd: u32,
            padding: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let mut values = vec![MaybeUninit::<V>::zeroed(); self.copies];
        let mut attributes = Lookup {
            map_fd: fd_number(self.map.as_fd()),
            padding: 0,
            key: (&raw const *key) as u64,
            value: values.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the kernel reads a key and writes a value for each copy, whose sizes `open` compared with the map's.
        let found = unsafe { bpf(MAP_LOOKUP_ELEM, &mut attributes) };
        match found {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            found => found?,
        };
        // SAFETY: zeroed before the call, and any bit pattern is a legal `V`, which is `Pod`.
        let values = values
            .into_iter()
            .map(|value| unsafe { value.assume_init() });
        Ok(Some(values.collect()))
    }

    /// Visits every entry: its key and its values. What is written meanwhile may be met or not.
    pub(crate) fn each(&self, mut visit: impl FnMut(K, &[V])) -> io::Result<()> {
        let value_size = size_of::<V>() * self.copies;
        let mut reader = BatchReader::new(self.map.as_fd(), size_of::<K>(), value_size);
        // A trie begins again where a key has gone meanwhile, and one that changes all the time must not be read for ever.
        let mut left = 2 * u64::from(self.size);
        let mut values = Vec::with_capacity(self.copies);
        while let Some(entries) = reader.next()? {
            for (key, bytes) in entries.iter() {
                values.clear();
                values.extend(bytes.chunks_exact(size_of::<V>()).map(read::<V>));
                visit(read(key), &values);
            }
            match left.checked_sub(u64::from(entries.count())) {
                Some(fewer) => left = fewer,
                None => break,
            }
        }
        Ok(())
    }
}
