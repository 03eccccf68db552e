//! The gateway over real sockets: in-process backends on loopback, objects fed as the API would send them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod admission;
mod annotations;
mod apart;
mod api;
mod backend;
mod backend_tls;
mod balancing;
#[path = "../cases/mod.rs"]
mod cases;
mod change;
mod client;
mod client_certificates;
mod collector;
mod conformance;
mod filters;
mod floods;
mod frames;
mod grpc_interop;
mod handover;
mod harness;
mod http11probe;
mod http2;
mod inspect;
mod kubernetes;
mod leader;
mod limits;
mod lint;
mod manifests;
mod observe;
mod one_route;
mod parking;
mod passthrough;
mod proxy_protocol;
mod requests;
mod retries;
mod scale;
mod soak;
mod strictness;
mod testssl;
mod tls;
mod tls_settings;
mod tools;
mod traces;
mod trailers;
mod upgrade;
