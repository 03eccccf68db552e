//! From a question to its answer: look-ups in the records, and the rules of DNS around them. No I/O, no clock.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::records::{Entry, Records, TTL};

/// How many names in a row may be other names for the next.
const MAX_ALIASES: usize = 8;

/// The answer to a question.
#[derive(Debug)]
pub(crate) enum Answer {
    /// All there is to say.
    Complete(Reply),
    /// The name asked for is, in the end, another name for `target`, which is not the cluster's.
    Elsewhere {
        /// The way there.
        aliases: Vec<Record>,
        /// Whom to ask about instead.
        target: Name,
    },
    /// Not the cluster's name.
    Outside,
}

/// What a response says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Whether it went well.
    pub(crate) code: ResponseCode,
    /// True if it is about the cluster's own zone.
    pub(crate) authoritative: bool,
    /// What was asked for.
    pub(crate) answers: Vec<Record>,
    /// The zone's authority if there is no answer.
    pub(crate) authorities: Vec<Record>,
    /// What will probably be asked next.
    pub(crate) additionals: Vec<Record>,
}

impl Reply {
    /// A reply without records.
    pub(crate) fn empty(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }
}

/// Answers `question`. Where several records are equally good, `turn` says which comes first.
pub(crate) fn answer(records: &Records, question: &Query, turn: usize) -> Answer {
    let reverse = reverse_address(&question.name);
    if !records.zone.contains(&question.name) && reverse.is_none() {
        return Answer::Outside;
    }
    if !records.is_complete() {
        return Answer::Complete(Reply::empty(ResponseCode::ServFail));
    }
    match reverse {
        Some(address) => answer_reverse(records, question, address),
        None => answer_forward(records, question, turn),
    }
}

/// Follows aliases from the name asked for to records or to the end of the zone.
fn answer_forward(records: &Records, question: &Query, turn: usize) -> Answer {
    let mut aliases = Vec::new();
    let mut owner = question.name.clone();
    while aliases.len() <= MAX_ALIASES {
        if !records.zone.contains(&owner) {
            return Answer::Elsewhere {
                aliases,
                target: owner,
            };
        }
        let Some(entry) = look_up(records, &owner) else {
            return Answer::Complete(negative(records, aliases, ResponseCode::NXDomain));
        };
        match entry.alias() {
            Some(target) if !wants(question, RecordType::CNAME) => {
                let next = target.clone();
                aliases.push(record(&owner, RData::CNAME(CNAME(next.clone()))));
                owner = next;
            }
            _ => {
                let found = matching(records, question, &owner, &entry, turn);
                return Answer::Complete(positive(records, aliases, found));
            }
        }
    }
    tracing::debug!(name = %question.name, "external names lead in a circle");
    Answer::Complete(Reply::empty(ResponseCode::ServFail))
}

fn answer_reverse(records: &Records, question: &Query, address: IpAddr) -> Answer {
    let pointers: Vec<Record> = records
        .pointers(address)
        .map(|name| record(&question.name, RData::PTR(PTR(name.clone()))))
        .collect();
    if pointers.is_empty() {
        return Answer::Outside;
    }
    if wants(question, RecordType::PTR) {
        return Answer::Complete(positive(records, Vec::new(), pointers));
    }
    // The zone's authority would not be above this name, so nobody could keep the answer: the name vouches for itself.
    let soa = record(&question.name, RData::SOA(records.soa()));
    Answer::Complete(Reply {
        authoritative: true,
        authorities: vec![soa],
        ..Reply::empty(ResponseCode::NoError)
    })
}

/// What is at a name of the zone; pods' names are computed.
fn look_up<'a>(records: &'a Records, name: &Name) -> Option<Cow<'a, Entry>> {
    match records.get(name) {
        Some(entry) => Some(Cow::Borrowed(entry)),
        None => pod_entry(records, name).map(Cow::Owned),
    }
}

/// The address in a pod's name, `1-2-3-4.namespace.pod.zone`. Pods are not watched: every address and namespace will do.
fn pod_entry(records: &Records, name: &Name) -> Option<Entry> {
    let pods = &records.zone.pods;
    if !pods.zone_of(name) {
        return None;
    }
    let labels: Vec<&[u8]> = name.iter().collect();
    match labels.len() - pods.iter().len() {
        1 => Some(Entry::default()),
        2 => Some(Entry::at(vec![dashed_address(labels[0])?])),
        _ => None,
    }
}

fn dashed_address(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    let v4 = text.replace('-', ".").parse::<Ipv4Addr>();
    let v6 = || text.replace('-', ":").parse::<Ipv6Addr>();
    v4.map(IpAddr::V4).or_else(|_| v6().map(IpAddr::V6)).ok()
}

/// The address that a name under in-addr.arpa or ip6.arpa spells out in full.
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let network = name.parse_arpa_name().ok()?;
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}

/// The records of `entry` that were asked for.
fn matching(
    records: &Records,
    question: &Query,
    owner: &Name,
    entry: &Entry,
    turn: usize,
) -> Vec<Record> {
    let soa = (*owner == records.zone.apex).then(|| RData::SOA(records.soa()));
    let addresses = entry.addresses.iter().copied().map(address_data);
    let mut found: Vec<Record> = addresses
        .chain(entry.other.iter().cloned())
        .chain(soa)
        .filter(|data| wants(question, data.record_type()))
        .map(|data| record(owner, data))
        .collect();
    if !found.is_empty() {
        let first = turn % found.len();
        found.rotate_left(first);
    }
    found
}

fn wants(question: &Query, kind: RecordType) -> bool {
    question.query_type == kind || question.query_type == RecordType::ANY
}

/// A reply with the records found, or one that says that there are none.
fn positive(records: &Records, mut aliases: Vec<Record>, found: Vec<Record>) -> Reply {
    if found.is_empty() {
        return negative(records, aliases, ResponseCode::NoError);
    }
    let additionals = addresses_of_targets(records, &found);
    aliases.extend(found);
    Reply {
        authoritative: true,
        answers: aliases,
        additionals,
        ..Reply::empty(ResponseCode::NoError)
    }
}

/// A reply that says there is nothing (RFC 2308): the zone's authority tells how long to believe it.
fn negative(records: &Records, aliases: Vec<Record>, code: ResponseCode) -> Reply {
    let soa = record(&records.zone.apex, RData::SOA(records.soa()));
    Reply {
        authoritative: true,
        answers: aliases,
        authorities: vec![soa],
        ..Reply::empty(code)
    }
}

/// The addresses of the hosts that SRV and NS records name.
fn addresses_of_targets(records: &Records, found: &[Record]) -> Vec<Record> {
    let mut seen = HashSet::new();
    let targets = found.iter().filter_map(|record| match &record.data {
        RData::SRV(srv) => Some(&srv.target),
        RData::NS(server) => Some(&server.0),
        _ => None,
    });
    targets
        .filter(|target| seen.insert(*target))
        .filter_map(|target| Some((target, records.get(target)?)))
        .flat_map(|(target, entry)| {
            let addresses = entry.addresses.iter().copied();
            addresses.map(|address| record(target, address_data(address)))
        })
        .collect()
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn record(owner: &Name, data: RData) -> Record {
    Record::from_rdata(owner.clone(), TTL, data)
}
