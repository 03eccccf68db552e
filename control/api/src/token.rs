//! Service account tokens: ES256 JWTs that name the account and, if bound, the pod. Verified by signature, issuer, audience
//! and time, and by the account (and pod) still being there with the same uid.

use control_schema::by_plural;
use control_store::Store;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};

use crate::identity::User;
use crate::object;
use crate::pki::PkiError;

/// Issuer and only audience of our tokens.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Signs and verifies tokens.
pub(crate) struct Tokens {
    store: Store,
    signing: EncodingKey,
    verifying: DecodingKey,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// The claims of a token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) aud: Vec<String>,
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) iss: String,
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) bound: Bound,
    pub(crate) nbf: i64,
    pub(crate) sub: String,
}

/// What a token is bound to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub(crate) namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Reference>,
    pub(crate) serviceaccount: Reference,
}

/// An object by name and uid.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl Tokens {
    /// With the private key as PEM.
    pub(crate) fn new(store: Store, key_pem: &str) -> Result<Self, PkiError> {
        let key = rcgen::KeyPair::from_pem(key_pem)?;
        let invalid = |_| PkiError::Certificate(rcgen::Error::CouldNotParseKeyPair);
        let signing = EncodingKey::from_ec_pem(key_pem.as_bytes()).map_err(invalid)?;
        let verifying =
            DecodingKey::from_ec_pem(key.public_key_pem().as_bytes()).map_err(invalid)?;
        Ok(Self {
            store,
            signing,
            verifying,
        })
    }

    /// The signed token.
    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        encode(&Header::new(Algorithm::ES256), claims, &self.signing)
    }

    /// The user of a token that is good for this server.
    pub(crate) fn verify(&self, token: &str) -> Option<User> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[ISSUER]);
        validation.validate_nbf = true;
        let claims = decode::<Claims>(token, &self.verifying, &validation)
            .ok()?
            .claims;
        let bound = &claims.bound;
        self.still_there("serviceaccounts", &bound.namespace, &bound.serviceaccount)?;
        if let Some(pod) = &bound.pod {
            self.still_there("pods", &bound.namespace, pod)?;
        }
        if let Some(secret) = &bound.secret {
            self.still_there("secrets", &bound.namespace, secret)?;
        }
        Some(account_user(&claims))
    }

    fn still_there(&self, plural: &str, namespace: &str, reference: &Reference) -> Option<()> {
        let res = by_plural("", "v1", plural)?;
        let entry = self
            .store
            .get(&object::key(res, namespace, &reference.name))?;
        (object::uid(&object::decode(&entry.value)) == reference.uid).then_some(())
    }
}

fn account_user(claims: &Claims) -> User {
    let namespace = &claims.bound.namespace;
    let groups = vec![
        "system:serviceaccounts".into(),
        format!("system:serviceaccounts:{namespace}"),
    ];
    let mut user = User::known(&claims.sub, groups);
    user.uid = claims.bound.serviceaccount.uid.clone();
    user.extra.push((
        "authentication.kubernetes.io/credential-id".into(),
        format!("JTI={}", claims.jti),
    ));
    for (what, reference) in [("node", &claims.bound.node), ("pod", &claims.bound.pod)] {
        if let Some(reference) = reference {
            user.extra.push((
                format!("authentication.kubernetes.io/{what}-name"),
                reference.name.clone(),
            ));
            user.extra.push((
                format!("authentication.kubernetes.io/{what}-uid"),
                reference.uid.clone(),
            ));
        }
    }
    user
}
