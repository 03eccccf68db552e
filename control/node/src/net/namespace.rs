//! A pod's namespaces: network, IPC and host name, kept alive by files they are mounted on.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use futures::channel::mpsc::UnboundedReceiver;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::sethostname;
use rtnetlink::Handle;
use serde::{Deserialize, Serialize};
use tokio::runtime;

use crate::fs::{at, ignore_missing};

/// Where network namespaces get a name that `ip netns` knows.
const NETNS_DIR: &str = "/run/netns";
/// What the names of pods' network namespaces start with.
const SHORT_PREFIX: &str = "portolan-pod-";

/// Where a pod's namespaces are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodNamespaces {
    /// Network; none for a pod in the node's network.
    pub(crate) net: Option<PathBuf>,
    /// IPC; none for a pod that shares the machine's.
    pub(crate) ipc: Option<PathBuf>,
    /// Host name.
    pub(crate) uts: PathBuf,
}

impl PodNamespaces {
    /// The names for a pod with this uid whose directory is `dir`.
    pub(crate) fn of(dir: &Path, uid: &str, host_network: bool, host_ipc: bool) -> Self {
        let net =
            (!host_network).then(|| Path::new(NETNS_DIR).join(format!("{SHORT_PREFIX}{uid}")));
        Self {
            net,
            ipc: (!host_ipc).then(|| dir.join("ns/ipc")),
            uts: dir.join("ns/uts"),
        }
    }

    /// Makes the namespaces; gives a netlink socket in the network namespace, if there is one. Blocks for some
    /// milliseconds, which the kernel takes for a network namespace.
    pub(crate) fn create(
        &self,
        hostname: &str,
        runtime: runtime::Handle,
    ) -> io::Result<Option<Handle>> {
        let (namespaces, hostname) = (self.clone(), hostname.to_owned());
        let made = thread::Builder::new()
            .name("pod-namespaces".into())
            .spawn(move || {
                let connection = namespaces.enter_new(&hostname)?;
                namespaces.mount_files()?;
                let Some((connection, handle, _)) =
                    connection.then(|| connect(&runtime)).transpose()?
                else {
                    return Ok(None);
                };
                runtime.spawn(connection);
                Ok(Some(handle))
            })?;
        made.join()
            .map_err(|_| io::Error::other("the thread that makes namespaces panicked"))?
    }

    /// Moves the calling thread into new namespaces; true if one of them is for the network.
    fn enter_new(&self, hostname: &str) -> io::Result<bool> {
        let mut flags = CloneFlags::CLONE_NEWUTS;
        flags.set(CloneFlags::CLONE_NEWNET, self.net.is_some());
        flags.set(CloneFlags::CLONE_NEWIPC, self.ipc.is_some());
        unshare(flags)?;
        sethostname(hostname)?;
        if self.net.is_some() {
            // Nobody but the pod is in this namespace: any user may listen on any port and send echo requests.
            set_sysctl("ipv4/ip_unprivileged_port_start", "0")?;
            set_sysctl("ipv4/ping_group_range", "0 2147483647")?;
        }
        Ok(self.net.is_some())
    }

    /// Mounts the calling thread's namespaces on their files.
    fn mount_files(&self) -> io::Result<()> {
        for (path, kind) in self.files() {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir).map_err(at(dir))?;
            }
            File::create(path).map_err(at(path))?;
            let source = format!("/proc/thread-self/ns/{kind}");
            mount(
                Some(source.as_str()),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .map_err(|error| at(path)(error.into()))?;
        }
        Ok(())
    }

    /// True if the namespaces are still there.
    pub(crate) fn exist(&self) -> bool {
        // An empty file without a mount is on the file system of its directory.
        use std::os::unix::fs::MetadataExt;
        self.files().all(|(path, _)| {
            let parent = path.parent().and_then(|dir| fs::metadata(dir).ok());
            fs::metadata(path).is_ok_and(|file| parent.is_some_and(|dir| dir.dev() != file.dev()))
        })
    }

    /// Lets go of the namespaces; the kernel removes them, and the links in them, once no process is left.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.files().try_for_each(|(path, _)| remove_file(path))
    }

    fn files(&self) -> impl Iterator<Item = (&PathBuf, &'static str)> {
        let net = self.net.iter().map(|path| (path, "net"));
        net.chain(self.ipc.iter().map(|path| (path, "ipc")))
            .chain([(&self.uts, "uts")])
    }
}

/// Unmounts and removes the file of a namespace.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    use nix::errno::Errno;
    match umount2(path, MntFlags::MNT_DETACH) {
        // Not mounted, or not there.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => return Err(at(path)(error.into())),
    }
    ignore_missing(fs::remove_file(path)).map_err(at(path))
}

type Messages = UnboundedReceiver<(
    rtnetlink::packet_core::NetlinkMessage<rtnetlink::packet_route::RouteNetlinkMessage>,
    rtnetlink::sys::SocketAddr,
)>;
type Connection = rtnetlink::proto::Connection<rtnetlink::packet_route::RouteNetlinkMessage>;

/// A netlink socket in the calling thread's network namespace, driven by the agent's runtime.
fn connect(runtime: &runtime::Handle) -> io::Result<(Connection, Handle, Messages)> {
    let _entered = runtime.enter();
    rtnetlink::new_connection()
}

/// Sets a sysctl of the calling thread's network namespace; `name` is a path below `/proc/sys/net`.
pub(super) fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys/net").join(name);
    fs::write(&path, value).map_err(at(&path))
}
