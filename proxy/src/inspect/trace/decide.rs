//! What the programs would do with the first packet, or the call, of a conversation. The steps are those of the programs
//! (`dataplane-ebpf/src/bpf/{device,socket,service,conntrack,nat}.rs`), in their order; what is shared with them is the same code.

use dataplane_ebpf::abi::{
    AffinityKey, Backend, Connection, Frontend, FrontendKey, Kind, Node, NodeAddress, NodePortKey,
    Origin, Run, Service, UDP_IDLE, age, moment,
};
use dataplane_ebpf::addr::{Addr, Family, Protocol};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;
use dataplane_ebpf::maglev;

use super::snapshot::Snapshot;
use crate::pinned::Error;

#[cfg(test)]
mod tests;

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

/// Decides about `flow`.
pub(super) fn decide(maps: &impl Snapshot, flow: &Flow, asker: Asker) -> Result<Decision, Error> {
    match asker {
        Asker::NodeSocket | Asker::PodSocket => call(maps, flow, asker),
        Asker::PodPacket | Asker::OutsidePacket => packet(maps, flow, asker),
        Asker::NodePacket => Ok(Decision {
            verdict: Verdict::LeftAlone,
            ..Decision::without_service(asker, find(maps, flow, asker)?)
        }),
    }
}

/// `connect`, and `sendmsg` of a socket that has not sent there yet.
fn call(maps: &impl Snapshot, flow: &Flow, asker: Asker) -> Result<Decision, Error> {
    let rule = find(maps, flow, asker)?;
    let Rule::Service(frontend) = rule else {
        return Ok(Decision::without_service(asker, rule));
    };
    let service = maps.service(frontend.service)?.unwrap_or_default();
    if asker == Asker::PodSocket && is_restricted(&service, frontend.kind) {
        // The hook does not know the pod's address, so it leaves the call to the hook of the pod's device.
        return packet(maps, flow, Asker::PodPacket);
    }
    let choice = choose(maps, flow, asker, frontend, service)?;
    let verdict = choice.verdict();
    Ok(Decision {
        asker,
        tracked: None,
        rule,
        source: choice.pick.ok().map(|_| Source::Stack),
        choice: Some(choice),
        verdict,
    })
}

fn packet(maps: &impl Snapshot, flow: &Flow, asker: Asker) -> Result<Decision, Error> {
    let tracked = resume(maps, flow)?;
    let course = tracked.map_or(Course::Begin, |tracked| tracked.course);
    let opened = match course {
        Course::Reply | Course::Continue => None,
        Course::Foreign | Course::Begin | Course::Move => Some(open(maps, flow, asker)?),
    };
    let Some(mut decision) = opened else {
        let rule = find(maps, flow, asker)?;
        return Ok(Decision {
            tracked,
            verdict: Verdict::Tracked,
            ..Decision::without_service(asker, rule)
        });
    };
    decision.tracked = tracked;
    let is_without_other = matches!(
        decision.verdict,
        Verdict::Stopped(Drop::NoBackend | Drop::NoPolicyBackend | Drop::SourceRange)
    );
    if course == Course::Move && is_without_other {
        decision.verdict = Verdict::Tracked;
    }
    Ok(decision)
}

/// What the entry of `flow` means for a packet that begins a conversation.
fn resume(maps: &impl Snapshot, flow: &Flow) -> Result<Option<Tracked>, Error> {
    let Some(connection) = maps.connection(flow)? else {
        return Ok(None);
    };
    let course = if connection.flags & Connection::FOREIGN != 0 {
        Course::Foreign
    } else if connection.flags & Connection::REPLY != 0 {
        Course::Reply
    } else {
        course(maps, flow, &connection)?
    };
    Ok(Some(Tracked { connection, course }))
}

