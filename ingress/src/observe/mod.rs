//! What operators see of the gateway: the access log, metrics, and whether it is alive and ready.

pub mod access_log;
pub mod admin;
mod effect;
mod histogram;
pub mod line;
pub mod log_format;
pub mod metrics;
mod outcome;
mod process;
pub mod record;
pub mod reviews;
pub mod series;
pub mod settings;
