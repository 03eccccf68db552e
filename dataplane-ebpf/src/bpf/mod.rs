//! The programs' steps.

pub(crate) mod maps;
