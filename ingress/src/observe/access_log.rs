//! The access log: a line for each request, on its way to a writer that may be slow.
//!
//! Each serving thread gathers lines and hands them over in blocks; a thread of its own writes them. If it cannot keep
//! up, blocks are dropped and counted: a full disk or a stuck pipe must not hold up requests.

use std::cell::RefCell;
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use crate::observe::line::Line;
use crate::observe::log_format::LogFormat;
use crate::observe::metrics::Metrics;

/// A block is handed over at this size, or when its first line is this old.
const BLOCK_BYTES: usize = 32 * 1024;
const BLOCK_AGE: Duration = Duration::from_millis(100);
/// Room in a block for the line that fills it.
const LAST_LINE: usize = 2 * 1024;
/// Blocks on their way.
const QUEUE: usize = 128;

/// The sending side, to be cloned for each thread.
#[derive(Debug, Clone)]
pub struct Sink(SyncSender<Vec<u8>>);

/// A thread's access log.
#[derive(Debug)]
pub struct AccessLog {
    sink: Sink,
    block: RefCell<Vec<u8>>,
    /// Told of the first line of a block.
    begun: Notify,
    metrics: Arc<Metrics>,
    clock: RefCell<Clock>,
}

/// Writes the time. What is the same for all lines of a second is made once.
#[derive(Debug, Default)]
struct Clock {
    second: i64,
    text: String,
}

/// Starts a thread that writes to `writer`. It ends when all senders are gone.
pub fn start(writer: impl Write + Send + 'static) -> std::io::Result<(Sink, JoinHandle<()>)> {
    let (sender, receiver) = sync_channel(QUEUE);
    let thread = std::thread::Builder::new().name("access-log".to_owned());
    let thread = thread.spawn(move || write_blocks(writer, &receiver))?;
    Ok((Sink(sender), thread))
}

fn write_blocks(mut writer: impl Write, blocks: &Receiver<Vec<u8>>) {
    for block in blocks {
        let written = writer.write_all(&block).and_then(|()| writer.flush());
        if let Err(error) = written {
            tracing::warn!(%error, "cannot write the access log");
        }
    }
}

impl AccessLog {
    /// A thread's log that goes to `sink`.
    pub fn new(sink: Sink, metrics: Arc<Metrics>) -> Self {
        Self {
            sink,
            block: RefCell::default(),
            begun: Notify::new(),
            metrics,
            clock: RefCell::default(),
        }
    }

    /// `time` in UTC, to the microsecond (RFC 3339).
    pub fn stamp(&self, time: Timestamp) -> String {
        self.clock.borrow_mut().stamp(time)
    }

    /// Adds a line that looks like `format`.
    pub fn write(&self, format: &LogFormat, line: &impl Line) {
        let (before, after) = self.append(format, line);
        if after >= BLOCK_BYTES {
            self.flush();
        } else if before == 0 {
            self.begun.notify_one();
        }
    }

    /// Adds a line to the block and returns its length before and after.
    fn append(&self, format: &LogFormat, line: &impl Line) -> (usize, usize) {
        let mut block = self.block.borrow_mut();
        let before = block.len();
        if before == 0 {
            block.reserve(BLOCK_BYTES + LAST_LINE);
        }
        format.write(line, &mut block);
        block.push(b'\n');
        (before, block.len())
    }

    /// Hands over blocks that do not fill up. Never returns; what has gathered when it is dropped waits for
    /// [`flush`](Self::flush).
    pub async fn run(&self) {
        loop {
            self.begun.notified().await;
            tokio::time::sleep(BLOCK_AGE).await;
            self.flush();
        }
    }

    /// Hands over what has gathered.
    pub fn flush(&self) {
        let block = std::mem::take(&mut *self.block.borrow_mut());
        if block.is_empty() {
            return;
        }
        if let Err(error) = self.sink.0.try_send(block) {
            use std::sync::mpsc::TrySendError::{Disconnected, Full};
            let (Full(block) | Disconnected(block)) = error;
            let lines = block.iter().filter(|byte| **byte == b'\n').count();
            self.metrics.count_lost_lines(lines as u64);
        }
    }
}

impl Clock {
    fn stamp(&mut self, time: Timestamp) -> String {
        let second = time.as_second();
        if self.second != second || self.text.is_empty() {
            (self.second, self.text) = (second, time.strftime("%Y-%m-%dT%H:%M:%S.").to_string());
        }
        // A million before it keeps the zeros.
        let micros = 1_000_000 + time.subsec_microsecond().unsigned_abs();
        let mut digits = itoa::Buffer::new();
        [&self.text, &digits.format(micros)[1..], "Z"].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_what_they_are_within_a_second_and_after_it() {
        let mut clock = Clock::default();
        for time in [
            "1970-01-01T00:00:00.000001Z",
            "2026-03-01T09:05:07.000000Z",
            "2026-03-01T09:05:07.120034Z",
            "2026-03-01T09:05:08.999999Z",
        ] {
            let parsed: Timestamp = time.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(clock.stamp(parsed), time);
        }
    }
}
