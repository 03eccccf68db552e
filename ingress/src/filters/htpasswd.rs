//! Users and the hashes of their passwords, as `htpasswd` writes them.
//!
//! Of what nginx knows this has all but the DES hashes of old Unix, which anybody can break: bcrypt, `$apr1$` and `$1$`,
//! `{SHA}`, `{SSHA}`, `$5$`, `$6$` and `{PLAIN}`. A hash may ask for at most about a second of work; whoever writes a
//! Secret in one namespace must not be able to occupy the gateway for all.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha_crypt::password_hash::PasswordVerifier;
use sha_crypt::{PasswordHashRef, ShaCrypt};
use sha1::{Digest, Sha1};

use super::{md5_crypt, same_bytes};

/// The highest cost of bcrypt: the number of rounds is two to this power.
const MAX_BCRYPT_COST: u32 = 14;
/// The most rounds of `$5$` and `$6$`.
const MAX_SHA_ROUNDS: u32 = 500_000;

/// Users by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Users(BTreeMap<Box<str>, Hash>);

/// The hash of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash {
    scheme: Scheme,
    text: Box<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Bcrypt,
    Md5Crypt,
    ShaCrypt,
    Sha1,
    SaltedSha1,
    Plain,
}

/// Why a user's hash cannot be used; the user cannot log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHash {
    /// It is of a scheme that we do not have, or broken.
    #[error("is none of bcrypt, $apr1$, $1$, $5$, $6$, {{SHA}}, {{SSHA}} and {{PLAIN}}")]
    Unknown,
    /// It asks for too much work.
    #[error("asks for more work than a login may take")]
    TooCostly,
}

impl Users {
    /// Reads `name:hash` lines. Lines that are empty, comments or without a colon are passed over, as nginx does; what else
    /// is wrong is told by user.
    pub fn parse(text: &str) -> (Self, Vec<(Box<str>, BadHash)>) {
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with('#'));
        let entries = lines.filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            // A second colon begins a comment.
            Some((name, rest.split(':').next().unwrap_or(rest)))
        });
        // The first of two lines for one user counts, so later ones are inserted before it.
        Self::collect(entries.collect::<Vec<_>>().into_iter().rev())
    }

    /// Takes users with their hashes.
    pub fn collect<'e>(
        entries: impl IntoIterator<Item = (&'e str, &'e str)>,
    ) -> (Self, Vec<(Box<str>, BadHash)>) {
        let (mut users, mut bad) = (BTreeMap::new(), Vec::new());
        for (name, hash) in entries {
            match Hash::parse(hash) {
                Ok(hash) => drop(users.insert(name.into(), hash)),
                Err(error) => bad.push((name.into(), error)),
            }
        }
        (Self(users), bad)
    }

    /// The hash of the password of `name`.
    pub fn hash(&self, name: &str) -> Option<&Hash> {
        self.0.get(name)
    }

    /// Whether nobody can log in.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Hash {
    /// Reads a hash.
    pub fn parse(text: &str) -> Result<Self, BadHash> {
        let scheme = scheme(text).ok_or(BadHash::Unknown)?;
        let is_bearable = match scheme {
            Scheme::Bcrypt => bcrypt_cost(text).is_some_and(|cost| cost <= MAX_BCRYPT_COST),
            Scheme::ShaCrypt => sha_rounds(text).is_some_and(|rounds| rounds <= MAX_SHA_ROUNDS),
            _ => true,
        };
        let text = text.into();
        is_bearable
            .then_some(Self { scheme, text })
            .ok_or(BadHash::TooCostly)
    }

    /// Whether this is the hash of `password`. It may take long, so no serving thread asks unless
    /// [`is_cheap`](Self::is_cheap).
    pub fn verify(&self, password: &[u8]) -> bool {
        match self.scheme {
            Scheme::Bcrypt => bcrypt::verify(password, &self.text).unwrap_or(false),
            Scheme::Md5Crypt => md5_crypt::verify(password, &self.text),
            Scheme::ShaCrypt => PasswordHashRef::new(&self.text)
                .is_ok_and(|hash| ShaCrypt::default().verify_password(password, hash).is_ok()),
            Scheme::Sha1 | Scheme::SaltedSha1 => {
                sha1_parts(&self.text).is_some_and(|(digest, salt)| {
                    let computed = Sha1::new()
                        .chain_update(password)
                        .chain_update(salt)
                        .finalize();
                    same_bytes(&computed, &digest)
                })
            }
            Scheme::Plain => same_bytes(password, self.text["{PLAIN}".len()..].as_bytes()),
        }
    }

    /// Whether verifying takes no longer than a microsecond or so.
    pub fn is_cheap(&self) -> bool {
        matches!(
            self.scheme,
            Scheme::Sha1 | Scheme::SaltedSha1 | Scheme::Plain
        )
    }

    /// The hash itself, a secret.
    pub fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// Hashes do not belong in logs.
impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hash")
            .field(&self.scheme)
            .finish_non_exhaustive()
    }
}

fn scheme(text: &str) -> Option<Scheme> {
    let is_bcrypt = || {
        ["$2y$", "$2b$", "$2a$"]
            .iter()
            .any(|id| text.starts_with(id))
            && bcrypt_cost(text).is_some()
    };
    let is_sha_crypt =
        || ["$5$", "$6$"].iter().any(|id| text.starts_with(id)) && sha_rounds(text).is_some();
    let sha1 = || sha1_parts(text).map(|(_, salt)| salt.is_empty());
    match text {
        _ if is_bcrypt() => Some(Scheme::Bcrypt),
        _ if md5_crypt::is_hash(text) => Some(Scheme::Md5Crypt),
        _ if is_sha_crypt() => Some(Scheme::ShaCrypt),
        _ if text.starts_with("{PLAIN}") => Some(Scheme::Plain),
        _ => sha1().map(|is_plain| {
            if is_plain {
                Scheme::Sha1
            } else {
                Scheme::SaltedSha1
            }
        }),
    }
}

