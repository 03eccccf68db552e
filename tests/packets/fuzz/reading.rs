//! Packets as the judge of the fuzz test reads them: by the RFCs alone, and sharing nothing with the programs' parser.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_ebpf::checksum::{Sum, sum};

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) protocol: u8,
    pub(super) source: (IpAddr, u16),
    pub(super) destination: (IpAddr, u16),
}

impl Tuple {
    pub(super) fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ..self
        }
    }
}

/// Which piece of an IP packet a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Whole,
    First,
    Later,
}

/// An IP packet whose header is in order and whose announced length is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) ttl: u8,
    pub(super) piece: Piece,
    /// Where the IP header begins, the transport header does, and the packet ends.
    pub(super) l3: usize,
    pub(super) l4: usize,
    pub(super) end: usize,
}

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;

/// Reads the IP packet in an Ethernet frame, by its EtherType. A length of zero stands for one beyond 65,535 bytes.
pub(super) fn read(frame: &[u8]) -> Option<Reading> {
    match *frame.get(12..14)? {
        [0x08, 0x00] => ipv4(frame, 14),
        [0x86, 0xdd] => ipv6(frame, 14),
        _ => None,
    }
    .filter(|reading| reading.end <= frame.len())
}

fn ipv4(frame: &[u8], at: usize) -> Option<Reading> {
    let header: [u8; 20] = frame.get(at..at + 20)?.try_into().ok()?;
    let length = usize::from(header[0] & 0xf) * 4;
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    (header[0] >> 4 == 4 && length >= 20 && (total == 0 || total >= length)).then(|| Reading {
        source: Ipv4Addr::from(<[u8; 4]>::try_from(&header[12..16]).expect("four bytes")).into(),
        destination: Ipv4Addr::from(<[u8; 4]>::try_from(&header[16..20]).expect("four bytes"))
            .into(),
        protocol: header[9],
        ttl: header[8],
        piece: piece(fragment & 0x1fff != 0, fragment & 0x2000 != 0),
        l3: at,
        l4: at + length,
        end: if total == 0 { frame.len() } else { at + total },
    })
}

/// Follows up to four extension headers, as many as the programs promise to.
fn ipv6(frame: &[u8], at: usize) -> Option<Reading> {
    let header: [u8; 40] = frame.get(at..at + 40)?.try_into().ok()?;
    let (mut next, mut l4, mut piece_found) = (header[6], at + 40, Piece::Whole);
    for _ in 0..4 {
        match next {
            0 | 43 | 60 => {
                let extension = frame.get(l4..l4 + 2)?;
                next = extension[0];
                l4 += (usize::from(extension[1]) + 1) * 8;
            }
            44 => {
                let extension = frame.get(l4..l4 + 8)?;
                let offset = u16::from_be_bytes([extension[2], extension[3]]);
                piece_found = piece(offset & 0xfff8 != 0, offset & 1 != 0);
                next = extension[0];
                l4 += 8;
                if piece_found == Piece::Later {
                    break;
                }
            }
            _ => break,
        }
    }
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let end = if length == 0 {
        frame.len()
    } else {
        at + 40 + length
    };
    (header[0] >> 4 == 6 && end >= l4).then(|| Reading {
        source: Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).expect("sixteen bytes")).into(),
        destination: Ipv6Addr::from(<[u8; 16]>::try_from(&header[24..40]).expect("sixteen bytes"))
            .into(),
        protocol: next,
        ttl: header[7],
        piece: piece_found,
        l3: at,
        l4,
        end,
    })
}

fn piece(has_offset: bool, has_more: bool) -> Piece {
    match (has_offset, has_more) {
        (false, false) => Piece::Whole,
        (false, true) => Piece::First,
        (true, _) => Piece::Later,
    }
}

impl Reading {
    pub(super) fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// Where the transport header's checksum is, if all of the header is there.
    fn checksum_at(&self) -> Option<usize> {
        let (length, at) = match (self.protocol, self.is_v4()) {
            (TCP, _) => (20, 16),
            (UDP, _) => (8, 6),
            (ICMP, true) | (ICMPV6, false) => (8, 2),
            _ => return None,
        };
        (self.piece != Piece::Later && self.l4 + length <= self.end).then_some(self.l4 + at)
    }

    /// The flow, of a packet that has all of its transport header.
    pub(super) fn tuple(&self, frame: &[u8]) -> Option<Tuple> {
        self.checksum_at()?;
        let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        [TCP, UDP].contains(&self.protocol).then(|| Tuple {
            protocol: self.protocol,
            source: (self.source, port(self.l4)),
            destination: (self.destination, port(self.l4 + 2)),
        })
    }

    /// The IPv4 header's sum: all ones if its checksum is right.
    pub(super) fn header_sum(&self, frame: &[u8]) -> u16 {
        if self.is_v4() {
            sum(&frame[self.l3..self.l4.min(frame.len())]).partial()
        } else {
            0xffff
        }
    }

    /// The sum of what the transport checksum covers and itself: all ones if it is right. Of a first fragment, a sum that
    /// a right translation does not change either. Nothing where there is no checksum.
    pub(super) fn transport_sum(&self, frame: &[u8]) -> Option<u16> {
        let at = self.checksum_at()?;
        if self.protocol == UDP && frame[at..at + 2] == [0, 0] {
            return None;
        }
        let segment = sum(&frame[self.l4..self.end]);
        if self.protocol == ICMP {
            return Some(segment.partial());
        }
        let length =
            u16::try_from(self.end - self.l4).expect("a packet is at most 65,575 bytes long");
        let pseudo = u32::from(u16::from(self.protocol).to_be()) + u32::from(length.to_be());
        let whole = addresses(self.destination, addresses(self.source, segment)).add(pseudo);
        Some(whole.partial())
    }
}

fn addresses(address: IpAddr, to: Sum) -> Sum {
    let bytes = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    to.add(u32::from(sum(&bytes).partial()))
}
