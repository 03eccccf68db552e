//! The API server as its clients see it: in this process, over real TLS, on a free port of the loopback.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod kube_client;
mod kubectl;
mod python;
mod services;
mod streams;
mod support;
mod tokens;
mod watches;
mod wire;
mod writes;
