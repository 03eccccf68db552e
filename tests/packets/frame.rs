//! Packets as a test writes and reads them: built with right checksums, decoded with every checksum verified.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use dataplane_ebpf::checksum::{self, Sum};

/// TCP flags.
pub(crate) mod tcp {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const ACK: u8 = 0x10;
}

/// An Ethernet frame with an IP packet in it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Destination and source of the Ethernet header.
    pub(crate) ethernet: [[u8; 6]; 2],
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ttl: u8,
    /// IPv4 flags and offset, or the IPv6 fragment header's, if the packet is a fragment.
    pub(crate) fragment: Option<u16>,
    /// Whether the IP header has options that say nothing.
    pub(crate) options: bool,
    pub(crate) body: Body,
}

/// What the IP packet carries.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Tcp {
        source: u16,
        destination: u16,
        sequence: u32,
        acknowledgment: u32,
        flags: u8,
        data: Vec<u8>,
    },
    Udp {
        source: u16,
        destination: u16,
        data: Vec<u8>,
    },
    Sctp {
        source: u16,
        destination: u16,
        /// The type of the only chunk.
        chunk: u8,
        data: Vec<u8>,
    },
    Icmp {
        kind: u8,
        code: u8,
        rest: u32,
        data: Vec<u8>,
    },
    Other {
        protocol: u8,
        data: Vec<u8>,
    },
}

/// The Ethernet header of a frame that arrives.
pub(crate) const ARRIVING: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

impl Frame {
    /// A frame that arrives with a time to live of 60.
    pub(crate) fn new(source: IpAddr, destination: IpAddr, body: Body) -> Self {
        Self {
            ethernet: ARRIVING,
            source,
            destination,
            ttl: 60,
            fragment: None,
            options: false,
            body,
        }
    }

    /// Bytes of options or extension headers between the IP header and the transport header.
    pub(crate) fn extra_header(&self) -> usize {
        match (self.source.is_ipv4(), self.options, self.fragment) {
            (true, true, _) => 4,
            (false, true, _) | (false, _, Some(_)) => 8,
            _ => 0,
        }
    }

