//! The listening sockets: each thread has its own on every address, and the kernel shares out connections among them
//! (`SO_REUSEPORT`).
//!
//! All of them are bound before any thread starts, so an address that cannot be had is an error of the start, not of a
//! thread.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::Error;
use crate::config::GatewayArgs;

/// Connections that wait for a thread, for each socket.
const BACKLOG: i32 = 4096;

/// All listening sockets.
#[derive(Debug)]
pub struct Listeners {
    /// Where HTTP is served.
    pub http: Vec<SocketAddr>,
    /// Where HTTPS is served.
    pub https: Vec<SocketAddr>,
    /// Each thread's sockets.
    pub sockets: Vec<Sockets>,
}

/// One thread's sockets.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For HTTP.
    pub http: Vec<TcpListener>,
    /// For HTTPS.
    pub https: Vec<TcpListener>,
}

impl Listeners {
    /// Binds everything for `workers` threads.
    pub fn bind(settings: &GatewayArgs, workers: usize) -> Result<Self, Error> {
        let mut sockets: Vec<Sockets> = (0..workers).map(|_| Sockets::default()).collect();
        let mut bind_all =
            |addresses: &[SocketAddr], kind: fn(&mut Sockets) -> &mut Vec<TcpListener>| {
                let mut bound = Vec::new();
                for address in addresses {
                    let Some((address, each)) = bind(*address, workers)? else {
                        continue;
                    };
                    bound.push(address);
                    for (sockets, socket) in sockets.iter_mut().zip(each) {
                        kind(sockets).push(socket);
                    }
                }
                Ok::<_, Error>(bound)
            };
        let http = bind_all(&settings.http_bind, |sockets| &mut sockets.http)?;
        let https = bind_all(&settings.https_bind, |sockets| &mut sockets.https)?;
        Ok(Self {
            http,
            https,
            sockets,
        })
    }
}

/// Binds `address` once for each thread, all of them to the port that the first one got. `[::]` is left out where the
/// machine has no IPv6.
fn bind(
    address: SocketAddr,
    workers: usize,
) -> Result<Option<(SocketAddr, Vec<TcpListener>)>, Error> {
    let failed = |source| Error::Bind { address, source };
    let first = match listen(address) {
        Err(error) if is_absent(address, &error) => {
            tracing::info!(%address, %error, "not listening: there is no IPv6 here");
            return Ok(None);
        }
        first => first.map_err(failed)?,
    };
    let bound = first.local_addr().map_err(failed)?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(listen(bound).map_err(failed)?);
    }
    Ok(Some((bound, sockets)))
}

fn is_absent(address: SocketAddr, error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    let no_family = error.raw_os_error() == Some(EAFNOSUPPORT);
    let is_wildcard = address.ip() == Ipv6Addr::UNSPECIFIED;
    is_wildcard && (no_family || error.kind() == io::ErrorKind::AddrNotAvailable)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
