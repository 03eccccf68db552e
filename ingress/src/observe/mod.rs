//! What operators see of the gateway: the access log, metrics, and whether it is alive and ready.

pub mod access_log;
pub mod admin;
pub mod log_format;
pub mod metrics;
mod process;
pub mod record;
pub mod series;
