//! What may have become of a packet, whatever it was.

use std::net::IpAddr;

use dataplane_ebpf::Hook;

use super::reading::{ICMP, ICMPV6, Reading, TCP, Tuple, UDP, read};
use super::world::{Talk, families};

/// What a program decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The next program, and in the end the stack or the wire, has it.
    Passed,
    /// It is sent from here.
    Sent,
    Dropped,
}

impl Fate {
    /// The meaning of a verdict; every other one is wrong.
    pub(super) fn of(hook: Hook, verdict: i32) -> Option<Self> {
        match (hook, verdict) {
            (Hook::Xdp, 2) | (Hook::Ingress | Hook::Egress | Hook::Pod, -1) => Some(Self::Passed),
            (Hook::Xdp, 3 | 4) | (Hook::Ingress | Hook::Egress | Hook::Pod, 7) => Some(Self::Sent),
            (Hook::Xdp, 1) | (Hook::Ingress | Hook::Egress | Hook::Pod, 2) => Some(Self::Dropped),
            _ => None,
        }
    }
}

/// What a program did.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) fate: Fate,
    pub(super) packet: Vec<u8>,
    /// How many drops it counted.
    pub(super) drops: u64,
}

/// What became of a packet, rightly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    LeftAlone,
    Dropped,
    Answered,
    Translated,
    TranslatedAsError,
}

impl Verdict {
    pub(super) const ALL: [Self; 5] = [
        Self::LeftAlone,
        Self::Dropped,
        Self::Answered,
        Self::Translated,
        Self::TranslatedAsError,
    ];
}

/// Says what is wrong with `outcome`, which the program of `hook` made of `input` during `talk`, whose first packet became
/// one of the flow `sent`.
pub(super) fn judge(
    talk: &Talk,
    sent: Option<Tuple>,
    hook: Hook,
    input: &[u8],
    outcome: &Outcome,
) -> Result<Verdict, &'static str> {
    let changed = outcome.packet != input;
    if !concerns_us(input) && (changed || outcome.fate != Fate::Passed) {
        return Err("a packet that is none of ours was touched");
    }
    match (outcome.fate, outcome.drops) {
        (Fate::Dropped, 0) => Err("dropped for no reason"),
        (Fate::Dropped, _) => Ok(Verdict::Dropped),
        (Fate::Passed, 1..) => Err("passed, and yet counted as dropped"),
        (Fate::Sent, 1..) => refusal(input, &outcome.packet),
        (Fate::Passed, 0) if !changed => left_alone(talk, sent, hook, input),
        (fate, 0) => translation(talk, sent, input, &outcome.packet, fate),
    }
}

/// Whether any address of a service, node or backend is anywhere in the packet.
fn concerns_us(input: &[u8]) -> bool {
    let ours = families()
        .into_iter()
        .flat_map(|a| [a.node, a.cluster_ip, a.here, a.elsewhere]);
    ours.into_iter().any(|address| has(input, address))
}

fn has(packet: &[u8], address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => packet.windows(4).any(|window| window == address.octets()),
        IpAddr::V6(address) => packet.windows(16).any(|window| window == address.octets()),
    }
}

fn is_backend(address: IpAddr) -> bool {
    families()
        .iter()
        .any(|a| [a.here, a.elsewhere].contains(&address))
}

fn is_service(address: IpAddr) -> bool {
    families()
        .iter()
        .any(|a| [a.node, a.cluster_ip].contains(&address))
}

/// What packets of a known flow become.
fn becomes(talk: &Talk, sent: Option<Tuple>, tuple: Tuple) -> Option<Tuple> {
    let sent = sent?;
    if tuple == talk.asked {
        Some(sent)
    } else if tuple == sent.reversed() {
        Some(talk.asked.reversed())
    } else {
        None
    }
}

/// A packet that passed as it was: none of an open connection may do that where it has to be translated.
fn left_alone(
    talk: &Talk,
    sent: Option<Tuple>,
    hook: Hook,
    input: &[u8],
) -> Result<Verdict, &'static str> {
    let Some(reading) = read(input) else {
        return Ok(Verdict::LeftAlone);
    };
    let Some(tuple) = reading.tuple(input) else {
        return Ok(Verdict::LeftAlone);
    };
    let is_for_us = hook != Hook::Ingress || input[..6] == [2, 0, 0, 0, 0, 1];
    let translates_here = hook
        == if tuple == talk.asked {
            talk.hook
        } else {
            talk.reply_hook
        };
    if becomes(talk, sent, tuple).is_some() && is_for_us && translates_here {
        return Err("a packet of an open connection was left untranslated");
    }
    Ok(Verdict::LeftAlone)
}

