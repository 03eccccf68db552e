//! Whether requests are written down: `enable-access-log`.

use super::Annotations;

/// What the access log has of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Log {
    /// A line for each.
    #[default]
    On,
    /// Nothing.
    Off,
}

impl Log {
    /// Reads the annotation.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        match from.flag("enable-access-log") {
            Some(false) => Self::Off,
            _ => Self::On,
        }
    }
}