    /// The frame as it travels.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.ethernet.concat();
        bytes.extend(if self.source.is_ipv4() {
            [0x08, 0x00]
        } else {
            [0x86, 0xdd]
        });
        bytes.extend(self.packet());
        bytes
    }

    /// The port of the sender; of a packet that has ports.
    pub(crate) fn source_port(&self) -> u16 {
        match self.body {
            Body::Tcp { source, .. } | Body::Udp { source, .. } | Body::Sctp { source, .. } => {
                source
            }
            Body::Icmp { .. } | Body::Other { .. } => panic!("{self:?} has no ports"),
        }
    }

    /// The IP packet in the frame.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let segment = self.segment();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4(source, destination, &segment)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.ipv6(source, destination, &segment)
            }
            _ => panic!("a packet has addresses of one family"),
        }
    }

    fn ipv4(&self, source: Ipv4Addr, destination: Ipv4Addr, segment: &[u8]) -> Vec<u8> {
        // Four bytes of "no operation" (RFC 791).
        let options: &[u8] = if self.options { &[1; 4] } else { &[] };
        let mut header = vec![0x45 + options.len() as u8 / 4, 0];
        header.extend(length(20 + options.len() + segment.len()));
        header.extend([0, 0]);
        header.extend(self.fragment.unwrap_or(0).to_be_bytes());
        header.extend([self.ttl, self.body.protocol(true), 0, 0]);
        header.extend(source.octets());
        header.extend(destination.octets());
        header.extend(options);
        let sum = checksum::sum(&header).checksum();
        header[10..12].copy_from_slice(&sum.to_ne_bytes());
        [&header, segment].concat()
    }

    fn ipv6(&self, source: Ipv6Addr, destination: Ipv6Addr, segment: &[u8]) -> Vec<u8> {
        let protocol = self.body.protocol(false);
        let (next, extension) = match (self.options, self.fragment) {
            // A destination options header with six bytes of padding (RFC 8200, section 4.6).
            (true, _) => (60, vec![protocol, 0, 1, 4, 0, 0, 0, 0]),
            (false, None) => (protocol, vec![]),
            (false, Some(fragment)) => {
                let [high, low] = fragment.to_be_bytes();
                (44, vec![protocol, 0, high, low, 0, 0, 0, 1])
            }
        };
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(length(extension.len() + segment.len()));
        header.extend([next, self.ttl]);
        header.extend(source.octets());
        header.extend(destination.octets());
        [&header, &extension[..], segment].concat()
    }

    fn segment(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let field = match &self.body {
            Body::Tcp {
                source,
                destination,
                sequence,
                acknowledgment,
                flags,
                data,
            } => {
                bytes.extend(source.to_be_bytes());
                bytes.extend(destination.to_be_bytes());
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledgment.to_be_bytes());
                bytes.extend([0x50, *flags, 0, 0, 0, 0, 0, 0]);
                bytes.extend(data);
                16
            }
            Body::Udp {
                source,
                destination,
                data,
            } => {
                bytes.extend(source.to_be_bytes());
                bytes.extend(destination.to_be_bytes());
                bytes.extend(length(8 + data.len()));
                bytes.extend([0, 0]);
                bytes.extend(data);
                6
            }
            Body::Sctp {
                source,
                destination,
                chunk,
                data,
            } => {
                bytes.extend(source.to_be_bytes());
                bytes.extend(destination.to_be_bytes());
                // A verification tag, and the checksum's place.
                bytes.extend([1, 2, 3, 4, 0, 0, 0, 0]);
                bytes.extend([*chunk, 0]);
                bytes.extend(length(4 + data.len()));
                bytes.extend(data);
                let sum = crc32c(&bytes);
                bytes[8..12].copy_from_slice(&sum.to_le_bytes());
                return bytes;
            }
            Body::Icmp {
                kind,
                code,
                rest,
                data,
            } => {
                bytes.extend([*kind, *code, 0, 0]);
                bytes.extend(rest.to_be_bytes());
                bytes.extend(data);
                2
            }
            Body::Other { data, .. } => return data.clone(),
        };
        let sum = self.pseudo(&bytes).checksum();
        bytes[field..field + 2].copy_from_slice(&sum.to_ne_bytes());
        bytes
    }

    /// The sum of a segment and what the checksum covers besides.
    fn pseudo(&self, segment: &[u8]) -> Sum {
        let sum = checksum::sum(segment);
        let protocol = self.body.protocol(self.source.is_ipv4());
        let mut pseudo = vec![0, protocol];
        pseudo.extend(length(segment.len()));
        match (self.source, self.destination) {
            (IpAddr::V4(_), _) if matches!(self.body, Body::Icmp { .. }) => return sum,
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                pseudo.extend(source.octets());
                pseudo.extend(destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                pseudo.extend(source.octets());
                pseudo.extend(destination.octets());
            }
            _ => panic!("a packet has addresses of one family"),
        }
        sum.add(u32::from(checksum::sum(&pseudo).partial()))
    }

    /// Reads a frame and verifies its lengths and checksums.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let ethernet = [array(bytes, 0)?, array(bytes, 6)?];
        let packet = bytes.get(14..).context("no packet")?;
        match array(bytes, 12)? {
            [0x08, 0x00] => Self::decode_v4(ethernet, packet),
            [0x86, 0xdd] => Self::decode_v6(ethernet, packet),
            other => anyhow::bail!("EtherType {other:02x?}"),
        }
    }

    fn decode_v4(ethernet: [[u8; 6]; 2], packet: &[u8]) -> Result<Self> {
        let header: [u8; 20] = array(packet, 0)?;
        ensure!(
            header[0] == 0x45,
            "version and header length {:#x}",
            header[0]
        );
        ensure!(
            checksum::sum(&header).partial() == 0xffff,
            "wrong IPv4 checksum"
        );
        let total = usize::from(u16::from_be_bytes(array(packet, 2)?));
        ensure!(
            total == packet.len(),
            "total length {total} in a packet of {}",
            packet.len()
        );
        let fragment = u16::from_be_bytes(array(packet, 6)?);
        Self {
            ethernet,
            source: Ipv4Addr::from(array::<4>(packet, 12)?).into(),
            destination: Ipv4Addr::from(array::<4>(packet, 16)?).into(),
            ttl: header[8],
            fragment: (fragment != 0).then_some(fragment),
            options: false,
            body: Body::decode(header[9], &packet[20..])?,
        }
        .verified(&packet[20..])
    }

    fn decode_v6(ethernet: [[u8; 6]; 2], packet: &[u8]) -> Result<Self> {
        let header: [u8; 40] = array(packet, 0)?;
        ensure!(
            header[..4] == [0x60, 0, 0, 0],
            "version, class and label {:02x?}",
            &header[..4]
        );
        let length = usize::from(u16::from_be_bytes(array(packet, 4)?));
        ensure!(
            length == packet.len() - 40,
            "payload length {length} in a packet of {}",
            packet.len()
        );
        Self {
            ethernet,
            source: Ipv6Addr::from(array::<16>(packet, 8)?).into(),
            destination: Ipv6Addr::from(array::<16>(packet, 24)?).into(),
            ttl: header[7],
            fragment: None,
            options: false,
            body: Body::decode(header[6], &packet[40..])?,
        }
        .verified(&packet[40..])
    }

    fn verified(self, segment: &[u8]) -> Result<Self> {
        if matches!(self.body, Body::Sctp { .. }) {
            let mut zeroed = segment.to_vec();
            zeroed[8..12].fill(0);
            ensure!(
                segment[8..12] == crc32c(&zeroed).to_le_bytes(),
                "wrong checksum in {self:?}"
            );
            return Ok(self);
        }
        let covered = !matches!(self.body, Body::Other { .. });
        ensure!(
            !covered || self.pseudo(segment).partial() == 0xffff,
            "wrong checksum in {self:?}"
        );
        Ok(self)
    }
}

