//! What a request passes between its route and its backend: one effect a file, and here the order they come in.
//!
//! The order is that of nginx's phases as ingress-nginx fills them, so that what kept a request out there keeps it out
//! here:
//!
//! 1. [`ban`] refuses those that nobody wants, and [`deny`] keeps everybody from paths that nobody gets at;
//! 2. [`greet`] answers preflights of CORS, before redirects and before anybody asks who the client is;
//! 3. [`enter`] applies limits, then asks the guards: address, password, external authentication;
//! 4. [`copy`] mirrors the request;
//! 5. [`choose`] sends it to the canary or to the Service beside it.
//!
//! What is left to do for the answer, whoever gives it, is noted in an [`Exit`].

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use subtle::ConstantTimeEq;

use crate::annotations::Policy;
use crate::annotations::affinity::BesideCanary;
use crate::config::GatewayArgs;
use crate::message::answer::Reason;
use crate::message::body::RequestBody;
use crate::message::variables::Facts;
use crate::observe::record::Record;
use crate::routes::{Route, Target};
use crate::server::settings::Settings;
use crate::server::worker::Worker;
use crate::upstream::Upstream;
use crate::upstream::session::{self, Home};

pub mod access;
pub mod ask;
pub mod bans;
pub mod basic_auth;
pub mod canary;
pub mod compress;
pub mod cors;
pub mod exit;
pub mod external_auth;
pub mod global_auth;
pub mod htpasswd;
pub mod limits;
mod md5_crypt;
pub mod memory;
pub mod mirror;
pub mod outbound;
pub mod pace;
pub mod ranges;

pub use exit::Exit;

use ask::Answers;
use basic_auth::{Refused, Verifier};
use external_auth::{ExternalAuth, Verdict};
use limits::{Exceeded, Limiter};

/// How many of a route's guards must let a request in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Satisfy {
    /// All of them.
    #[default]
    All,
    /// One of them.
    Any,
}

/// What filters know, shared by all threads.
#[derive(Debug)]
pub struct State {
    limiter: Arc<Limiter>,
    verifier: Arc<Verifier>,
    answers: Answers,
}

/// A request on its way.
#[derive(Debug)]
pub struct Visit<'r> {
    /// The thread.
    pub worker: &'r Rc<Worker>,
    /// The settings.
    pub settings: &'r Settings,
    /// The route that it takes.
    pub route: &'r Route,
    /// The host that it is for.
    pub host: &'r str,
    /// The address of its client.
    pub client: IpAddr,
    /// Whether its client sent it over TLS.
    pub is_secure: bool,
}

impl State {
    /// Nothing is known yet.
    pub fn new(settings: &GatewayArgs) -> Self {
        Self {
            limiter: Limiter::new(settings.limit_ipv6_prefix),
            verifier: Verifier::new(),
            answers: Answers::new(),
        }
    }
}

/// Refuses those that nobody wants.
pub fn ban(visit: &Visit<'_>, parts: &Parts) -> Result<(), Reason> {
    let bans = &visit.settings.everywhere.bans;
    match !bans.is_empty() && bans.concern(visit.client, &parts.headers) {
        true => Err(Reason::Blocked),
        false => Ok(()),
    }
}

/// Refuses requests for paths that nobody gets at.
pub fn deny(route: &Route, parts: &Parts, exit: &mut Exit) -> Result<(), Reason> {
    let Some(denied) = route.asks(|policy| &policy.denied_paths) else {
        return Ok(());
    };
    if !denied.deny(parts.uri.path()) {
        return Ok(());
    }
    exit.answer_with(denied.status);
    Err(Reason::PathDenied)
}

/// Answers preflights of CORS, and notes what the answers to other requests are marked with.
pub fn greet(route: &Route, parts: &Parts, exit: &mut Exit) -> Result<(), Reason> {
    let Some(cors) = route.asks(|policy| &policy.cors) else {
        return Ok(());
    };
    let marks = cors.marks(&parts.headers);
    let is_answered = marks.answers(&parts.method);
    exit.mark(cors, &marks);
    if is_answered {
        Err(Reason::CorsPreflight)
    } else {
        Ok(())
    }
}

