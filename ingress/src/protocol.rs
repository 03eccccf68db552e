//! Which protocol a backend is spoken to in: what its Service port says (`appProtocol`), unless the Ingress knows better.

/// How a backend is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, with prior knowledge (RFC 9113 section 3.3).
    Http2,
}

impl Protocol {
    /// What `appProtocol` asks for: the names of KEP-3726, and `grpc`, which nothing but HTTP/2 carries. Any other name
    /// leaves HTTP/1.1, as without one.
    pub fn of_app_protocol(name: Option<&str>) -> Self {
        match name {
            Some("kubernetes.io/h2c" | "grpc") => Self::Http2,
            _ => Self::Http1,
        }
    }
}