fn bcrypt_cost(text: &str) -> Option<u32> {
    let parts: bcrypt::HashParts = text.parse().ok()?;
    Some(parts.get_cost())
}

/// The rounds of `$6$salt$hash` or `$6$rounds=N$salt$hash`.
fn sha_rounds(text: &str) -> Option<u32> {
    PasswordHashRef::new(text).ok()?;
    let mut fields = text.split('$').skip(2);
    let first = fields.next()?;
    match first.strip_prefix("rounds=") {
        Some(rounds) => rounds.parse().ok(),
        None => Some(sha_crypt::Params::RECOMMENDED_ROUNDS),
    }
}

/// Digest and salt of `{SHA}` and `{SSHA}`.
fn sha1_parts(text: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let (encoded, is_salted) = match text.strip_prefix("{SHA}") {
        Some(encoded) => (encoded, false),
        None => (text.strip_prefix("{SSHA}")?, true),
    };
    let mut digest = STANDARD.decode(encoded).ok()?;
    if digest.len() < 20 || digest.len() > 20 && !is_salted {
        return None;
    }
    let salt = digest.split_off(20);
    Some((digest, salt))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use proptest::prelude::*;

    use super::*;

    /// The hash of `pa55` in each scheme: by openssl, perl's crypt(3) and, of `{SSHA}`, sha1sum with the salt `salt`.
    const HASHES: [&str; 9] = [
        "$2y$05$abcdefghijklmnopqrstuudf3HefogPKF0jsklyPu4pStEPtwqax6",
        "$apr1$saltsalt$15Wd9JANoRCFmSEuQtjEI.",
        "$1$saltsalt$uIn9v9vczdrt2RrMf18SY0",
        "$5$saltsalt$6hihMOWULTKGLoqSMUQ1Md5Svs4J1llK/5XoflXlPVC",
        "$6$saltsalt$QHiFYvE1ImgHy2CdO8gPUtfYwpcdbkINIm.kV85xPw9A0ZLyOXXrqenfgna22dwjseWbzBoUj6llJs0VyEoLm.",
        "$6$rounds=1000$ab$RFEpiO4HxyErQlyjW8SYngQkI0LVWLe4jkg6a/TfSclWlTafXuM/8M2MYQ8EJey.V3oS4WS3LKhNU/XN1lEMz0",
        "{SHA}3jlYfsnWMi7F2C1+fdQaJ5Rr39M=",
        "{SSHA}YyBapZrcJGzp52EBZ/Wzf/5aemhzYWx0",
        "{PLAIN}pa55",
    ];

    #[test]
    fn the_right_password_and_no_other_is_verified_in_every_scheme() {
        for text in HASHES {
            let hash = Hash::parse(text).unwrap();
            assert!(hash.verify(b"pa55"), "{text}");
            for wrong in ["", "pa5", "pa555", "PA55", "pa55\0"] {
                assert!(!hash.verify(wrong.as_bytes()), "{text} {wrong:?}");
            }
        }
    }

    #[test]
    fn hashes_that_are_broken_unknown_or_too_costly_are_told() {
        for (text, expected) in [
            ("", BadHash::Unknown),
            ("pa55", BadHash::Unknown),
            // DES.
            ("abkvyHJAcxEYg", BadHash::Unknown),
            ("$2y$05$short", BadHash::Unknown),
            (
                "$2y$31$abcdefghijklmnopqrstuudf3HefogPKF0jsklyPu4pStEPtwqax6",
                BadHash::TooCostly,
            ),
            ("$6$rounds=999999999$ab$RFEp", BadHash::TooCostly),
            ("{SHA}", BadHash::Unknown),
            ("{SHA}!", BadHash::Unknown),
            ("{SSHA}YQ==", BadHash::Unknown),
            (
                "$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA",
                BadHash::Unknown,
            ),
        ] {
            assert_eq!(Hash::parse(text).err(), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn a_file_is_read_line_by_line_and_its_first_line_for_a_user_counts() {
        let text = "# users\n\nann:{PLAIN}one\r\nbob:{PLAIN}two:a comment\nann:{PLAIN}three\nno colon\neve:abkvyHJAcxEYg\n:{PLAIN}x";
        let (users, bad) = Users::parse(text);
        assert!(users.hash("ann").unwrap().verify(b"one"));
        assert!(users.hash("bob").unwrap().verify(b"two"));
        assert!(users.hash("eve").is_none() && users.hash("no colon").is_none());
        assert_eq!(bad, [("eve".into(), BadHash::Unknown)]);
        assert!(Users::parse("").0.is_empty());
    }

    #[test]
    fn hashes_stay_out_of_logs() {
        let (users, _) = Users::parse("ann:{PLAIN}secret");
        assert!(!format!("{users:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(
            text in r"[a-z]{0,3}:?(\$(2y|2b|5|6|1|apr1)\$|\{SHA\}|\{SSHA\})?(rounds=[0-9]{0,10}\$|0[4-5]\$)?[a-zA-Z0-9./$=+]{0,60}", password in ".{0,20}",
        ) {
            let (users, _) = Users::parse(&text);
            if let Some(hash) = users.hash("a") {
                hash.verify(password.as_bytes());
            }
        }
    }
}
