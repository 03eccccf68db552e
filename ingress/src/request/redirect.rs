//! The gateway's own redirects: to HTTPS, to another place, to another path, to the same host without `www.`.

use bytes::Bytes;
use http::header::{HOST, LOCATION};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, Version};
use http_body_util::Full;

use crate::annotations::https::HttpsRedirect;
use crate::annotations::redirect::Redirects;
use crate::filters::Visit;
use crate::message::answer::Reason;
use crate::message::variables::scheme;
use crate::routes::{Table, Target};
use crate::server::settings::Settings;

/// An answer that sends the client elsewhere.
#[derive(Debug)]
pub struct Redirect {
    /// Why.
    pub reason: Reason,
    status: StatusCode,
    location: String,
}

fn target(parts: &Parts) -> &str {
    parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str())
}

/// Where the request is sent in place of a backend, if it is.
pub fn find(visit: &Visit<'_>, routes: &Table, parts: &Parts) -> Option<Redirect> {
    let asked = visit.route.asks(|policy| &policy.redirects);
    asked
        .and_then(|asked| elsewhere(visit, asked, parts))
        .or_else(|| to_https(visit, asked, routes, parts))
        .or_else(|| asked.and_then(|asked| to_root(visit, asked, parts)))
        .or_else(|| to_slash(visit, asked, parts))
}

/// Everything goes to another place. As in ingress-nginx this comes first, so that there is one redirect and not two.
fn elsewhere(visit: &Visit<'_>, asked: &Redirects, parts: &Parts) -> Option<Redirect> {
    let elsewhere = asked.all.as_ref()?;
    Some(Redirect {
        reason: Reason::Redirect,
        status: elsewhere.status,
        location: elsewhere.to.fill(visit.facts(parts)),
    })
}

/// A client that came in the clear goes to HTTPS.
fn to_https(
    visit: &Visit<'_>,
    asked: Option<&Redirects>,
    routes: &Table,
    parts: &Parts,
) -> Option<Redirect> {
    if visit.is_secure {
        return None;
    }
    let wanted = visit.route.asks(|policy| &policy.https);
    let HttpsRedirect { where_tls, always } = wanted.copied().unwrap_or_default();
    let settings = visit.settings;
    let is_wanted = always.unwrap_or(settings.force_ssl_redirect)
        || where_tls.unwrap_or(settings.ssl_redirect) && routes.is_secure(visit.host);
    let path = parts.uri.path();
    let mut stays = settings.everywhere.no_https_redirect.iter();
    if !is_wanted || stays.any(|stays| path.starts_with(&**stays)) {
        return None;
    }
    let port = asked.filter(|asked| asked.with_port);
    let port = port.and_then(|_| settings.https_bind.first());
    let port = port.map_or_else(String::new, |address| format!(":{}", address.port()));
    Some(Redirect {
        reason: Reason::HttpsRedirect,
        status: settings.everywhere.redirect_status,
        location: format!("https://{}{port}{}", visit.host, target(parts)),
    })
}

/// The root goes to where the application begins.
fn to_root(visit: &Visit<'_>, asked: &Redirects, parts: &Parts) -> Option<Redirect> {
    let root = asked.root.as_deref().filter(|_| parts.uri.path() == "/")?;
    Some(Redirect {
        reason: Reason::Redirect,
        status: StatusCode::FOUND,
        location: at_same_host(visit, Some(asked), parts, root),
    })
}

/// A path without the slash goes to the one with it.
fn to_slash(visit: &Visit<'_>, asked: Option<&Redirects>, parts: &Parts) -> Option<Redirect> {
    if !matches!(visit.route.target, Target::WithSlash) {
        return None;
    }
    let path = parts.uri.path();
    let target = match parts.uri.query() {
        Some(query) => format!("{path}/?{query}"),
        None => format!("{path}/"),
    };
    Some(Redirect {
        reason: Reason::Redirect,
        status: StatusCode::MOVED_PERMANENTLY,
        location: at_same_host(visit, asked, parts, &target),
    })
}

fn at_same_host(
    visit: &Visit<'_>,
    asked: Option<&Redirects>,
    parts: &Parts,
    target: &str,
) -> String {
    if asked.is_some_and(|asked| asked.relative) {
        return target.to_owned();
    }
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.unwrap_or(visit.host);
    format!("{}://{host}{target}", scheme(visit.is_secure))
}

/// The same request at `host`.
pub fn to_host(host: &str, is_secure: bool, parts: &Parts, settings: &Settings) -> Redirect {
    Redirect {
        reason: Reason::Redirect,
        status: settings.everywhere.redirect_status,
        location: format!("{}://{host}{}", scheme(is_secure), target(parts)),
    }
}

impl Redirect {
    /// The answer.
    pub fn answer(self, protocol: Version) -> Response<Full<Bytes>> {
        let mut response = self.reason.answer(protocol);
        *response.status_mut() = self.status;
        // What a client says can only get here as legal bytes of a header or a target.
        if let Ok(location) = HeaderValue::try_from(self.location) {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }
}
