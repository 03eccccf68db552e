//! Frames as a client outside sends them: IPv4, with nothing special about them.

use std::net::Ipv4Addr;

use dataplane_ebpf::checksum;

/// The node's device.
pub(crate) const UPLINK: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The device at the other end of the wire.
pub(crate) const WIRE: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// An address and a port.
pub(crate) type End = (Ipv4Addr, u16);

/// Where the source port of such a frame is, TCP or UDP.
pub(crate) const SOURCE_PORT: usize = 14 + 20;

/// TCP flags.
pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;

/// A UDP datagram with 18 bytes in it, which makes the shortest frame there is. It has no checksum, which RFC 768
/// allows, so that its port can be changed without one.
pub(crate) fn udp(source: End, destination: End) -> Vec<u8> {
    let mut segment = ports(source, destination);
    segment.extend(26u16.to_be_bytes());
    segment.extend([0; 2 + 18]);
    frame(17, source, destination, &segment)
}

/// A TCP segment without data.
pub(crate) fn tcp(source: End, destination: End, flags: u8) -> Vec<u8> {
    let mut segment = ports(source, destination);
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let mut pseudo = [source.0.octets(), destination.0.octets()].concat();
    pseudo.extend([0, 6, 0, 20]);
    let sum = checksum::sum(&segment).add_sum(checksum::sum(&pseudo));
    segment[16..18].copy_from_slice(&sum.checksum().to_ne_bytes());
    frame(6, source, destination, &segment)
}

/// A frame with nothing of IP in it.
pub(crate) fn not_ip() -> Vec<u8> {
    let mut frame = [UPLINK, WIRE].concat();
    // ARP.
    frame.extend([0x08, 0x06]);
    frame.resize(60, 0);
    frame
}

fn ports(source: End, destination: End) -> Vec<u8> {
    [source.1.to_be_bytes(), destination.1.to_be_bytes()].concat()
}

fn frame(protocol: u8, source: End, destination: End, segment: &[u8]) -> Vec<u8> {
    let length = 20 + segment.len() as u16;
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    header.extend(source.0.octets());
    header.extend(destination.0.octets());
    let sum = checksum::sum(&header).checksum();
    header[10..12].copy_from_slice(&sum.to_ne_bytes());
    let mut frame = [UPLINK, WIRE].concat();
    frame.extend([0x08, 0x00]);
    frame.extend(header);
    frame.extend(segment);
    frame.resize(frame.len().max(60), 0);
    frame
}
