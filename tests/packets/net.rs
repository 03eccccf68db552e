//! Network namespaces without names: they vanish with the test, however it ends.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace with its loopback device up.
#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    /// Makes one.
    pub(crate) fn create() -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "this test needs root: it makes network namespaces and loads eBPF"
        );
        let namespace = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("this test needs network namespaces (CAP_SYS_ADMIN)")?;
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
        let lines = || {
            let lines = commands.lines().map(str::trim);
            lines.filter(|line| !line.is_empty())
        };
        self.run(|| {
            for line in lines() {
                let output = Command::new("ip").args(line.split_whitespace()).output();
                let output = output.context("this test needs the program ip (package iproute2)")?;
                let error = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "ip {line}: {error}");
            }
            lines().filter_map(added_v6).for_each(wait_for_route);
            Ok(())
        })
    }

    /// Sets a kernel variable below `/proc/sys/net` inside.
    pub(crate) fn set(&self, variable: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{variable}");
        self.run(|| std::fs::write(&path, value).with_context(|| format!("writing {path}")))
    }

    /// Makes netfilter drop whatever is forwarded inside; `false` if this machine has no program for that.
    pub(crate) fn drop_forwarded(&self) -> Result<bool> {
        const RULES: &str = "add table inet test; \
            add chain inet test forward { type filter hook forward priority 0; policy drop; }";
        match self.run(|| Command::new("nft").arg(RULES).output()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
            Ok(output) => {
                let error = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "nft: {error}");
                Ok(true)
            }
        }
    }

    /// A path by which `ip link set .. netns` finds it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// The namespace's SO_NETNS_COOKIE.
    pub(crate) fn cookie(&self) -> Result<u64> {
        self.run(|| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
            cookie(&socket, nix::libc::SO_NETNS_COOKIE).context("reading SO_NETNS_COOKIE")
        })
    }

    /// The index of a device inside.
    pub(crate) fn index(&self, device: &str) -> Result<u32> {
        self.run(|| {
            nix::net::if_::if_nametoindex(device).with_context(|| format!("looking for {device}"))
        })
    }
}

/// The IPv6 address that `ip` adds by `line`, if it does that.
fn added_v6(line: &str) -> Option<Ipv6Addr> {
    let (address, _) = line.strip_prefix("addr add ")?.split_once('/')?;
    address.parse().ok()
}

/// Waits until the calling thread's namespace has a route to an address of its own. The kernel makes it some time after
/// the address (`addrconf_dad_work`), and never while the address' device is down.
fn wait_for_route(address: Ipv6Addr) {
    let is_there = || UdpSocket::bind("[::]:0").and_then(|socket| socket.connect((address, 9)));
    let deadline = Instant::now() + Duration::from_millis(500);
    while is_there().is_err() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A socket's SO_COOKIE.
pub(crate) fn socket_cookie(socket: &std::net::UdpSocket) -> Result<u64> {
    cookie(socket, nix::libc::SO_COOKIE).context("reading SO_COOKIE")
}

/// One of a socket's cookies. No safe wrapper knows these options.
#[expect(unsafe_code, reason = "a system call without a safe wrapper")]
fn cookie(socket: &std::net::UdpSocket, option: i32) -> std::io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as nix::libc::socklen_t;
    // SAFETY: both pointers are to locals, and `length` is the size of the first one's target.
    let result = unsafe {
        nix::libc::getsockopt(
            socket.as_raw_fd(),
            nix::libc::SOL_SOCKET,
            option,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(std::io::Error::last_os_error())
    }
}
