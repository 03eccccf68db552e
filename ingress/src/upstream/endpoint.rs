//! One address of a Service, and what the requests that went there have shown of it.
//!
//! All threads and all routes share an endpoint, and it stays the same object while lists around it change: what one
//! route has learnt about a pod holds for every other. Its numbers are atomic and none of them guards another, so
//! nothing here ever waits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::health::Health;
use crate::upstream::latency::Latency;
use crate::upstream::session::Token;

/// An address that requests go to.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    /// The address as it is written down with every request.
    text: Box<str>,
    token: Token,
    /// The times of its parts count from here.
    born: Instant,
    /// Whether others were there before it, to take the load while it gets going.
    is_newcomer: bool,
    in_flight: AtomicU32,
    latency: Latency,
    health: Health,
}

/// A request's place at an endpoint. It counts as in flight until this is dropped.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
    is_probe: bool,
}

impl Endpoint {
    /// The endpoint at `address`, of which nothing is known yet. A newcomer joins others.
    pub fn new(address: SocketAddr, token: Token, is_newcomer: bool, now: Instant) -> Self {
        Self {
            address,
            text: address.to_string().into(),
            token,
            born: now,
            is_newcomer,
            in_flight: AtomicU32::new(0),
            latency: Latency::default(),
            health: Health::default(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What names it to clients.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Requests whose response is not complete.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How long it takes to begin a response, in microseconds; nothing while it has not been asked.
    pub fn latency(&self, now: Instant) -> Option<f32> {
        self.latency.estimate(now - self.born)
    }

    /// The share of its load that it can take already, if it warms up for so long: a tenth at first, all in the end.
    pub(crate) fn warmth(&self, slow_start: Duration, now: Instant) -> f32 {
        const LEAST: f32 = 0.1;
        if !self.is_newcomer || slow_start.is_zero() {
            return 1.0;
        }
        let age = (now - self.born).as_secs_f32();
        (age / slow_start.as_secs_f32()).clamp(LEAST, 1.0)
    }

    /// Whether it is passed over because it has failed too often.
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.health.is_ejected(now - self.born)
    }

    /// Begins with what is known of others, so that it is neither flooded nor avoided.
    pub(crate) fn assume_latency(&self, microseconds: f32) {
        self.latency.assume(microseconds);
    }

    /// Whether it has been ejected and no request has shown it to work since.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.health.is_in_doubt()
    }

    /// Ejects it for a time that doubles with every time it happens.
    pub(crate) fn eject(&self, base: Duration, now: Instant) {
        self.health.eject(base, now - self.born);
    }

    /// Takes it back as if it had never failed.
    pub(crate) fn restore(&self) {
        self.health.restore();
    }

    /// A place for a request, unless it is ejected, or in doubt and just being probed by another request.
    pub(crate) fn enter(self: &Arc<Self>, now: Instant) -> Option<InFlight> {
        let is_probe = self.is_in_doubt();
        if is_probe && !self.health.probe(now - self.born) {
            return None;
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(InFlight {
            endpoint: self.clone(),
            is_probe,
        })
    }
}

impl InFlight {
    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Where the request goes.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// The endpoint began its response at `now`, to a request that was sent at `sent`.
    pub fn succeeded(&self, sent: Instant, now: Instant) {
        let endpoint = &self.endpoint;
        endpoint.latency.observe(now - endpoint.born, now - sent);
        endpoint.health.succeeded(self.is_probe);
    }

    /// The endpoint failed. Returns how often in a row by now.
    pub(crate) fn failed(&self) -> u32 {
        let failures = self.endpoint.health.failed();
        // One failed probe is enough.
        if self.is_probe { u32::MAX } else { failures }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn endpoint(now: Instant) -> Arc<Endpoint> {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let token = Token::new("", "", address);
        Arc::new(Endpoint::new(address, token, true, now))
    }

    #[test]
    fn a_newcomer_warms_up() {
        let start = Instant::now();
        let endpoint = endpoint(start);
        let warmth = |seconds| {
            endpoint.warmth(
                Duration::from_secs(10),
                start + Duration::from_secs(seconds),
            )
        };
        assert_eq!([0, 5, 10, 60].map(warmth), [0.1, 0.5, 1.0, 1.0]);
        assert_eq!(endpoint.warmth(Duration::ZERO, start), 1.0);
    }

    #[test]
    fn requests_count_while_they_have_a_place() {
        let now = Instant::now();
        let endpoint = endpoint(now);
        let (one, two) = (endpoint.enter(now), endpoint.enter(now));
        assert_eq!(endpoint.in_flight(), 2);
        drop(one);
        assert_eq!(endpoint.in_flight(), 1);
        drop(two);
        assert_eq!(endpoint.in_flight(), 0);
    }

    #[test]
    fn an_ejected_endpoint_comes_back_by_one_probe() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let endpoint = endpoint(start);
        let before = endpoint.enter(start).unwrap();
        endpoint.eject(Duration::from_secs(10), at(0));
        assert!(endpoint.is_ejected(at(9)) && endpoint.enter(at(9)).is_none());
        // What was under way before says nothing about now.
        before.succeeded(start, at(9));
        assert!(endpoint.enter(at(9)).is_none());
        let probe = endpoint.enter(at(10)).unwrap();
        assert!(endpoint.enter(at(10)).is_none());
        assert_eq!(probe.failed(), u32::MAX);
        endpoint.eject(Duration::from_secs(10), at(10));
        assert!(endpoint.enter(at(29)).is_none());
        let probe = endpoint.enter(at(30)).unwrap();
        probe.succeeded(at(30), at(31));
        assert!(endpoint.enter(at(31)).is_some() && endpoint.enter(at(31)).is_some());
    }
}
