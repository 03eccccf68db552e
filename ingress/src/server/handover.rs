//! Handing the listening sockets to a successor: a new process takes over from an old one without a moment in which
//! nobody listens, and without losing connections that wait to be accepted.
//!
//! The old one listens on a Unix socket. Whoever connects to it is given all listening sockets (`SCM_RIGHTS`), one by
//! one; both accept from the same queues then. Once the successor serves it says so, and the old one drains. If it goes
//! away without saying so, nothing has changed. Right to do this is who may open the Unix socket: its owner alone.

use std::fs::{self, Permissions};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::server::listener::{Listener, Protocol};

/// How long each step of a hand-over may take; serving, which may have to wait for the API, is none of them.
const STEP: Duration = Duration::from_secs(5);
/// Ends the list of sockets.
const END: u8 = b'.';
/// What the successor says once it serves.
const SERVING: u8 = b'!';

/// A process that serves at the moment.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
}

/// Asks the process that listens on `path` for its sockets; nothing if there is none.
pub async fn take_over(path: &Path) -> io::Result<Option<(Predecessor, Vec<Listener>)>> {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut listeners = Vec::new();
    while let Some(listener) = timeout(STEP, receive(&stream)).await?? {
        listeners.push(listener);
    }
    Ok(Some((Predecessor { stream }, listeners)))
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

impl Predecessor {
    /// Tells it that its successor serves, so that it drains.
    pub async fn retire(mut self) -> io::Result<()> {
        timeout(STEP, self.stream.write_u8(SERVING)).await?
    }
}

/// Offers `listeners` on `path` until `shutdown`, which a successor brings about. They are closed then, even if a
/// successor is being served: a socket that is open and not accepted from would keep its connections waiting.
pub async fn offer(path: &Path, listeners: Vec<Listener>, shutdown: CancellationToken) {
    let serving = async {
        let socket = bind(path)?;
        loop {
            let (stream, _) = socket.accept().await?;
            match give(stream, &listeners).await {
                Ok(()) => return Ok::<_, io::Error>(()),
                Err(error) => tracing::warn!(%error, "a successor did not take over"),
            }
        }
    };
    match shutdown.run_until_cancelled(serving).await {
        Some(Ok(())) => {
            tracing::info!("a successor has taken over");
            shutdown.cancel();
        }
        Some(Err(error)) => tracing::error!(%error, "no successor can take over"),
        None => {}
    }
}

/// Listens on `path`, where a predecessor may have listened before.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(socket)
}

/// Gives everything to the process behind `stream` and waits until it serves.
async fn give(mut stream: UnixStream, listeners: &[Listener]) -> io::Result<()> {
    for listener in listeners {
        timeout(STEP, send(&stream, listener)).await??;
    }
    timeout(STEP, stream.write_u8(END)).await??;
    match stream.read_u8().await? {
        SERVING => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

// Messages: one byte, which says what a socket is for, and the socket.

async fn send(stream: &UnixStream, listener: &Listener) -> io::Result<()> {
    let kind = [tag(listener.protocol)];
    let sent = stream.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sockets = [listener.socket.as_fd()];
        if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let bytes = [IoSlice::new(&kind)];
        Ok(sendmsg(stream, &bytes, &mut control, SendFlags::empty())?)
    });
    sent.await.map(drop)
}

/// The next listener; nothing at the end of the list.
async fn receive(stream: &UnixStream) -> io::Result<Option<Listener>> {
    let received = stream.async_io(Interest::READABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut kind = [0];
        let bytes = &mut [IoSliceMut::new(&mut kind)];
        let message = recvmsg(stream, bytes, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let sockets = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        });
        Ok((kind[0], sockets.flatten().next()))
    });
    match received.await? {
        (END, None) => Ok(None),
        (kind, Some(socket)) => listener(kind, socket).map(Some),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn listener(kind: u8, socket: OwnedFd) -> io::Result<Listener> {
    let known = [Protocol::Http, Protocol::Https];
    let protocol = known.into_iter().find(|protocol| tag(*protocol) == kind);
    let protocol = protocol.ok_or(io::ErrorKind::InvalidData)?;
    let socket = TcpListener::from(socket);
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    Ok(Listener {
        protocol,
        address,
        socket,
    })
}

fn tag(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Http => b'h',
        Protocol::Https => b's',
    }
}
