//! When plain HTTP is redirected to HTTPS: `ssl-redirect` and `force-ssl-redirect`.

use super::Annotations;

/// Which requests that come in the clear are redirected to HTTPS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HttpsRedirect {
    /// Those for hosts with a TLS section.
    #[default]
    WhereTls,
    /// None.
    Never,
    /// All, since something before us may end TLS.
    Always,
}

impl HttpsRedirect {
    /// Reads the annotations.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        let (wanted, forced) = (from.flag("ssl-redirect"), from.flag("force-ssl-redirect"));
        match (wanted, forced) {
            (_, Some(true)) => Self::Always,
            (Some(false), _) => Self::Never,
            _ => Self::WhereTls,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::policy::tests::read;

    #[test]
    fn force_outweighs_the_rest() {
        let rows = [
            (None, None, HttpsRedirect::WhereTls),
            (Some("true"), None, HttpsRedirect::WhereTls),
            (Some("false"), None, HttpsRedirect::Never),
            (Some("false"), Some("true"), HttpsRedirect::Always),
            (None, Some("true"), HttpsRedirect::Always),
            (Some("false"), Some("false"), HttpsRedirect::Never),
            (Some("perhaps"), None, HttpsRedirect::WhereTls),
        ];
        for (plain, forced, expected) in rows {
            let given = [("ssl-redirect", plain), ("force-ssl-redirect", forced)];
            let given: Vec<_> = given
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)))
                .collect();
            let policy = read(&given).policy.unwrap_or_default();
            assert_eq!(
                policy.https.as_deref().copied().unwrap_or_default(),
                expected,
                "{given:?}"
            );
        }
    }
}
