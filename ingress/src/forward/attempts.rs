//! The attempts of one request: which endpoint is next, what an attempt says of its endpoint, and whether another may
//! follow.
//!
//! Another follows only while the policy says so, tries and time are left, the Service's budget grants it, and there is an
//! endpoint that has not been tried.

use std::net::SocketAddr;
use std::rc::Rc;

use http::request::Parts;
use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::annotations::affinity::BesideCanary;
use crate::annotations::retries::{Retries, USUAL};
use crate::annotations::timeouts::Patience;
use crate::filters::Visit;
use crate::forward::protocol::Spoken;
use crate::message::answer::Reason;
use crate::routes::Route;
use crate::server::worker::Worker;
use crate::upstream::Upstream;
use crate::upstream::balance::{Balance, Choice};
use crate::upstream::endpoint::InFlight;
use crate::upstream::session::{Mark, Session};

/// What is asked of the attempts of a request.
#[derive(Debug)]
pub struct Manner<'r> {
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// The session, if the client is held to an endpoint.
    pub session: Option<Session<'r>>,
    /// How the backend is spoken to.
    pub spoken: Spoken,
    /// When another attempt follows.
    pub retries: &'r Retries,
    /// How long a backend may take.
    pub patience: Patience,
}

/// The attempts of a request.
#[derive(Debug)]
pub struct Attempts<'r> {
    worker: &'r Rc<Worker>,
    upstream: &'r Upstream,
    manner: Manner<'r>,
    started: Instant,
    made: u32,
    tried: Vec<SocketAddr>,
}

impl<'r> Manner<'r> {
    /// What is asked where no Ingress says anything.
    pub fn plain(worker: &Worker) -> Self {
        Self {
            balance: Balance::RoundRobin,
            session: None,
            spoken: Spoken::PLAIN,
            retries: &USUAL,
            patience: Patience::new(None, &worker.settings()),
        }
    }

    /// What is asked for a request with the head `parts` that goes to `upstream` by the route `chosen`. That differs from
    /// the route of the visit for canaries: those may be balanced in a way of their own, the rest is as beside them.
    pub fn of(
        visit: &Visit<'r>,
        chosen: &'r Route,
        upstream: &Upstream,
        parts: &Parts,
        spoken: Spoken,
    ) -> Self {
        let route = visit.route;
        let beside = route.asks(|policy| &policy.balancing);
        let own = chosen.asks(|policy| &policy.balancing);
        let balancing = own.or(beside);
        let is_canary = !std::ptr::eq(chosen, route);
        let affinity = match beside.and_then(|beside| beside.affinity.as_ref()) {
            Some(beside) if !is_canary || beside.canary == BesideCanary::Sticky => Some(beside),
            _ => own.and_then(|own| own.affinity.as_ref()),
        };
        let mark = is_canary.then(|| Mark::of(upstream));
        let timeouts = route.asks(|policy| &policy.timeouts);
        Self {
            balance: balancing.map_or(Balance::RoundRobin, |balancing| {
                balancing.balance(visit.facts(parts))
            }),
            session: affinity.map(|affinity| {
                Session::of(
                    affinity,
                    upstream,
                    mark,
                    parts,
                    &route.path,
                    visit.is_secure,
                )
            }),
            spoken,
            retries: route.asks(|policy| &policy.retries).unwrap_or(&USUAL),
            patience: Patience::new(timeouts, visit.settings),
        }
    }
}

impl<'r> Attempts<'r> {
    /// Attempts that begin at `now`.
    pub fn new(
        worker: &'r Rc<Worker>,
        upstream: &'r Upstream,
        manner: Manner<'r>,
        now: Instant,
    ) -> Self {
        Self {
            worker,
            upstream,
            manner,
            started: now,
            made: 0,
            tried: Vec::new(),
        }
    }

    /// When they began.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The session, to be told to the client.
    pub(crate) fn session(&self) -> Option<&Session<'r>> {
        self.manner.session.as_ref()
    }

    /// How long a backend may take.
    pub(crate) fn patience(&self) -> Patience {
        self.manner.patience
    }

    /// How the backend is spoken to.
    pub(crate) fn spoken(&self) -> &Spoken {
        &self.manner.spoken
    }

    /// A place for the first attempt.
    pub(crate) fn first(&mut self) -> Result<InFlight, Reason> {
        self.made = 1;
        self.pick(self.started)
    }

    /// A place for another attempt after one at `failed`, if there may be one.
    pub(crate) fn next(&mut self, failed: &InFlight) -> Option<InFlight> {
        let now = Instant::now();
        self.tried.push(failed.address());
        if !self.is_any_left(now) {
            return None;
        }
        if let Some(session) = &mut self.manner.session {
            session.failed(self.upstream, &self.tried);
        }
        // The budget is asked last, as asking costs a retry.
        let place = self.pick(now).ok()?;
        if !self.upstream.grants_retry(now) {
            self.worker.metrics().retries_refused.count();
            return None;
        }
        self.made += 1;
        self.worker.metrics().retries.count();
        Some(place)
    }

    /// Whether an endpoint that has refused a request may be asked again. That counts as an attempt.
    pub(crate) fn repeat(&mut self) -> bool {
        let is_any_left = self.is_any_left(Instant::now());
        self.made += u32::from(is_any_left);
        is_any_left
    }

    fn is_any_left(&self, now: Instant) -> bool {
        let Retries { tries, within, .. } = *self.manner.retries;
        (tries == 0 || self.made < tries) && (within.is_zero() || now - self.started < within)
    }

    fn pick(&self, now: Instant) -> Result<InFlight, Reason> {
        let settings = self.worker.settings();
        let mut choice = Choice {
            balance: self.manner.balance,
            tried: &self.tried,
            limit: settings.max_requests_per_endpoint,
            slow_start: settings.slow_start.unwrap_or_default(),
            ..Choice::new(now)
        };
        if let Some(session) = &self.manner.session {
            session.direct(&mut choice);
        }
        self.upstream.pick(&choice)
    }

    /// Whether a request of this `method` may be sent again although a backend may have acted on it.
    pub(crate) fn may_repeat(&self, method: &Method) -> bool {
        method.is_idempotent() || self.manner.retries.repeats_all
    }

    /// Whether an attempt that failed for `reason` is followed by another.
    pub(crate) fn follow(&self, reason: Reason) -> bool {
        self.manner.retries.follow(reason)
    }

    /// Whether a response with `status` is followed by another attempt.
    pub(crate) fn follow_status(&self, status: StatusCode) -> bool {
        self.manner.retries.follow_status(status)
    }

    /// The endpoint answered at `now` with `status` to what was `sent` then. What a gateway in a backend's place would say
    /// counts against it.
    pub(crate) fn answered(
        &self,
        place: &InFlight,
        status: StatusCode,
        sent: Instant,
        now: Instant,
    ) {
        match status {
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => self.blame(place, now),
            _ => place.succeeded(sent, now),
        }
    }

    /// The endpoint failed at `now` for `reason`.
    pub(crate) fn failed(&self, place: &InFlight, reason: Reason, now: Instant) {
        if reason.is_backends_fault() {
            self.blame(place, now);
        }
    }

    fn blame(&self, place: &InFlight, now: Instant) {
        let ejection = self.worker.settings().ejection();
        self.upstream.failed(place, &ejection, now);
    }
}
