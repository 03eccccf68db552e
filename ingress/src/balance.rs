//! The choice among a Service's endpoints: what a request asks for, and the ways to choose.
//!
//! The ways are functions of a list and of what its endpoints have shown; none of them locks or allocates.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use rand::Rng;
use tokio::time::Instant;

use crate::endpoint::Endpoint;

/// How many endpoints a choice looks at where looking at all would cost more than it gains.
const MOST_COMPARED: usize = 32;

/// What is asked of a choice.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'c> {
    /// How to choose.
    pub balance: Balance,
    /// Endpoints that are out of the question: this request has failed there.
    pub tried: &'c [SocketAddr],
    /// Most requests that an endpoint may have in flight, if that is limited.
    pub limit: Option<NonZeroU32>,
    /// The time.
    pub now: Instant,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// In turn, as nginx does.
    #[default]
    RoundRobin,
    /// The better of two, by how long they take and how much they have to do (`ewma`).
    Latency,
    /// The one that has the least to do.
    LeastRequests,
}

impl Choice<'_> {
    /// The choice of the next in turn.
    pub fn new(now: Instant) -> Self {
        Self {
            balance: Balance::default(),
            tried: &[],
            limit: None,
            now,
        }
    }

    /// The best of `endpoints` for this choice, if any may be chosen. `turn` counts choices.
    pub(crate) fn best<'e>(
        &self,
        endpoints: &'e [Arc<Endpoint>],
        turn: usize,
    ) -> Option<&'e Arc<Endpoint>> {
        match self.balance {
            Balance::RoundRobin => self.in_turn(endpoints, turn).next(),
            Balance::Latency => self.faster_of_two(endpoints, turn),
            Balance::LeastRequests => self.least_busy(endpoints, turn),
        }
    }

    /// The endpoints that may be chosen, beginning with the one whose turn it is.
    pub(crate) fn in_turn<'e>(
        &self,
        endpoints: &'e [Arc<Endpoint>],
        turn: usize,
    ) -> impl Iterator<Item = &'e Arc<Endpoint>> {
        let start = turn.checked_rem(endpoints.len()).unwrap_or(0);
        let (before, after) = endpoints.split_at(start);
        let in_turn = after.iter().chain(before);
        in_turn.filter(|endpoint| self.admits(endpoint))
    }

    /// Whether `endpoint` may be chosen. One in doubt may: whoever enters it is its probe.
    fn admits(&self, endpoint: &Endpoint) -> bool {
        self.is_below_limit(endpoint)
            && !endpoint.is_ejected(self.now)
            && !self.tried.contains(&endpoint.address())
    }

    fn is_below_limit(&self, endpoint: &Endpoint) -> bool {
        self.limit
            .is_none_or(|limit| endpoint.in_flight() < limit.get())
    }

    /// Whether the limit on requests in flight is all that keeps `endpoint` from being chosen.
    pub(crate) fn is_full(&self, endpoint: &Endpoint) -> bool {
        let unlimited = Self {
            limit: None,
            ..*self
        };
        !self.is_below_limit(endpoint) && unlimited.admits(endpoint)
    }

    /// The power of two choices: comparing just two leaves no herd running to the one that looks best (Mitzenmacher
    /// 2001), and costs the same for any number.
    fn faster_of_two<'e>(
        &self,
        endpoints: &'e [Arc<Endpoint>],
        turn: usize,
    ) -> Option<&'e Arc<Endpoint>> {
        let mut random = rand::rng();
        let start = random.random_range(0..endpoints.len().max(1));
        let one = self.in_turn(endpoints, start).next()?;
        let start = random.random_range(0..endpoints.len());
        let mut others = self.in_turn(endpoints, start);
        let Some(other) = others.find(|other| !Arc::ptr_eq(one, other)) else {
            return Some(one);
        };
        let (cost, other_cost) = (self.cost(one), self.cost(other));
        // The turn breaks ties: while nothing is known, all get their share.
        let is_other = other_cost < cost || (other_cost == cost && turn % 2 == 1);
        Some(if is_other { other } else { one })
    }

    /// The time until a request would be answered: its own and that of those before it.
    fn cost(&self, endpoint: &Endpoint) -> f32 {
        let latency = endpoint.latency(self.now).unwrap_or(0.0);
        latency * (endpoint.in_flight() as f32 + 1.0)
    }

    /// Of equally busy ones the first in turn, so that an idle Service is served in turn.
    fn least_busy<'e>(
        &self,
        endpoints: &'e [Arc<Endpoint>],
        turn: usize,
    ) -> Option<&'e Arc<Endpoint>> {
        self.in_turn(endpoints, turn)
            .take(MOST_COMPARED)
            .min_by_key(|endpoint| endpoint.in_flight())
    }
}
