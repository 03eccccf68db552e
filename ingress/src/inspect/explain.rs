//! What becomes of a request, and why: the way that [`request`](crate::request) takes, in words.

use http::{StatusCode, Uri};
use serde::Serialize;

use super::{EndpointView, Format, endpoints, json, kind};
use crate::message::answer::Reason;
use crate::message::host::Authority;
use crate::message::path;
use crate::routes::{Route, Target};
use crate::server::gateway::Shared;

/// What is decided about a request, step by step.
#[derive(Debug, Serialize)]
struct Explanation {
    /// The host as rules see it.
    host: String,
    /// The path as rules see it, and as a backend would.
    path: String,
    /// The host of the rules that are looked through.
    rules: Option<String>,
    /// The rule that is chosen among them.
    rule: Option<RuleView>,
    /// The Secret of the certificate that a client is shown who asks for the host; nothing for the default one.
    certificate: Option<String>,
    /// Whether a TLS section speaks of the host.
    tls: bool,
    /// What the annotations of the rule's Ingress ask for.
    policy: Option<String>,
    /// Where the request may go.
    endpoints: Vec<EndpointView>,
    /// The answer that the gateway gives itself, if it does.
    answer: Option<AnswerView>,
}

#[derive(Debug, Serialize)]
struct RuleView {
    kind: String,
    path: String,
    /// Nothing for the default backend of the gateway.
    ingress: Option<String>,
    service: String,
}

#[derive(Debug, Serialize)]
struct AnswerView {
    status: u16,
    reason: &'static str,
}

/// Explains what becomes of a request for `url`.
pub fn explain(shared: &Shared, url: &str, format: Format) -> Result<String, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{url:?}: {error}"))?;
    let authority = uri.authority().map(http::uri::Authority::as_str);
    let authority = authority.ok_or("must be a URL with a host, like https://a.example/path")?;
    let authority = Authority::parse(authority).ok_or("this host would be refused with 400")?;
    let rules = shared.settings().rules;
    let path = path::normalise(uri.path(), rules.slashes);
    let path =
        path.map_err(|error| format!("the path {error}, so it would be refused with 400"))?;
    if rules.refuse_encoded_slashes && path::has_encoded_slash(&path) {
        return Err("the path has an encoded slash, so it would be refused with 400".to_owned());
    }
    let explanation = Explanation::new(shared, &authority.host, &path);
    Ok(match format {
        Format::Json => json(&explanation),
        Format::Table => explanation.text(),
    })
}

impl Explanation {
    fn new(shared: &Shared, host: &str, path: &str) -> Self {
        let (routes, certificates) = (shared.routes.load(), shared.certificates.load());
        let rules = routes.deciding(host, path);
        let route = routes.find(host, path);
        let certificate = certificates.secret_of(host).map(ToString::to_string);
        let found = route.map(|route| endpoints_of(route)).unwrap_or_default();
        Self {
            host: host.to_owned(),
            path: path.to_owned(),
            rules: rules.map(|pattern| pattern.to_string()),
            rule: route.map(|route| RuleView::new(route)),
            certificate,
            tls: routes.is_secure(host),
            policy: route.and_then(|route| Some(format!("{:?}", route.policy.as_ref()?))),
            answer: answer(route.map(AsRef::as_ref), path, found.len()),
            endpoints: found,
        }
    }

    fn text(&self) -> String {
        let mut lines = vec![format!("host         {}", self.host)];
        lines.push(format!("path         {}", self.path));
        lines.push(match &self.rules {
            Some(pattern) => format!("rules of     {pattern}"),
            None => "rules of     no host: none names this one, and none is for all".to_owned(),
        });
        if let Some(rule) = &self.rule {
            let RuleView {
                kind,
                path,
                ingress,
                service,
            } = rule;
            let owner = match ingress {
                Some(ingress) => format!("Ingress {ingress}"),
                None => "the gateway itself".to_owned(),
            };
            lines.push(format!("rule         {kind} {path} of {owner}"));
            lines.push(format!("Service      {service}"));
        }
        let default = "the default one".to_owned();
        let certificate = self.certificate.as_ref().unwrap_or(&default);
        lines.push(format!("certificate  {certificate}"));
        let section = if self.tls { "yes" } else { "no" };
        lines.push(format!("TLS section  {section}"));
        lines.extend(
            self.policy
                .iter()
                .map(|policy| format!("policy       {policy}")),
        );
        for endpoint in &self.endpoints {
            let ejected = if endpoint.ejected { ", ejected" } else { "" };
            let (address, busy) = (&endpoint.address, endpoint.in_flight);
            lines.push(format!("endpoint     {address}, {busy} in flight{ejected}"));
        }
        lines.push(match &self.answer {
            Some(AnswerView { status, reason }) => format!("answer       {status} {reason}"),
            None => "answer       an endpoint's, unless the policy says otherwise".to_owned(),
        });
        lines.join("\n") + "\n"
    }
}

impl RuleView {
    fn new(route: &Route) -> Self {
        let name = &route.ingress.name;
        Self {
            kind: kind(route),
            path: route.path.to_string(),
            ingress: (!name.name.is_empty()).then(|| name.to_string()),
            service: route.service.to_string(),
        }
    }
}

impl AnswerView {
    fn new(reason: Reason) -> Self {
        Self::with(reason, reason.status())
    }

    fn with(reason: Reason, status: StatusCode) -> Self {
        Self {
            status: status.as_u16(),
            reason: reason.name(),
        }
    }
}

fn endpoints_of(route: &Route) -> Vec<EndpointView> {
    match &route.target {
        Target::Backend(upstream) => endpoints(upstream),
        Target::Nowhere | Target::WithSlash => Vec::new(),
    }
}

/// The answer in place of an endpoint's, as far as that follows from the routes.
fn answer(route: Option<&Route>, path: &str, endpoints: usize) -> Option<AnswerView> {
    let Some(route) = route else {
        return Some(AnswerView::new(Reason::NoRoute));
    };
    if route.is_closed() {
        return Some(AnswerView::new(Reason::Closed));
    }
    let denied = route.asks(|policy| &policy.denied_paths);
    if let Some(denied) = denied.filter(|denied| denied.deny(path)) {
        return Some(AnswerView::with(Reason::PathDenied, denied.status));
    }
    if let Some(fixed) = route.asks(|policy| &policy.fixed_answer) {
        return Some(AnswerView::with(Reason::FixedAnswer, fixed.status));
    }
    let reason = match &route.target {
        Target::WithSlash => Reason::Redirect,
        _ if endpoints == 0 && route.fallback.is_some() => return None,
        Target::Nowhere => Reason::NoBackend,
        Target::Backend(_) if endpoints == 0 => Reason::NoEndpoint,
        Target::Backend(_) => return None,
    };
    Some(AnswerView::new(reason))
}
