//! Container logs: lines of the form `<time> <stream> <F|P> <text>`, in files that rotate.
//!
//! This is the format every log collector for Kubernetes reads. `P` marks a part of a line longer than the buffer.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// A file is rotated when it has grown beyond this.
const MAX_SIZE: u64 = 10 << 20;
/// How many files there are at most, with the current one.
const MAX_FILES: usize = 5;
/// A line longer than this is written in parts.
const MAX_LINE: usize = 16 << 10;

/// Which output a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Out => "stdout",
            Self::Err => "stderr",
        }
    }
}

/// Writes one container's log.
#[derive(Debug)]
pub(crate) struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: u64,
}

impl LogWriter {
    /// Opens the log for appending.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            max_size: MAX_SIZE,
        })
    }

    /// Writes complete entries.
    fn write(&mut self, entries: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + entries.len() as u64 > self.max_size {
            self.rotate()?;
        }
        self.file.write_all(entries)?;
        self.size += entries.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..MAX_FILES - 1).rev() {
            crate::fs::ignore_missing(fs::rename(
                rotated(&self.path, number),
                rotated(&self.path, number + 1),
            ))?;
        }
        fs::rename(&self.path, rotated(&self.path, 1))?;
        self.file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

/// The path of the log's `number`-th older file; 0 is the current one.
fn rotated(path: &Path, number: usize) -> PathBuf {
    if number == 0 {
        path.to_owned()
    } else {
        path.with_added_extension(number.to_string())
    }
}

/// The log's files that exist, oldest first.
pub(crate) fn files(path: &Path) -> Vec<PathBuf> {
    (0..MAX_FILES)
        .rev()
        .map(|number| rotated(path, number))
        .filter(|path| path.exists())
        .collect()
}

/// Cuts one stream into entries.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: Stream,
    pending: Vec<u8>,
}

impl Lines {
    /// Nothing has come yet.
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            pending: Vec::new(),
        }
    }

    /// Logs what has come.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        now: Timestamp,
        log: &mut LogWriter,
    ) -> io::Result<()> {
        let mut entries = Vec::with_capacity(bytes.len() + 64);
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.pending.extend_from_slice(piece);
            if self.pending.last() == Some(&b'\n') {
                self.pending.pop();
                self.entry(&mut entries, now, 'F');
            }
            while self.pending.len() >= MAX_LINE {
                let rest = self.pending.split_off(MAX_LINE);
                self.entry(&mut entries, now, 'P');
                self.pending = rest;
            }
        }
        if entries.is_empty() {
            Ok(())
        } else {
            log.write(&entries)
        }
    }

    /// Logs a last line that has no end.
    pub(crate) fn finish(&mut self, now: Timestamp, log: &mut LogWriter) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut entries = Vec::new();
        self.entry(&mut entries, now, 'F');
        log.write(&entries)
    }

    fn entry(&mut self, entries: &mut Vec<u8>, now: Timestamp, tag: char) {
        entries.extend_from_slice(format!("{now:.9} {} {tag} ", self.stream.name()).as_bytes());
        entries.append(&mut self.pending);
        entries.push(b'\n');
    }
}

/// One line of a log file, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// When it was written.
    pub(crate) time: &'a str,
    /// False if the line goes on in the next entry.
    pub(crate) complete: bool,
    /// The text, without an end of line.
    pub(crate) text: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Takes a line (without its end) apart; none if it is not of the format.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |&byte| byte == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let (_stream, tag) = (parts.next()?, parts.next()?);
        Some(Self {
            time,
            complete: tag != b"P",
            text: parts.next().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing step fails the test")]

    use super::*;

    fn log(dir: &Path, max_size: u64) -> LogWriter {
        LogWriter {
            max_size,
            ..LogWriter::open(&dir.join("0.log")).unwrap()
        }
    }

    fn check(pieces: &[&str], expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), MAX_SIZE);
        let mut lines = Lines::new(Stream::Out);
        let now = Timestamp::new(1, 5).unwrap();
        for piece in pieces {
            lines.push(piece.as_bytes(), now, &mut log).unwrap();
        }
        lines.finish(now, &mut log).unwrap();
        let written = fs::read_to_string(dir.path().join("0.log")).unwrap();
        assert_eq!(
            written.replace("1970-01-01T00:00:01.000000005Z stdout ", ""),
            expected
        );
    }

    #[test]
    fn output_is_cut_into_lines_wherever_it_is_read() {
        check(&["a\nb\n"], "F a\nF b\n");
        check(&["a", "b\n", "\n", "c"], "F ab\nF \nF c\n");
        let long = "x".repeat(MAX_LINE + 3);
        check(&[&long, "\n"], &format!("P {}\nF xxx\n", &long[..MAX_LINE]));
        check(&[], "");
    }

    #[test]
    fn files_rotate_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), 40);
        let mut lines = Lines::new(Stream::Err);
        for number in 0..8 {
            lines
                .push(
                    format!("{number}\n").as_bytes(),
                    Timestamp::UNIX_EPOCH,
                    &mut log,
                )
                .unwrap();
        }
        let texts: Vec<String> = files(&dir.path().join("0.log"))
            .iter()
            .map(|path| {
                fs::read_to_string(path)
                    .unwrap()
                    .trim()
                    .rsplit(' ')
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(texts, ["3", "4", "5", "6", "7"]);
    }

    #[test]
    fn entries_are_read_back() {
        let entry = Entry::parse(b"2026-01-01T00:00:00.000000001Z stdout P a b").unwrap();
        assert_eq!(
            (entry.time, entry.complete, entry.text),
            ("2026-01-01T00:00:00.000000001Z", false, &b"a b"[..])
        );
        assert_eq!(Entry::parse(b"t stdout F ").unwrap().text, b"");
        assert_eq!(Entry::parse(b"nonsense"), None);
    }
}
