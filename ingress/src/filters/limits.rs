//! How many requests one client may send on the routes of one Ingress, over time and at a time.
//!
//! Rates are nginx's `limit_req` with `nodelay`, told as the generic cell rate algorithm: a client has one number, the
//! time at which it will have paid for all it was served, so a question costs one look-up. Each gateway counts for itself.
//! A client is an IPv4 address or a network of IPv6, since there everybody has more addresses than could be counted.
//! Both tables are bounded: what has recovered is forgotten first, since that changes nothing; if that is not enough,
//! those nearest to it, who then have their burst again.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ranges::Ranges;
use crate::problem::IngressRef;

/// Parts of a table that are locked apart from each other. A power of two.
const SHARDS: usize = 64;
/// Most clients that a shard knows: half a million in all, about 20 MB.
const MAX_CLIENTS: usize = 8192;

/// What each client is limited to. By default nothing is limited.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Requests per minute.
    pub per_minute: Option<Rate>,
    /// Requests per second.
    pub per_second: Option<Rate>,
    /// Requests under way at a time; HTTP/1 has one a connection.
    pub at_a_time: Option<NonZeroU32>,
    /// Clients that are not limited.
    pub exempt: Ranges,
}

/// How often requests may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time that a request pays for, in nanoseconds.
    interval: u64,
    /// How far ahead of its time a request may be, in nanoseconds.
    tolerance: u64,
}

/// What a client has exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    /// A rate. It may try again after this time.
    Rate(Duration),
    /// The number of requests at a time.
    AtATime,
}

/// What is known about clients, shared by all threads.
#[derive(Debug)]
pub struct Limiter {
    started: Instant,
    keys: RandomState,
    ipv6_prefix: u8,
    paid: [Mutex<HashMap<u64, Paid>>; SHARDS],
    open: [Mutex<HashMap<u64, u32>>; SHARDS],
}

/// When a client will have paid for what it was served, by the minute and by the second, in nanoseconds.
type Paid = [u64; 2];

/// A request's place among those of its client. Dropping it gives the place back.
#[derive(Debug)]
pub struct Slot {
    limiter: Arc<Limiter>,
    client: u64,
}

impl Limits {
    /// Whether anything is limited.
    pub fn is_none(&self) -> bool {
        self.per_minute.is_none() && self.per_second.is_none() && self.at_a_time.is_none()
    }
}

impl Rate {
    /// `count` requests in each `period`, and `burst` more at once.
    pub fn new(count: NonZeroU32, period: Duration, burst: u32) -> Self {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let interval = period / u64::from(count.get());
        Self {
            interval,
            tolerance: interval.saturating_mul(burst.into()),
        }
    }

    /// When the client will have paid if it is served `now`, or how long it has to wait for that.
    fn charge(self, paid: u64, now: u64) -> Result<u64, u64> {
        let ahead = paid.saturating_sub(now);
        match ahead.checked_sub(self.tolerance) {
            None | Some(0) => Ok(now.max(paid).saturating_add(self.interval)),
            Some(wait) => Err(wait),
        }
    }
}

