//! How a backend is spoken to: what its Service port says (`appProtocol`), unless the Ingress knows better.

use std::sync::Arc;

use rustls_pki_types::ServerName;

use crate::tls::backend::BackendTls;

/// What a backend is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Protocol {
    /// The version of HTTP.
    pub http: Http,
    /// What it is carried by.
    pub security: Security,
}

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Http {
    /// HTTP/1.1.
    #[default]
    One,
    /// HTTP/2; in the clear with prior knowledge (RFC 9113 section 3.3).
    Two,
}

/// What protects a connection to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Security {
    /// Nothing.
    #[default]
    Clear,
    /// TLS.
    Tls,
    /// What protects the client's.
    LikeClient,
}

/// How the backend of one request is spoken to. Requests that differ here never share a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spoken {
    /// The version of HTTP.
    pub http: Http,
    /// Whose certificate is expected, and how it is checked; nothing in the clear.
    pub tls: Option<Expected>,
}

/// Who a backend must prove to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Expected {
    /// Its name.
    pub name: ServerName<'static>,
    /// How the proof is checked.
    pub tls: Arc<BackendTls>,
}

impl Spoken {
    /// HTTP/1.1 in the clear.
    pub const PLAIN: Self = Self {
        http: Http::One,
        tls: None,
    };
}

impl Protocol {
    /// HTTP/1.1 over TLS.
    pub const HTTPS: Self = Self {
        http: Http::One,
        security: Security::Tls,
    };
    /// HTTP/2 in the clear.
    pub const H2C: Self = Self {
        http: Http::Two,
        security: Security::Clear,
    };
    /// HTTP/2 over TLS.
    pub const H2: Self = Self {
        http: Http::Two,
        security: Security::Tls,
    };

    /// What `appProtocol` asks for: the names of KEP-3726, those of IANA's registry that say what to speak, and gRPC, which
    /// nothing but HTTP/2 carries. Any other name leaves HTTP/1.1 in the clear, as without one.
    pub fn of_app_protocol(name: Option<&str>) -> Self {
        match name {
            Some("kubernetes.io/h2c" | "grpc") => Self::H2C,
            Some("https" | "kubernetes.io/wss") => Self::HTTPS,
            Some("grpcs") => Self::H2,
            _ => Self::default(),
        }
    }
}
