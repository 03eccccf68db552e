//! Pods: what should be done about each (pure), and one task per pod that does it.
//!
//! [`machine`] decides, [`status`] tells the API, [`worker`] acts; the other files are single steps of acting.

mod adopt;
mod build;
mod end;
pub(crate) mod env;
mod files;
pub(crate) mod kinds;
mod machine;
pub(crate) mod prepare;
mod probe;
pub(crate) mod resources;
mod start;
mod status;
mod stop;
mod volumes;
mod worker;

pub(crate) use start::log_path;
pub(crate) use worker::{Assignment, PodView, Worker};
