//! UDP sockets that are connected to a backend when it goes.

use std::fs;
use std::io;
use std::net::UdpSocket;
use std::process::{Child, Command};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use nix::unistd::gettid;
use proxy::capabilities;
use proxy::features::Features;
use proxy::maps::Sockets;
use proxy::stale_sockets;

use crate::build_network;
use crate::look;
use crate::namespace::{Namespace, index, netlink};
use crate::node::{Daemon, Place};
use crate::talk::{eventually, serve};
use crate::world::{BACKENDS, SERVICE, events};

/// A pod: a namespace with a process, by which it can be found.
struct Pod {
    namespace: Namespace,
    process: Child,
}

impl Pod {
    fn new() -> Self {
        let namespace = Namespace::new();
        namespace.connect(
            "pod0",
            "10.244.9.200".parse().unwrap(),
            GATEWAY.parse().unwrap(),
        );
        netlink(async |handle| {
            let added = handle
                .address()
                .add(index("pod0"), GATEWAY.parse().unwrap(), 24);
            added.execute().await.unwrap();
        });
        let process = namespace.run(|| Command::new("sleep").arg("60").spawn().unwrap());
        Self { namespace, process }
    }

    /// A socket connected to `address`, and who answers there.
    fn connect(&self, address: &'static str) -> (UdpSocket, String) {
        self.namespace.run(move || connect(address))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

const GATEWAY: &str = "10.244.9.254";

fn connect(address: &str) -> (UdpSocket, String) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket.connect(address).unwrap();
    let answer = ask(&socket).unwrap();
    (socket, answer)
}

fn ask(socket: &UdpSocket) -> io::Result<String> {
    socket.send(b"who")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Clients of the node and of a pod that got each backend, and one that went to a backend by itself. When the first
/// backend goes, those that got it must notice, and nobody else.
pub(crate) fn scenario(features: Features) {
    let place = Place::new(features);
    let _outside = build_network();
    let pod = Pod::new();
    BACKENDS.into_iter().for_each(serve);
    let mut daemon = Daemon::start(&place, &look());
    daemon.see(events(&BACKENDS));
    let sockets = Sockets::take(daemon.dataplane.programs()).unwrap();
    let (retired, seen) = channel();
    let (id, closer) = channel();
    let thread = thread::spawn(move || {
        id.send(gettid()).unwrap();
        capabilities::keep(&capabilities::NAMESPACES).unwrap();
        stale_sockets::run(&sockets, &seen);
    });

    let mut clients = Vec::new();
    let both_have_some = |clients: &[(UdpSocket, String)]| {
        let of = |backend: &str| clients.iter().filter(|(_, got)| got == backend).count();
        BACKENDS.iter().all(|backend| of(backend) >= 2)
    };
    while !both_have_some(&clients) {
        assert!(clients.len() < 200, "all get the same backend");
        clients.extend([connect(SERVICE), pod.connect(SERVICE)]);
    }
    let strangers = [connect(BACKENDS[0]), pod.connect(BACKENDS[0])];

    daemon.see(events(&BACKENDS[1..]));
    let gone = daemon.reconciler.tables_mut().take_retired();
    assert!(!gone.is_empty());
    retired.send(gone).unwrap();
    for (socket, got) in clients.iter().filter(|(_, got)| got == BACKENDS[0]) {
        let mut last = None;
        eventually(|| {
            last = ask(socket).err();
            last.is_some()
        });
        let error = last.unwrap().raw_os_error();
        // What a waiting program gets, and what one gets that sends.
        let expected = [Some(libc::ECONNABORTED), Some(libc::EDESTADDRREQ)];
        assert!(expected.contains(&error), "{got}: {error:?}");
        // Who was told by `send` is told once more by what waits in the socket.
        socket.take_error().unwrap();
        socket.connect(SERVICE).unwrap();
        // Answers of the old backend may still wait in the socket, too.
        eventually(|| ask(socket).unwrap() == BACKENDS[1]);
    }
    // To stay in the pod's namespace would keep that after the pod.
    let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let namespace = format!("/proc/self/task/{}/ns/net", closer.recv().unwrap());
    eventually(|| fs::read_link(&namespace).unwrap() == own);
    drop(retired);
    thread.join().unwrap();
    let others = clients.iter().filter(|(_, got)| got == BACKENDS[1]);
    for (socket, got) in others.chain(&strangers) {
        assert_eq!(ask(socket).unwrap(), *got, "nothing happened to it");
    }
}
