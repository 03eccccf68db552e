//! A decision in words for people and in fields for machines.

use std::io::{self, Write};

use dataplane_ebpf::abi::{Backend, Frontend, Kind, Origin, Service};
use dataplane_ebpf::drop::{Answer, Drop};
use dataplane_ebpf::flow::Flow;
use serde::Serialize;

use super::decision::{
    Asker, Choice, Course, Decision, Held, Pick, Rule, Source, Tracked, Verdict,
};
use super::snapshot::Snapshot;
use super::{Columns, clock, text};
use crate::pinned::Error;

/// A decision, explained.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explained {
    hook: &'static str,
    /// `left-alone`, `tracked`, `backend`, `random`, `refused` or `dropped`.
    verdict: &'static str,
    /// Why it is refused or dropped, as in `drops`.
    pub(super) reason: Option<&'static str>,
    /// `cluster-ip`, ..., `unknown-port`, `unallocated`, `node-port-elsewhere` or `nothing`.
    rule: &'static str,
    service: Option<ServiceName>,
    tracked: Option<TrackedAs>,
    /// Whether the client is in the Service's source ranges; nothing if everybody may use it.
    in_source_ranges: Option<bool>,
    /// `cluster` or `local`.
    set: Option<&'static str>,
    set_because: Option<String>,
    affinity: Option<String>,
    /// The backend, where it is certain.
    backend: Option<Target>,
    source: Option<String>,
    backends: Vec<Candidate>,
}

#[derive(Debug, Serialize)]
struct ServiceName {
    id: u32,
    name: Option<String>,
}

/// An entry of the connection table.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TrackedAs {
    course: &'static str,
    meaning: &'static str,
    becomes: String,
    idle_seconds: u64,
}

#[derive(Debug, Serialize)]
struct Target {
    id: u32,
    address: String,
}

/// A backend of the service.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    id: u32,
    address: String,
    /// Whether it is in the set to choose from.
    in_set: bool,
    chosen: bool,
    because: &'static str,
}

/// Puts `decision` about `flow` into words.
pub(super) fn explain(
    maps: &impl Snapshot,
    flow: &Flow,
    decision: &Decision,
) -> Result<Explained, Error> {
    let frontend = match decision.rule {
        Rule::Service(frontend) => Some(frontend),
        _ => None,
    };
    let service = match frontend {
        Some(Frontend { service: id, .. }) => Some(ServiceName {
            id,
            name: maps.name(id)?,
        }),
        None => None,
    };
    let (choice, tracked) = (decision.choice.as_ref(), decision.tracked.as_ref());
    let (verdict, reason) = verdict(decision.verdict);
    Ok(Explained {
        hook: hook(decision.asker, flow),
        verdict,
        reason: reason.map(Drop::name),
        rule: rule(decision.rule),
        service,
        tracked: tracked.map(|tracked| tracked_as(tracked, maps.now())),
        in_source_ranges: choice.and_then(|choice| choice.is_in_range),
        set: choice.map(|choice| set_name(choice.local_only)),
        set_because: choice.zip(frontend).map(|(choice, frontend)| {
            because(&choice.service, frontend.kind, decision.asker.origin())
        }),
        affinity: choice.map(|choice| affinity(choice.affinity)),
        backend: chosen(maps, decision)?,
        source: source(decision),
        backends: match (choice, frontend) {
            (Some(choice), Some(frontend)) => candidates(maps, decision, choice, frontend)?,
            _ => Vec::new(),
        },
    })
}

fn hook(asker: Asker, flow: &Flow) -> &'static str {
    let is_tcp = flow.protocol == dataplane_ebpf::addr::Protocol::TCP;
    match asker {
        Asker::NodeSocket | Asker::PodSocket if is_tcp => "connect",
        Asker::NodeSocket | Asker::PodSocket => "connect, sendmsg",
        Asker::PodPacket => "pod_ingress",
        Asker::OutsidePacket => "ingress",
        Asker::NodePacket => "none",
    }
}

fn verdict(verdict: Verdict) -> (&'static str, Option<Drop>) {
    match verdict {
        Verdict::LeftAlone => ("left-alone", None),
        Verdict::Tracked => ("tracked", None),
        Verdict::Backend(_) => ("backend", None),
        Verdict::OneOf => ("random", None),
        Verdict::Stopped(reason) if reason.answer() == Answer::Refusal => ("refused", Some(reason)),
        Verdict::Stopped(reason) => ("dropped", Some(reason)),
    }
}