/// Lets a request in, or says why not.
pub async fn enter(
    visit: &Visit<'_>,
    parts: &mut Parts,
    record: &mut Record,
    exit: &mut Exit,
) -> Result<(), Reason> {
    let auth = visit.external_auth();
    let Some(policy) = &visit.route.policy else {
        return match auth {
            Some(_) => {
                let none = Policy::default();
                Box::pin(visit.check_guards(&none, auth, parts, record, exit)).await
            }
            None => Ok(()),
        };
    };
    visit.limit(policy, record, exit)?;
    if let Some(pace) = policy.pace.as_deref() {
        exit.limit_pace(*pace);
    }
    let by_address = policy
        .access
        .as_ref()
        .is_none_or(|access| access.admits(visit.client));
    if auth.is_none() && policy.basic_auth.is_none() {
        return if by_address {
            Ok(())
        } else {
            Err(Reason::SourceDenied)
        };
    }
    // Boxed, for few requests come here, and all would carry its state.
    Box::pin(visit.check_guards(policy, auth, parts, record, exit)).await
}

impl Visit<'_> {
    fn limit(&self, policy: &Policy, record: &mut Record, exit: &mut Exit) -> Result<(), Reason> {
        let Some(limits) = policy.limits.as_deref() else {
            return Ok(());
        };
        let state = &self.worker.shared().filters;
        match state
            .limiter
            .enter(limits, &self.route.ingress, self.client)
        {
            Ok(slot) => {
                record.counts(slot);
                Ok(())
            }
            Err(exceeded) => {
                let by_rate = self.settings.limit_status_code;
                let at_a_time = self.settings.everywhere.connection_limit_status;
                exit.answer_with(match exceeded {
                    Exceeded::Rate(_) => by_rate,
                    Exceeded::AtATime => at_a_time.unwrap_or(by_rate),
                });
                Err(match exceeded {
                    Exceeded::Rate(wait) => {
                        exit.retry_after(wait);
                        Reason::RateLimited
                    }
                    Exceeded::AtATime => Reason::ConnectionLimited,
                })
            }
        }
    }

    /// Whom to ask about the request, if anybody is to be asked.
    fn external_auth(&self) -> Option<&ExternalAuth> {
        let own = self.route.asks(|policy| &policy.external_auth);
        let is_out = self
            .route
            .policy
            .as_ref()
            .is_some_and(|policy| policy.no_global_auth);
        let global = || self.settings.global_auth.as_deref();
        let auth = own.or_else(|| global().filter(|_| !is_out))?;
        (!self.is_unguarded()).then_some(auth)
    }

    fn is_unguarded(&self) -> bool {
        let unguarded = &self.settings.everywhere.unguarded;
        unguarded
            .iter()
            .any(|path| self.route.path.starts_with(&**path))
    }

    /// Asks the guards in turn. Where one is enough, the first that lets the request in decides, and who is refused by all
    /// is told how to authenticate rather than that its address is wrong.
    async fn check_guards(
        &self,
        policy: &Policy,
        auth: Option<&ExternalAuth>,
        parts: &mut Parts,
        record: &mut Record,
        exit: &mut Exit,
    ) -> Result<(), Reason> {
        let is_any_enough = policy.satisfy.as_deref() == Some(&Satisfy::Any);
        let mut refused = None;
        if let Some(access) = &policy.access {
            match access.admits(self.client) {
                true if is_any_enough => return self.let_in(policy, parts),
                true => {}
                false if is_any_enough => refused = Some(Reason::SourceDenied),
                false => return Err(Reason::SourceDenied),
            }
        }
        if policy.basic_auth.is_some() && !self.is_unguarded() {
            match self.check_password(policy, parts, exit).await {
                Ok(()) if is_any_enough => return self.let_in(policy, parts),
                Err(reason) if is_any_enough => refused = Some(reason),
                outcome => outcome?,
            }
        }
        if let Some(auth) = auth {
            match self.check_elsewhere(auth, parts, record, exit).await {
                Ok(()) => refused = None,
                // Who may still authenticate is told so.
                Err(Reason::AuthForbidden) if refused == Some(Reason::PasswordWanted) => {}
                Err(reason) => refused = Some(reason),
            }
        }
        match refused {
            Some(reason) => Err(reason),
            None => self.let_in(policy, parts),
        }
    }

    /// A password that was for us is not for the backend.
    fn let_in(&self, policy: &Policy, parts: &mut Parts) -> Result<(), Reason> {
        if policy.basic_auth.is_some() && !self.is_unguarded() {
            parts.headers.remove(AUTHORIZATION);
        }
        Ok(())
    }

    async fn check_password(
        &self,
        policy: &Policy,
        parts: &Parts,
        exit: &mut Exit,
    ) -> Result<(), Reason> {
        let Some(auth) = &policy.basic_auth else {
            return Ok(());
        };
        let verifier = &self.worker.shared().filters.verifier;
        match auth.admit(verifier, &parts.headers).await {
            Ok(()) => Ok(()),
            Err(Refused::Wrong) => {
                exit.challenge([auth.challenge.clone()]);
                Err(Reason::PasswordWanted)
            }
            Err(Refused::Busy) => Err(Reason::AuthBusy),
        }
    }

    async fn check_elsewhere(
        &self,
        auth: &ExternalAuth,
        parts: &mut Parts,
        record: &mut Record,
        exit: &mut Exit,
    ) -> Result<(), Reason> {
        let verdict = ask::ask(self, auth, parts, record).await;
        match verdict {
            Verdict::Enter(entry) => {
                entry.apply(&mut parts.headers);
                exit.set_cookies(entry.cookies, auth.always_set_cookie);
                Ok(())
            }
            Verdict::Refuse {
                status,
                challenges,
                cookies,
            } => {
                exit.set_cookies(cookies, true);
                let signin = auth
                    .signin
                    .as_ref()
                    .filter(|_| status == StatusCode::UNAUTHORIZED);
                if let Some(location) = signin.and_then(|signin| signin.location(self.facts(parts)))
                {
                    exit.redirect(location);
                    return Err(Reason::SigninRedirect);
                }
                exit.challenge(challenges);
                Err(match status {
                    StatusCode::UNAUTHORIZED => Reason::AuthUnauthorized,
                    _ => Reason::AuthForbidden,
                })
            }
            Verdict::Fail => Err(Reason::AuthFailed),
        }
    }

    /// The request as templates see it.
    pub fn facts<'f>(&'f self, parts: &'f Parts) -> Facts<'f> {
        Facts {
            method: &parts.method,
            uri: &parts.uri,
            headers: &parts.headers,
            host: self.host,
            client: self.client,
            is_secure: self.is_secure,
            ingress: &self.route.ingress.name,
            service: &self.route.service,
            rule_path: &self.route.path,
        }
    }
}

