//! What a request is hashed by (`upstream-hash-by`): a text with variables in it.

use xxhash_rust::xxh64::Xxh64;

use crate::message::variables::{Facts, Piece, Template, UnknownVariable};

/// The text that a request is hashed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashKey(Template);

/// Why a text is not one to hash by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// It has a variable that we do not know.
    #[error(transparent)]
    Unknown(#[from] UnknownVariable),
    /// It is the same for every request.
    #[error("there is no variable in it, so all requests would go to the same endpoint")]
    Constant,
}

impl HashKey {
    /// Parses `text`.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        let template = Template::parse(text)?;
        let is_variable = |piece: &Piece| matches!(piece, Piece::Variable(_));
        let varies = template.pieces().iter().any(is_variable);
        varies.then_some(Self(template)).ok_or(BadKey::Constant)
    }

    /// The hash of a request: the same in every gateway and in every release, or clients would move at an upgrade.
    pub fn hash(&self, facts: Facts<'_>) -> u64 {
        let mut hasher = Xxh64::new(0);
        for piece in self.0.pieces() {
            match piece {
                Piece::Text(text) => hasher.update(text.as_bytes()),
                Piece::Variable(variable) => hasher.update(variable.value(facts).as_bytes()),
            }
            // Two pieces must not look like one: $arg_a$arg_b for a=x&b=yz and for a=xy&b=z.
            hasher.update(&[0]);
        }
        hasher.digest()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use http::{HeaderMap, Method, Uri};
    use model::ObjectName;
    use proptest::prelude::*;

    /// The hash by `text` of a request for `target` with this `User-Agent`.
    fn hash(text: &str, target: &str, agent: &str) -> u64 {
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", agent.try_into().unwrap());
        let (uri, ingress) = (target.parse::<Uri>().unwrap(), ObjectName::new("ns", "i"));
        HashKey::parse(text).unwrap().hash(Facts {
            method: &Method::GET,
            uri: &uri,
            headers: &headers,
            host: "a.org",
            client: [192, 0, 2, 1].into(),
            is_secure: false,
            ingress: &ingress,
            service: "s",
            rule_path: "/",
        })
    }

    #[test]
    fn what_is_named_decides_and_nothing_else() {
        for (text, other) in [
            ("$uri", ("/a?b=2", "y")),
            ("${arg_b}x", ("/c?b=1", "y")),
            ("$remote_addr-$host", ("/c", "y")),
            ("$http_user_agent", ("/c", "x")),
        ] {
            let (target, agent) = other;
            assert_eq!(
                hash(text, "/a?b=1", "x"),
                hash(text, target, agent),
                "{text}"
            );
        }
        for (text, other) in [
            ("$request_uri", ("/a?b=2", "x")),
            ("$uri", ("/c?b=1", "x")),
            ("$arg_b", ("/a", "x")),
            ("$http_user_agent", ("/a?b=1", "y")),
        ] {
            let (target, agent) = other;
            assert_ne!(
                hash(text, "/a?b=1", "x"),
                hash(text, target, agent),
                "{text}"
            );
        }
    }

    #[test]
    fn pieces_do_not_run_into_each_other_and_values_never_change() {
        let text = "$arg_a$arg_b";
        assert_ne!(hash(text, "/?a=x&b=yz", ""), hash(text, "/?a=xy&b=z", ""));
        // Were this another number in the next release, clients would move at the upgrade.
        assert_eq!(hash("$uri", "/a", ""), 6_161_966_189_969_628_329);
    }

    #[test]
    fn what_cannot_be_hashed_by_is_refused() {
        assert_eq!(HashKey::parse("text"), Err(BadKey::Constant));
        assert_eq!(HashKey::parse(""), Err(BadKey::Constant));
        assert!(matches!(
            HashKey::parse("$ssl_cipher"),
            Err(BadKey::Unknown(_))
        ));
        assert!(matches!(HashKey::parse("a$"), Err(BadKey::Unknown(_))));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[$a-z_{}é ]{0,20}") {
            if HashKey::parse(&text).is_ok() {
                hash(&text, "/a?b=c", "x");
            }
        }
    }
}
