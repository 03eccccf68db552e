//! A network namespace that stands for a machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};

/// A network namespace with loopback up, removed when dropped.
#[derive(Debug)]
pub struct Host {
    name: String,
}

impl Host {
    /// Makes the namespace; one that an earlier, killed run left behind is replaced.
    ///
    /// # Errors
    /// When namespaces cannot be made here.
    pub fn create(name: &str) -> Result<Host> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "end-to-end tests need root, for network namespaces, cgroups and eBPF"
        );
        let host = Host {
            name: name.to_owned(),
        };
        if host.path().exists() {
            host.remove()?;
        }
        ip(&["netns", "add", name])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(host)
    }

    /// A program that will run in the namespace, and see this machine's files otherwise.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs `work` on a thread of its own inside the namespace called `netns`.
    ///
    /// # Errors
    /// Those of `work`, or when the namespace cannot be entered.
    pub fn inside<T: Send + 'static>(
        netns: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = netns_path(netns);
        let thread = std::thread::spawn(move || {
            let file = std::fs::File::open(&path)
                .with_context(|| format!("opening {}", path.display()))?;
            setns(file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("entering {}", path.display()))?;
            work()
        });
        thread
            .join()
            .map_err(|_| anyhow!("the thread inside {netns} panicked"))?
    }

    /// The namespace's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        netns_path(&self.name)
    }

    fn remove(&self) -> Result<()> {
        ip(&["netns", "del", &self.name])
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("{error:#}");
        }
    }
}

fn netns_path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("running ip (package iproute2)")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
