//! Packets of one family and protocol, as the cases write them.

use std::net::IpAddr;

use dataplane_ebpf::addr::{Port, Protocol};
use dataplane_ebpf::flow::Flow;

use super::world::{Addresses, v4, v6};
use crate::frame::{Body, Frame, tcp};

/// An address and a port.
pub(super) type Endpoint = (IpAddr, u16);

/// Writes packets of one family and protocol.
#[derive(Clone, Copy)]
pub(super) struct Writer {
    pub(super) a: Addresses,
    pub(super) protocol: Protocol,
}

impl Writer {
    /// One for each family and each of `protocols`.
    pub(super) fn each(protocols: &[Protocol]) -> impl Iterator<Item = Self> {
        let families = [v4(), v6()].into_iter();
        families.flat_map(|a| protocols.iter().map(move |p| Self { a, protocol: *p }))
    }

    /// The flow of packets from one to the other.
    pub(super) fn flow(self, source: Endpoint, destination: Endpoint) -> Flow {
        let end = |(address, port): Endpoint| (address.into(), Port::new(port));
        Flow::new(end(source), end(destination), self.protocol)
    }

    pub(super) fn body(self, source: u16, destination: u16, flags: u8, data: &[u8]) -> Body {
        let data = data.to_vec();
        if self.protocol == Protocol::UDP {
            return Body::Udp {
                source,
                destination,
                data,
            };
        }
        if self.protocol == Protocol::SCTP {
            // INIT or DATA.
            let chunk = if flags & tcp::SYN != 0 { 1 } else { 0 };
            return Body::Sctp {
                source,
                destination,
                chunk,
                data,
            };
        }
        Body::Tcp {
            source,
            destination,
            sequence: 1000,
            acknowledgment: 2000,
            flags,
            data,
        }
    }

    /// The packet that opens a flow.
    pub(super) fn open(self, source: Endpoint, destination: Endpoint) -> Frame {
        let data: &[u8] = if self.protocol == Protocol::UDP {
            b"ping"
        } else {
            b""
        };
        Frame::new(
            source.0,
            destination.0,
            self.body(source.1, destination.1, tcp::SYN, data),
        )
    }

    /// A packet in the middle of a flow.
    pub(super) fn data(self, source: Endpoint, destination: Endpoint) -> Frame {
        Frame::new(
            source.0,
            destination.0,
            self.body(source.1, destination.1, tcp::ACK, b"data"),
        )
    }

    /// A packet with the given TCP flags.
    pub(super) fn flagged(self, source: Endpoint, destination: Endpoint, flags: u8) -> Frame {
        Frame::new(
            source.0,
            destination.0,
            self.body(source.1, destination.1, flags, b""),
        )
    }

    /// An ICMP error that `source` sends `destination` about a packet that does not fit. Of a quote that was translated,
    /// the transport checksum is still the `original`'s.
    pub(super) fn error(
        self,
        (source, destination): (IpAddr, IpAddr),
        about: &Frame,
        original: Option<&Frame>,
    ) -> Frame {
        let (kind, code, network) = if source.is_ipv4() {
            (3, 4, 20)
        } else {
            (2, 0, 40)
        };
        let mut data = about.packet()[..network + 8].to_vec();
        if let (Some(original), Protocol::UDP) = (original, self.protocol) {
            let original = original.packet();
            data[network + 6..].copy_from_slice(&original[network + 6..network + 8]);
        }
        Frame::new(
            source,
            destination,
            Body::Icmp {
                kind,
                code,
                rest: 1400,
                data,
            },
        )
    }

    /// What refuses `packet`, which [`Self::open`] made.
    pub(super) fn refusal(self, packet: &Frame) -> Frame {
        let body = match &packet.body {
            Body::Tcp {
                source,
                destination,
                ..
            } => Body::Tcp {
                source: *destination,
                destination: *source,
                sequence: 0,
                acknowledgment: 1001,
                flags: tcp::RST | tcp::ACK,
                data: vec![],
            },
            _ => {
                let (kind, code) = if packet.source.is_ipv4() {
                    (3, 3)
                } else {
                    (1, 4)
                };
                return self.told(packet, (kind, code), 0);
            }
        };
        answer(packet, body)
    }

    /// The ICMP error that answers `packet`: it quotes its headers.
    pub(super) fn told(self, packet: &Frame, (kind, code): (u8, u8), rest: u32) -> Frame {
        let network = match (packet.source.is_ipv4(), packet.extra_header()) {
            (true, extra) => 20 + extra,
            (false, extra) => 40 + extra,
        };
        let transport = match packet.body {
            Body::Tcp { .. } => 20,
            Body::Sctp { .. } => 12,
            _ => 8,
        };
        let data = packet.packet()[..network + transport].to_vec();
        let body = Body::Icmp {
            kind,
            code,
            rest,
            data,
        };
        answer(packet, body)
    }
}

/// A packet back to the sender of `packet`, the way it came.
pub(super) fn answer(packet: &Frame, body: Body) -> Frame {
    let [to, from] = packet.ethernet;
    Frame {
        ethernet: [from, to],
        ttl: 64,
        ..Frame::new(packet.destination, packet.source, body)
    }
}

pub(super) fn forwarded(frame: Frame) -> Frame {
    Frame {
        ttl: frame.ttl - 1,
        ..frame
    }
}
