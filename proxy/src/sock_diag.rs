//! Asks the kernel for UDP sockets and destroys some, by the netlink protocol `sock_diag` (`linux/inet_diag.h`).
//!
//! All of it concerns the network namespace that the calling thread is in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// Flags of `linux/netlink.h`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// Types of `linux/netlink.h`.
const ERROR: u16 = 2;
const DONE: u16 = 3;

const INET: u8 = 2;
const INET6: u8 = 10;
const UDP: u8 = 17;
/// The state of connected sockets, `TCP_ESTABLISHED`, as a bit.
const CONNECTED: u32 = 1 << 1;

/// The sizes of `struct nlmsghdr`, and of `struct inet_diag_sockid` and where in `struct inet_diag_msg` it is.
const HEADER: usize = 16;
const ID: usize = 48;
const ID_AT: usize = 4;

/// A netlink socket of the namespace it was made in.
pub(crate) struct SockDiag {
    socket: OwnedFd,
    answer: Vec<u8>,
}

/// A connected UDP socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connected {
    /// As `SO_COOKIE` tells it.
    pub(crate) cookie: u64,
    /// What it is connected to; never an IPv4-mapped address.
    pub(crate) peer: SocketAddr,
    family: u8,
    id: [u8; ID],
}

impl SockDiag {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        Ok(Self {
            socket,
            answer: vec![0; 1 << 16],
        })
    }

    /// All connected UDP sockets.
    pub(crate) fn connected(&mut self) -> io::Result<Vec<Connected>> {
        let mut found = Vec::new();
        for family in [INET, INET6] {
            self.ask(&request(BY_FAMILY, REQUEST | DUMP, family, &[0; ID]))?;
            self.read(|body| found.extend(Connected::parse(body)))?;
        }
        Ok(found)
    }

    /// Destroys `socket`: whoever uses it gets ECONNABORTED. False if it is gone by itself.
    pub(crate) fn destroy(&mut self, socket: &Connected) -> io::Result<bool> {
        self.ask(&request(DESTROY, REQUEST | ACK, socket.family, &socket.id))?;
        match self.read(|_| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the kernel can destroy sockets at all. It is asked to destroy one that cannot be.
    pub(crate) fn can_destroy(&mut self) -> io::Result<bool> {
        let nobody = Connected {
            cookie: 0,
            peer: (Ipv4Addr::UNSPECIFIED, 0).into(),
            family: INET,
            id: [0; ID],
        };
        match self.destroy(&nobody) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            other => other.map(|_| true),
        }
    }

    fn ask(&self, request: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), request, MsgFlags::empty())?;
        Ok(())
    }

    /// Gives every body to `see` until the answer is over.
    fn read(&mut self, mut see: impl FnMut(&[u8])) -> io::Result<()> {
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut self.answer, MsgFlags::empty())?;
            let mut rest = &self.answer[..length];
            while let Some((kind, body, next)) = message(rest) {
                match kind {
                    DONE => return Ok(()),
                    ERROR => return error(body),
                    _ => see(body),
                }
                rest = next;
            }
        }
    }
}

impl Connected {
    /// Reads a `struct inet_diag_msg`.
    fn parse(body: &[u8]) -> Option<Self> {
        let family = *body.first()?;
        let id: [u8; ID] = body.get(ID_AT..ID_AT + ID)?.try_into().ok()?;
        let address: [u8; 16] = id.get(20..36)?.try_into().ok()?;
        let ip = match family {
            INET => {
                let [a, b, c, d, ..] = address;
                IpAddr::from(Ipv4Addr::new(a, b, c, d))
            }
            _ => Ipv6Addr::from(address).to_canonical(),
        };
        let port = u16::from_be_bytes(id.get(2..4)?.try_into().ok()?);
        let low = u32::from_ne_bytes(id.get(40..44)?.try_into().ok()?);
        let high = u32::from_ne_bytes(id.get(44..48)?.try_into().ok()?);
        Some(Self {
            cookie: u64::from(high) << 32 | u64::from(low),
            peer: (ip, port).into(),
            family,
            id,
        })
    }
}

/// A `struct inet_diag_req_v2` behind its header.
fn request(kind: u16, flags: u16, family: u8, id: &[u8; ID]) -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER + 8 + ID);
    let length = u32::try_from(request.capacity()).unwrap_or_default();
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([family, UDP, 0, 0]);
    request.extend(CONNECTED.to_ne_bytes());
    request.extend(id);
    request
}

/// The first message of `bytes`, its type and its body, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, next))
}

/// What an error message says; number zero acknowledges.
fn error(body: &[u8]) -> io::Result<()> {
    let number = body.get(..4).and_then(|bytes| bytes.try_into().ok());
    match number.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(number.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn connected_sockets_are_found_and_others_are_not() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = server.local_addr().expect("it is bound");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let here = client.local_addr().expect("it is bound");
        let mapped = UdpSocket::bind("[::]:0").expect("a free port");
        client.connect(address).expect("loopback");
        let all = format!("[::ffff:127.0.0.1]:{}", address.port());
        mapped.connect(all).expect("loopback");
        let mut diag = SockDiag::open().expect("a netlink socket");
        let found = diag.connected().expect("an answer");
        let ours = found.iter().filter(|socket| socket.peer == address);
        assert_eq!(ours.count(), 2);
        assert!(found.iter().all(|socket| socket.peer != here));
    }
}
