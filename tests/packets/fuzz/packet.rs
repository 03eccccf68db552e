//! The packets that the fuzz test makes up: right ones first, then everything that can be wrong with one.

use std::net::IpAddr;

use dataplane_ebpf::checksum::sum;

use super::choices::Choices;
use super::reading::{ICMP, ICMPV6, TCP, Tuple, UDP};

const SCTP: u8 = 132;
const SYN: u8 = 0x02;

/// The Ethernet address of the devices that packets come by.
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A frame of the flow `of`, or an ICMP error about one.
pub(super) fn frame(c: &mut Choices<'_>, of: Tuple, is_error: bool) -> Vec<u8> {
    let packet = if is_error {
        error(c, of)
    } else {
        let protocol = c.pick(&[
            of.protocol,
            of.protocol,
            of.protocol,
            TCP,
            UDP,
            SCTP,
            ICMP,
            50,
        ]);
        ip(c, Tuple { protocol, ..of })
    };
    let mut frame = ethernet(c, of.source.0.is_ipv4());
    frame.extend(packet);
    spoil(c, &mut frame);
    frame
}

/// The frame that opens the flow `of`.
pub(super) fn opening(of: Tuple) -> Vec<u8> {
    frame(&mut Choices::new(&[]), of, false)
}

fn ethernet(c: &mut Choices<'_>, v4: bool) -> Vec<u8> {
    let destination = c.pick(&[
        OURS,
        OURS,
        OURS,
        OURS,
        OURS,
        OURS,
        [2, 0, 0, 0, 0, 9],
        [0xff; 6],
    ]);
    let right = if v4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    let kind = if c.once_in(40) {
        c.pick(&[[0x86, 0xdd], [0x08, 0x00], [0x08, 0x06], [0x81, 0x00]])
    } else {
        right
    };
    [&destination[..], &[2, 0, 0, 0, 0, 2], &kind].concat()
}

/// An ICMP error that the receiver of `of`, or a router on its way, sends about it.
fn error(c: &mut Choices<'_>, of: Tuple) -> Vec<u8> {
    let v4 = of.source.0.is_ipv4();
    let quoted = ip(c, of);
    let length = c.pick(&[if v4 { 28 } else { 48 }, 0, 20, 24, 40, 44, 576, 1232]);
    let kind = if v4 {
        c.pick(&[3, 11, 12, 5, 8, 0])
    } else {
        c.pick(&[1, 2, 3, 4, 128, 133])
    };
    let mut body = vec![kind, c.pick(&[4, 3, 0, 1]), 0, 0, 0, 0, 5, 0xdc];
    body.extend(&quoted[..quoted.len().min(length)]);
    let router = c.once_in(2).then(|| stranger(v4));
    let ends = Tuple {
        protocol: if v4 { ICMP } else { ICMPV6 },
        source: (router.unwrap_or(of.destination.0), 0),
        destination: of.source,
    };
    network(c, ends, body, 2)
}

/// Somebody who has nothing to do with any service.
pub(super) fn stranger(v4: bool) -> IpAddr {
    let address = if v4 {
        "203.0.113.77"
    } else {
        "2001:db8:77::77"
    };
    address.parse().expect("an address")
}

/// An IP packet of the flow `of`.
fn ip(c: &mut Choices<'_>, of: Tuple) -> Vec<u8> {
    let [source, destination] = [of.source.1, of.destination.1].map(u16::to_be_bytes);
    let length = c.pick(&[4, 0, 1, 7, 100, 536, 1460]);
    let data = vec![b'x'; length];
    let mut segment = [source, destination].concat();
    let field = match of.protocol {
        TCP => {
            let flags = c.pick(&[SYN, 0x10, 0x10, 0x10, 0x12, 0x11, 0x04, 0x14, 0xff, 0x00]);
            let offset = if c.once_in(10) { c.byte() } else { 0x50 };
            segment.extend([
                0, 0, 3, 232, 0, 0, 7, 208, offset, flags, 0xff, 0xff, 0, 0, 0, 0,
            ]);
            16
        }
        UDP => {
            let lie = if c.once_in(10) { c.word() } else { 0 };
            segment.extend((8 + length as u16).wrapping_add(lie).to_be_bytes());
            segment.extend([0, 0]);
            6
        }
        ICMP | ICMPV6 => {
            segment[0] = c.pick(&[8, 0, 3, 11, 128, 129, 1, 2, 135]);
            segment.extend([0; 4]);
            2
        }
        _ => {
            segment.extend([0; 8]);
            segment.extend(data);
            return network(c, of, segment, usize::MAX);
        }
    };
    segment.extend(data);
    network(c, of, segment, field)
}