fn rule(rule: Rule) -> &'static str {
    match rule {
        Rule::Service(frontend) => text::kind(frontend.kind),
        Rule::UnknownPort => "unknown-port",
        Rule::Unallocated => "unallocated",
        Rule::NodePortElsewhere => "node-port-elsewhere",
        Rule::Nothing => "nothing",
    }
}

fn tracked_as(tracked: &Tracked, now: u64) -> TrackedAs {
    let (course, meaning) = match tracked.course {
        Course::Foreign => ("foreign", "another proxy's connection, which is left alone"),
        Course::Reply => ("reply", "the reply direction of a connection"),
        Course::Continue => ("continue", "a known connection, which goes on"),
        Course::Move => (
            "move",
            "its backend does not serve: it moves if another does",
        ),
        Course::Begin => (
            "begin",
            "over, idle for too long, or its backend is gone: a new one begins",
        ),
    };
    TrackedAs {
        course,
        meaning,
        becomes: tracked.connection.to.to_string(),
        idle_seconds: clock::age(tracked.connection.seen, now),
    }
}

fn set_name(local_only: bool) -> &'static str {
    if local_only { "local" } else { "cluster" }
}

/// Why the set is what it is.
fn because(service: &Service, kind: Kind, origin: Origin) -> String {
    let policy = |bit| text::policy(service.flags & bit != 0);
    match (kind, origin) {
        (Kind::CLUSTER_IP, _) => {
            format!(
                "internalTrafficPolicy is {}",
                policy(Service::INTERNAL_LOCAL)
            )
        }
        (_, Origin::Node) => {
            "a client on this node is not bound by externalTrafficPolicy".to_owned()
        }
        (_, Origin::Outside) => {
            format!(
                "externalTrafficPolicy is {}",
                policy(Service::EXTERNAL_LOCAL)
            )
        }
    }
}

fn affinity(held: Held) -> String {
    match held {
        Held::Off => "off".to_owned(),
        Held::Unknown => {
            "on; by address it cannot be told to which backend a pod is held".to_owned()
        }
        Held::No => "on; the client is held to none yet".to_owned(),
        Held::Stale => "on; the backend it was held to does not count any more".to_owned(),
        Held::To(id, left) => {
            let left = text::seconds(left.into());
            format!("held to backend {id} for {left} more")
        }
    }
}

/// The backend that is certain, by its id and address.
fn chosen(maps: &impl Snapshot, decision: &Decision) -> Result<Option<Target>, Error> {
    match (decision.verdict, &decision.tracked) {
        (Verdict::Backend(id), _) => {
            let backend = maps.backend(id)?.unwrap_or_default();
            let address = text::socket(backend.address, backend.port);
            Ok(Some(Target { id, address }))
        }
        (Verdict::Tracked, Some(tracked)) if tracked.course != Course::Reply => {
            let connection = &tracked.connection;
            Ok(Some(Target {
                id: connection.backend,
                address: text::socket(connection.to.destination, connection.to.destination_port),
            }))
        }
        _ => Ok(None),
    }
}

fn source(decision: &Decision) -> Option<String> {
    if let (Verdict::Tracked, Some(tracked)) = (decision.verdict, &decision.tracked) {
        let to = &tracked.connection.to;
        return Some(text::socket(to.source, to.source_port));
    }
    Some(match decision.source? {
        Source::Stack => "what the node's or the pod's routes to the backend give".to_owned(),
        Source::Kept => "kept".to_owned(),
        Source::Direct => {
            "kept if the backend's node can be told so, else the node's (direct server return)"
                .to_owned()
        }
        Source::Node(address, true) => format!("{address}, with the client's port if it is free"),
        Source::Node(address, false) => format!("{address}, with another port"),
    })
}

/// Every backend of the service, and why it is chosen or not.
fn candidates(
    maps: &impl Snapshot,
    decision: &Decision,
    choice: &Choice,
    frontend: Frontend,
) -> Result<Vec<Candidate>, Error> {
    let all = maps.backends()?.into_iter();
    let own = all.filter(|(_, backend)| backend.service == frontend.service);
    let candidates = own.map(|(id, backend)| {
        let in_set = choice.set.contains(&id);
        let (chosen, because) = match decision.verdict {
            Verdict::Backend(chosen) if chosen == id => (true, chosen_because(choice.pick)),
            _ => (false, not_because(decision, choice, &backend, in_set)),
        };
        Candidate {
            id,
            address: text::socket(backend.address, backend.port),
            in_set,
            chosen,
            because,
        }
    });
    Ok(candidates.collect())
}

