//! An embedded, durable, revisioned key-value store with watches.
