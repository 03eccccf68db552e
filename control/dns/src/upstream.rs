//! Asking the node's resolvers about names that are not the cluster's.
//!
//! Servers are asked one after the other, beginning with the one that answered last: over UDP, and over TCP if the answer
//! was too long. Every question goes out from a socket of its own with an unpredictable port and id, and only an answer to
//! that very question counts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{io, sync::Mutex, sync::PoisonError};

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::serialize::binary::DecodeError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::answer::Reply;
use crate::cache::Cache;
use crate::message::MAX_UDP;
use crate::resolv_conf;
use crate::settings::Upstreams;

/// Questions that may be under way at a time. Each holds a socket.
const MAX_QUESTIONS: usize = 512;
/// How long one server may take before the next one is asked.
const SERVER_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long all of them may take: the C library gives up after five seconds.
const TOTAL_TIMEOUT: Duration = Duration::from_millis(4500);
/// The longest UDP answer taken, should a server not keep to the length we name.
const MAX_ANSWER: usize = 4096;
/// How old what was read from the resolv.conf may get.
const REREAD: Duration = Duration::from_secs(10);

/// Why upstream gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("too many questions are under way")]
    Busy,
    #[error("no resolver is known")]
    NoServer,
    #[error("no answer in time")]
    Timeout,
    #[error("{server} answers with {code}")]
    Code {
        server: SocketAddr,
        code: ResponseCode,
    },
    #[error("talk to {server}")]
    Io {
        server: SocketAddr,
        source: io::Error,
    },
}

/// A question and how it should be asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    pub(crate) query: Query,
    pub(crate) dnssec_ok: bool,
    pub(crate) checking_disabled: bool,
}

/// The node's resolvers.
#[derive(Debug)]
pub(crate) struct Upstream {
    source: Upstreams,
    /// Addresses that lead back to us.
    own: Vec<IpAddr>,
    servers: Mutex<Servers>,
    /// The server to begin with.
    favourite: AtomicUsize,
    permits: Semaphore,
    cache: Mutex<Cache>,
}

#[derive(Debug)]
struct Servers {
    addresses: Vec<SocketAddr>,
    read: Instant,
}

impl Upstream {
    /// The resolvers of `source`. A resolv.conf may name our `own` addresses; those are left out.
    pub(crate) fn new(source: Upstreams, own: Vec<IpAddr>) -> Self {
        let servers = Servers {
            addresses: read_servers(&source, &own),
            read: Instant::now(),
        };
        Self {
            source,
            own,
            servers: Mutex::new(servers),
            favourite: AtomicUsize::new(0),
            permits: Semaphore::new(MAX_QUESTIONS),
            cache: Mutex::default(),
        }
    }

    /// Asks until somebody answers. Dropping the future drops its sockets.
    pub(crate) async fn ask(&self, question: Question) -> Result<Reply, UpstreamError> {
        if let Some(reply) = lock(&self.cache).get(&question, Instant::now()) {
            return Ok(reply);
        }
        let _permit = self
            .permits
            .try_acquire()
            .map_err(|_| UpstreamError::Busy)?;
        let reply = timeout(TOTAL_TIMEOUT, self.ask_servers(&question))
            .await
            .unwrap_or(Err(UpstreamError::Timeout))?;
        lock(&self.cache).put(question, &reply, Instant::now());
        Ok(reply)
    }

    /// Asks every server once, and once more if packets seem to get lost.
    async fn ask_servers(&self, question: &Question) -> Result<Reply, UpstreamError> {
        let servers = self.servers();
        let first = self.favourite.load(Ordering::Relaxed);
        let mut failure = UpstreamError::NoServer;
        for turn in 0..2 * servers.len() {
            if turn == servers.len() && !matches!(failure, UpstreamError::Timeout) {
                break;
            }
            let index = (first + turn) % servers.len();
            match ask_server(servers[index], question).await {
                Ok(reply) => {
                    self.favourite.store(index, Ordering::Relaxed);
                    return Ok(reply);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// The servers as of now: a node's resolvers change when it moves from one network to another.
    fn servers(&self) -> Vec<SocketAddr> {
        let mut servers = lock(&self.servers);
        if servers.read.elapsed() > REREAD {
            servers.addresses = read_servers(&self.source, &self.own);
            servers.read = Instant::now();
        }
        servers.addresses.clone()
    }
}

fn read_servers(source: &Upstreams, own: &[IpAddr]) -> Vec<SocketAddr> {
    match source {
        Upstreams::Fixed(servers) => servers.clone(),
        Upstreams::ResolvConf(path) => resolv_conf::servers(path, own),
    }
}

async fn ask_server(server: SocketAddr, question: &Question) -> Result<Reply, UpstreamError> {
    let message = match timeout(SERVER_TIMEOUT, exchange(server, question)).await {
        Ok(answer) => answer.map_err(|source| UpstreamError::Io { server, source })?,
        Err(_) => return Err(UpstreamError::Timeout),
    };
    match message.metadata.response_code {
        code @ (ResponseCode::NoError | ResponseCode::NXDomain) => Ok(Reply {
            code,
            authoritative: false,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
        }),
        code => Err(UpstreamError::Code { server, code }),
    }
}

/// Asks over UDP, and again over TCP if the answer did not fit.
async fn exchange(server: SocketAddr, question: &Question) -> io::Result<Message> {
    let query = outgoing(question);
    let bytes = query.to_vec().map_err(io::Error::other)?;
    let answer = exchange_udp(server, &query, &bytes).await?;
    if answer.metadata.truncation {
        return exchange_tcp(server, &query, &bytes).await;
    }
    Ok(answer)
}

fn outgoing(question: &Question) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP);
    edns.set_dnssec_ok(question.dnssec_ok);
    let mut query = Message::query();
    query.metadata.id = rand::random();
    query.metadata.recursion_desired = true;
    query.metadata.checking_disabled = question.checking_disabled;
    query.add_query(question.query.clone());
    query.set_edns(edns);
    query
}

async fn exchange_udp(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; MAX_ANSWER];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if answers(&answer, query) => return Ok(answer),
            other => note_stray(server, other),
        }
    }
}

async fn exchange_tcp(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream
        .write_all(&[&length.to_be_bytes(), bytes].concat())
        .await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if answers(&answer, query) {
        Ok(answer)
    } else {
        Err(io::Error::other("the answer is to another question"))
    }
}

/// True if `answer` is one to `query`, and not a forgery that guessed less than everything.
fn answers(answer: &Message, query: &Message) -> bool {
    answer.metadata.id == query.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == query.queries
}

fn note_stray(server: SocketAddr, packet: Result<Message, DecodeError>) {
    match packet {
        Ok(_) => tracing::debug!(%server, "answer to a question that was not asked"),
        Err(error) => tracing::debug!(%server, %error, "malformed answer"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