fn course(maps: &impl Snapshot, flow: &Flow, connection: &Connection) -> Result<Course, Error> {
    let backend = maps.backend(connection.backend)?.unwrap_or_default();
    let partner = maps.connection(&connection.partner())?;
    let is_displaced = partner.is_some_and(|other| !connection.is_partner(flow, &other));
    if is_displaced {
        return Ok(Course::Begin);
    }
    if backend.generation != connection.backend_generation {
        return Ok(Course::Begin);
    }
    if connection.to.protocol == Protocol::TCP {
        let other = partner.map_or(Connection::RST, |partner| partner.flags);
        let is_over = Connection::is_over(connection.flags, other);
        return Ok(if is_over {
            Course::Begin
        } else {
            Course::Continue
        });
    }
    let service = maps.service(connection.service)?.unwrap_or_default();
    let now = moment(maps.now());
    let is_old = |seen: u32| age(seen, now) > UDP_IDLE;
    let is_idle = is_old(connection.seen) && partner.is_none_or(|partner| is_old(partner.seen));
    Ok(
        if service.generation != connection.service_generation || is_idle {
            Course::Begin
        } else if backend.flags & Backend::SERVING == 0 {
            Course::Move
        } else {
            Course::Continue
        },
    )
}

fn open(maps: &impl Snapshot, flow: &Flow, asker: Asker) -> Result<Decision, Error> {
    let rule = find(maps, flow, asker)?;
    let Rule::Service(frontend) = rule else {
        return Ok(Decision::without_service(asker, rule));
    };
    let service = maps.service(frontend.service)?.unwrap_or_default();
    let choice = choose(maps, flow, asker, frontend, service)?;
    let mut decision = Decision {
        asker,
        tracked: None,
        rule,
        source: None,
        verdict: choice.verdict(),
        choice: Some(choice),
    };
    if let Verdict::Backend(id) = decision.verdict {
        let backend = maps.backend(id)?.unwrap_or_default();
        let is_direct = is_direct(&service, frontend.kind, asker, &backend);
        match source(&maps.node()?, flow, asker, &backend) {
            Ok(_) if is_direct => decision.source = Some(Source::Direct),
            Ok(source) => decision.source = Some(source),
            Err(reason) => decision.verdict = Verdict::Stopped(reason),
        }
    }
    Ok(decision)
}

/// What is at the destination.
fn find(maps: &impl Snapshot, flow: &Flow, asker: Asker) -> Result<Rule, Error> {
    let (address, port, protocol) = (flow.destination, flow.destination_port, flow.protocol);
    if let Some(frontend) = maps.frontend(&FrontendKey::new(address, port, protocol))? {
        return Ok(Rule::Service(frontend));
    }
    let node_port = maps.node_port(&NodePortKey::new(port, protocol, Family::of(address)))?;
    if let Some(frontend) = node_port
        && has_node_ports(maps, address, asker)?
    {
        return Ok(Rule::Service(frontend));
    }
    if maps
        .frontend(&FrontendKey::whole_address(address))?
        .is_some()
    {
        return Ok(Rule::UnknownPort);
    }
    if is_unallocated(&maps.node()?, address) {
        return Ok(Rule::Unallocated);
    }
    Ok(match node_port {
        Some(_) => Rule::NodePortElsewhere,
        None => Rule::Nothing,
    })
}

fn has_node_ports(maps: &impl Snapshot, address: Addr, asker: Asker) -> Result<bool, Error> {
    Ok(match maps.node_address(address)? {
        None => false,
        Some(found) => found.flags & NodeAddress::LOOPBACK == 0 || asker == Asker::NodeSocket,
    })
}

fn is_unallocated(node: &Node, address: Addr) -> bool {
    let count = (node.service_cidr_count as usize).min(node.service_cidrs.len());
    let mut prefixes = node.service_cidrs[..count].iter();
    prefixes.any(|prefix| prefix.contains(address))
}

fn is_restricted(service: &Service, kind: Kind) -> bool {
    kind == Kind::LOAD_BALANCER && service.flags & Service::SOURCE_RANGES != 0
}

fn choose(
    maps: &impl Snapshot,
    flow: &Flow,
    asker: Asker,
    frontend: Frontend,
    service: Service,
) -> Result<Choice, Error> {
    let node = maps.node()?;
    let mut is_in_range = None;
    if is_restricted(&service, frontend.kind) {
        let client = asker.address(flow, &node);
        is_in_range = Some(maps.is_in_range(frontend.service, client)?);
    }
    let local_only = Service::is_local_only(service.flags, frontend.kind, asker.origin());
    let run = if local_only {
        service.local
    } else {
        service.cluster
    };
    let set = maps.run(run)?;
    let affinity = held(maps, flow, asker, frontend.service, &service, local_only)?;
    let pick = if is_in_range == Some(false) {
        Err(Drop::SourceRange)
    } else if run.count() == 0 {
        Err(match run {
            Run::DROP => Drop::NoPolicyBackend,
            _ => Drop::NoBackend,
        })
    } else {
        pick(flow, asker, &node, &service, run, &set, affinity)
    };
    Ok(Choice {
        service,
        is_in_range,
        local_only,
        set,
        run,
        affinity,
        pick,
    })
}

