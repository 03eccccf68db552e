//! Packets of a failed test, written where tcpdump and Wireshark can read them.

use std::fs;
use std::io::Result;
use std::path::{Path, PathBuf};

/// Ethernet frames (LINKTYPE_ETHERNET).
const ETHERNET: u32 = 1;

/// Writes `frames` to a file named after `name` and returns its path.
pub(crate) fn save(name: &str, frames: &[&[u8]]) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(name.replace([' ', ',', '\''], "-"))
        .with_extension("pcap");
    let mut bytes = Vec::new();
    // Magic, version 2.4 as two halves of a little-endian word, no time zone, no accuracy, longest frame, link type.
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, ETHERNET] {
        bytes.extend(u32::to_le_bytes(word));
    }
    for (second, frame) in (0..).zip(frames) {
        let length = u32::try_from(frame.len()).expect("a frame is small");
        // Seconds, microseconds, captured and original length.
        for word in [second, 0, length, length] {
            bytes.extend(u32::to_le_bytes(word));
        }
        bytes.extend(*frame);
    }
    fs::write(&path, bytes)?;
    Ok(path)
}
