//! The settings in effect: those of the command line with the ConfigMap's over them, and what follows from them.
//!
//! They never change; new ones replace them. Every thread has its own copy to look at, so a request that reads a setting
//! shares nothing with another thread. A request or a connection that is under way may keep the ones it began with.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;

use crate::config::GatewayArgs;
use crate::configmap::Everywhere;
use crate::filters::external_auth::ExternalAuth;
use crate::message::path::Slashes;
use crate::request::strict::Rules;
use crate::tls::{self, Certificates};

/// The settings in effect. It reads like the arguments it was made from.
#[derive(Debug, Clone)]
pub struct Settings {
    args: GatewayArgs,
    /// What holds for all routes and has no argument.
    pub everywhere: Arc<Everywhere>,
    /// The rules for request heads.
    pub rules: Rules,
    /// What clients over TLS are told about HTTPS.
    pub hsts: Option<HeaderValue>,
    /// TLS with clients that are not asked for a certificate.
    pub without_certificate: Arc<ServerConfig>,
    /// Whom to ask about requests for all routes that do not ask somebody else.
    pub global_auth: Option<Arc<ExternalAuth>>,
}

impl Settings {
    /// What follows from `args` and `everywhere`. Sessions of TLS can be resumed that began under `last`, unless TLS is
    /// spoken in another way since.
    pub fn new(
        args: GatewayArgs,
        everywhere: Everywhere,
        certificates: &Arc<ArcSwap<Certificates>>,
        last: Option<&Self>,
    ) -> Result<Self, rustls::Error> {
        let without_certificate = match last.filter(|last| last.args.tls == args.tls) {
            Some(last) => last.without_certificate.clone(),
            None => {
                let nobody = WebPkiClientVerifier::no_client_auth();
                Arc::new(tls::server_config(certificates.clone(), nobody, &args.tls)?)
            }
        };
        let global_auth = everywhere.global_auth.clone();
        let global_auth = global_auth.or_else(|| args.global_auth.external_auth());
        let slashes = match args.keep_slashes {
            true => Slashes::Keep,
            false => Slashes::Merge,
        };
        Ok(Self {
            rules: Rules {
                slashes,
                refuse_encoded_slashes: args.refuse_encoded_slashes,
                keep_underscores: args.keep_underscore_headers,
            },
            hsts: args.hsts(),
            without_certificate,
            global_auth: global_auth.map(Arc::new),
            everywhere: Arc::new(everywhere),
            args,
        })
    }
}

impl Settings {
    /// The arguments that they were made from.
    pub fn args(&self) -> &GatewayArgs {
        &self.args
    }
}

impl Deref for Settings {
    type Target = GatewayArgs;

    fn deref(&self) -> &GatewayArgs {
        &self.args
    }
}
