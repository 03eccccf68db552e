//! What the programs would do with the first packet, or the call, of a conversation. The steps are those of the programs
//! (`dataplane-ebpf/src/bpf/{device,socket,service,conntrack,nat}.rs`), in their order; what is shared with them is the same code.

mod choose;
mod track;

use dataplane_ebpf::abi::{FrontendKey, Node, NodeAddress, NodePortKey};
use dataplane_ebpf::addr::{Addr, Family};
use dataplane_ebpf::drop::Drop;
use dataplane_ebpf::flow::Flow;

use super::decision::{Asker, Course, Decision, Rule, Source, Verdict};
use super::snapshot::Snapshot;
use crate::pinned::Error;
use choose::{choose, is_direct, is_restricted, source};
use track::resume;

#[cfg(test)]
mod tests;

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
