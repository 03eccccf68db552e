//! The choice among a Service's endpoints: what a request asks for, and the ways to choose.
//!
//! The ways are functions of a list and of what its endpoints have shown; none of them locks or allocates.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use crate::upstream::endpoint::Endpoint;
use crate::upstream::ring::Ring;
use crate::upstream::session::Token;

/// How many endpoints a choice looks at where looking at all would cost more than it gains.
const MOST_COMPARED: usize = 32;
/// Among how many endpoints the requests of one key may be spread.
pub const MOST_IN_SUBSET: u8 = 32;

/// The endpoints of a Service port.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    list: Vec<Arc<Endpoint>>,
    /// Made when it is first needed.
    ring: OnceLock<Ring>,
}

/// What is asked of a choice.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'c> {
    /// How to choose.
    pub balance: Balance,
    /// The endpoint that the request belongs to, if it is there; the balance decides otherwise.
    pub held_at: Option<Token>,
    /// Endpoints that are out of the question: this request has failed there.
    pub tried: &'c [SocketAddr],
    /// Most requests that an endpoint may have in flight, if that is limited.
    pub limit: Option<NonZeroU32>,
    /// For how long new endpoints get less than their share.
    pub slow_start: Duration,
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
    /// By a key: the same endpoint for the same key, or one of so many.
    Hash {
        /// The key, spread like a hash.
        key: u64,
        /// How many; at most [`MOST_IN_SUBSET`].
        subset: u8,
    },
}

impl Endpoints {
    pub(crate) fn new(list: Vec<Arc<Endpoint>>) -> Self {
        let ring = OnceLock::new();
        Self { list, ring }
    }

    pub(crate) fn list(&self) -> &[Arc<Endpoint>] {
        &self.list
    }

    /// The endpoints that `key` belongs to, the best one first; they repeat.
    pub(crate) fn owners(&self, key: u64) -> impl Iterator<Item = &Arc<Endpoint>> {
        let addresses = || self.list.iter().map(|endpoint| endpoint.address());
        let ring = self.ring.get_or_init(|| Ring::new(addresses()));
        ring.places(key).map(|place| &self.list[place])
    }
}

impl Choice<'_> {
    /// The choice of the next in turn.
    pub fn new(now: Instant) -> Self {
        Self {
            balance: Balance::default(),
            held_at: None,
            tried: &[],
            limit: None,
            slow_start: Duration::ZERO,
            now,
        }
    }

    /// The best of `endpoints` for this choice, if any may be chosen. `turn` counts choices.
    pub(crate) fn best<'e>(
        &self,
        endpoints: &'e Endpoints,
        turn: usize,
    ) -> Option<&'e Arc<Endpoint>> {
        self.held(&endpoints.list).or_else(|| match self.balance {
            Balance::RoundRobin => self.warm_in_turn(&endpoints.list, turn),
            Balance::Latency => self.faster_of_two(&endpoints.list, turn),
            Balance::LeastRequests => self.least_busy(&endpoints.list, turn),
            Balance::Hash { key, subset: 0..=1 } => self.owner(endpoints, key),
            Balance::Hash { key, subset } => self.one_of_owners(endpoints, key, subset, turn),
        })
    }

    fn held<'e>(&self, endpoints: &'e [Arc<Endpoint>]) -> Option<&'e Arc<Endpoint>> {
        let token = self.held_at?;
        let mut held = endpoints
            .iter()
            .filter(|endpoint| endpoint.token() == token);
        held.find(|endpoint| self.admits(endpoint))
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

    /// The next in turn that is warm enough; a newcomer is passed over now and then.
    fn warm_in_turn<'e>(
        &self,
        endpoints: &'e [Arc<Endpoint>],
        turn: usize,
    ) -> Option<&'e Arc<Endpoint>> {
        let is_warm = |endpoint: &&Arc<Endpoint>| {
            let warmth = endpoint.warmth(self.slow_start, self.now);
            warmth >= 1.0 || rand::random::<f32>() < warmth
        };
        let mut in_turn = self.in_turn(endpoints, turn);
        in_turn
            .find(is_warm)
            .or_else(|| self.in_turn(endpoints, turn).next())
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
        latency * (endpoint.in_flight() as f32 + 1.0) / endpoint.warmth(self.slow_start, self.now)
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

    /// The endpoint that `key` belongs to, or the next one on the ring.
    fn owner<'e>(&self, endpoints: &'e Endpoints, key: u64) -> Option<&'e Arc<Endpoint>> {
        // Where nearly all endpoints are out, finding the last one in turn is cheaper.
        let mut owners = endpoints.owners(key).take(MOST_COMPARED * 8);
        owners.find(|endpoint| self.admits(endpoint))
    }

    /// One of the first `count` endpoints that `key` belongs to. They stay the same ones while some of them are out.
    fn one_of_owners<'e>(
        &self,
        endpoints: &'e Endpoints,
        key: u64,
        count: u8,
        turn: usize,
    ) -> Option<&'e Arc<Endpoint>> {
        let most = usize::from(count.min(MOST_IN_SUBSET)).min(endpoints.list.len());
        let mut subset: [Option<&Arc<Endpoint>>; MOST_IN_SUBSET as usize] = [None; _];
        let mut count = 0;
        for owner in endpoints.owners(key) {
            if count == most {
                break;
            }
            let mut known = subset[..count].iter().flatten();
            if !known.any(|known| Arc::ptr_eq(*known, owner)) {
                subset[count] = Some(owner);
                count += 1;
            }
        }
        let mut in_turn = (0..count).filter_map(|step| subset[(turn + step) % count]);
        in_turn.find(|endpoint| self.admits(endpoint))
    }
}
