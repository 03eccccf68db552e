//! The service model: data and rules, no I/O and no clock.
