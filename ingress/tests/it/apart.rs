//! Tests in processes of their own: only there can descriptors, threads and memory be counted.

use std::fs;
use std::process::Command;

const INSIDE: &str = "PORTOLAN_TEST_APART";

/// What this process holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) descriptors: usize,
    pub(crate) threads: u64,
    /// Resident, in bytes.
    pub(crate) memory: u64,
}

/// Runs `test`, the body of the test `name`, in a process where nothing else runs.
pub(crate) fn alone<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        return runtime.unwrap().block_on(test());
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success());
    assert!(
        said.contains("1 passed"),
        "{name} is not the name of a test"
    );
}

impl Held {
    pub(crate) fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let digits = line.unwrap().trim().trim_end_matches(" kB");
            digits.parse::<u64>().unwrap()
        };
        Self {
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            threads: number("Threads:"),
            memory: number("VmRSS:") * 1024,
        }
    }

    /// Bytes of memory more than there were `before`.
    pub(crate) fn grown(before: Self) -> u64 {
        Self::now().memory.saturating_sub(before.memory)
    }
}
