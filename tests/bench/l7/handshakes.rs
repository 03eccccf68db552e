//! TLS handshakes, one after the other.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::aws_lc_rs::kx_group::X25519;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use super::place::HOST;

/// Whether a handshake is the first with its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    New,
    Resumed,
}

impl Session {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::New => "full",
            Self::Resumed => "resumed",
        }
    }
}

/// Connects `count` times to `port`, whose certificate is given, and asks for something each time.
pub(crate) fn shake(port: u16, certificate: &[u8], session: Session, count: u32) -> Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certificate.to_vec()))?;
    // One group that everybody has, so that all do the same work.
    let provider = CryptoProvider {
        kx_groups: vec![X25519],
        ..default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    if session == Session::New {
        config.resumption = Resumption::disabled();
    }
    let config = Arc::new(config);
    for number in 0..count {
        let kind = once(port, &config)?;
        let expected = match session {
            Session::Resumed if number > 0 => HandshakeKind::Resumed,
            _ => HandshakeKind::Full,
        };
        ensure!(kind == expected, "handshake {number} was {kind:?}");
    }
    Ok(())
}

/// A connection with one request. Tickets come after the handshake, so it is read to its end.
fn once(port: u16, config: &Arc<ClientConfig>) -> Result<HandshakeKind> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let name = ServerName::try_from(HOST)?.to_owned();
    let connection = ClientConnection::new(config.clone(), name)?;
    let mut stream = StreamOwned::new(connection, stream);
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "a bad answer");
    let kind = stream.conn.handshake_kind();
    kind.ok_or_else(|| anyhow::anyhow!("no handshake"))
}
