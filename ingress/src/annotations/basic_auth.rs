//! Passwords: `auth-type`, `auth-secret`, `auth-secret-type`, `auth-realm`.

use super::{Annotations, Data};
use crate::filters::basic_auth::BasicAuth;
use crate::filters::htpasswd::{BadHash, Users};

/// The entry of a Secret that is an htpasswd file.
const FILE: &str = "auth";

/// What authentication is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Basic,
    Digest,
}

/// How a Secret holds users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// One entry is an htpasswd file.
    File,
    /// Every entry is a user.
    Map,
}

/// Users, and those who cannot log in.
type Read = (Users, Vec<(Box<str>, BadHash)>);

/// Whose passwords are asked for, if any are. As in ingress-nginx, nothing is asked without `auth-type`.
pub fn parse(from: &mut Annotations<'_>) -> Option<BasicAuth> {
    let is_asked = from.text("auth-type").is_some();
    let kind = from.choice(
        "auth-type",
        &[("basic", Kind::Basic), ("digest", Kind::Digest)],
    );
    let layout = from.choice(
        "auth-secret-type",
        &[("auth-file", Layout::File), ("auth-map", Layout::Map)],
    );
    let realm = from.text("auth-realm").unwrap_or_default();
    let has_secret = from.text("auth-secret").is_some();
    let layout = layout.unwrap_or(Layout::File);
    let read = from.secret("auth-secret", |data| users(data, layout));
    match kind {
        Some(Kind::Digest) => {
            from.refuse(
                "auth-type",
                "digest authentication needs passwords that are not hashed",
                "basic, over TLS",
            );
            return None;
        }
        Some(Kind::Basic) if !has_secret => from.invalid("auth-type", "auth-secret is missing"),
        None if has_secret && !is_asked => from.differs(
            "auth-secret",
            "means nothing without auth-type, as in ingress-nginx",
        ),
        _ => {}
    }
    let (users, bad) = read?;
    kind?;
    for (name, error) in bad {
        from.differs(
            "auth-secret",
            format!("the user {name:?} cannot log in: the hash {error}"),
        );
    }
    let auth = BasicAuth::new(users, realm);
    if auth.is_none() {
        from.invalid("auth-realm", "cannot be sent in a header");
    }
    auth
}

fn users(data: &Data, layout: Layout) -> Result<Read, &'static str> {
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).map_err(|_| "is not text");
    let (users, bad) = match layout {
        Layout::File => Users::parse(&text(data.get(FILE).ok_or("has no entry \"auth\"")?)?),
        Layout::Map => {
            let texts = data
                .iter()
                .map(|(name, hash)| Ok((name.as_str(), text(hash)?)));
            let texts = texts.collect::<Result<Vec<_>, &'static str>>()?;
            Users::collect(texts.iter().map(|(name, hash)| (*name, hash.trim())))
        }
    };
    if users.is_empty() {
        return Err("has no user who could log in");
    }
    Ok((users, bad))
}

#[cfg(test)]
mod tests {
    use crate::annotations::policy::tests::{read_with, verdict};
    use crate::annotations::referenced::Seen;
    use crate::annotations::{Reading, Reference, Referenced};
    use model::ObjectName;

    /// Reads annotations where the Secret `ns/users` has these entries.
    fn read(annotations: &[(&str, &str)], entries: &[(&str, &str)]) -> Reading {
        let data = entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
        let mut objects = Referenced::default();
        objects.put(
            Reference::Secret(ObjectName::new("ns", "users")),
            Seen::Present(data.collect()),
        );
        read_with(annotations, &objects)
    }

    type Texts<'t> = &'t [(&'t str, &'t str)];

    fn can_log_in(reading: &Reading, name: &str, password: &str) -> bool {
        let policy = reading.policy.as_ref();
        let auth = policy.and_then(|policy| policy.basic_auth.as_deref());
        let hash = auth.and_then(|auth| auth.users.hash(name));
        hash.is_some_and(|hash| hash.verify(password.as_bytes()))
    }

    const BASIC: [(&str, &str); 3] = [
        ("auth-type", "basic"),
        ("auth-secret", "users"),
        ("auth-realm", "staff only"),
    ];

    #[test]
    fn users_are_a_file_or_entries() {
        let reading = read(&BASIC, &[("auth", "ann:{PLAIN}one\nbob:{PLAIN}two\n")]);
        assert!(can_log_in(&reading, "ann", "one") && can_log_in(&reading, "bob", "two"));
        let auth = reading
            .policy
            .as_ref()
            .and_then(|policy| policy.basic_auth.as_deref());
        assert!(auth.is_some_and(|auth| auth.challenge == "Basic realm=\"staff only\""));
        let map = [&BASIC[..], &[("auth-secret-type", "auth-map")]].concat();
        let reading = read(&map, &[("ann", "{PLAIN}one\n"), ("bob", "{PLAIN}two")]);
        assert!(can_log_in(&reading, "ann", "one") && can_log_in(&reading, "bob", "two"));
    }

    #[test]
    fn what_cannot_be_asked_closes_the_route() {
        let users = [("auth", "ann:{PLAIN}one")];
        let cases: [(Texts<'_>, Texts<'_>, &str); 7] = [
            (&[("auth-type", "basic")], &users, "auth-type"),
            (
                &[("auth-type", "digest"), ("auth-secret", "users")],
                &users,
                "auth-type",
            ),
            (
                &[("auth-type", "magic"), ("auth-secret", "users")],
                &users,
                "auth-type",
            ),
            (
                &[("auth-type", "basic"), ("auth-secret", "none")],
                &users,
                "auth-secret",
            ),
            (
                &[("auth-type", "basic"), ("auth-secret", "users")],
                &[("other", "")],
                "auth-secret",
            ),
            (
                &[("auth-type", "basic"), ("auth-secret", "users")],
                &[("auth", "ann:DES")],
                "auth-secret",
            ),
            (
                &[
                    ("auth-type", "basic"),
                    ("auth-secret", "users"),
                    ("auth-secret-type", "x"),
                ],
                &users,
                "auth-secret-type",
            ),
        ];
        for (annotations, entries, at_fault) in cases {
            let reading = read(annotations, entries);
            assert!(
                ["invalid", "refused"].contains(&verdict(&reading, at_fault).0),
                "{annotations:?}"
            );
            assert!(
                reading.policy.is_some_and(|policy| policy.is_closed),
                "{annotations:?} {entries:?}"
            );
        }
    }

    #[test]
    fn one_bad_hash_keeps_out_one_user() {
        let reading = read(&BASIC, &[("auth", "ann:{PLAIN}one\neve:abkvyHJAcxEYg")]);
        assert!(can_log_in(&reading, "ann", "one"));
        assert!(verdict(&reading, "auth-secret").1.contains("\"eve\""));
        assert!(reading.policy.is_some_and(|policy| !policy.is_closed));
    }

    #[test]
    fn nothing_is_asked_without_a_type() {
        let reading = read(&[("auth-secret", "users")], &[("auth", "ann:{PLAIN}one")]);
        assert_eq!(verdict(&reading, "auth-secret").0, "differs");
        assert_eq!(reading.policy, None);
    }
}
