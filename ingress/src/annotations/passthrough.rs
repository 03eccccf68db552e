//! TLS that the backend ends itself: `ssl-passthrough`.

use super::Annotations;

/// What an Ingress says about where TLS ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passthrough {
    /// Whether its backend ends TLS.
    pub is_on: bool,
}

impl Passthrough {
    /// Reads `ssl-passthrough`.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        Self {
            is_on: from.flag("ssl-passthrough").unwrap_or(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::policy::tests::{read, verdict};

    #[test]
    fn only_true_passes_tls_through() {
        let on = read(&[("ssl-passthrough", "true")]);
        let policy = on.policy.as_ref();
        let asked = policy.and_then(|policy| policy.passthrough.as_deref().copied());
        assert_eq!(asked, Some(Passthrough { is_on: true }));
        assert_eq!(verdict(&on, "ssl-passthrough").0, "differs");
        assert_eq!(read(&[("ssl-passthrough", "false")]).policy, None);
        let bad = read(&[("ssl-passthrough", "maybe")]);
        assert_eq!(verdict(&bad, "ssl-passthrough").0, "invalid");
    }
}
