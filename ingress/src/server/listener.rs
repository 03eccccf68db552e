//! The listening sockets: each thread has its own on every address, and the kernel shares out connections among them
//! (`SO_REUSEPORT`).
//!
//! All of them are bound before any thread starts, so an address that cannot be had is an error of the start, not of a
//! thread. What a predecessor has handed over is taken first: connections may be waiting there, so each of those sockets
//! goes to some thread, however many threads there are.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

use crate::Error;
use crate::config::GatewayArgs;

/// Connections that wait for a thread, for each socket.
const BACKLOG: i32 = 4096;

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    /// What is spoken there.
    pub protocol: Protocol,
    /// Where it listens.
    pub address: SocketAddr,
    /// The socket.
    pub socket: TcpListener,
}

/// What is spoken on a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

/// All listening sockets.
#[derive(Debug)]
pub struct Listeners {
    /// Each thread's sockets.
    pub of_threads: Vec<Vec<Listener>>,
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
}

impl Listeners {
    /// Binds everything for `workers` threads, except for what is there already: `inherited`.
    pub fn bind(
        settings: &GatewayArgs,
        workers: usize,
        mut inherited: Vec<Listener>,
    ) -> Result<Self, Error> {
        let mut listeners = Self {
            of_threads: (0..workers).map(|_| Vec::new()).collect(),
            http: Vec::new(),
            https: Vec::new(),
        };
        for (protocol, addresses) in [
            (Protocol::Http, &settings.http_bind),
            (Protocol::Https, &settings.https_bind),
        ] {
            for address in addresses {
                let is_it = |listener: &mut Listener| {
                    listener.protocol == protocol && listener.address == *address
                };
                let there = inherited.extract_if(.., is_it).collect();
                listeners.bind_one(protocol, *address, there)?;
            }
        }
        Ok(listeners)
    }

    /// Binds `address` once for each thread, all of them to the port that the first one got. `[::]` is left out where
    /// the machine has no IPv6.
    fn bind_one(
        &mut self,
        protocol: Protocol,
        address: SocketAddr,
        mut sockets: Vec<Listener>,
    ) -> Result<(), Error> {
        let failed = |source| Error::Bind { address, source };
        if sockets.is_empty() {
            match listen(protocol, address) {
                Err(error) if is_absent(address, &error) => {
                    tracing::info!(%address, %error, "not listening: there is no IPv6 here");
                    return Ok(());
                }
                first => sockets.push(first.map_err(failed)?),
            }
        }
        let bound = sockets.first().map_or(address, |first| first.address);
        while sockets.len() < self.of_threads.len() {
            sockets.push(listen(protocol, bound).map_err(failed)?);
        }
        let threads = self.of_threads.len();
        for (number, socket) in sockets.into_iter().enumerate() {
            self.of_threads[number % threads].push(socket);
        }
        match protocol {
            Protocol::Http => self.http.push(bound),
            Protocol::Https => self.https.push(bound),
        }
        Ok(())
    }

    /// Where `protocol` is served.
    pub fn addresses(&self, protocol: Protocol) -> &[SocketAddr] {
        match protocol {
            Protocol::Http => &self.http,
            Protocol::Https => &self.https,
        }
    }

    /// The same sockets once more, to be handed over.
    pub fn duplicate(&self) -> io::Result<Vec<Listener>> {
        let all = self.of_threads.iter().flatten();
        all.map(|listener| {
            Ok(Listener {
                protocol: listener.protocol,
                address: listener.address,
                socket: listener.socket.try_clone()?,
            })
        })
        .collect()
    }
}

fn is_absent(address: SocketAddr, error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    let no_family = error.raw_os_error() == Some(EAFNOSUPPORT);
    let is_wildcard = address.ip() == Ipv6Addr::UNSPECIFIED;
    is_wildcard && (no_family || error.kind() == io::ErrorKind::AddrNotAvailable)
}

fn listen(protocol: Protocol, address: SocketAddr) -> io::Result<Listener> {
    let kind = Some(socket2::Protocol::TCP);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, kind)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let socket = TcpListener::from(socket);
    let address = socket.local_addr()?;
    Ok(Listener {
        protocol,
        address,
        socket,
    })
}
