//! The choice of a backend, as `service.rs` and `nat.rs` of the programs make it.

use dataplane_ebpf::abi::{AffinityKey, Backend, Frontend, Kind, Node, Origin, Run, Service};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;
use dataplane_ebpf::maglev;

use super::super::decision::{Asker, Choice, Held, Pick, Source};
use super::super::snapshot::Snapshot;
use crate::pinned::Error;

/// Chooses a backend of `service`, which was found by `frontend`.
pub(super) fn choose(
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
pub(super) fn is_direct(service: &Service, kind: Kind, asker: Asker, backend: &Backend) -> bool {
    service.flags & Service::DSR != 0
        && backend.flags & Backend::LOCAL == 0
        && kind != Kind::NODE_PORT
        && asker.origin() == Origin::Outside
}

/// What the backend sees as the source of a packet.
pub(super) fn source(
    node: &Node,
    flow: &Flow,
    asker: Asker,
    backend: &Backend,
) -> Result<Source, Drop> {
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

/// Whether only clients in the source ranges may use it.
pub(super) fn is_restricted(service: &Service, kind: Kind) -> bool {
    kind == Kind::LOAD_BALANCER && service.flags & Service::SOURCE_RANGES != 0
}
