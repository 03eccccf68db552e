//! Who is asking: a client certificate, a bearer token, or nobody.

use std::collections::HashMap;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::error::ApiError;
use crate::token::Tokens;

/// The group that may do everything.
pub(crate) const MASTERS: &str = "system:masters";
/// The group of everybody who is known.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";

/// An authenticated (or anonymous) user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    /// What else is known, as `authentication.kubernetes.io/pod-name`.
    pub(crate) extra: Vec<(String, String)>,
}

impl User {
    /// A user of a name in groups, besides the group of all who are known.
    pub(crate) fn known(name: impl Into<String>, mut groups: Vec<String>) -> Self {
        groups.push(AUTHENTICATED.into());
        Self {
            name: name.into(),
            uid: String::new(),
            groups,
            extra: Vec::new(),
        }
    }

    pub(crate) fn anonymous() -> Self {
        let groups = vec!["system:unauthenticated".into()];
        Self {
            name: "system:anonymous".into(),
            uid: String::new(),
            groups,
            extra: Vec::new(),
        }
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The subject of a verified client certificate: CN is the user, each O a group.
    pub(crate) fn from_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject
            .iter_organization()
            .filter_map(|group| group.as_str().ok().map(str::to_owned));
        let groups = groups.collect();
        Some(Self::known(name, groups))
    }

    /// `userInfo` of the review kinds.
    pub(crate) fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.clone().into();
        }
        for (key, value) in &self.extra {
            info["extra"][key] = json!([value]);
        }
        info
    }
}

/// What can be authenticated with, besides certificates, which TLS has verified already.
#[derive(Debug)]
pub(crate) struct Authenticator {
    pub(crate) tokens: Tokens,
    pub(crate) fixed: HashMap<String, User>,
}

impl Authenticator {
    /// The user a request is to be judged as: who asks, or who they speak for, which only masters may.
    pub(crate) fn acting_user(
        &self,
        certificate: Option<&User>,
        headers: &HeaderMap,
    ) -> Result<User, ApiError> {
        let user = self.user(certificate, headers)?;
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let Some(name) = header("impersonate-user") else {
            return Ok(user);
        };
        if !user.is_in(MASTERS) {
            let what = format!(
                "users {name:?} is forbidden: User {:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
                user.name
            );
            return Err(ApiError::new(403, "Forbidden", what));
        }
        let groups = headers.get_all("impersonate-group").iter();
        let groups = groups
            .filter_map(|group| group.to_str().ok().map(str::to_owned))
            .collect();
        Ok(User::known(name, groups))
    }

    /// The user of a request. A token that is not valid is an error, none is not.
    fn user(&self, certificate: Option<&User>, headers: &HeaderMap) -> Result<User, ApiError> {
        if let Some(user) = certificate {
            return Ok(user.clone());
        }
        match headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(bearer)
        {
            Some(token) => self.token_user(token).ok_or_else(ApiError::unauthorized),
            None if headers.contains_key(AUTHORIZATION) => Err(ApiError::unauthorized()),
            None => Ok(User::anonymous()),
        }
    }

    /// The user a token stands for.
    pub(crate) fn token_user(&self, token: &str) -> Option<User> {
        self.fixed
            .get(token)
            .cloned()
            .or_else(|| self.tokens.verify(token))
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Reads a static token file: lines of `token,user,uid,"group1,group2"`.
pub(crate) fn parse_token_file(text: &str) -> HashMap<String, User> {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(parse_token_line).collect()
}

fn parse_token_line(line: &str) -> Option<(String, User)> {
    let mut columns = line.splitn(4, ',').map(str::trim);
    let (token, name) = (columns.next()?, columns.next()?);
    let uid = columns.next().unwrap_or_default();
    let groups = columns.next().unwrap_or_default().trim_matches('"');
    let groups = groups
        .split(',')
        .map(str::trim)
        .filter(|group| !group.is_empty())
        .map(str::to_owned)
        .collect();
    let mut user = User::known(name, groups);
    user.uid = uid.to_owned();
    Some((token.to_owned(), user))
}
