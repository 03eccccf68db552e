//! Quantities as `100m` or `1Gi`: parse, compare, canonical form.

/// A resource quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantity(String);
