//! The CPU that a test runs on: what the programs keep by CPU, and the order of what is sent, depend on it.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps the calling thread on the first CPU.
pub(crate) fn stay_on_one_cpu() {
    let mut first = CpuSet::new();
    first.set(0).expect("every machine has one");
    sched_setaffinity(Pid::from_raw(0), &first).expect("a CPU may be chosen");
}
