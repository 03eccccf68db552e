//! Settings for all routes that have no argument on the command line and no annotation.

use http::StatusCode;

use crate::filters::bans::{Bans, Texts};
use crate::filters::external_auth::ExternalAuth;

/// What holds for all routes. Without a ConfigMap it is the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Everywhere {
    /// Who is refused whatever the route.
    pub bans: Bans,
    /// Whom to ask about requests for all routes that do not ask somebody else, in place of whom the arguments name.
    pub global_auth: Option<ExternalAuth>,
    /// Status of redirects to HTTPS and between a host and the one with or without `www.`.
    pub redirect_status: StatusCode,
    /// Beginnings of paths that are not redirected to HTTPS.
    pub no_https_redirect: Box<[Box<str>]>,
    /// Beginnings of rules' paths whose requests no password guards and nobody is asked about.
    pub unguarded: Box<[Box<str>]>,
    /// Status of the answer to requests beyond those that a client may have at a time, where it is another than for those
    /// that come too fast.
    pub connection_limit_status: Option<StatusCode>,
    /// Targets whose requests are not written down.
    pub unlogged: Texts,
}

impl Default for Everywhere {
    fn default() -> Self {
        Self {
            bans: Bans::default(),
            global_auth: None,
            redirect_status: StatusCode::PERMANENT_REDIRECT,
            // ACME servers come over plain HTTP and have no password.
            no_https_redirect: Box::new(["/.well-known/acme-challenge/".into()]),
            unguarded: Box::new(["/.well-known/acme-challenge".into()]),
            connection_limit_status: None,
            unlogged: Texts::default(),
        }
    }
}
