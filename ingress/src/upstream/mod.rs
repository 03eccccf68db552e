//! The endpoints of one Service port, and who among them is in use.
//!
//! Endpoints are kept apart from routes: when a pod comes or goes its [`Upstream`] gets a new list and nothing else
//! changes. An endpoint that is in both lists stays the same object, with all that is known of it.

pub mod balance;
mod budget;
pub mod endpoint;
pub mod external;
pub mod hash_key;
mod health;
mod latency;
pub mod registry;
mod ring;
pub mod session;
pub mod session_cookie;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use model::service::Kind;
use model::{Family, Service, ServicePort, ServicePortName, World, select};
use tokio::time::Instant;

use self::balance::{Choice, Endpoints};
use self::budget::Budget;
use self::endpoint::{Endpoint, InFlight};
use self::external::Names;
use self::session::Token;
use crate::message::answer::Reason;

/// The backends of one Service port.
#[derive(Debug)]
pub struct Upstream {
    name: ServicePortName,
    reach: Reach,
    endpoints: ArcSwap<Endpoints>,
    /// How many requests there have been: says whose turn it is.
    picks: AtomicUsize,
    /// The UID of the Service that the endpoints are of. Held while the list changes or an endpoint is ejected; picking
    /// needs neither.
    owner: Mutex<Box<str>>,
    budget: Budget,
}

/// How a Service is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// At its endpoints.
    #[default]
    Endpoints,
    /// At its cluster address, so that whoever serves that chooses the endpoint (`service-upstream`). One without is
    /// reached at its endpoints all the same.
    ClusterAddress,
    /// At this port of wherever the name leads that it stands for (type ExternalName).
    ExternalName(NonZeroU16),
}

/// Where the addresses of endpoints come from.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'s> {
    /// Services and their endpoints.
    pub world: &'s World,
    /// Names outside the cluster.
    pub names: &'s Names,
}

/// When an endpoint that fails is to be left alone.
#[derive(Debug, Clone, Copy)]
pub struct Ejection {
    /// After so many failures in a row; never if zero.
    pub after: u32,
    /// For so long at first.
    pub base: Duration,
}

impl Upstream {
    /// The Service port `name`, without endpoints yet.
    pub fn new(name: ServicePortName, reach: Reach) -> Self {
        Self {
            name,
            reach,
            endpoints: ArcSwap::default(),
            picks: AtomicUsize::new(0),
            owner: Mutex::default(),
            budget: Budget::new(Instant::now()),
        }
    }

    /// Which Service port this is.
    pub fn name(&self) -> &ServicePortName {
        &self.name
    }

    /// How it is reached.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// Whether it has no endpoint.
    pub fn is_empty(&self) -> bool {
        self.endpoints.load().list().is_empty()
    }

