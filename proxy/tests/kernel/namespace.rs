//! Network namespaces of a test's own.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// A network namespace on a thread of its own; it ends with the value.
pub(crate) struct Namespace {
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    file: OwnedFd,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let (jobs, todo) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (file, made) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            file.send(File::open("/proc/thread-self/ns/net").unwrap())
                .unwrap();
            todo.into_iter().for_each(|job| job());
        });
        let file = made.recv().unwrap().into();
        Self { jobs, file }
    }

    /// Runs `job` in the namespace.
    pub(crate) fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        let (sender, result) = mpsc::channel();
        let job = Box::new(move || sender.send(job()).unwrap());
        self.jobs.send(job).unwrap();
        result.recv().expect("the job panicked")
    }

    /// Links the caller's namespace, where the device is called `name`, with this one, where it is called `eth0` and has
    /// this `address`. All that it sends goes that way.
    pub(crate) fn connect(&self, name: &str, address: Ipv4Addr, gateway: Ipv4Addr) {
        netlink(async |handle| self.link(&handle, name, address, gateway).await);
    }

    /// The same with the netlink socket there is.
    pub(crate) async fn link(
        &self,
        handle: &Handle,
        name: &str,
        address: Ipv4Addr,
        gateway: Ipv4Addr,
    ) {
        let peer = format!("p-{name}");
        let pair = LinkVeth::new(name, &peer).build();
        handle.link().add(pair).execute().await.unwrap();
        let moved = LinkUnspec::new_with_index(index(&peer)).name("eth0".to_owned());
        let moved = moved.setns_by_fd(self.file.as_raw_fd()).build();
        handle.link().set(moved).execute().await.unwrap();
        set_up(handle, name).await;
        self.run(move || {
            netlink(async |handle| {
                set_up(&handle, "lo").await;
                set_up(&handle, "eth0").await;
                let added = handle.address().add(index("eth0"), address.into(), 24);
                added.execute().await.unwrap();
                let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway);
                handle.route().add(route.build()).execute().await.unwrap();
            });
        });
    }
}

/// Runs `work` with a netlink socket of the calling thread's namespace.
pub(crate) fn netlink<R>(work: impl AsyncFnOnce(Handle) -> R) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        work(handle).await
    })
}

pub(crate) fn index(name: &str) -> u32 {
    if_nametoindex(name).unwrap()
}

pub(crate) async fn set_up(handle: &Handle, name: &str) {
    let link = LinkUnspec::new_with_index(index(name)).up().build();
    handle.link().set(link).execute().await.unwrap();
}
