//! Unpacks a layer: a tar stream with whiteouts becomes a directory in overlayfs' form.
//!
//! The stream is not trusted: every path is resolved inside the layer's directory, sizes and counts are bounded, and a
//! layer that breaks a rule is refused as a whole.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, makedev, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use sha2::{Digest, Sha256};
use tar::{Entry, EntryType};

use super::{ImageError, ImageStore, Staged, hex, layer_name};
use crate::fs::{Root, fd_path};

/// The most that one layer may unpack to.
const MAX_BYTES: u64 = 32 << 30;
/// The most entries that one layer may have.
const MAX_ENTRIES: u64 = 4_000_000;
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
const PAX_XATTR: &str = "SCHILY.xattr.";

/// A layer in the store.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) name: String,
    pub(super) size: u64,
}

/// Unpacks `packed` (gzip, zstd or plain tar) into the store, unless the layer is there. The content must have the
/// digest `diff_id`.
pub(super) fn add(
    store: &ImageStore,
    packed: impl Read,
    diff_id: &str,
) -> Result<Layer, ImageError> {
    let lock = store.lock()?;
    if let Some(layer) = existing(store, diff_id)? {
        return Ok(layer);
    }
    let staged = Staged::new(store)?;
    let root = staged.0.join("root");
    fs::create_dir(&root)?;
    let mut content = Hashing {
        inner: unpacked(packed)?,
        hash: Sha256::new(),
    };
    let size = unpack(&mut content, &root)?;
    // The archive's end marker comes before the stream's end, and the digest covers the padding.
    io::copy(&mut content, &mut io::sink())?;
    let found = format!("sha256:{}", hex(&content.hash.finalize()));
    if found != diff_id {
        return Err(ImageError::LayerDigest {
            expected: diff_id.to_owned(),
            found,
        });
    }
    publish(store, &root, diff_id, size)?;
    drop(lock);
    Ok(Layer {
        name: layer_name(diff_id),
        size,
    })
}

/// Makes an unpacked directory the layer `diff_id`.
pub(super) fn publish(
    store: &ImageStore,
    root: &Path,
    diff_id: &str,
    size: u64,
) -> Result<(), ImageError> {
    fs::write(size_path(store, diff_id), size.to_string())?;
    match fs::rename(root, store.layer_path(diff_id)) {
        // Somebody else was faster with the same content.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
            ) =>
        {
            Ok(())
        }
        other => Ok(other?),
    }
}

/// The layer `diff_id`, if it is in the store.
pub(super) fn existing(store: &ImageStore, diff_id: &str) -> Result<Option<Layer>, ImageError> {
    if !store.layer_path(diff_id).is_dir() {
        return Ok(None);
    }
    let size = fs::read_to_string(size_path(store, diff_id))?
        .trim()
        .parse()
        .unwrap_or(0);
    Ok(Some(Layer {
        name: layer_name(diff_id),
        size,
    }))
}

fn size_path(store: &ImageStore, diff_id: &str) -> PathBuf {
    store.layer_path(diff_id).with_extension("size")
}

/// The tar stream inside `packed`, told by its first bytes: media types are often wrong.
pub(super) fn unpacked<'a>(packed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut packed = BufReader::with_capacity(256 * 1024, packed);
    let start = io::BufRead::fill_buf(&mut packed)?;
    if start.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(packed)))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Ok(Box::new(zstd::stream::read::Decoder::with_buffer(packed)?))
    } else {
        Ok(Box::new(packed))
    }
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// Unpacks a tar stream into the empty directory `dir`; gives the bytes written.
fn unpack(content: &mut impl Read, dir: &Path) -> Result<u64, ImageError> {
    let root = Root::open(dir)?;
    let mut size = 0;
    let mut count = 0;
    for entry in tar::Archive::new(content).entries()? {
        let mut entry = entry?;
        let path = relative(&entry.path()?);
        size += entry.size();
        count += 1;
        let refused = |reason: &str| ImageError::LayerEntry {
            path: path.display().to_string(),
            reason: reason.into(),
        };
        if size > MAX_BYTES || count > MAX_ENTRIES {
            return Err(refused("the layer is too large"));
        }
        unpack_entry(&root, &mut entry, &path).map_err(|error| refused(&error.to_string()))?;
    }
    Ok(size)
}

/// A path of the archive without leading slashes and dots; `..` is left to [`Root`], which it cannot leave.
fn relative(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| matches!(part, std::path::Component::Normal(_)))
        .collect()
}