    /// The endpoints as they are now.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.endpoints.load().list().to_vec()
    }

    /// Whether `token` names one of its endpoints.
    pub fn has(&self, token: Token) -> bool {
        let endpoints = self.endpoints.load();
        endpoints
            .list()
            .iter()
            .any(|endpoint| endpoint.token() == token)
    }

    /// The endpoint to which `key` belongs, whatever state it is in.
    pub fn owner(&self, key: u64) -> Option<SocketAddr> {
        let endpoints = self.endpoints.load();
        endpoints.owners(key).next().map(|owner| owner.address())
    }

    /// Whether another request may be sent again. One that may be counts as if it is.
    pub fn grants_retry(&self, now: Instant) -> bool {
        self.budget
            .withdraw(self.picks.load(Ordering::Relaxed), now)
    }

    /// Takes over the endpoints that its Service has now.
    pub fn refresh(&self, from: Sources<'_>) {
        let service = from.world.service(&self.name.service);
        let uid = service.and_then(|service| service.uid.as_deref());
        self.set(
            &addresses(from, &self.name, self.reach),
            uid.unwrap_or_default(),
        );
    }

    /// Makes `addresses` its endpoints, those of a Service with this `uid`. What is known of those that stay is kept.
    pub fn set(&self, addresses: &[SocketAddr], uid: &str) {
        let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let old = self.endpoints.load();
        let is_same_owner = **owner == *uid;
        let old_addresses = old.list().iter().map(|endpoint| endpoint.address());
        if is_same_owner && old_addresses.eq(addresses.iter().copied()) {
            return;
        }
        *owner = uid.into();
        let known = old.list().iter().filter(|_| is_same_owner);
        let known: HashMap<_, _> = known.map(|known| (known.address(), known)).collect();
        let usual = usual_latency(old.list(), now);
        let newcomer = |address| {
            let token = Token::new(uid, &self.name.port, address);
            let endpoint = Endpoint::new(address, token, !known.is_empty(), now);
            if let Some(usual) = usual {
                endpoint.assume_latency(usual);
            }
            Arc::new(endpoint)
        };
        let endpoint = |address: &SocketAddr| match known.get(address) {
            Some(known) => Arc::clone(known),
            None => newcomer(*address),
        };
        let new: Vec<_> = addresses.iter().map(endpoint).collect();
        restore_surplus(&new);
        self.endpoints.store(Arc::new(Endpoints::new(new)));
    }

    /// A place at the endpoint that suits `choice` best, or why there is none.
    pub fn pick(&self, choice: &Choice<'_>) -> Result<InFlight, Reason> {
        let endpoints = self.endpoints.load();
        let turn = self.turn(choice);
        let best = choice.best(&endpoints, turn);
        let entered = best.and_then(|endpoint| endpoint.enter(choice.now));
        // Another request may just have become the probe of the best one.
        let mut others = choice.in_turn(endpoints.list(), turn);
        let entered = entered.or_else(|| others.find_map(|endpoint| endpoint.enter(choice.now)));
        let is_full = |endpoint: &Arc<Endpoint>| choice.is_full(endpoint);
        entered.ok_or_else(|| match endpoints.list().iter().any(is_full) {
            true => Reason::Overloaded,
            false => Reason::NoEndpoint,
        })
    }

    /// Whose turn it is. Another attempt of the same request does not use up a turn, or the endpoint after one that fails
    /// would always be passed over.
    fn turn(&self, choice: &Choice<'_>) -> usize {
        match choice.tried {
            [] => self.picks.fetch_add(1, Ordering::Relaxed),
            _ => self.picks.load(Ordering::Relaxed),
        }
    }

    /// The endpoint failed a request in a way that is its own fault. If that happens too often it is ejected, as long as
    /// at least half of all endpoints stay: when most of them fail, they are not what is wrong, and the rest could not
    /// take the load.
    pub fn failed(&self, place: &InFlight, ejection: &Ejection, now: Instant) {
        if ejection.after == 0 || place.failed() < ejection.after {
            return;
        }
        let _unchanged = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        let endpoints = self.endpoints.load();
        let endpoints = endpoints.list();
        let endpoint = place.endpoint();
        let is_out = |other: &&Arc<Endpoint>| other.is_in_doubt() && !Arc::ptr_eq(other, endpoint);
        let out = endpoints.iter().filter(is_out).count();
        let is_ours = || endpoints.iter().any(|ours| Arc::ptr_eq(ours, endpoint));
        if (out + 1) * 2 <= endpoints.len() && is_ours() && !endpoint.is_ejected(now) {
            tracing::info!(service = %self.name.service, address = %endpoint.address(), "endpoint ejected");
            endpoint.eject(ejection.base, now);
        }
    }
}

/// The mean latency of `endpoints`, which is what is expected of new ones.
fn usual_latency(endpoints: &[Arc<Endpoint>], now: Instant) -> Option<f32> {
    let latencies = || {
        endpoints
            .iter()
            .filter_map(|endpoint| endpoint.latency(now))
    };
    let count = latencies().count();
    (count > 0).then(|| latencies().sum::<f32>() / count as f32)
}

