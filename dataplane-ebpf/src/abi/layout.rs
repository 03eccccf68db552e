//! The size of every key and value, which kernel and daemon agree on. Padding is spelled out, so none is hidden in it.

use super::{
    Affinity, AffinityKey, Backend, BackendKey, Connection, DropRecord, FragmentKey, FragmentPorts,
    Frontend, FrontendKey, Mac, Name, Node, NodeAddress, NodePortKey, Peer, Prefix, Service,
    SocketKey, SourceRange, Stats,
};
use crate::addr::Addr;
use crate::flow::Flow;

/// Fails to compile unless each type has its size, and lets user space read and write it as bytes.
macro_rules! layout {
    ($($type:ty: $size:literal),* $(,)?) => {
        $(
            const _: () = assert!(size_of::<$type>() == $size);

            // SAFETY: `repr(C)` or `repr(transparent)` over integers alone; padding is spelled out (the size above
            // would not be the fields' otherwise), and every bit pattern is a legal value.
            #[cfg(not(target_arch = "bpf"))]
            unsafe impl aya::Pod for $type {}
        )*
    };
}

layout! {
    Addr: 16,
    Flow: 40,
    FrontendKey: 20,
    NodePortKey: 4,
    Frontend: 8,
    NodeAddress: 4,
    Service: 64,
    Backend: 32,
    Prefix: 32,
    Node: 192,
    Connection: 64,
    SocketKey: 32,
    Peer: 56,
    Stats: 32,
    SourceRange: 24,
    AffinityKey: 24,
    Affinity: 16,
    FragmentKey: 40,
    FragmentPorts: 4,
    DropRecord: 56,
    BackendKey: 24,
    Mac: 8,
    Name: 192,
}
