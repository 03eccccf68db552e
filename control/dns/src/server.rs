//! The sockets. UDP packets that the records can answer are answered in the receiving loop; those that wait for upstream get
//! a task each, and upstream limits how many. A TCP connection is a task that takes one question at a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{io, mem};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::message::{MAX_QUESTION, Transport};
use crate::resolver::{Resolver, Step};

/// Connections that may be open at a time, over all addresses.
const MAX_CONNECTIONS: usize = 256;
/// How long a connection may be idle, and how long a question or a response may take to cross it.
const IDLE: Duration = Duration::from_secs(10);
/// What to wait after a failed receive or accept, most often for lack of memory or file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// UDP questions that may wait for upstream at a time, per address.
const MAX_WAITING: usize = 1024;

/// The bound sockets of a server.
#[derive(Debug)]
pub(crate) struct Server {
    sockets: Vec<(UdpSocket, TcpListener)>,
}

impl Server {
    /// Opens a UDP and a TCP socket on each address.
    pub(crate) async fn bind(addresses: &[SocketAddr]) -> Result<Self, Error> {
        let mut sockets = Vec::new();
        for &address in addresses {
            let pair = bind_pair(address).await;
            sockets.push(pair.map_err(|source| Error::Bind { address, source })?);
        }
        Ok(Self { sockets })
    }

    /// Where the server listens.
    #[cfg(test)]
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let local = |(udp, _): &(UdpSocket, _)| udp.local_addr().ok();
        self.sockets.iter().filter_map(local).collect()
    }

    /// Serves until `shutdown`; everything under way ends with it.
    pub(crate) async fn run(self, resolver: Arc<Resolver>, shutdown: CancellationToken) {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut loops = JoinSet::new();
        for (udp, tcp) in self.sockets {
            loops.spawn(serve_udp(Arc::new(udp), Arc::clone(&resolver)));
            loops.spawn(serve_tcp(
                tcp,
                Arc::clone(&resolver),
                Arc::clone(&connections),
            ));
        }
        shutdown.cancelled().await;
    }
}

/// Both sockets on one port. If the kernel is to choose it, it may choose one that only one of them can have.
pub(crate) async fn bind_pair(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    loop {
        let tcp = TcpListener::bind(address).await?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Err(error) if address.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            udp => return Ok((udp?, tcp)),
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, resolver: Arc<Resolver>) {
    let mut waiting = JoinSet::new();
    let mut buffer = [0; MAX_QUESTION];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "receive a question");
                sleep(PAUSE).await;
                continue;
            }
        };
        while waiting.try_join_next().is_some() {}
        match resolver.start(&buffer[..length], Transport::Udp) {
            Step::Send(response) => send(&socket, &response, client).await,
            Step::Wait(_) if waiting.len() >= MAX_WAITING => {
                tracing::debug!(%client, "too many questions wait for upstream");
            }
            Step::Wait(question) => {
                let (socket, resolver) = (Arc::clone(&socket), Arc::clone(&resolver));
                waiting.spawn(async move {
                    if let Some(response) = resolver.finish(question).await {
                        send(&socket, &response, client).await;
                    }
                });
            }
            Step::Ignore => {}
        }
    }
}

async fn send(socket: &UdpSocket, response: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(response, client).await {
        tracing::debug!(%client, %error, "send a response");
    }
}

async fn serve_tcp(listener: TcpListener, resolver: Arc<Resolver>, connections: Arc<Semaphore>) {
    let mut tasks = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                sleep(PAUSE).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        let resolver = Arc::clone(&resolver);
        tasks.spawn(async move {
            if let Err(error) = serve_connection(stream, &resolver).await {
                tracing::debug!(%client, %error, "connection ends");
            }
            mem::drop(permit);
        });
    }
}

/// Answers questions until the client closes, says nothing for a while, or sends what is no question.
async fn serve_connection(mut stream: TcpStream, resolver: &Resolver) -> io::Result<()> {
    let mut buffer = vec![0; MAX_QUESTION];
    loop {
        let length = timeout(IDLE, read_question(&mut stream, &mut buffer)).await??;
        let response = match resolver.start(&buffer[..length], Transport::Tcp) {
            Step::Send(response) => Some(response),
            Step::Wait(question) => resolver.finish(question).await,
            Step::Ignore => None,
        };
        let Some(response) = response else {
            return Ok(());
        };
        timeout(IDLE, write_response(&mut stream, &response)).await??;
    }
}

/// Reads a question after its length (RFC 1035, section 4.2.2).
async fn read_question(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let length = usize::from(stream.read_u16().await?);
    let question = buffer
        .get_mut(..length)
        .ok_or_else(|| io::Error::other("the question is too long"))?;
    stream.read_exact(question).await?;
    Ok(length)
}

/// Writes length and response at once, so that they leave in one segment.
async fn write_response(stream: &mut TcpStream, response: &[u8]) -> io::Result<()> {
    let length = u16::try_from(response.len()).map_err(io::Error::other)?;
    stream
        .write_all(&[&length.to_be_bytes(), response].concat())
        .await
}
