//! HTTP Basic authentication (RFC 7617) against users from a Secret.
//!
//! Good password hashes take tens of milliseconds, which is their purpose. A serving thread has no such time, so they are
//! verified on threads of their own, few at a time, and the outcome is remembered: a client that sends its password with
//! every request is verified once. The memory's key includes the hash, so a changed password is asked for again at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::htpasswd::{Hash, Users};
use super::memory::Memory;

/// Outcomes that are remembered.
const REMEMBERED: usize = 8192;
/// How long an outcome is remembered.
const MEMORY: Duration = Duration::from_secs(600);
/// How long a client may wait for its turn to be verified.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most clients that wait.
const MAX_WAITING: usize = 256;
/// The longest credentials, in bytes; crypt(3) stops at 512.
const MAX_CREDENTIALS: usize = 1024;

/// Who may enter with a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasicAuth {
    /// The users.
    pub users: Users,
    /// The challenge that is sent to who has not entered.
    pub challenge: HeaderValue,
}

/// Why a client may not enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There are no credentials, or wrong ones.
    Wrong,
    /// Too many clients wait to be verified.
    Busy,
}

/// What verifies passwords, shared by all threads.
#[derive(Debug)]
pub struct Verifier {
    known: Memory<bool>,
    at_a_time: Arc<Semaphore>,
    waiting: Semaphore,
    patience: Duration,
}

/// A user's name and password.
struct Credentials {
    name: String,
    password: Vec<u8>,
}

impl BasicAuth {
    /// Asks `users` to enter `realm`. Nothing if a realm cannot have this name.
    pub fn new(users: Users, realm: &str) -> Option<Self> {
        let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
        let challenge = HeaderValue::try_from(format!("Basic realm=\"{quoted}\"")).ok()?;
        Some(Self { users, challenge })
    }

    /// Whether a request with `headers` may enter.
    pub async fn admit(
        &self,
        verifier: &Arc<Verifier>,
        headers: &HeaderMap,
    ) -> Result<(), Refused> {
        let credentials = credentials(headers).ok_or(Refused::Wrong)?;
        let hash = self.users.hash(&credentials.name).ok_or(Refused::Wrong)?;
        let is_right = match hash.is_cheap() {
            true => hash.verify(&credentials.password),
            false => verifier.verify(hash, credentials).await?,
        };
        is_right.then_some(()).ok_or(Refused::Wrong)
    }
}

impl Verifier {
    /// A verifier that takes up about half of the cores.
    pub fn new() -> Arc<Self> {
        Self::with_patience(PATIENCE)
    }

    fn with_patience(patience: Duration) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            known: Memory::new(REMEMBERED),
            at_a_time: Arc::new(Semaphore::new(cores.div_ceil(2))),
            waiting: Semaphore::new(MAX_WAITING),
            patience,
        })
    }

    /// Should the client go away meanwhile, the outcome is remembered all the same.
    async fn verify(
        self: &Arc<Self>,
        hash: &Hash,
        credentials: Credentials,
    ) -> Result<bool, Refused> {
        let Credentials { name, password } = credentials;
        let question = self
            .known
            .question(&[hash.as_bytes(), name.as_bytes(), &password]);
        if let Some(known) = self.known.get(question, Instant::now()) {
            return Ok(known);
        }
        let _place = self.waiting.try_acquire().map_err(|_| Refused::Busy)?;
        let turn = timeout(self.patience, self.at_a_time.clone().acquire_owned()).await;
        let turn = turn
            .map_err(|_| Refused::Busy)?
            .map_err(|_| Refused::Busy)?;
        // Whoever waited before may have asked the same.
        if let Some(known) = self.known.get(question, Instant::now()) {
            return Ok(known);
        }
        let (verifier, hash) = (self.clone(), hash.clone());
        let verified = tokio::task::spawn_blocking(move || {
            let is_right = hash.verify(&password);
            verifier
                .known
                .put(question, is_right, Instant::now() + MEMORY);
            drop(turn);
            is_right
        });
        verified.await.map_err(|_| Refused::Busy)
    }
}