/// Sends a copy of the request to where its Ingress wants one, on its own.
pub fn copy(visit: &Visit<'_>, parts: &Parts, body: &mut RequestBody) {
    let mirror = visit.route.asks(|policy| &policy.mirror);
    let Some((mirror, copy)) =
        mirror.and_then(|mirror| Some((mirror, mirror.copy(visit.facts(parts))?)))
    else {
        return;
    };
    let outgoing = match mirror.with_body {
        true => body.copy(),
        false => None,
    };
    let copy = mirror::with_body(copy, outgoing);
    let worker = visit.worker.clone();
    visit.worker.spawn(async move {
        let limit = worker.settings().backend_timeout;
        if let Err(error) = worker.outbound().call(copy, limit).await {
            tracing::debug!(%error, "a mirrored request came to nothing");
        }
    });
}

/// The route that a request with `headers` takes in the end: its own, or the canary that hangs under it. A canary without
/// an endpoint takes nothing; else a session stays where it is, and the canary's rules decide about everybody else.
pub fn choose<'r>(route: &'r Arc<Route>, headers: &HeaderMap) -> &'r Arc<Route> {
    let Some(canary) = &route.canary else {
        return route;
    };
    let Target::Backend(upstream) = &canary.target else {
        return route;
    };
    if upstream.is_empty() {
        return route;
    }
    let roll = |total| rand::random_range(0..total);
    let by_rule = || {
        canary
            .asks(|policy| &policy.canary)
            .is_some_and(|rule| rule.takes(headers, roll))
    };
    let takes = match home(route, upstream, headers) {
        Some(home) => home == Home::Canary,
        None => by_rule(),
    };
    if takes { canary } else { route }
}

/// Where the session of the request is, if there is one that a `canary` does not change.
fn home(route: &Route, canary: &Upstream, headers: &HeaderMap) -> Option<Home> {
    let balancing = route.asks(|policy| &policy.balancing)?;
    let affinity = balancing.affinity.as_ref()?;
    let Target::Backend(main) = &route.target else {
        return None;
    };
    match affinity.canary {
        BesideCanary::Sticky => session::home(affinity, headers, main, canary),
        BesideCanary::Legacy => None,
    }
}

/// Compares without telling by its time how much is the same.
fn same_bytes(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}
