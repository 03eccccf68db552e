//! What the maps hold, as people and machines want to read it. Nothing here writes a map.

mod dump;

pub use dump::dump;