fn credentials(headers: &HeaderMap) -> Option<Credentials> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > MAX_CREDENTIALS {
        return None;
    }
    let mut decoded = STANDARD.decode(encoded.trim_start()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let password = decoded.split_off(colon + 1);
    decoded.pop();
    let name = String::from_utf8(decoded).ok()?;
    Some(Credentials { name, password })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use proptest::prelude::*;

    use super::*;

    fn users(text: &str) -> BasicAuth {
        BasicAuth::new(Users::parse(text).0, "staff").unwrap()
    }

    fn sending(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    fn basic(credentials: &str) -> HeaderMap {
        sending(&format!("Basic {}", STANDARD.encode(credentials)))
    }

    const BCRYPT: &str = "ann:$2y$05$abcdefghijklmnopqrstuudf3HefogPKF0jsklyPu4pStEPtwqax6";

    #[tokio::test]
    async fn who_has_the_password_enters() {
        let (auth, verifier) = (
            users(&format!("{BCRYPT}\nbob:{{PLAIN}}a:b")),
            Verifier::new(),
        );
        for (headers, expected) in [
            (basic("ann:pa55"), Ok(())),
            // A second time, from memory.
            (basic("ann:pa55"), Ok(())),
            (sending("bAsIc  YW5uOnBhNTU="), Ok(())),
            (basic("ann:wrong"), Err(Refused::Wrong)),
            (basic("ann:wrong"), Err(Refused::Wrong)),
            (basic("eve:pa55"), Err(Refused::Wrong)),
            (basic("ann"), Err(Refused::Wrong)),
            (basic(""), Err(Refused::Wrong)),
            (sending("Bearer YW5uOnBhNTU="), Err(Refused::Wrong)),
            (sending("Basic YW5uOnBhNTU=x"), Err(Refused::Wrong)),
            (HeaderMap::new(), Err(Refused::Wrong)),
        ] {
            assert_eq!(
                auth.admit(&verifier, &headers).await,
                expected,
                "{headers:?}"
            );
        }
        // A colon in a file ends the hash, one in a password does not.
        assert_eq!(auth.admit(&verifier, &basic("bob:a")).await, Ok(()));
        assert_eq!(
            auth.admit(&verifier, &basic("bob:a:b")).await,
            Err(Refused::Wrong)
        );
    }

    #[tokio::test]
    async fn a_password_is_verified_once_and_a_changed_one_again() {
        let (auth, verifier) = (users(BCRYPT), Verifier::new());
        auth.admit(&verifier, &basic("ann:pa55")).await.unwrap();
        // Nothing can be verified any more, only remembered.
        verifier.waiting.close();
        assert_eq!(auth.admit(&verifier, &basic("ann:pa55")).await, Ok(()));
        assert_eq!(
            auth.admit(&verifier, &basic("ann:other")).await,
            Err(Refused::Busy)
        );
        let changed = users("ann:$apr1$saltsalt$15Wd9JANoRCFmSEuQtjEI.");
        assert_eq!(
            changed.admit(&verifier, &basic("ann:pa55")).await,
            Err(Refused::Busy)
        );
    }

    #[tokio::test]
    async fn who_waits_too_long_or_comes_too_late_is_turned_away() {
        let (auth, verifier) = (
            users(BCRYPT),
            Verifier::with_patience(Duration::from_millis(1)),
        );
        let all = verifier
            .at_a_time
            .acquire_many(verifier.at_a_time.available_permits() as u32)
            .await
            .unwrap();
        assert_eq!(
            auth.admit(&verifier, &basic("ann:pa55")).await,
            Err(Refused::Busy)
        );
        let _queue = verifier
            .waiting
            .acquire_many(MAX_WAITING as u32)
            .await
            .unwrap();
        drop(all);
        assert_eq!(
            auth.admit(&verifier, &basic("ann:pa55")).await,
            Err(Refused::Busy)
        );
    }

    #[test]
    fn a_realm_is_quoted() {
        let auth = BasicAuth::new(Users::default(), r#"a "b" \c"#).unwrap();
        assert_eq!(auth.challenge, r#"Basic realm="a \"b\" \\c""#);
        assert_eq!(BasicAuth::new(Users::default(), "a\r\nb"), None);
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), scheme in "(Basic |basic|Basic)?") {
            let text = [scheme.as_bytes(), &bytes].concat();
            if let Ok(value) = HeaderValue::from_bytes(&text) {
                drop(credentials(&HeaderMap::from_iter([(AUTHORIZATION, value)])));
            }
            let encoded = format!("Basic {}", STANDARD.encode(&bytes));
            let read = credentials(&sending(&encoded)).map(|read| [read.name.as_bytes(), b":", &read.password].concat());
            let expected = std::str::from_utf8(&bytes).is_ok() && bytes.contains(&b':');
            prop_assert!(!expected || read == Some(bytes));
        }
    }
}
