//! Label and field selectors.

mod field;
mod label;

pub use field::{FieldSelector, fields};
pub use label::LabelSelector;

/// A selector that cannot be used; 400, in upstream's words.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Error(pub String);