fn pick(
    flow: &Flow,
    asker: Asker,
    node: &Node,
    service: &Service,
    run: Run,
    set: &[u32],
    affinity: Held,
) -> Result<Pick, Drop> {
    if let Held::To(backend, _) = affinity {
        return Ok(Pick::Affinity(backend));
    }
    if asker.is_socket() {
        return Ok(Pick::Random);
    }
    let seed = match service.flags & Service::MAGLEV {
        0 => node.seed,
        _ => maglev::SEED,
    };
    let index = run.slot(flow.hash(seed)).wrapping_sub(run.base());
    let id = set.get(index as usize).ok_or(Drop::Inconsistent)?;
    Ok(Pick::Hash(*id))
}

/// The backend that affinity holds the client to.
fn held(
    maps: &impl Snapshot,
    flow: &Flow,
    asker: Asker,
    id: u32,
    service: &Service,
    local_only: bool,
) -> Result<Held, Error> {
    if service.affinity_seconds == 0 {
        return Ok(Held::Off);
    }
    let key = match asker {
        Asker::NodeSocket => AffinityKey::namespace(id, maps.node()?.netns_cookie),
        Asker::PodSocket => return Ok(Held::Unknown),
        Asker::PodPacket | Asker::OutsidePacket | Asker::NodePacket => {
            AffinityKey::address(id, flow.source)
        }
    };
    let Some(affinity) = maps.affinity(&key)? else {
        return Ok(Held::No);
    };
    let in_run = match local_only {
        true => Backend::IN_LOCAL_RUN,
        false => Backend::IN_CLUSTER_RUN,
    };
    let seconds = u32::try_from(maps.now() / 1_000_000_000).unwrap_or(u32::MAX);
    let elapsed = seconds.saturating_sub(affinity.since);
    let backend = maps.backend(affinity.backend)?.unwrap_or_default();
    let holds = affinity.affinity_generation == service.affinity_generation
        && elapsed <= service.affinity_seconds
        && backend.generation == affinity.backend_generation
        && backend.flags & in_run != 0;
    Ok(match holds {
        true => Held::To(affinity.backend, service.affinity_seconds - elapsed),
        false => Held::Stale,
    })
}

/// Whether the backend may answer the client itself, from another node.
fn is_direct(service: &Service, kind: Kind, asker: Asker, backend: &Backend) -> bool {
    service.flags & Service::DSR != 0
        && backend.flags & Backend::LOCAL == 0
        && kind != Kind::NODE_PORT
        && asker.origin() == Origin::Outside
}

/// What the backend sees as the source of a packet.
fn source(node: &Node, flow: &Flow, asker: Asker, backend: &Backend) -> Result<Source, Drop> {
    let passes_here = backend.flags & Backend::LOCAL != 0 || asker.origin() == Origin::Node;
    if passes_here && flow.source != backend.address {
        return Ok(Source::Kept);
    }
    let address = match backend.address.is_v4() {
        true => node.source_v4,
        false => node.source_v6,
    };
    if address.is_unspecified() {
        return Err(Drop::NoSource);
    }
    let ports = node.first_port..=node.last_port;
    Ok(Source::Node(
        address,
        ports.contains(&flow.source_port.number()),
    ))
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
    fn address(self, flow: &Flow, node: &Node) -> Addr {
        match (self.is_socket(), flow.destination.is_v4()) {
            (false, _) => flow.source,
            (true, true) => node.source_v4,
            (true, false) => node.source_v6,
        }
    }
}

impl Choice {
    fn verdict(&self) -> Verdict {
        match self.pick {
            Ok(Pick::Hash(id) | Pick::Affinity(id)) => Verdict::Backend(id),
            Ok(Pick::Random) => Verdict::OneOf,
            Err(reason) => Verdict::Stopped(reason),
        }
    }
}

impl Decision {
    fn without_service(asker: Asker, rule: Rule) -> Self {
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
