//! Network namespaces without names: they vanish with the process, however it ends.

use std::fs::File;
use std::io::Write as _;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace with its loopback device up.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// Makes one.
    ///
    /// # Errors
    /// Without the right to make one.
    pub fn create() -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "this needs root: it makes network namespaces"
        );
        let namespace = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("this needs network namespaces (CAP_SYS_ADMIN)")?;
            Ok::<_, anyhow::Error>(Self(File::open("/proc/thread-self/ns/net")?))
        });
        let namespace = namespace
            .join()
            .expect("making a namespace does not panic")?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Runs `work` on a thread inside, and panics as it does.
    ///
    /// # Panics
    /// When `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
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

    /// Runs `ip` for each line of `commands` inside, and waits until the addresses that it adds can be reached there.
    ///
    /// # Errors
    /// When the program is missing or refuses a line, or an address gets no route though its device is up.
    pub fn ip(&self, commands: &str) -> Result<()> {
        let lines = || {
            let lines = commands.lines().map(str::trim);
            lines.filter(|line| !line.is_empty())
        };
        for line in lines() {
            let arguments: Vec<&str> = line.split_whitespace().collect();
            self.command("ip", &arguments, "")
                .context("ip is of the package iproute2")?;
        }
        self.run(|| lines().filter_map(added_v6).try_for_each(wait_for_route))
    }

    /// Runs a program inside with `input` as its standard input.
    ///
    /// # Errors
    /// When the program is missing or fails; with the first line of what it says of that.
    pub fn command(&self, program: &str, arguments: &[&str], input: &str) -> Result<()> {
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
    ///
    /// # Errors
    /// When there is no such variable.
    pub fn set(&self, variable: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{variable}");
        self.run(|| std::fs::write(&path, value).with_context(|| format!("writing {path}")))
    }

    /// A path by which `ip link set .. netns` finds it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// The namespace's SO_NETNS_COOKIE.
    ///
    /// # Errors
    /// When the kernel does not tell (before Linux 5.14).
    pub fn cookie(&self) -> Result<u64> {
        self.run(|| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
            cookie(&socket, nix::libc::SO_NETNS_COOKIE).context("reading SO_NETNS_COOKIE")
        })
    }

    /// The index of a device inside.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn index(&self, device: &str) -> Result<u32> {
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
/// the address (`addrconf_dad_work`), but not before the address' device is up and leads somewhere. Until then a wider
/// route may lead elsewhere.
fn wait_for_route(address: Ipv6Addr) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !has_local_route(address)? && is_on_connected_device(address)? {
        ensure!(Instant::now() < deadline, "there is no route to {address}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Whether the routes (`rt6_info_route`) have the address as one of the calling thread's namespace's own.
fn has_local_route(address: Ipv6Addr) -> Result<bool> {
    const LOCAL: u32 = 1 << 31;
    let destination = format!("{:032x}", u128::from(address));
    let routes = std::fs::read_to_string("/proc/thread-self/net/ipv6_route")?;
    let is_it = |route: &str| {
        let fields: Vec<&str> = route.split_ascii_whitespace().collect();
        let flags = fields
            .get(8)
            .and_then(|flags| u32::from_str_radix(flags, 16).ok());
        fields.starts_with(&[destination.as_str(), "80"])
            && flags.is_some_and(|flags| flags & LOCAL != 0)
    };
    Ok(routes.lines().any(is_it))
}

/// Unlike `IFF_RUNNING`, `IFF_LOWER_UP` does not wait for the kernel to have noticed (`linkwatch_event`).
fn is_on_connected_device(address: Ipv6Addr) -> Result<bool> {
    let connected = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_LOWER_UP;
    let is_it = |interface: &InterfaceAddress| {
        let own = interface
            .address
            .and_then(|own| own.as_sockaddr_in6().map(|own| own.ip()));
        own == Some(address) && interface.flags.contains(connected)
    };
    Ok(getifaddrs()?.any(|interface| is_it(&interface)))
}

/// A socket's SO_COOKIE.
///
/// # Errors
/// When the kernel does not tell.
pub fn socket_cookie(socket: &std::net::UdpSocket) -> Result<u64> {
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