/// Completes the checksum at `field` of a segment and puts IP headers before it.
fn network(c: &mut Choices<'_>, ends: Tuple, mut segment: Vec<u8>, field: usize) -> Vec<u8> {
    let pseudo = if ends.protocol == ICMP {
        Vec::new()
    } else {
        pseudo(ends, segment.len())
    };
    if let Some(checksum) = segment.get_mut(field..field.saturating_add(2)) {
        checksum.fill(0);
        let whole = sum(&segment).add(u32::from(sum(&pseudo).partial()));
        let right = whole.checksum();
        let wrong = [right, right ^ 0x0101, 0, 0xffff];
        let chosen = if c.once_in(8) { c.pick(&wrong) } else { right };
        segment[field..field + 2].copy_from_slice(&chosen.to_ne_bytes());
    }
    match (ends.source.0, ends.destination.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(
            c,
            ends.protocol,
            [source.octets(), destination.octets()],
            &segment,
        ),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(
            c,
            ends.protocol,
            [source.octets(), destination.octets()],
            &segment,
        ),
        _ => unreachable!("both ends of a flow are of one family"),
    }
}

fn pseudo(ends: Tuple, length: usize) -> Vec<u8> {
    let mut bytes = vec![0, ends.protocol];
    bytes.extend((length as u16).to_be_bytes());
    for (address, _) in [ends.source, ends.destination] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes
}

fn ttl(c: &mut Choices<'_>) -> u8 {
    c.pick(&[64, 64, 64, 255, 2, 1, 0])
}

fn ipv4(c: &mut Choices<'_>, protocol: u8, ends: [[u8; 4]; 2], segment: &[u8]) -> Vec<u8> {
    let words = c.pick(&[0, 0, 0, 0, 0, 1, 2, 10]);
    let fragment: u16 = c.pick(&[0, 0, 0x4000, 0, 0, 0x2000, 0x2001, 0x0001, 0x00b9, 0x8000]);
    let total = 20 + 4 * words + segment.len();
    let mut header = vec![0x45 + words as u8, c.byte()];
    header.extend((total as u16).to_be_bytes());
    header.extend([0x12, 0x34]);
    header.extend(fragment.to_be_bytes());
    header.extend([ttl(c), protocol, 0, 0]);
    header.extend(ends.concat());
    // No operation, and the end of the list.
    header.extend(vec![c.pick(&[1, 0]); 4 * words]);
    let checksum = sum(&header).checksum();
    header[10..12].copy_from_slice(&checksum.to_ne_bytes());
    [&header, segment].concat()
}

fn ipv6(c: &mut Choices<'_>, protocol: u8, ends: [[u8; 16]; 2], segment: &[u8]) -> Vec<u8> {
    let chain: Vec<u8> = (0..c.pick(&[0, 0, 0, 0, 1, 1, 2, 5]))
        .map(|_| c.pick(&[60, 0, 43, 44, 51]))
        .collect();
    let mut packet = vec![0x60, c.byte() & 0xf, c.byte(), c.byte()];
    let nexts: Vec<u8> = chain.iter().copied().chain([protocol]).collect();
    let mut extensions = Vec::new();
    for (kind, next) in chain.iter().zip(&nexts[1..]) {
        if *kind == 44 {
            let offset: u16 = c.pick(&[0, 1, 8, 9, 0x05c8]);
            extensions.extend([*next, 0]);
            extensions.extend(offset.to_be_bytes());
            extensions.extend([0, 0, 0x12, 0x34]);
        } else {
            let units = c.pick(&[0u8, 0, 1, 3]);
            extensions.extend([*next, units, 1, 4]);
            extensions.extend(vec![0; usize::from(units) * 8 + 4]);
        }
    }
    packet.extend(((extensions.len() + segment.len()) as u16).to_be_bytes());
    packet.extend([nexts[0], ttl(c)]);
    packet.extend(ends.concat());
    packet.extend(extensions);
    packet.extend(segment);
    packet
}

/// Perhaps makes lengths lie, changes bytes, and cuts the frame or pads it.
fn spoil(c: &mut Choices<'_>, frame: &mut Vec<u8>) {
    if c.once_in(8) {
        // The length of IPv4, that of IPv6, and that of the first extension header.
        let at = c.pick(&[16, 18, 55]);
        let lie: i16 = c.pick(&[1, -1, 8, -8, 40, -40, i16::MAX, i16::MIN]);
        if let Some(field) = frame.get_mut(at..at + 2) {
            let right = u16::from_be_bytes([field[0], field[1]]);
            field.copy_from_slice(&right.wrapping_add_signed(lie).to_be_bytes());
        }
    }
    if c.once_in(6) {
        for _ in 0..1 + c.below(3) {
            let at = 14 + c.below(100);
            let byte = c.byte();
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
    }
    if c.once_in(8) {
        let length = 14 + c.below(120);
        frame.truncate(length);
    } else if c.once_in(10) {
        frame.resize(frame.len().max(60) + c.below(20), 0);
    }
    // The kernel runs no program on less than the IP header that the EtherType promises.
    let least = if frame[12..14] == [0x86, 0xdd] {
        54
    } else {
        34
    };
    if frame.len() < least {
        frame.resize(least, 0);
    }
}
