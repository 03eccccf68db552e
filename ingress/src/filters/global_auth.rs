//! External authentication that is asked of all requests: the settings for it.

use http::HeaderName;

use super::external_auth::{ExternalAuth, Signin};
use crate::message::variables::{Template, UrlTemplate};

/// Arguments about whom to ask.
#[derive(clap::Args, Debug, Clone, Default)]
#[group(skip)]
pub struct GlobalAuthArgs {
    /// URL of a service that is asked whether requests may enter, for all Ingresses that name no service of their own
    /// (auth-url) and do not opt out (enable-global-auth). Variables as in auth-url.
    #[arg(long, value_name = "URL", value_parser = UrlTemplate::parse)]
    pub global_auth_url: Option<UrlTemplate>,

    /// Where browsers are sent when that service answers 401. Variables as in auth-signin.
    #[arg(long, value_name = "URL", value_parser = Template::parse)]
    pub global_auth_signin: Option<Template>,

    /// Headers of that service's answer that backends get.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub global_auth_response_headers: Vec<HeaderName>,
}

impl GlobalAuthArgs {
    /// Whom to ask, if anybody is to be asked.
    pub fn external_auth(&self) -> Option<ExternalAuth> {
        let signin = self.global_auth_signin.clone();
        Some(ExternalAuth {
            url: self.global_auth_url.clone()?,
            method: None,
            signin: signin.map(|url| Signin::new(url, "rd")),
            response_headers: self.global_auth_response_headers.clone().into(),
            request_redirect: None,
            set_headers: Box::default(),
            always_set_cookie: false,
            cache: None,
        })
    }
}
