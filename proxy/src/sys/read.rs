//! Maps opened for reading only, and read many entries a system call. The kernel itself refuses to write through what is
//! opened here.

use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::Pod;
use aya::maps::{MapData, MapType};
use aya::util::nr_cpus;

use super::{OBJ_GET, fd_number};

/// `BPF_MAP_LOOKUP_ELEM` and `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd`.
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
/// `BPF_F_RDONLY` of `enum bpf_map_flags`.
const RDONLY: u32 = 1 << 3;

/// About how many bytes a batch has.
const BATCH_BYTES: usize = 1 << 20;
/// The place in a map where a batch ended: a key, or for hash maps the number of a bucket.
type Cursor = [u64; 32];

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
        let map = open_read_only(path)?;
        let info = MapData::from_fd(map.try_clone()?).and_then(|data| data.info());
        let info = info.map_err(io::Error::other)?;
        let kind = info.map_type().map_err(io::Error::other)?;
        let is_expected = info.key_size() as usize == size_of::<K>()
            && info.value_size() as usize == size_of::<V>();
        if !is_expected || size_of::<K>() > size_of::<Cursor>() {
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
        let attributes = Lookup {
            map_fd: fd_number(self.map.as_fd()),
            padding: 0,
            key: (&raw const *key) as u64,
            value: values.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the kernel reads a key and writes a value for each copy, whose sizes `open` compared with the map's.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                MAP_LOOKUP_ELEM,
                &raw const attributes,
                size_of::<Lookup>(),
            )
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOENT) => Ok(None),
                _ => Err(error),
            };
        }
        // SAFETY: zeroed before the call, and any bit pattern is a legal `V`, which is `Pod`.
        let values = values
            .into_iter()
            .map(|value| unsafe { value.assume_init() });
        Ok(Some(values.collect()))
    }

    /// Visits every entry: its key and its values. What is written meanwhile may be met or not.
    pub(crate) fn each(&self, mut visit: impl FnMut(K, &[V])) -> io::Result<()> {
        let entry = size_of::<K>() + size_of::<V>() * self.copies;
        let fits = (BATCH_BYTES / entry).clamp(64, 1 << 14);
        let mut batch = Batch::<K, V>::new(fits, self.copies);
        // A map that changes all the time must not be read for ever.
        let mut left = 2 * self.size as usize + fits;
        loop {
            let ended = batch.read(&self.map)?;
            for (key, values) in batch.entries() {
                visit(key, values);
            }
            if ended || left < batch.read {
                return Ok(());
            }
            left -= batch.read;
        }
    }
}

/// Room for some entries of a map, and where in it they are from.
struct Batch<K, V> {
    keys: Vec<MaybeUninit<K>>,
    values: Vec<MaybeUninit<V>>,
    copies: usize,
    /// How many entries the last read found.
    read: usize,
    cursor: Option<Cursor>,
}

impl<K: Pod, V: Pod> Batch<K, V> {
    fn new(fits: usize, copies: usize) -> Self {
        Self {
            keys: vec![MaybeUninit::zeroed(); fits],
            values: vec![MaybeUninit::zeroed(); fits * copies],
            copies,
            read: 0,
            cursor: None,
        }
    }

    /// Reads on where the last read ended; whether that was the end of the map.
    fn read(&mut self, map: &OwnedFd) -> io::Result<bool> {
        loop {
            match self.try_read(map) {
                // A bucket of a hash map has more entries than fit.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    *self = Self {
                        cursor: self.cursor,
                        ..Self::new(2 * self.keys.len(), self.copies)
                    };
                }
                // An entry was deleted while the kernel stood on it.
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                other => return other,
            }
        }
    }

    #[expect(unsafe_code, reason = "bpf(2)")]
    fn try_read(&mut self, map: &OwnedFd) -> io::Result<bool> {
        #[repr(C)]
        struct Lookup {
            in_batch: u64,
            out_batch: u64,
            keys: u64,
            values: u64,
            count: u32,
            map_fd: u32,
            element_flags: u64,
            flags: u64,
        }
        let mut next: Cursor = [0; 32];
        let mut attributes = Lookup {
            in_batch: self
                .cursor
                .as_ref()
                .map_or(0, |cursor| cursor.as_ptr() as u64),
            out_batch: next.as_mut_ptr() as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: u32::try_from(self.keys.len()).map_err(io::Error::other)?,
            map_fd: fd_number(map.as_fd()),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel writes at most `count` keys and as many values for each as there are CPUs, whose sizes
        // `Table::open` compared with the map's; a cursor is a key or a word, and `Cursor` has room for both.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                MAP_LOOKUP_BATCH,
                &raw mut attributes,
                size_of::<Lookup>(),
            )
        };
        let error = (result < 0).then(io::Error::last_os_error);
        let ended = match error {
            None => false,
            Some(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Some(error) => return Err(error),
        };
        self.read = (attributes.count as usize).min(self.keys.len());
        self.cursor = Some(next);
        Ok(ended)
    }

    #[expect(unsafe_code, reason = "reads what the kernel wrote")]
    fn entries(&self) -> impl Iterator<Item = (K, &[V])> {
        let keys = self.keys[..self.read].iter();
        keys.zip(self.values.chunks_exact(self.copies))
            .map(|(key, values)| {
                // SAFETY: zeroed when made, and any bit pattern is a legal `K` and `V`, which are `Pod`.
                unsafe { (key.assume_init(), values.assume_init_ref()) }
            })
    }
}

/// Opens the map pinned at `path` so that nothing can be written through it.
#[expect(unsafe_code, reason = "bpf(2)")]
fn open_read_only(path: &Path) -> io::Result<OwnedFd> {
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
        file_flags: RDONLY,
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