/// Takes endpoints back until no more than half of them are out, as a list may have shrunk.
fn restore_surplus(endpoints: &[Arc<Endpoint>]) {
    let out = endpoints.iter().filter(|endpoint| endpoint.is_in_doubt());
    for surplus in out.skip(endpoints.len() / 2) {
        surplus.restore();
    }
}

/// The addresses that requests for the Service port `name` may go to: those of a name outside the cluster if it stands for
/// one, its cluster address if it is to be reached there, else the ready endpoints, else those that are on their way out but
/// still serve. A dual-stack Service is reached by its first family as long as that has any.
fn addresses(from: Sources<'_>, name: &ServicePortName, reach: Reach) -> Vec<SocketAddr> {
    let world = from.world;
    let Some(service) = world.service(&name.service) else {
        return Vec::new();
    };
    match (&service.kind, reach) {
        (Kind::ExternalName(external), Reach::ExternalName(port)) => {
            let ips = from.names.addresses(world, external).into_iter();
            return ips.map(|ip| SocketAddr::new(ip, port.get())).collect();
        }
        // It has changed its type, and whoever leads here is about to notice.
        (Kind::ExternalName(_), _) | (_, Reach::ExternalName(_)) => return Vec::new(),
        _ => {}
    }
    let is_port = |port: &&ServicePort| port.name == name.port && port.protocol == name.protocol;
    let Some(port) = service.ports.iter().find(is_port) else {
        return Vec::new();
    };
    if let (Reach::ClusterAddress, Some(ip)) = (reach, service.cluster_ips.first()) {
        return vec![SocketAddr::new(*ip, port.port.get())];
    }
    let in_family = |family| {
        let backends = world.backends(&name.service, port, family);
        let selection = select(world.place(), backends);
        let addresses = selection.cluster.iter().map(|backend| backend.address);
        addresses.collect::<Vec<_>>()
    };
    let found = families(service).map(in_family);
    found
        .into_iter()
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

/// The families in the order that `service` prefers.
fn families(service: &Service) -> [Family; 2] {
    let mut families = Family::ALL;
    if service.cluster_ips.first().is_some_and(|ip| ip.is_ipv6()) {
        families.reverse();
    }
    families
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::num::NonZeroU32;

    use super::*;
    use crate::upstream::balance::Balance;
    use model::{ObjectName, Protocol};

    fn upstream(ports: &[u16]) -> Upstream {
        let name = ServicePortName {
            service: ObjectName::new("ns", "s"),
            port: "".into(),
            protocol: Protocol::Tcp,
        };
        let upstream = Upstream::new(name, Reach::default());
        upstream.set(&addresses(ports), "uid");
        upstream
    }

    fn addresses(ports: &[u16]) -> Vec<SocketAddr> {
        ports.iter().map(|port| address(*port)).collect()
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn ejection() -> Ejection {
        Ejection {
            after: 2,
            base: Duration::from_secs(10),
        }
    }

    fn picked(upstream: &Upstream, choice: &Choice<'_>) -> u16 {
        upstream
            .pick(choice)
            .map_or(0, |place| place.address().port())
    }

    #[test]
    fn endpoints_take_turns_and_those_tried_are_passed_over() {
        let upstream = upstream(&[1, 2, 3]);
        let mut choice = Choice::new(Instant::now());
        let turns = [(); 4].map(|()| picked(&upstream, &choice));
        assert_eq!(turns, [1, 2, 3, 1]);
        let (two, all) = (addresses(&[2]), addresses(&[1, 2, 3]));
        choice.tried = &two;
        assert_eq!(picked(&upstream, &choice), 3);
        choice.tried = &[];
        assert_eq!(picked(&upstream, &choice), 2);
        choice.tried = &all;
        assert_eq!(upstream.pick(&choice).unwrap_err(), Reason::NoEndpoint);
        upstream.set(&[], "uid");
        choice.tried = &[];
        assert_eq!(upstream.pick(&choice).unwrap_err(), Reason::NoEndpoint);
    }

    #[test]
    fn an_endpoint_stays_the_same_while_lists_around_it_change() {
        let upstream = upstream(&[1, 2]);
        let now = Instant::now();
        let kept = upstream.pick(&Choice::new(now)).unwrap();
        kept.succeeded(now, now + Duration::from_millis(8));
        upstream.set(&addresses(&[3, 1]), "uid");
        let endpoints = upstream.endpoints();
        assert!(Arc::ptr_eq(&endpoints[1], kept.endpoint()));
        assert_eq!(endpoints[1].in_flight(), 1);
        // A new one is expected to be like the others.
        assert!((endpoints[0].latency(now).unwrap() - 8_000.0).abs() < 100.0);
    }

    #[test]
    fn the_least_busy_and_the_faster_are_preferred() {
        let upstream = upstream(&[1, 2, 3]);
        let now = Instant::now();
        let mut choice = Choice::new(now);
        let busy = [(); 2].map(|()| upstream.pick(&choice).unwrap());
        choice.balance = Balance::LeastRequests;
        for _ in 0..4 {
            assert_eq!(picked(&upstream, &choice), 3);
        }
        for place in &busy {
            place.succeeded(now, now + Duration::from_millis(100));
        }
        drop(busy);
        choice.balance = Balance::Latency;
        let fast = upstream.endpoints()[2].enter(now).unwrap();
        fast.succeeded(now, now + Duration::from_millis(1));
        drop(fast);
        let count = (0..300).filter(|_| picked(&upstream, &choice) == 3).count();
        // It is in two of three pairs, and wins them.
        assert!((150..250).contains(&count), "{count}");
    }

    #[test]
    fn endpoints_have_no_more_requests_than_they_may() {
        let upstream = upstream(&[1, 2]);
        let choice = Choice {
            limit: NonZeroU32::new(1),
            ..Choice::new(Instant::now())
        };
        let places = [(); 2].map(|()| upstream.pick(&choice).unwrap());
        assert_eq!(upstream.pick(&choice).unwrap_err(), Reason::Overloaded);
        drop(places);
        assert!(upstream.pick(&choice).is_ok());
    }

    #[test]
    fn those_that_fail_are_left_alone_but_never_more_than_half() {
        let upstream = upstream(&[1, 2, 3, 4]);
        let now = Instant::now();
        let fail = |port: u16| {
            let endpoints = upstream.endpoints();
            let endpoint = &endpoints[usize::from(port) - 1];
            for _ in 0..2 {
                let place = endpoint.enter(now).unwrap();
                upstream.failed(&place, &ejection(), now);
            }
        };
        for port in [1, 2, 3] {
            fail(port);
        }
        let choice = Choice::new(now);
        let turns = [(); 8].map(|()| picked(&upstream, &choice));
        assert_eq!(
            turns.iter().filter(|port| [3, 4].contains(*port)).count(),
            8
        );
        // With half of the list gone, one of the two may come back.
        upstream.set(&addresses(&[1, 2]), "uid");
        let out = upstream
            .endpoints()
            .iter()
            .filter(|endpoint| endpoint.is_ejected(now))
            .count();
        assert_eq!(out, 1);
    }

    #[test]
    fn a_probe_that_succeeds_brings_an_endpoint_back() {
        let upstream = upstream(&[1, 2]);
        let now = Instant::now();
        let endpoint = upstream.endpoints()[0].clone();
        for _ in 0..2 {
            upstream.failed(&endpoint.enter(now).unwrap(), &ejection(), now);
        }
        assert_eq!(
            [(); 4].map(|()| picked(&upstream, &Choice::new(now))),
            [2; 4]
        );
        let later = now + Duration::from_secs(10);
        let choice = Choice::new(later);
        let places = [(); 4].map(|()| upstream.pick(&choice).unwrap());
        let probes = places.iter().filter(|place| place.address().port() == 1);
        assert_eq!(probes.clone().count(), 1);
        probes.for_each(|probe| probe.succeeded(later, later));
        let turns = [(); 4].map(|()| picked(&upstream, &choice));
        assert_eq!(turns.iter().filter(|port| **port == 1).count(), 2);
    }

    #[test]
    fn a_key_keeps_its_endpoint_and_moves_on_when_that_is_out() {
        let upstream = upstream(&[1, 2, 3, 4, 5]);
        let now = Instant::now();
        let hash = |key, subset| Choice {
            balance: Balance::Hash { key, subset },
            ..Choice::new(now)
        };
        let key = 1 << 40;
        let owner = picked(&upstream, &hash(key, 1));
        assert!((0..10).all(|_| picked(&upstream, &hash(key, 1)) == owner));
        assert_eq!(upstream.owner(key), Some(address(owner)));
        let tried = addresses(&[owner]);
        let elsewhere = Choice {
            tried: &tried,
            ..hash(key, 1)
        };
        let next = picked(&upstream, &elsewhere);
        assert!(next != owner && picked(&upstream, &elsewhere) == next);
        // Three endpoints for this key, the best two among them.
        let turns: Vec<_> = (0..30).map(|_| picked(&upstream, &hash(key, 3))).collect();
        let mut subset = turns.clone();
        subset.sort_unstable();
        subset.dedup();
        assert!(subset.len() == 3 && [owner, next].iter().all(|one| subset.contains(one)));
        assert!(
            subset
                .iter()
                .all(|one| turns.iter().filter(|turn| *turn == one).count() == 10)
        );
    }

    #[test]
    fn a_session_goes_where_it_was_as_long_as_that_is_there() {
        let upstream = upstream(&[1, 2, 3]);
        let held = upstream.endpoints()[1].token();
        let choice = Choice {
            held_at: Some(held),
            ..Choice::new(Instant::now())
        };
        assert!((0..6).all(|_| picked(&upstream, &choice) == 2));
        let tried = addresses(&[2]);
        let elsewhere = Choice {
            tried: &tried,
            ..choice
        };
        assert_ne!(picked(&upstream, &elsewhere), 2);
        // Another Service of the same name has other tokens.
        upstream.set(&addresses(&[1, 2, 3]), "another");
        assert!(!upstream.has(held));
    }

    #[test]
    fn newcomers_get_less_than_their_share_at_first() {
        let upstream = upstream(&[1]);
        upstream.set(&addresses(&[1, 2]), "uid");
        let now = Instant::now();
        let share = |age| {
            let choice = Choice {
                slow_start: Duration::from_secs(60),
                ..Choice::new(now + Duration::from_secs(age))
            };
            let picks = (0..1_000).map(|_| picked(&upstream, &choice));
            picks.filter(|port| *port == 2).count()
        };
        let (new, older, old) = (share(0), share(30), share(60));
        assert!((20..90).contains(&new), "{new}");
        assert!((200..300).contains(&older), "{older}");
        assert_eq!(old, 500);
    }

    #[test]
    fn an_upstream_counts_its_requests_for_the_budget() {
        let upstream = upstream(&[1]);
        let now = Instant::now();
        let granted =
            |upstream: &Upstream| (0..1_000).filter(|_| upstream.grants_retry(now)).count();
        let reserve = granted(&upstream);
        for _ in 0..1_000 {
            picked(&upstream, &Choice::new(now));
        }
        let share = granted(&upstream);
        // Some of it may have expired since the upstream was made.
        assert!(
            (99..=100).contains(&reserve) && (199..=202).contains(&share),
            "{reserve}, {share}"
        );
    }
}
