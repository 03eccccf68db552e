//! Hosts that an Ingress serves beside those of its rules: `server-alias` and `from-to-www-redirect`.

use super::{Annotations, value};
use crate::message::host::HostPattern;

/// Further hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hosts {
    /// Those that are served like the hosts of the rules.
    pub aliases: Vec<HostPattern>,
    /// Whether hosts with `www.` are redirected to those without, and the other way, to the one that the rules name.
    pub www: bool,
}

impl Hosts {
    /// Reads the annotations.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        Self {
            aliases: from.get("server-alias", aliases).unwrap_or_default(),
            www: from.flag("from-to-www-redirect").unwrap_or_default(),
        }
    }
}

fn aliases(text: &str) -> Result<Vec<HostPattern>, String> {
    let alias = |text: &str| match text.strip_prefix('~') {
        Some(_) => Err(format!(
            "{text:?} is an expression, which hosts cannot be; list them, or use *."
        )),
        None => HostPattern::parse(text).map_err(|error| format!("{text:?} {error}")),
    };
    value::list(text)?.into_iter().map(alias).collect()
}

/// The host that stands for `host` where `www.` makes no difference.
pub fn other_www(host: &str) -> String {
    match host.strip_prefix("www.") {
        Some(bare) => bare.to_owned(),
        None => format!("www.{host}"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::annotations::policy::tests::{read, verdict};

    #[test]
    fn aliases_are_hosts() {
        let reading = read(&[("server-alias", "a.org, *.b.org")]);
        let policy = reading.policy.unwrap();
        let aliases: Vec<_> = policy
            .hosts
            .as_deref()
            .unwrap()
            .aliases
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(aliases, ["a.org", "*.b.org"]);
        for bad in [r"~^www\d+\.a\.org$", "A.org", "10.0.0.1", "*", ","] {
            assert_eq!(
                verdict(&read(&[("server-alias", bad)]), "server-alias").0,
                "invalid",
                "{bad}"
            );
        }
    }

    #[test]
    fn www_comes_and_goes() {
        assert_eq!(other_www("a.org"), "www.a.org");
        assert_eq!(other_www("www.a.org"), "a.org");
    }
}