impl Limiter {
    /// A limiter that knows no client yet. So many leading bits of an IPv6 address make a client.
    pub fn new(ipv6_prefix: u8) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            keys: RandomState::new(),
            ipv6_prefix,
            paid: std::array::from_fn(|_| Mutex::default()),
            open: std::array::from_fn(|_| Mutex::default()),
        })
    }

    /// Takes a request of the client at `address` into account. Where requests are limited at a time, its place is kept
    /// until the returned slot is dropped.
    pub fn enter(
        self: &Arc<Self>,
        limits: &Limits,
        ingress: &IngressRef,
        address: IpAddr,
    ) -> Result<Option<Slot>, Exceeded> {
        if limits.exempt.contains(address) {
            return Ok(None);
        }
        // Keyed at random, so nobody can choose an address that shares another's number.
        let client = self.keys.hash_one((ingress, self.network(address)));
        if limits.per_minute.is_some() || limits.per_second.is_some() {
            let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.charge(limits, client, now).map_err(Exceeded::Rate)?;
        }
        limits
            .at_a_time
            .map(|most| self.open(client, most))
            .transpose()
    }

    /// The first address of the client's network.
    fn network(&self, address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let rest = u128::MAX.checked_shr(self.ipv6_prefix.into());
                Ipv6Addr::from_bits(address.to_bits() & !rest.unwrap_or_default()).into()
            }
            four => four,
        }
    }

    /// Charges all rates or, if one of them is exceeded, none.
    fn charge(&self, limits: &Limits, client: u64, now: u64) -> Result<(), Duration> {
        let mut clients = lock(&self.paid, client);
        let mut paid = clients.get(&client).copied().unwrap_or_default();
        let rates = [limits.per_minute, limits.per_second];
        for (paid, rate) in paid.iter_mut().zip(rates) {
            if let Some(rate) = rate {
                *paid = rate.charge(*paid, now).map_err(Duration::from_nanos)?;
            }
        }
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(&client) {
            make_room(&mut clients, now);
        }
        clients.insert(client, paid);
        Ok(())
    }

    fn open(self: &Arc<Self>, client: u64, most: NonZeroU32) -> Result<Slot, Exceeded> {
        let mut clients = lock(&self.open, client);
        let open = clients.entry(client).or_default();
        if *open >= most.get() {
            return Err(Exceeded::AtATime);
        }
        *open += 1;
        Ok(Slot {
            limiter: self.clone(),
            client,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut clients = lock(&self.limiter.open, self.client);
        match clients.get_mut(&self.client) {
            Some(open) if *open > 1 => *open -= 1,
            _ => drop(clients.remove(&self.client)),
        }
    }
}

fn lock<V>(
    shards: &[Mutex<HashMap<u64, V>>; SHARDS],
    client: u64,
) -> MutexGuard<'_, HashMap<u64, V>> {
    // The remainder is below the number of shards.
    let shard = (client % SHARDS as u64) as usize;
    // Every step leaves a table that is sound.
    shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets those who have recovered and, if that leaves more than three quarters, the quarter that is nearest to it.
fn make_room(clients: &mut HashMap<u64, Paid>, now: u64) {
    let until = |paid: &Paid| paid[0].max(paid[1]);
    clients.retain(|_, paid| until(paid) > now);
    if clients.len() > MAX_CLIENTS / 4 * 3 {
        let mut times: Vec<u64> = clients.values().map(until).collect();
        let (_, quarter, _) = times.select_nth_unstable(MAX_CLIENTS / 4);
        let quarter = *quarter;
        clients.retain(|_, paid| until(paid) > quarter);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use model::ObjectName;
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn count(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    fn per_second(n: u32, burst: u32) -> Limits {
        Limits {
            per_second: Some(Rate::new(count(n), Duration::from_secs(1), burst)),
            ..Limits::default()
        }
    }

    fn ingress(name: &str) -> IngressRef {
        IngressRef {
            name: ObjectName::new("ns", name),
            uid: name.into(),
        }
    }

    /// How many of `n` requests at `now` are served.
    fn served(limiter: &Limiter, limits: &Limits, n: usize, now: u64) -> usize {
        let served = |_: &usize| limiter.charge(limits, 1, now).is_ok();
        (0..n).filter(served).count()
    }

    #[test]
    fn a_burst_is_served_at_once_and_then_only_the_rate() {
        let (limiter, limits) = (Limiter::new(64), per_second(10, 50));
        assert_eq!(served(&limiter, &limits, 100, 0), 51);
        assert_eq!(served(&limiter, &limits, 100, SECOND / 10 - 1), 0);
        assert_eq!(served(&limiter, &limits, 100, SECOND / 10), 1);
        assert_eq!(served(&limiter, &limits, 100, SECOND), 9);
        assert_eq!(served(&limiter, &limits, 100, 100 * SECOND), 51);
    }

    #[test]
    fn who_is_refused_learns_when_to_try_again_and_pays_nothing() {
        let (limiter, mut limits) = (Limiter::new(64), per_second(1, 0));
        limits.per_minute = Some(Rate::new(count(2), Duration::from_secs(60), 0));
        assert_eq!(limiter.charge(&limits, 1, 0), Ok(()));
        // Both rates are exceeded; the minute's is the longer one.
        assert_eq!(
            limiter.charge(&limits, 1, SECOND / 2),
            Err(Duration::from_millis(29_500))
        );
        assert_eq!(limiter.charge(&limits, 1, 30 * SECOND), Ok(()));
        let limits = Limits {
            per_minute: None,
            ..limits
        };
        assert_eq!(
            limiter.charge(&limits, 1, 30 * SECOND),
            Err(Duration::from_secs(1))
        );
        assert_eq!(limiter.charge(&limits, 1, 31 * SECOND), Ok(()));
    }

    #[test]
    fn clients_and_ingresses_are_counted_apart_and_the_exempt_not_at_all() {
        let (limiter, mut limits) = (Limiter::new(64), per_second(1, 0));
        limits.exempt = ["10.0.0.0/8".parse().unwrap()].into_iter().collect();
        let enter = |name, address: &str| {
            limiter
                .enter(&limits, &ingress(name), address.parse().unwrap())
                .is_ok()
        };
        assert!(enter("a", "192.0.2.1"));
        assert!(!enter("a", "192.0.2.1"));
        assert!(!enter("a", "::ffff:192.0.2.1"));
        assert!(enter("a", "192.0.2.2"));
        assert!(enter("b", "192.0.2.1"));
        assert!(enter("a", "10.0.0.1") && enter("a", "10.0.0.1"));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        let limits = per_second(1, 0);
        let enter = |limiter: &Arc<Limiter>, address: &str| {
            limiter
                .enter(&limits, &ingress("a"), address.parse().unwrap())
                .is_ok()
        };
        let limiter = Limiter::new(64);
        assert!(enter(&limiter, "2001:db8:0:1::1"));
        assert!(!enter(&limiter, "2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert!(enter(&limiter, "2001:db8:0:2::1"));
        assert!(enter(&limiter, "192.0.2.1") && enter(&limiter, "192.0.2.2"));
        let limiter = Limiter::new(128);
        assert!(enter(&limiter, "2001:db8:0:1::1") && enter(&limiter, "2001:db8:0:1::2"));
        assert!(!enter(&limiter, "2001:db8:0:1::1"));
    }

    #[test]
    fn a_place_is_free_again_once_its_request_is_gone() {
        let limiter = Limiter::new(64);
        let limits = Limits {
            at_a_time: Some(count(2)),
            ..Limits::default()
        };
        let enter = || limiter.enter(&limits, &ingress("a"), [192, 0, 2, 1].into());
        let (one, two) = (enter().unwrap(), enter().unwrap());
        assert_eq!(enter().err(), Some(Exceeded::AtATime));
        drop(one);
        let three = enter().unwrap();
        assert!(enter().is_err());
        drop((two, three));
        assert!(
            limiter
                .open
                .iter()
                .all(|shard| shard.lock().unwrap().is_empty())
        );
    }

    #[test]
    fn the_table_stays_bounded_and_keeps_those_who_owe_most() {
        let (limiter, limits) = (Limiter::new(64), per_second(1, 10));
        let greedy = u64::MAX / SHARDS as u64 * SHARDS as u64;
        while limiter.charge(&limits, greedy, 0).is_ok() {}
        for client in 1..=4 * MAX_CLIENTS as u64 {
            limiter.charge(&limits, client * SHARDS as u64, 0).unwrap();
            assert!(limiter.paid[0].lock().unwrap().len() <= MAX_CLIENTS);
        }
        assert!(limiter.charge(&limits, greedy, 0).is_err());
    }

    /// nginx's leaky bucket, request by request (ngx_http_limit_req_module.c), with exact numbers.
    struct Leaky {
        excess: f64,
        last: Option<u64>,
    }

    impl Leaky {
        fn admits(&mut self, rate: f64, burst: f64, now: u64) -> bool {
            let Some(last) = self.last else {
                self.last = Some(now);
                return true;
            };
            let elapsed = (now - last) as f64 / SECOND as f64;
            let excess = (self.excess - rate * elapsed + 1.0).max(0.0);
            if excess > burst + 1e-6 {
                return false;
            }
            (self.excess, self.last) = (excess, Some(now));
            true
        }
    }

    proptest! {
        #[test]
        fn admits_what_nginx_admits(
            // Rates whose interval is a whole number, and pauses that are no multiple of it, to stay clear of ties.
            rate in proptest::sample::select(vec![1u32, 2, 4, 5, 8, 10, 20, 25, 50, 100]), burst in 0u32..20,
            pauses in proptest::collection::vec(0u64..40, 1..200),
        ) {
            let (limiter, limits) = (Limiter::new(64), per_second(rate, burst));
            let mut nginx = Leaky { excess: 0.0, last: None };
            let mut now = 0;
            for pause in pauses {
                now += pause * 7_000_003;
                let ours = limiter.charge(&limits, 1, now).is_ok();
                prop_assert_eq!(ours, nginx.admits(rate.into(), burst.into(), now), "at {}", now);
            }
        }
    }
}
