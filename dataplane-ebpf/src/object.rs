//! The compiled programs, for the daemon that loads them and the tests that run them.

/// The BPF object file with every program and map.
///
/// Loading a program may fail with `EAGAIN` when a signal arrives meanwhile; then it has to be tried again.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dataplane.o"));

/// A program of [`OBJECT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name in the object file.
    pub name: &'static str,
    /// Where it is attached.
    pub hook: Hook,
}

/// A place in the kernel where a program is attached. The object file itself says which of a cgroup's hooks is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The node's cgroup, as `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
    SocketAddress,
    /// The node's cgroup, as `BPF_PROG_TYPE_CGROUP_SOCK`.
    Socket,
    /// An uplink's ingress, as `BPF_PROG_TYPE_SCHED_CLS`.
    Ingress,
    /// The egress of an uplink, and of a device towards this node's pods, as `BPF_PROG_TYPE_SCHED_CLS`.
    Egress,
    /// The ingress of a device towards this node's pods, as `BPF_PROG_TYPE_SCHED_CLS`.
    Pod,
    /// An uplink's driver, as `BPF_PROG_TYPE_XDP`. Where a device cannot have it, the other hooks do its work.
    Xdp,
}

/// Every program of [`OBJECT`].
///
/// In an order in which they can be attached while traffic flows: what translates replies comes before what
/// translates requests.
pub const PROGRAMS: &[Program] = &[
    Program {
        name: "getpeername4",
        hook: Hook::SocketAddress,
    },
    Program {
        name: "getpeername6",
        hook: Hook::SocketAddress,
    },
    Program {
        name: "recvmsg4",
        hook: Hook::SocketAddress,
    },
    Program {
        name: "recvmsg6",
        hook: Hook::SocketAddress,
    },
    Program {
        name: "connect4",
        hook: Hook::SocketAddress,
    },
    Program {
        name: "connect6",
        hook: Hook::SocketAddress,
    },
    Program {
        name: "sendmsg4",
        hook: Hook::SocketAddress,
    },
    Program {
        name: "sendmsg6",
        hook: Hook::SocketAddress,
    },
    Program {
        name: "post_bind4",
        hook: Hook::Socket,
    },
    Program {
        name: "post_bind6",
        hook: Hook::Socket,
    },
    Program {
        name: "egress",
        hook: Hook::Egress,
    },
    Program {
        name: "pod_ingress",
        hook: Hook::Pod,
    },
    Program {
        name: "ingress",
        hook: Hook::Ingress,
    },
    Program {
        name: "driver",
        hook: Hook::Xdp,
    },
];
