//! How clients address services: what they reach at which address and port.

use crate::addr::{Addr, Family, Port, Protocol};

/// Key of `FRONTENDS`.
///
/// With [`Port::NONE`] and [`Protocol::NONE`] it names a whole address that belongs to services, such as a cluster IP;
/// its entry has [`Kind::ADDRESS`], and what no other entry matches is refused there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// The address clients use.
    pub address: Addr,
    /// The port clients use.
    pub port: Port,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    padding: u8,
}

impl FrontendKey {
    /// The key of one service port.
    #[inline(always)]
    pub const fn new(address: Addr, port: Port, protocol: Protocol) -> Self {
        Self {
            address,
            port,
            protocol,
            padding: 0,
        }
    }

    /// The key of a whole address.
    #[inline(always)]
    pub const fn whole_address(address: Addr) -> Self {
        Self::new(address, Port::NONE, Protocol::NONE)
    }
}

/// Key of `NODEPORTS`.
///
/// A service has backends of its own in each family, or is in one family only, so its node port is one of a family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodePortKey {
    /// The node port.
    pub port: Port,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The family of the node's address that clients use.
    pub family: Family,
}

impl NodePortKey {
    /// The key of a node port at addresses of `family`.
    #[inline(always)]
    pub const fn new(port: Port, protocol: Protocol, family: Family) -> Self {
        Self {
            port,
            protocol,
            family,
        }
    }
}

/// Value of `FRONTENDS` and `NODEPORTS`: which service, and how it was addressed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Index into `SERVICES`.
    pub service: u32,
    /// How the service was addressed.
    pub kind: Kind,
    /// No bit has a meaning yet: zero.
    pub flags: u8,
    padding: u16,
}

impl Frontend {
    /// A frontend of `service`.
    pub const fn new(service: u32, kind: Kind) -> Self {
        Self {
            service,
            kind,
            flags: 0,
            padding: 0,
        }
    }
}

/// How a service was addressed, which decides the traffic policy that holds.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(u8);

impl Kind {
    /// A whole address, see [`FrontendKey::whole_address`]; its service id means nothing.
    pub const ADDRESS: Self = Self(0);
    /// A cluster IP: the internal traffic policy holds.
    pub const CLUSTER_IP: Self = Self(1);
    /// A node port: like the two below, the external traffic policy holds for clients outside.
    pub const NODE_PORT: Self = Self(2);
    /// An external IP.
    pub const EXTERNAL_IP: Self = Self(3);
    /// A load balancer's address.
    pub const LOAD_BALANCER: Self = Self(4);
}
