//! Services: their backends at a moment, the policies that choose among them, and the clients they are for.

use super::Kind;
use crate::addr::Addr;
use crate::flow;

/// Value of `SERVICES`: one service port, one cache line. All its frontends share it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Service {
    /// The backends for clients without a local policy.
    pub cluster: Run,
    /// The backends on this node, for clients under a local policy.
    pub local: Run,
    /// Changes whenever the id is given to another service port; never zero in use.
    pub generation: u32,
    /// Bits of this type.
    pub flags: u32,
    /// Seconds after a client's last new connection during which it keeps its backend; zero for no affinity.
    pub affinity_seconds: u32,
    /// Changes whenever affinity is switched on, and when the id is given to another service port: what an earlier
    /// affinity remembered is void then. Not [`Self::generation`], by which flows tell that the service is another one.
    pub affinity_generation: u32,
    /// Zero.
    pub reserved: [u32; 8],
}

impl Service {
    /// `internalTrafficPolicy: Local`.
    pub const INTERNAL_LOCAL: u32 = 1;
    /// `externalTrafficPolicy: Local`.
    pub const EXTERNAL_LOCAL: u32 = 2;
    /// `SOURCE_RANGES` says which clients may use the service's load balancer addresses; all others are dropped.
    pub const SOURCE_RANGES: u32 = 4;
    /// The runs are Maglev tables: a packet's slot is chosen by a hash that is equal on all nodes, see
    /// [`crate::maglev`].
    pub const MAGLEV: u32 = 8;
    /// A backend on another node answers the client itself (direct server return).
    pub const DSR: u32 = 16;

    /// Whether a client at `origin` that addressed the service by `kind` may use only the backends on this node.
    ///
    /// A client on this node is never bound by the external policy: for it, an external address is a short cut to the
    /// whole cluster (kube-proxy's "local short-circuit").
    #[inline(always)]
    pub const fn is_local_only(flags: u32, kind: Kind, origin: Origin) -> bool {
        match (kind, origin) {
            (Kind::CLUSTER_IP, _) => flags & Self::INTERNAL_LOCAL != 0,
            (_, Origin::Node) => false,
            (_, Origin::Outside) => flags & Self::EXTERNAL_LOCAL != 0,
        }
    }
}

/// A service's backends at one moment: a stretch of `SLOTS`. Always read and written as one word.
///
/// An empty run says what becomes of a client: [`Run::REFUSE`] if the service has no usable backend anywhere,
/// [`Run::DROP`] if it has, but the traffic policy allows none here. That way one store changes both the backends and
/// the verdict.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Run(u64);

impl Run {
    /// No backend anywhere: clients are refused. What a zeroed service holds.
    pub const REFUSE: Self = Self(0);
    /// No backend that the policy allows: clients get no answer.
    pub const DROP: Self = Self(1);

    /// The `count` slots from `base` on; `count` is not zero.
    #[inline(always)]
    pub const fn new(base: u32, count: u32) -> Self {
        Self((count as u64) << 32 | base as u64)
    }

    /// The run from its word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// Its word, to be stored at once.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The first slot.
    #[inline(always)]
    pub const fn base(self) -> u32 {
        self.0 as u32
    }

    /// How many slots there are.
    #[inline(always)]
    pub const fn count(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The slot that `hash` chooses; all are equally likely. The run is not empty.
    #[inline(always)]
    pub const fn slot(self, hash: u32) -> u32 {
        self.base().wrapping_add(flow::index(hash, self.count()))
    }
}

/// Where a client is, seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A process of this node or of one of its pods.
    Node,
    /// Anywhere else.
    Outside,
}

/// Key of `SOURCE_RANGES`: a service and a prefix of client addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRange {
    /// How many bits count from `service` on: 32 for it, then those of the address in its mapped form. For the kernel's
    /// trie, in the machine's byte order.
    pub bits: u32,
    /// The service's id.
    pub service: u32,
    /// The prefix's address; a client's when looking up.
    pub address: Addr,
}

impl SourceRange {
    /// The bits of a service's id and a whole address.
    pub const ALL_BITS: u32 = 160;

    /// The clients of `service` whose first `length` bits, counted in the mapped form, are those of `address`.
    #[inline(always)]
    pub const fn new(service: u32, address: Addr, length: u32) -> Self {
        Self {
            bits: 32 + length,
            service,
            address,
        }
    }
}

/// Value of `NAMES`: the Service port that a service id stands for, in UTF-8, filled up with zeros:
/// `namespace/name:port` as [`ServicePortName`](https://pkg.go.dev/k8s.io/kubernetes/pkg/proxy#ServicePortName) prints.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; Self::LENGTH],
}

impl Name {
    /// The bytes of a name: a namespace, a name and a port's name have at most 63 each, and there are two separators.
    pub const LENGTH: usize = 192;

    /// The name `text`, cut after [`Name::LENGTH`] bytes.
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; Self::LENGTH];
        for (to, from) in bytes.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Self { bytes }
    }

    /// The text; empty if it is not UTF-8.
    pub fn text(&self) -> &str {
        let length = self.bytes.iter().position(|byte| *byte == 0);
        let bytes = &self.bytes[..length.unwrap_or(Self::LENGTH)];
        core::str::from_utf8(bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_runs_say_what_becomes_of_a_client() {
        assert_eq!(Run::default(), Run::REFUSE);
        assert_eq!((Run::REFUSE.count(), Run::DROP.count()), (0, 0));
        assert_ne!(Run::REFUSE, Run::DROP);
    }

    #[test]
    fn a_run_yields_every_slot_and_no_other() {
        let run = Run::new(100, 3);
        let slots: std::collections::BTreeSet<u32> = (0..=u32::MAX)
            .step_by(0x0100_0000)
            .map(|hash| run.slot(hash))
            .collect();
        assert_eq!(
            slots.into_iter().collect::<std::vec::Vec<_>>(),
            [100, 101, 102]
        );
    }

    #[test]
    fn policies_bind_the_clients_they_are_meant_for() {
        use Origin::{Node, Outside};
        let external = [Kind::NODE_PORT, Kind::EXTERNAL_IP, Kind::LOAD_BALANCER];
        for origin in [Node, Outside] {
            assert!(Service::is_local_only(
                Service::INTERNAL_LOCAL,
                Kind::CLUSTER_IP,
                origin
            ));
            assert!(!Service::is_local_only(
                Service::EXTERNAL_LOCAL,
                Kind::CLUSTER_IP,
                origin
            ));
            for kind in external {
                assert!(!Service::is_local_only(
                    Service::INTERNAL_LOCAL,
                    kind,
                    origin
                ));
                assert_eq!(
                    Service::is_local_only(Service::EXTERNAL_LOCAL, kind, origin),
                    origin == Outside
                );
            }
        }
    }
}