fn chosen_because(pick: Result<Pick, Drop>) -> &'static str {
    match pick {
        Ok(Pick::Affinity(_)) => "the client is held to it by affinity",
        _ => "the hash of the flow chooses it",
    }
}

fn not_because(
    decision: &Decision,
    choice: &Choice,
    backend: &Backend,
    in_set: bool,
) -> &'static str {
    let has = |flag| backend.flags & flag != 0;
    match (in_set, choice.pick) {
        (true, Ok(Pick::Random)) => "one of the set, each as likely",
        (true, Ok(Pick::Affinity(_))) => "in the set, but affinity holds the client to another",
        (true, Ok(Pick::Hash(_))) => "in the set, but the hash of the flow chooses another",
        (true, Err(_)) => "in the set, but nobody gets any",
        (false, _) if choice.local_only && !has(Backend::LOCAL) => {
            "on another node, and only this node's may be used"
        }
        (false, _) if !has(Backend::SERVING) => "not serving",
        (false, _) if matches!(decision.verdict, Verdict::Stopped(_)) => {
            "serving, but not in the set"
        }
        (false, _) => "serving, but not ready, or hints prefer others for this node or zone",
    }
}

impl Explained {
    /// Writes it line by line, in the order of the steps.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "hook       {}", self.hook)?;
        if let Some(tracked) = &self.tracked {
            let idle = text::seconds(tracked.idle_seconds);
            let (meaning, becomes) = (tracked.meaning, &tracked.becomes);
            writeln!(out, "tracked    {meaning}: {becomes} (idle for {idle})")?;
        }
        writeln!(out, "rule       {}", self.rule_text())?;
        if let Some(is_in) = self.in_source_ranges {
            let text = match is_in {
                true => "the client is in the Service's source ranges",
                false => "the client is in none of the Service's source ranges",
            };
            writeln!(out, "ranges     {text}")?;
        }
        if let (Some(set), Some(because)) = (self.set, &self.set_because) {
            writeln!(out, "set        {set}: {because}")?;
        }
        if let Some(affinity) = &self.affinity {
            writeln!(out, "affinity   {affinity}")?;
        }
        writeln!(out, "verdict    {}", self.verdict_text())?;
        if let Some(source) = &self.source {
            writeln!(out, "source     {source}")?;
        }
        self.write_backends(out)
    }

    fn write_backends(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.backends.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        let mut columns = Columns::new(&["BACKEND", "ADDRESS", "IN SET", "CHOSEN", "BECAUSE"]);
        for candidate in &self.backends {
            columns.row([
                candidate.id.to_string(),
                candidate.address.clone(),
                text::yes(candidate.in_set),
                text::yes(candidate.chosen),
                candidate.because.to_owned(),
            ]);
        }
        columns.write(out)
    }

    fn rule_text(&self) -> String {
        match (&self.service, self.rule) {
            (Some(ServiceName { id, name }), rule) => {
                format!("{rule} of {}", text::service(name.as_deref(), *id))
            }
            (None, "unknown-port") => {
                "an address of Services, none of which has this port".to_owned()
            }
            (None, "unallocated") => {
                "in the ServiceCIDRs, but no Service has the address".to_owned()
            }
            (None, "node-port-elsewhere") => {
                "a node port, but node ports do not answer at this address for this client"
                    .to_owned()
            }
            (None, _) => "no Service has the address".to_owned(),
        }
    }

    fn verdict_text(&self) -> String {
        let reason = self.reason.unwrap_or_default();
        match (self.verdict, &self.backend) {
            ("refused", _) => format!("refused ({reason}): a reset, an ICMP error or ECONNREFUSED"),
            ("dropped", _) => format!("dropped ({reason}): the client gets no answer"),
            ("left-alone", _) => {
                "left alone: it goes on as if there were no load balancer".to_owned()
            }
            ("random", _) => {
                let set = self.backends.iter().filter(|candidate| candidate.in_set);
                format!("one of {} backends at random", set.count())
            }
            ("tracked", None) => "translated as the connection says".to_owned(),
            (_, Some(Target { id, address })) => format!("to {address} (backend {id})"),
            (verdict, None) => verdict.to_owned(),
        }
    }
}
