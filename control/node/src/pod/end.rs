//! How a container's end is told: reason and last words.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use k8s_openapi::api::core::v1::Container;

use super::machine::Ended;
use crate::runtime::Exit;
use crate::runtime::log::Entry;

/// The most that is read of a termination message.
const MAX_MESSAGE: u64 = 4096;
/// The most that is read of a log in its place.
const MAX_FALLBACK: u64 = 2048;

/// The end of a container of which this attempt's directory is `dir`.
pub(crate) fn describe(container: &Container, dir: &Path, exit: Exit) -> Ended {
    let reason = match (exit.out_of_memory, exit.code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        _ => "Error",
    };
    Ended {
        code: exit.code,
        signal: exit.signal,
        reason: reason.to_owned(),
        message: message(container, dir, exit.code),
        started_at: exit.started_at,
        finished_at: exit.finished_at,
    }
}

/// What the program wrote into its termination file; or else, if asked for, how its log ends.
fn message(container: &Container, dir: &Path, code: i32) -> Option<String> {
    let own = tail(&dir.join("termination-log"), MAX_MESSAGE, false);
    let fallback = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    own.or_else(|| {
        let log = dir.with_extension("log");
        (fallback && code != 0)
            .then(|| tail(&log, MAX_FALLBACK, true))
            .flatten()
    })
}

/// The end of a file as text; none if it is empty or not there.
fn tail(path: &Path, most: u64, is_log: bool) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let size = fs::metadata(path).ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(most))).ok()?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).ok()?;
    if is_log {
        let lines = bytes.split(|&byte| byte == b'\n').filter_map(Entry::parse);
        bytes = lines
            .flat_map(|entry| [entry.text, b"\n"].concat())
            .collect();
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (!text.is_empty()).then_some(text)
}