impl Body {
    /// What it carries.
    pub(crate) fn data_mut(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Tcp { data, .. }
            | Self::Udp { data, .. }
            | Self::Sctp { data, .. }
            | Self::Icmp { data, .. }
            | Self::Other { data, .. } => data,
        }
    }

    fn protocol(&self, v4: bool) -> u8 {
        match self {
            Self::Tcp { .. } => 6,
            Self::Udp { .. } => 17,
            Self::Sctp { .. } => 132,
            Self::Icmp { .. } if v4 => 1,
            Self::Icmp { .. } => 58,
            Self::Other { protocol, .. } => *protocol,
        }
    }

    fn decode(protocol: u8, bytes: &[u8]) -> Result<Self> {
        Ok(match protocol {
            6 => Self::Tcp {
                source: u16::from_be_bytes(array(bytes, 0)?),
                destination: u16::from_be_bytes(array(bytes, 2)?),
                sequence: u32::from_be_bytes(array(bytes, 4)?),
                acknowledgment: u32::from_be_bytes(array(bytes, 8)?),
                flags: array::<1>(bytes, 13)?[0],
                data: bytes.get(20..).context("a short TCP header")?.to_vec(),
            },
            17 => Self::Udp {
                source: u16::from_be_bytes(array(bytes, 0)?),
                destination: u16::from_be_bytes(array(bytes, 2)?),
                data: bytes.get(8..).context("a short UDP header")?.to_vec(),
            },
            132 => Self::Sctp {
                source: u16::from_be_bytes(array(bytes, 0)?),
                destination: u16::from_be_bytes(array(bytes, 2)?),
                chunk: array::<1>(bytes, 12)?[0],
                data: bytes.get(16..).context("a short SCTP chunk")?.to_vec(),
            },
            1 | 58 => Self::Icmp {
                kind: array::<1>(bytes, 0)?[0],
                code: array::<1>(bytes, 1)?[0],
                rest: u32::from_be_bytes(array(bytes, 4)?),
                data: bytes.get(8..).context("a short ICMP header")?.to_vec(),
            },
            _ => Self::Other {
                protocol,
                data: bytes.to_vec(),
            },
        })
    }
}

/// SCTP's checksum by its definition (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let mut remainder = !0u32;
    for byte in bytes {
        remainder ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = remainder & 1;
            remainder = (remainder >> 1) ^ (carry * 0x82f6_3b78);
        }
    }
    !remainder
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes)
        .expect("test packets are small")
        .to_be_bytes()
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let slice = bytes
        .get(at..at + N)
        .with_context(|| format!("{} bytes, wanted {}", bytes.len(), at + N))?;
    Ok(slice.try_into()?)
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [to, from] = self.ethernet.map(|mac| mac[5]);
        write!(
            f,
            "[{from:x} > {to:x}] {} > {} ttl {}",
            self.source, self.destination, self.ttl
        )?;
        if let Some(fragment) = self.fragment {
            write!(f, " fragment {fragment:#06x}")?;
        }
        write!(f, " {:?}", self.body)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp {
                source,
                destination,
                sequence,
                acknowledgment,
                flags,
                data,
            } => {
                write!(
                    f,
                    "TCP {source} > {destination} flags {flags:#04x} seq {sequence} ack {acknowledgment}"
                )?;
                write!(f, " {:?}", data.escape_ascii().to_string())
            }
            Self::Udp {
                source,
                destination,
                data,
            } => {
                write!(
                    f,
                    "UDP {source} > {destination} {:?}",
                    data.escape_ascii().to_string()
                )
            }
            Self::Sctp {
                source,
                destination,
                chunk,
                data,
            } => {
                write!(
                    f,
                    "SCTP {source} > {destination} chunk {chunk} {:?}",
                    data.escape_ascii().to_string()
                )
            }
            Self::Icmp {
                kind,
                code,
                rest,
                data,
            } => {
                write!(
                    f,
                    "ICMP type {kind} code {code} rest {rest:#x} quoting {data:02x?}"
                )
            }
            Self::Other { protocol, data } => write!(f, "protocol {protocol} {data:02x?}"),
        }
    }
}
