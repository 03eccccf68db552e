//! The data half as threads: their sockets, their life from binding to draining, and the hand-over to a successor.

pub mod gateway;
pub mod handover;
pub mod listener;
pub mod settings;
pub mod worker;