fn unpack_entry<R: Read>(root: &Root, entry: &mut Entry<'_, R>, path: &Path) -> io::Result<()> {
    let Some(name) = path.file_name() else {
        // The root itself: only its owner and mode.
        return set_attributes(entry, &root.make_dir(Path::new(""))?, Path::new("."));
    };
    let (parent, _) = root.parent(path)?;
    if let Some(hidden) = name.to_str().and_then(|name| name.strip_prefix(WHITEOUT)) {
        return whiteout(&parent, name.to_str() == Some(OPAQUE), hidden);
    }
    let name = Path::new(name);
    let kind = entry.header().entry_type();
    if kind != EntryType::Directory || !is_directory(&parent, name) {
        remove(&parent, name)?;
    }
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            write_file(entry, &parent, name)?
        }
        EntryType::Directory => {
            root.make_dir(path)?;
        }
        EntryType::Symlink => {
            let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
            symlinkat(target.as_ref(), parent.as_fd(), name)?;
        }
        EntryType::Link => {
            let target = relative(&entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?);
            let (from, from_name) = root.parent(&target)?;
            linkat(
                from.as_fd(),
                from_name,
                parent.as_fd(),
                name,
                AtFlags::empty(),
            )?;
            // The first name has set the attributes.
            return Ok(());
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            make_node(entry, kind, &parent, name)?
        }
        _ => return Ok(()),
    }
    set_attributes(entry, &parent, name)
}

fn whiteout(parent: &OwnedFd, opaque: bool, hidden: &str) -> io::Result<()> {
    if opaque {
        return xattr::set_deref(fd_path(parent.as_fd()), "trusted.overlay.opaque", b"y");
    }
    if matches!(hidden, "" | "." | "..") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a whiteout of nothing",
        ));
    }
    remove(parent, Path::new(hidden))?;
    Ok(mknodat(
        parent.as_fd(),
        hidden,
        SFlag::S_IFCHR,
        Mode::empty(),
        makedev(0, 0),
    )?)
}

fn is_directory(parent: &OwnedFd, name: &Path) -> bool {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent.as_fd(), name, flags, Mode::empty()).is_ok()
}

/// Makes room for an entry that comes twice.
fn remove(parent: &OwnedFd, name: &Path) -> io::Result<()> {
    use nix::errno::Errno;
    match unlinkat(parent.as_fd(), name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        // `parent` is below the root and `name` is one component, so this stays inside, and it follows no links.
        Err(Errno::EISDIR) => fs::remove_dir_all(fd_path(parent.as_fd()).join(name)),
        Err(error) => Err(error.into()),
    }
}

fn write_file<R: Read>(entry: &mut Entry<'_, R>, parent: &OwnedFd, name: &Path) -> io::Result<()> {
    let flags =
        OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(
        parent.as_fd(),
        name,
        flags,
        Mode::from_bits_truncate(0o600),
    )?);
    io::copy(entry, &mut file)?;
    Ok(())
}

fn make_node<R: Read>(
    entry: &Entry<'_, R>,
    kind: EntryType,
    parent: &OwnedFd,
    name: &Path,
) -> io::Result<()> {
    let header = entry.header();
    let (major, minor) = (
        header.device_major()?.unwrap_or(0),
        header.device_minor()?.unwrap_or(0),
    );
    let flag = match kind {
        EntryType::Char => SFlag::S_IFCHR,
        EntryType::Block => SFlag::S_IFBLK,
        _ => SFlag::S_IFIFO,
    };
    let device = makedev(major.into(), minor.into());
    Ok(mknodat(
        parent.as_fd(),
        name,
        flag,
        Mode::from_bits_truncate(0o600),
        device,
    )?)
}

