//! A call of a hook with a socket address: what is known of it, and the one thing that can be changed.

use super::client::Client;
use super::maps::NODE;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie,
};
use aya_ebpf::programs::SockAddrContext;
use core::ptr::{read_volatile, write_volatile};
use dataplane_ebpf::abi::{AffinityKey, Origin};
use dataplane_ebpf::addr::{Addr, Family, Port, Protocol};
use dataplane_ebpf::flow::Flow;

/// One call of a hook with a socket address.
pub(crate) struct Call<'a> {
    pub(crate) ctx: &'a SockAddrContext,
    /// The socket's: which of the context's two addresses the hook may use. Known when compiling, since each hook has
    /// one family.
    family: Family,
}

/// Every access is volatile: the compiler would merge neighbouring fields into one load, and the verifier refuses that
/// with "invalid bpf_context access".
impl<'a> Call<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a SockAddrContext, family: Family) -> Self {
        Self { ctx, family }
    }

    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_addr {
        self.ctx.sock_addr
    }

    /// The socket's protocol if services can have it.
    #[inline(always)]
    pub(crate) fn protocol(&self) -> Option<Protocol> {
        // SAFETY: the kernel's context.
        let number = unsafe { read_volatile(&raw const (*self.raw()).protocol) };
        let protocol = Protocol::new(number as u8);
        (number < 256 && (protocol == Protocol::TCP || protocol == Protocol::UDP))
            .then_some(protocol)
    }

    /// The address the call is about.
    #[inline(always)]
    pub(crate) fn address(&self) -> (Addr, Port) {
        let raw = self.raw();
        // SAFETY: the kernel's context.
        unsafe {
            let port = Port::from_word(read_volatile(&raw const (*raw).user_port) as u16);
            let address = if self.family == Family::V4 {
                Addr::from_v4_word(read_volatile(&raw const (*raw).user_ip4))
            } else {
                Addr::from_words([
                    read_volatile(&raw const (*raw).user_ip6[0]),
                    read_volatile(&raw const (*raw).user_ip6[1]),
                    read_volatile(&raw const (*raw).user_ip6[2]),
                    read_volatile(&raw const (*raw).user_ip6[3]),
                ])
            };
            (address, port)
        }
    }

    /// The flow that the call would have begun; its source is not known yet.
    #[inline(always)]
    pub(crate) fn flow(&self) -> Flow {
        let protocol = self.protocol().unwrap_or(Protocol::NONE);
        Flow::new((Addr::UNSPECIFIED, Port::NONE), self.address(), protocol)
    }

    /// Changes the address the call is about. Frontends and backends of a service are of one family, and an IPv6 hook
    /// with an IPv4-mapped address gets a mapped one back, so the family never changes.
    #[inline(always)]
    pub(crate) fn set_address(&self, address: Addr, port: Port) {
        let raw = self.raw();
        let words = address.words();
        // SAFETY: the kernel's context.
        unsafe {
            if self.family == Family::V4 {
                write_volatile(&raw mut (*raw).user_ip4, address.v4_word());
            } else {
                write_volatile(&raw mut (*raw).user_ip6[0], words[0]);
                write_volatile(&raw mut (*raw).user_ip6[1], words[1]);
                write_volatile(&raw mut (*raw).user_ip6[2], words[2]);
                write_volatile(&raw mut (*raw).user_ip6[3], words[3]);
            }
            write_volatile(&raw mut (*raw).user_port, u32::from(port.word()));
        }
    }

    /// The socket's.
    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: the helper only reads the context.
        unsafe { bpf_get_socket_cookie(self.ctx.as_ptr()) }
    }

    /// The socket's network namespace's.
    #[inline(always)]
    fn netns_cookie(&self) -> u64 {
        // SAFETY: the helper only reads the context.
        unsafe { bpf_get_netns_cookie(self.ctx.as_ptr()) }
    }

    /// Whether the socket is in the node's own network namespace.
    #[inline(always)]
    pub(crate) fn is_node(&self) -> bool {
        NODE.get(0)
            .is_some_and(|node| node.netns_cookie == self.netns_cookie())
    }
}

impl Client for Call<'_> {
    #[inline(always)]
    fn origin(&self) -> Origin {
        Origin::Node
    }

    /// The node's, since of other sockets' addresses nothing is known.
    #[inline(always)]
    fn source(&self) -> Addr {
        let Some(node) = NODE.get(0) else {
            return Addr::UNSPECIFIED;
        };
        if self.address().0.is_v4() {
            node.source_v4
        } else {
            node.source_v6
        }
    }

    #[inline(always)]
    fn affinity_key(&self, service: u32) -> AffinityKey {
        AffinityKey::namespace(service, self.netns_cookie())
    }

    /// Any slot of a Maglev table is as good as any other: nobody else decides about this socket.
    #[inline(always)]
    fn hash(&self, _flags: u32) -> u32 {
        // SAFETY: the helper takes nothing.
        unsafe { bpf_get_prandom_u32() }
    }
}
