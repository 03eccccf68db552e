//! The first bytes of a connection: read to find out whose it is and what the client speaks, and handed on with it.

use std::future::poll_fn;
use std::io;

use bytes::{Buf, BytesMut};
use rustls::server::{Accepted, Acceptor, ClientHello};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::StartHandshake;

use super::proxy_protocol::{self, Ends};
use super::socket::Socket;
use crate::message::host::lower_case;

/// A connection of which nothing has been served yet.
#[derive(Debug)]
pub struct Opening {
    stream: TcpStream,
    seen: BytesMut,
}

/// A client's first message in TLS.
pub struct Hello {
    accepted: Accepted,
    length: usize,
    /// The host that the client asks for, in lower case.
    pub server_name: Option<Box<str>>,
}

impl Opening {
    /// A connection of which nothing has been read.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            seen: BytesMut::new(),
        }
    }

    /// The port that the client connected to.
    pub fn port(&self) -> u16 {
        self.stream.local_addr().map_or(0, |address| address.port())
    }

    /// Takes the PROXY protocol header that the connection begins with, and says whose connection it is; nothing if it
    /// is the peer's own.
    pub async fn proxy_header(&mut self) -> io::Result<Option<Ends>> {
        loop {
            match proxy_protocol::parse(&self.seen).map_err(io::Error::other)? {
                Some(header) => {
                    self.seen.advance(header.length);
                    return Ok(header.client);
                }
                None => self.read().await?,
            }
        }
    }

    /// Whether the client begins with `text`. Reads no further than it takes to know that.
    pub async fn begins_with(&mut self, text: &[u8]) -> io::Result<bool> {
        loop {
            let common = self.seen.len().min(text.len());
            if self.seen[..common] != text[..common] {
                return Ok(false);
            }
            if common == text.len() {
                return Ok(true);
            }
            self.read().await?;
        }
    }

    /// Reads the client's first message in TLS, which stays in the connection. Its size is bounded by what TLS allows.
    pub async fn hello(&mut self) -> io::Result<Hello> {
        let mut acceptor = Acceptor::default();
        let mut length = 0;
        loop {
            while length < self.seen.len() {
                let taken = acceptor.read_tls(&mut &self.seen[length..])?;
                if taken == 0 {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                length += taken;
                match acceptor.accept() {
                    Ok(Some(accepted)) => return Ok(Hello::new(accepted, length)),
                    Ok(None) => {}
                    Err((error, mut alert)) => {
                        let mut bytes = Vec::new();
                        alert.write_all(&mut bytes)?;
                        self.stream.write_all(&bytes).await?;
                        return Err(io::Error::other(error));
                    }
                }
            }
            self.read().await?;
        }
    }

    /// Tells a client in TLS that there is nobody of the name that it asks for (RFC 6066 section 3).
    pub async fn refuse_name(&mut self) -> io::Result<()> {
        // An alert, in a record of TLS 1.2 as all of them are, two bytes long: fatal, unrecognized_name.
        self.stream.write_all(&[21, 3, 3, 0, 2, 2, 112]).await
    }

    /// Waits for more of what the client sends, and reads it. The end of the stream is an error here: nothing has been
    /// said yet.
    pub async fn read(&mut self) -> io::Result<()> {
        loop {
            // A socket counts as readable until a read has found nothing. To poll takes less of the task than `readable`.
            poll_fn(|cx| self.stream.poll_read_ready(cx)).await?;
            match self.read_at_once() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    /// Connections can wait long for their first byte, so bytes are kept as many as there are.
    fn read_at_once(&mut self) -> io::Result<()> {
        let mut bytes = [0; 1024];
        match self.stream.try_read(&mut bytes)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.seen.extend_from_slice(&bytes[..count]);
                Ok(())
            }
        }
    }

    /// The connection from its first byte on.
    pub fn into_socket(self) -> Socket<TcpStream> {
        Socket::new(self.stream, self.seen.freeze())
    }

    /// The connection after `hello`, for a handshake that begins with it.
    pub fn into_handshake(mut self, hello: Hello) -> StartHandshake<Socket<TcpStream>> {
        self.seen.advance(hello.length);
        StartHandshake::from_parts(hello.accepted, self.into_socket())
    }
}

impl Hello {
    fn new(accepted: Accepted, length: usize) -> Self {
        let name = |hello: ClientHello<'_>| hello.server_name().map(|name| lower_case(name).into());
        Self {
            server_name: name(accepted.client_hello()),
            accepted,
            length,
        }
    }
}