/// Owner, extended attributes, mode and time, in this order: a change of owner clears set-uid bits and capabilities.
fn set_attributes<R: Read>(
    entry: &mut Entry<'_, R>,
    parent: &OwnedFd,
    name: &Path,
) -> io::Result<()> {
    let header = entry.header();
    let (uid, gid) = (u32::try_from(header.uid()?), u32::try_from(header.gid()?));
    let (uid, gid) = (
        uid.map_err(io::Error::other)?,
        gid.map_err(io::Error::other)?,
    );
    let (mode, mtime) = (header.mode()?, header.mtime()?);
    let link = header.entry_type() == EntryType::Symlink;
    fchownat(
        parent.as_fd(),
        name,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    if !link {
        set_xattrs(entry, parent, name)?;
        fchmodat(
            parent.as_fd(),
            name,
            Mode::from_bits_truncate(mode & 0o7777),
            FchmodatFlags::FollowSymlink,
        )?;
    }
    let time = TimeSpec::new(i64::try_from(mtime).unwrap_or(0), 0);
    Ok(utimensat(
        parent.as_fd(),
        name,
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )?)
}

fn set_xattrs<R: Read>(entry: &mut Entry<'_, R>, parent: &OwnedFd, name: &Path) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else {
        return Ok(());
    };
    for extension in extensions {
        let extension = extension?;
        if let Some(attribute) = extension
            .key()
            .ok()
            .and_then(|key| key.strip_prefix(PAX_XATTR))
        {
            // overlayfs' own attributes in a layer could point anywhere.
            if !attribute.starts_with("trusted.overlay.") {
                xattr::set(
                    fd_path(parent.as_fd()).join(name),
                    attribute,
                    extension.value_bytes(),
                )?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing step fails the test")]

    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

    use super::*;

    enum Item {
        File(&'static str),
        Link(&'static str),
        Hard(&'static str),
        Dir,
    }

    fn archive(items: &[(&str, Item)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, item) in items {
            let mut header = tar::Header::new_gnu();
            // Written as is: the builder's own setters refuse what we want to test.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_mode(0o4755);
            let (kind, target, content) = match item {
                Item::File(content) => (EntryType::Regular, "", *content),
                Item::Link(target) => (EntryType::Symlink, *target, ""),
                Item::Hard(target) => (EntryType::Link, *target, ""),
                Item::Dir => (EntryType::Directory, "", ""),
            };
            header.set_entry_type(kind);
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_size(content.len() as u64);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1);
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// Unpacks the items into `dir/layer`.
    fn unpack_items(dir: &Path, items: &[(&str, Item)]) -> Result<PathBuf, ImageError> {
        let layer = dir.join("layer");
        fs::create_dir(&layer).unwrap();
        unpack(&mut archive(items).as_slice(), &layer).map(|_| layer)
    }

    #[test]
    fn files_links_and_modes_are_kept() {
        crate::testing::require_root();
        let dir = tempfile::tempdir().unwrap();
        let items = [
            ("./", Item::Dir),
            ("bin/", Item::Dir),
            ("bin/a", Item::File("one")),
            ("bin/b", Item::Hard("bin/a")),
            ("sbin", Item::Link("bin")),
            ("sbin/c", Item::File("through the link")),
            ("bin/a", Item::File("twice")),
        ];
        let layer = unpack_items(dir.path(), &items).unwrap();
        assert_eq!(fs::read_to_string(layer.join("bin/a")).unwrap(), "twice");
        assert_eq!(fs::read_to_string(layer.join("bin/b")).unwrap(), "one");
        assert_eq!(
            fs::read_to_string(layer.join("bin/c")).unwrap(),
            "through the link"
        );
        assert_eq!(
            fs::metadata(layer.join("bin/a"))
                .unwrap()
                .permissions()
                .mode()
                & 0o7777,
            0o4755
        );
        assert_eq!(fs::metadata(layer.join("bin/a")).unwrap().mtime(), 1);
    }

    #[test]
    fn whiteouts_become_overlay_devices() {
        crate::testing::require_root();
        let dir = tempfile::tempdir().unwrap();
        let items = [
            ("etc/.wh.passwd", Item::File("")),
            ("opt/.wh..wh..opq", Item::File("")),
        ];
        let layer = unpack_items(dir.path(), &items).unwrap();
        let hidden = fs::symlink_metadata(layer.join("etc/passwd")).unwrap();
        assert!(hidden.file_type().is_char_device() && hidden.rdev() == 0);
        assert_eq!(
            xattr::get(layer.join("opt"), "trusted.overlay.opaque")
                .unwrap()
                .unwrap(),
            b"y"
        );
    }

    #[test]
    fn nothing_escapes_the_layer() {
        crate::testing::require_root();
        for items in [
            vec![("../evil", Item::File("x"))],
            vec![("/evil", Item::File("x"))],
            vec![("link", Item::Link("..")), ("link/evil", Item::File("x"))],
            vec![("link", Item::Link("/")), ("link/evil", Item::File("x"))],
            vec![("passwd", Item::Hard("../../../../../../../etc/passwd"))],
            vec![
                ("link", Item::Link("/etc/passwd")),
                ("link", Item::File("x")),
            ],
            vec![(".wh...", Item::File(""))],
            vec![("a/.wh..", Item::File(""))],
            vec![("a/.wh.", Item::File(""))],
        ] {
            let dir = tempfile::tempdir().unwrap();
            // Refused or kept inside: both will do.
            let outcome = unpack_items(dir.path(), &items);
            let names: Vec<_> = fs::read_dir(dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            assert_eq!(names, ["layer"], "{outcome:?}");
            assert!(!Path::new("/evil").exists());
            assert!(
                fs::read_to_string("/etc/passwd")
                    .unwrap()
                    .starts_with("root:")
            );
        }
    }
}
