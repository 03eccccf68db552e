//! portolan-ingress: routes HTTP by host and path, with TLS, from Ingress objects.
pub mod config;
pub mod host;
pub mod path;
pub mod problem;
pub mod routes;
