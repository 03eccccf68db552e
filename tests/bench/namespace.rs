//! Network namespaces without names: they vanish with the process, however it ends.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace with its loopback device up.
#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    /// Makes one.
    pub(crate) fn create() -> Result<Self> {
        let namespace = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
            Ok::<_, anyhow::Error>(Self(File::open("/proc/thread-self/ns/net")?))
        });
        let namespace = namespace
            .join()
            .expect("making a namespace does not panic")?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Runs `work` on a thread inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET)
                    .expect("a namespace we made can be entered");
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` for each line of `commands` inside.
    pub(crate) fn ip(&self, commands: &str) -> Result<()> {
        for line in commands.lines().filter(|line| !line.trim().is_empty()) {
            self.command("ip", &line.split_whitespace().collect::<Vec<_>>(), "")?;
        }
        Ok(())
    }

    /// Runs a program inside with `input` as its standard input.
    pub(crate) fn command(&self, program: &str, arguments: &[&str], input: &str) -> Result<()> {
        self.run(|| {
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .with_context(|| format!("running {program}"))?;
            let mut stdin = child.stdin.take().context("a standard input")?;
            // A program that fails early does not read all of it, and says why itself.
            let fed = stdin.write_all(input.as_bytes());
            drop(stdin);
            let output = child.wait_with_output()?;
            let error = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.success(),
                "{program} {}: {}",
                arguments.join(" "),
                error.lines().next().unwrap_or_default()
            );
            Ok(fed?)
        })
    }

    /// Sets a kernel variable below `/proc/sys/net` inside.
    pub(crate) fn set(&self, variable: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{variable}");
        self.run(|| std::fs::write(&path, value).with_context(|| format!("writing {path}")))
    }

    /// A path by which `ip link set .. netns` finds it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}
