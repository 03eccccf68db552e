//! Volumes whose files come from the API, replaced as a whole: `..data` is a link to a directory that is never changed,
//! and a new version is one `rename` of that link. A reader sees all old files or all new ones.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use crate::fs::{at, ignore_missing};

/// The files of a volume: by path, content and mode.
pub(crate) type Files = BTreeMap<PathBuf, (Vec<u8>, u32)>;

/// Makes `dir` show exactly these files. Gives false if it did already.
pub(crate) fn publish(dir: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    let link = dir.join("..data");
    let old = version(dir, &link);
    if old.as_ref().is_some_and(|old| holds(old, files)) {
        return Ok(false);
    }
    let name = format!(
        "..{}",
        jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f")
    );
    let new = dir.join(&name);
    write(&new, files, group)?;
    let staged = dir.join("..data_tmp");
    ignore_missing(fs::remove_file(&staged))?;
    symlink(&name, &staged)?;
    fs::rename(&staged, &link)?;
    show(dir, files)?;
    if let Some(old) = old {
        ignore_missing(fs::remove_dir_all(old))?;
    }
    Ok(true)
}

/// The directory that the link shows, if it is one that [`publish`] may have made: what the link says is not trusted,
/// because what is outside of the volume must be neither read nor removed.
fn version(dir: &Path, link: &Path) -> Option<PathBuf> {
    let target = fs::read_link(link).ok()?;
    let mut parts = target.components();
    let (Some(Component::Normal(name)), None) = (parts.next(), parts.next()) else {
        return None;
    };
    let version = dir.join(name);
    let known = name.as_encoded_bytes().starts_with(b"..")
        && fs::symlink_metadata(&version).is_ok_and(|metadata| metadata.is_dir());
    known.then_some(version)
}

fn holds(dir: &Path, files: &Files) -> bool {
    let same = |(path, (content, _)): (&PathBuf, &(Vec<u8>, u32))| {
        fs::read(dir.join(path)).is_ok_and(|old| old == *content)
    };
    files.iter().all(same) && count(dir) == files.len()
}

fn count(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                count(&entry.path())
            } else {
                1
            }
        })
        .sum()
}

fn write(dir: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    fs::create_dir(dir).map_err(at(dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    for (path, (content, mode)) in files {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(at(parent))?;
        }
        fs::write(&path, content).map_err(at(&path))?;
        // The pod's group reads what only the owner could.
        let mode = if group.is_some() { mode | 0o440 } else { *mode };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        if group.is_some() {
            std::os::unix::fs::chown(&path, None, group)?;
        }
    }
    Ok(())
}

/// Makes the links to the files' first components, and removes those of files that are gone.
fn show(dir: &Path, files: &Files) -> io::Result<()> {
    let names: Vec<_> = files
        .keys()
        .filter_map(|path| path.components().next())
        .collect();
    for name in &names {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name();
        let kept =
            names.contains(&Component::Normal(&name)) || name.as_encoded_bytes().starts_with(b"..");
        if !kept {
            ignore_missing(fs::remove_file(entry.path()))?;
        }
    }
    Ok(())
}

/// A path that stays below its directory, as the API server demands of them.
pub(crate) fn is_inside(path: &Path) -> bool {
    path.components().next().is_some()
        && path
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing step fails the test")]

    use super::*;

    fn files(entries: &[(&str, &str)]) -> Files {
        entries
            .iter()
            .map(|(path, text)| (PathBuf::from(path), (text.as_bytes().to_vec(), 0o644)))
            .collect()
    }

    #[test]
    fn a_version_replaces_the_one_before_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).ok();
        assert!(publish(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert_eq!(
            (read("a").as_deref(), read("sub/b").as_deref()),
            (Some("1"), Some("2"))
        );
        assert!(!publish(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert!(publish(dir.path(), &files(&[("a", "3"), ("c", "4")]), None).unwrap());
        assert_eq!(
            (read("a").as_deref(), read("sub/b"), read("c").as_deref()),
            (Some("3"), None, Some("4"))
        );
        let kept = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(kept, 4, "..data, its directory, and a link for each file");
    }

    #[test]
    fn nothing_outside_is_removed_whatever_the_link_says() {
        let parent = tempfile::tempdir().unwrap();
        let outside = parent.path().join("..outside");
        let dir = parent.path().join("volume");
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir_all(dir.join("..real/sub")).unwrap();
        fs::write(outside.join("a"), "1").unwrap();
        symlink(&outside, dir.join("..link")).unwrap();
        for hostile in [
            "../..outside",
            outside.to_str().unwrap(),
            "..",
            ".",
            "..link",
            "..data",
            "..real/sub",
            "..real/../../..outside",
        ] {
            ignore_missing(fs::remove_file(dir.join("..data"))).unwrap();
            symlink(hostile, dir.join("..data")).unwrap();
            assert!(
                publish(&dir, &files(&[("a", "1")]), None).unwrap(),
                "{hostile}"
            );
            let read = fs::read_to_string(dir.join("a")).unwrap();
            assert_eq!(read, "1", "{hostile}");
            assert!(outside.join("a").exists(), "{hostile}");
            assert!(dir.join("..real/sub").exists(), "{hostile}");
        }
    }

    #[test]
    fn paths_that_leave_are_told() {
        for (path, inside) in [
            ("a/b", true),
            ("../a", false),
            ("/a", false),
            ("a/../b", false),
            ("", false),
        ] {
            assert_eq!(is_inside(Path::new(path)), inside, "{path}");
        }
    }
}
