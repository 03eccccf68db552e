//! When plain HTTP is redirected to HTTPS: `ssl-redirect` and `force-ssl-redirect`.

use super::Annotations;

/// Which requests that come in the clear are redirected to HTTPS. What an Ingress says nothing about is as the settings
/// say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HttpsRedirect {
    /// Whether those for hosts with a TLS section are.
    pub where_tls: Option<bool>,
    /// Whether all are, since something before us may end TLS.
    pub always: Option<bool>,
}

impl HttpsRedirect {
    /// Reads the annotations.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        Self {
            where_tls: from.flag("ssl-redirect"),
            always: from.flag("force-ssl-redirect"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::policy::tests::read;

    #[test]
    fn each_annotation_says_what_it_says_and_no_more() {
        let rows = [
            (None, None, (None, None)),
            (Some("true"), None, (Some(true), None)),
            (Some("false"), Some("true"), (Some(false), Some(true))),
            (None, Some("false"), (None, Some(false))),
            (Some("perhaps"), None, (None, None)),
        ];
        for (plain, forced, (where_tls, always)) in rows {
            let given = [("ssl-redirect", plain), ("force-ssl-redirect", forced)];
            let given: Vec<_> = given
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)))
                .collect();
            let policy = read(&given).policy.unwrap_or_default();
            let expected = HttpsRedirect { where_tls, always };
            assert_eq!(
                policy.https.as_deref().copied().unwrap_or_default(),
                expected,
                "{given:?}"
            );
        }
    }
}
