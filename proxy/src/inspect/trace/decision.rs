//! What a decision consists of: who asks, what is found there, which backend is chosen, and what becomes of it.

use dataplane_ebpf::abi::{Connection, Frontend, Node, Origin, Run, Service};
use dataplane_ebpf::addr::Addr;
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// A socket in the node's own network namespace.
    NodeSocket,
    /// A socket of a pod.
    PodSocket,
    /// A packet from a pod that no socket hook has translated.
    PodPacket,
    /// A packet from outside.
    OutsidePacket,
    /// A packet of the node's own stack that no socket hook has translated. No hook translates it any more.
    NodePacket,
}

/// What was found at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// A service.
    Service(Frontend),
    /// An address of services, but no service at this port.
    UnknownPort,
    /// An address that is set aside for services, and no service has.
    Unallocated,
    /// A service has this node port, but not at this address.
    NodePortElsewhere,
    /// Nothing.
    Nothing,
}

/// A connection that is tracked, and what that means for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tracked {
    pub(super) connection: Connection,
    pub(super) course: Course,
}

/// What becomes of a packet that has an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// It begins a connection, where those before it belonged to another proxy's.
    Foreign,
    /// It is a reply, and is translated here or where it leaves the node's stack.
    Reply,
    /// It goes where the ones before it went.
    Continue,
    /// It goes to another backend if there is one.
    Move,
    /// It begins a new connection.
    Begin,
}

/// The choice of a backend, as far as it got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) service: Service,
    /// Whether the client is in the source ranges; nothing if everybody may.
    pub(super) is_in_range: Option<bool>,
    /// Whether only backends on this node may be used.
    pub(super) local_only: bool,
    /// The ids of the backends to choose from, each as often as it has slots.
    pub(super) set: Vec<u32>,
    /// The verdict of an empty set.
    pub(super) run: Run,
    pub(super) affinity: Held,
    pub(super) pick: Result<Pick, Drop>,
}

/// Whether affinity holds the client to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// The service has no affinity.
    Off,
    /// By what a socket of a pod is known cannot be told from its address.
    Unknown,
    /// To none.
    No,
    /// To one that does not count any more.
    Stale,
    /// To this backend, for so many more seconds.
    To(u32, u32),
}

/// The backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick {
    /// The hash of the flow says which.
    Hash(u32),
    /// Affinity says which.
    Affinity(u32),
    /// Any of the set.
    Random,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on as if there were no programs.
    LeftAlone,
    /// It is translated as the packets before it.
    Tracked,
    /// It gets this backend.
    Backend(u32),
    /// It gets one of the set at random.
    OneOf,
    /// It goes no further.
    Stopped(Drop),
}

/// The source that the backend sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// What the stack gives a socket on its way to the backend.
    Stack,
    /// The client's own.
    Kept,
    /// This node's, with the client's port if that may be kept.
    Node(Addr, bool),
    /// The client's own if the way to the backend's node allows that the backend answers the client itself.
    Direct,
}

/// All that can be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    /// Who asked in the end: a pod's packet if its call was left alone.
    pub(super) asker: Asker,
    pub(super) tracked: Option<Tracked>,
    pub(super) rule: Rule,
    pub(super) choice: Option<Choice>,
    pub(super) source: Option<Source>,
    pub(super) verdict: Verdict,
}

impl Asker {
    pub(super) fn is_socket(self) -> bool {
        matches!(self, Self::NodeSocket | Self::PodSocket)
    }

    pub(super) fn origin(self) -> Origin {
        match self {
            Self::OutsidePacket => Origin::Outside,
            Self::NodeSocket | Self::PodSocket | Self::PodPacket | Self::NodePacket => Origin::Node,
        }
    }

    /// The address by which source ranges know it: a socket has none yet.
    pub(super) fn address(self, flow: &Flow, node: &Node) -> Addr {
        match (self.is_socket(), flow.destination.is_v4()) {
            (false, _) => flow.source,
            (true, true) => node.source_v4,
            (true, false) => node.source_v6,
        }
    }
}

impl Choice {
    pub(super) fn verdict(&self) -> Verdict {
        match self.pick {
            Ok(Pick::Hash(id) | Pick::Affinity(id)) => Verdict::Backend(id),
            Ok(Pick::Random) => Verdict::OneOf,
            Err(reason) => Verdict::Stopped(reason),
        }
    }
}

impl Decision {
    pub(super) fn without_service(asker: Asker, rule: Rule) -> Self {
        let verdict = match rule {
            Rule::UnknownPort => Verdict::Stopped(Drop::UnknownPort),
            Rule::Unallocated => Verdict::Stopped(Drop::Unallocated),
            _ => Verdict::LeftAlone,
        };
        Self {
            asker,
            tracked: None,
            rule,
            choice: None,
            source: None,
            verdict,
        }
    }
}