/// A packet that was changed.
fn translation(
    talk: &Talk,
    sent: Option<Tuple>,
    input: &[u8],
    output: &[u8],
    fate: Fate,
) -> Result<Verdict, &'static str> {
    let before = read(input).ok_or("changed, although it cannot be read")?;
    let after = read(output).ok_or("cannot be read any more")?;
    let ttl = if fate == Fate::Sent {
        before.ttl.wrapping_sub(1)
    } else {
        before.ttl
    };
    let frame = Reading {
        source: after.source,
        destination: after.destination,
        ttl,
        ..before
    };
    if input.len() != output.len() || after != frame || input[..14] != output[..14] {
        return Err("more than addresses and time to live became another");
    }
    if ones(after.header_sum(output)) != ones(before.header_sum(input)) {
        return Err("the IP header's checksum went wrong");
    }
    if after.transport_sum(output).map(ones) != before.transport_sum(input).map(ones) {
        return Err("the transport checksum went wrong");
    }
    match before.protocol {
        TCP | UDP => flow(talk, sent, (before, input), (after, output)),
        ICMP | ICMPV6 => error(after, output),
        _ => Err("a protocol without services was changed"),
    }
}

/// Both zeros of a ones' complement sum.
fn ones(sum: u16) -> u16 {
    if sum == 0 { 0xffff } else { sum }
}

fn flow(
    talk: &Talk,
    sent: Option<Tuple>,
    (before, input): (Reading, &[u8]),
    (after, output): (Reading, &[u8]),
) -> Result<Verdict, &'static str> {
    let header = if before.protocol == TCP { 18 } else { 8 };
    let ports = before.l4 + 4;
    let field = before.l4 + header - 2;
    let kept = [ports..field, field + 2..input.len()];
    if kept
        .into_iter()
        .any(|range| input.get(range.clone()) != output.get(range))
    {
        return Err("more than ports and checksum became another");
    }
    let expected = before
        .tuple(input)
        .and_then(|tuple| becomes(talk, sent, tuple));
    // A connection that is over begins anew, and from elsewhere perhaps: that may go another way.
    let begins = before.protocol == TCP && input[before.l4 + 13] & 0x12 == 0x02;
    if expected.is_some() && !begins && after.tuple(output) != expected {
        return Err("translated to another flow than the packets before");
    }
    let request = is_service(before.destination) && is_backend(after.destination);
    let reply = is_backend(before.source) && is_service(after.source);
    if request || reply {
        Ok(Verdict::Translated)
    } else {
        Err("neither made a request to a backend nor a reply of a service")
    }
}

/// An ICMP error. One to a client outside must not show it where the backend is.
fn error(after: Reading, output: &[u8]) -> Result<Verdict, &'static str> {
    let to_client = families().iter().any(|a| a.client == after.destination);
    let shows = families()
        .iter()
        .any(|a| has(output, a.here) || has(output, a.elsewhere));
    if to_client && shows {
        return Err("the client is shown a backend's address");
    }
    Ok(Verdict::TranslatedAsError)
}

/// The answer that refuses a packet.
fn refusal(input: &[u8], output: &[u8]) -> Result<Verdict, &'static str> {
    let before = read(input).ok_or("an answer to what cannot be read")?;
    let after = read(output).ok_or("an answer that cannot be read")?;
    if (after.source, after.destination) != (before.destination, before.source) {
        return Err("an answer to somebody else");
    }
    if output[..6] != input[6..12] || output[6..12] != input[..6] {
        return Err("an answer to another station");
    }
    if ones(after.header_sum(output)) != 0xffff && ones(before.header_sum(input)) == 0xffff {
        return Err("an answer with a wrong IP checksum");
    }
    if after.transport_sum(output).map(ones) != Some(0xffff) {
        return Err("an answer with a wrong checksum");
    }
    if after.end != output.len() {
        return Err("an answer with something behind it");
    }
    let flags = |packet: &[u8], reading: &Reading| packet.get(reading.l4 + 13).copied();
    if before.protocol == TCP && flags(input, &before).is_none_or(|flags| flags & 0x04 != 0) {
        return Err("an answer to a reset");
    }
    let kind = output.get(after.l4..after.l4 + 2);
    let fits = match (after.protocol, kind) {
        (TCP, _) => flags(output, &after).is_some_and(|flags| flags & 0x04 != 0),
        // Port unreachable, too big, time exceeded.
        (ICMP, Some([3, 3 | 4] | [11, 0])) | (ICMPV6, Some([1, 4] | [2, 0] | [3, 0])) => true,
        _ => false,
    };
    if fits {
        Ok(Verdict::Answered)
    } else {
        Err("an answer of the wrong kind")
    }
}
