//! A daemon's process, remembered across restarts of whoever started it.
//!
//! A pid alone may meanwhile name somebody else's process; a pid with its start time cannot.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::place::ignore_missing;

/// One particular process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pid: i32,
    /// Clock ticks between boot and its start, from `/proc/PID/stat`.
    started: u64,
}

impl Process {
    /// The process that has this pid now.
    pub(crate) fn of_pid(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse_stat(&stat).map(|started| Process { pid, started })
    }

    /// The process remembered in `file`, if it still runs.
    pub(crate) fn recall(file: &Path) -> Option<Process> {
        let text = fs::read_to_string(file).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let process = Process {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
        };
        process.runs().then_some(process)
    }

    /// Writes the process down in `file`.
    pub(crate) fn remember(self, file: &Path) -> Result<()> {
        fs::write(file, format!("{} {}\n", self.pid, self.started))
            .with_context(|| format!("writing {}", file.display()))
    }

    /// Whether exactly this process still runs. A zombie does not.
    pub(crate) fn runs(self) -> bool {
        Process::of_pid(self.pid) == Some(self)
    }

    /// Asks the process to end, and ends it if it has not done so by `patience`.
    pub(crate) fn end(self, patience: Duration) {
        self.signal(Signal::SIGTERM);
        if !self.ends_within(patience) {
            self.signal(Signal::SIGKILL);
            self.ends_within(Duration::from_secs(2));
        }
    }

    /// Sends a signal; a process that ended meanwhile is nobody's error.
    pub(crate) fn signal(self, signal: Signal) {
        if self.runs()
            && let Err(error) = kill(Pid::from_raw(self.pid), signal)
        {
            tracing::debug!(pid = self.pid, %error, "could not send {signal}");
        }
    }

    fn ends_within(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.runs() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

/// Forgets a process.
pub(crate) fn forget(file: &Path) -> Result<()> {
    ignore_missing(fs::remove_file(file)).with_context(|| format!("removing {}", file.display()))
}

/// The start time, unless the process is a zombie. The name in parentheses may hold anything, so fields are counted
/// from the last closing one (proc_pid_stat(5): state is field 3, starttime field 22).
fn parse_stat(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (state != "Z" && state != "X").then(|| fields.nth(18)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(parse_stat(stat), Some(4242));
    }

    #[test]
    fn a_zombie_does_not_run() {
        assert_eq!(
            parse_stat("7 (a) Z 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0"),
            None
        );
    }

    #[test]
    fn another_start_time_is_another_process() {
        let me = Process::of_pid(std::process::id().cast_signed()).expect("this test runs");
        assert!(me.runs());
        assert!(
            !Process {
                started: me.started + 1,
                ..me
            }
            .runs()
        );
    }
}
