//! Connections: what packets become, and when nothing is left of one.

use crate::addr::Protocol;
use crate::flow::Flow;

/// Value of `CONNTRACK`: what one direction of a connection is translated to, and on whose behalf.
///
/// The two directions of a connection name each other: the key of one is the reverse of the other's [`Self::to`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// What the packet's flow becomes.
    pub to: Flow,
    /// The service.
    pub service: u32,
    /// The service's generation when the connection was made.
    pub service_generation: u32,
    /// The backend.
    pub backend: u32,
    /// The backend's generation when the connection was made.
    pub backend_generation: u32,
    /// When this direction was last used, see [`moment`](super::moment()).
    pub seen: u32,
    /// Bits of this type.
    pub flags: u32,
}

impl Connection {
    /// This is the direction from the backend to the client.
    pub const REPLY: u32 = 1;
    /// The client's address is translated to the node's, because the backend is on another node, or because it is the
    /// client itself: packets are sent on from here, since the node's stack would take them for forgeries.
    pub const REMOTE: u32 = 2;
    /// The sender of this direction has sent its FIN.
    pub const FIN: u32 = 4;
    /// The sender of this direction has sent a RST.
    pub const RST: u32 = 8;
    /// Nothing is translated: the connection is another proxy's, see
    /// [`Node::migration_end`](super::Node::migration_end). Has no other direction.
    pub const FOREIGN: u32 = 16;
    /// The backend answers the client itself, see [`Service::DSR`](super::Service::DSR).
    pub const DSR: u32 = 32;
    /// The backend has gone from its service. From then on, [`Self::seen`] of this direction is when TCP at the client
    /// last asked for an answer after it had got one.
    pub const ORPHANED: u32 = 128;
    /// The client is a pod of this node and keeps its address: packets go the way that all of the pod's packets go,
    /// through the node's stack, and the backend's are translated where they reach the pod's device.
    pub const FROM_POD: u32 = 64;
    /// The connection began with a SYN, or the association with an INIT, and the client has sent nothing else yet. The
    /// other direction keeps it: a backend's answer to them does not show that there is such a client.
    pub const HALF_OPEN: u32 = 256;

    /// The key of the other direction.
    #[inline(always)]
    pub const fn partner(&self) -> Flow {
        self.to.reversed()
    }

    /// Whether `other`, which is found at [`Self::partner`], is the other direction of this one, whose key is `flow`.
    /// It may have been evicted, and another connection have taken its place.
    #[inline(always)]
    pub fn is_partner(&self, flow: &Flow, other: &Self) -> bool {
        match self.flags & (Self::REPLY | Self::REMOTE | Self::DSR) {
            // A backend's node gets the client's packets translated already, but translates the replies.
            Self::DSR => other.flags & Self::DSR != 0,
            _ => other.to == flow.reversed(),
        }
    }

    /// For how long, in units of [`moment`](super::moment()), both directions with these flags may be silent while the
    /// connection is not over.
    #[inline(always)]
    pub fn idle_limit(protocol: Protocol, one: u32, other: u32) -> u32 {
        if one & other & Self::HALF_OPEN != 0 {
            HALF_OPEN_IDLE
        } else if protocol == Protocol::TCP {
            TCP_IDLE
        } else if protocol == Protocol::SCTP {
            SCTP_IDLE
        } else {
            UDP_IDLE
        }
    }

    /// Whether a TCP connection with these flags of its two directions is over. Of one whose backend answers the client
    /// itself, a node sees only one direction's end.
    #[inline(always)]
    pub const fn is_over(one: u32, other: u32) -> bool {
        let both = one | other;
        let fin = if both & Self::DSR != 0 {
            both
        } else {
            one & other
        };
        both & Self::RST != 0 || fin & Self::FIN != 0
    }
}

/// After so many units of [`moment`](super::moment()) without an answer, a TCP connection whose backend has gone is
/// reset.
pub const ORPHAN_PATIENCE: u32 = 2;

/// After so many units of [`moment`](super::moment()) without a packet, a UDP flow is a new one (kube-proxy's
/// conntrack: 120 s).
pub const UDP_IDLE: u32 = 112;

/// After so many units of [`moment`](super::moment()) without a packet, a TCP connection is none any more: a day, as
/// kube-proxy sets it for the kernel's own tracking.
pub const TCP_IDLE: u32 = 80_466;

/// After so many units of [`moment`](super::moment()) without a packet, an SCTP association is none any more: a quarter
/// of an hour. Its ends exchange heartbeats every half a minute when they are idle, and give up after ten without an
/// answer, which are a minute apart at most (RFC 9260, 16).
pub const SCTP_IDLE: u32 = 838;

/// After so many units of [`moment`](super::moment()) without a packet, a connection that was never completed is none
/// any more: as long as the kernel's own tracking waits for the end of a handshake. Otherwise whoever sends SYNs takes
/// all ports for a day.
pub const HALF_OPEN_IDLE: u32 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_half_open_until_the_client_goes_on() {
        let half = Connection::HALF_OPEN;
        let limit = Connection::idle_limit;
        assert_eq!(limit(Protocol::TCP, half, half), HALF_OPEN_IDLE);
        assert_eq!(limit(Protocol::SCTP, half, half), HALF_OPEN_IDLE);
        assert_eq!(limit(Protocol::TCP, half, 0), TCP_IDLE);
        assert_eq!(limit(Protocol::TCP, 0, half), TCP_IDLE);
        assert_eq!(limit(Protocol::SCTP, 0, 0), SCTP_IDLE);
        assert_eq!(limit(Protocol::UDP, 0, 0), UDP_IDLE);
    }

    #[test]
    fn a_connection_is_over_after_a_reset_or_both_fins() {
        let (fin, rst) = (Connection::FIN, Connection::RST);
        assert!(!Connection::is_over(0, 0));
        assert!(!Connection::is_over(fin, 0));
        assert!(!Connection::is_over(0, fin));
        assert!(Connection::is_over(fin, fin));
        assert!(Connection::is_over(fin | Connection::DSR, Connection::DSR));
        assert!(!Connection::is_over(Connection::DSR, Connection::DSR));
        assert!(Connection::is_over(rst, 0));
        assert!(Connection::is_over(0, rst));
    }
}
