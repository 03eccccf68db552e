//! The endpoints of one Service port, and who among them is in use.
//!
//! Endpoints are kept apart from routes: when a pod comes or goes its [`Upstream`] gets a new list and nothing else
//! changes. An endpoint that is in both lists stays the same object, with all that is known of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use model::{Family, Service, ServicePort, ServicePortName, World, select};
use tokio::time::Instant;

use crate::answer::Reason;
use crate::balance::Choice;
use crate::endpoint::{Endpoint, InFlight};

/// The backends of one Service port.
#[derive(Debug)]
pub struct Upstream {
    name: ServicePortName,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    /// How often one was picked: says whose turn it is.
    picks: AtomicUsize,
    /// Held while the list changes or an endpoint is ejected. Picking needs neither.
    change: Mutex<()>,
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
    pub fn new(name: ServicePortName) -> Self {
        Self {
            name,
            endpoints: ArcSwap::default(),
            picks: AtomicUsize::new(0),
            change: Mutex::default(),
        }
    }

    /// Which Service port this is.
    pub fn name(&self) -> &ServicePortName {
        &self.name
    }

    /// The endpoints as they are now.
    pub fn endpoints(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.endpoints.load_full()
    }

    /// Takes over the endpoints that its Service has in `world`.
    pub fn refresh(&self, world: &World) {
        self.set(&endpoints(world, &self.name));
    }

    /// Makes `addresses` its endpoints. What is known of those that stay is kept.
    pub fn set(&self, addresses: &[SocketAddr]) {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let old = self.endpoints.load();
        if old
            .iter()
            .map(|endpoint| endpoint.address())
            .eq(addresses.iter().copied())
        {
            return;
        }
        let known: HashMap<_, _> = old.iter().map(|known| (known.address(), known)).collect();
        let usual = usual_latency(&old, now);
        let endpoint = |address: &SocketAddr| match known.get(address) {
            Some(known) => Arc::clone(known),
            None => newcomer(*address, usual, now),
        };
        let new: Vec<_> = addresses.iter().map(endpoint).collect();
        restore_surplus(&new);
        self.endpoints.store(Arc::new(new));
    }

    /// A place at the endpoint that suits `choice` best, or why there is none.
    pub fn pick(&self, choice: &Choice<'_>) -> Result<InFlight, Reason> {
        let endpoints = self.endpoints.load();
        let turn = self.picks.fetch_add(1, Ordering::Relaxed);
        let best = choice.best(&endpoints, turn);
        let entered = best.and_then(|endpoint| endpoint.enter(choice.now));
        // Another request may just have become the probe of the best one.
        let mut others = choice.in_turn(&endpoints, turn);
        entered
            .or_else(|| others.find_map(|endpoint| endpoint.enter(choice.now)))
            .ok_or_else(
                || match endpoints.iter().any(|endpoint| choice.is_full(endpoint)) {
                    true => Reason::Overloaded,
                    false => Reason::NoEndpoint,
                },
            )
    }

    /// The endpoint failed a request in a way that is its own fault. If that happens too often it is ejected, as long as
    /// at least half of all endpoints stay: when most of them fail, they are not what is wrong, and the rest could not
    /// take the load.
    pub fn failed(&self, place: &InFlight, ejection: &Ejection, now: Instant) {
        if ejection.after == 0 || place.failed() < ejection.after {
            return;
        }
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let endpoints = self.endpoints.load();
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

fn newcomer(address: SocketAddr, usual: Option<f32>, now: Instant) -> Arc<Endpoint> {
    let endpoint = Endpoint::new(address, now);
    if let Some(usual) = usual {
        endpoint.assume_latency(usual);
    }
    Arc::new(endpoint)
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

/// The addresses that requests for the Service port `name` may go to: the ready endpoints, else those that are on their
/// way out but still serve. Pods of a dual-stack Service are reached by its first family as long as that has any.
fn endpoints(world: &World, name: &ServicePortName) -> Vec<SocketAddr> {
    let Some(service) = world.service(&name.service) else {
        return Vec::new();
    };
    let is_port = |port: &&ServicePort| port.name == name.port && port.protocol == name.protocol;
    let Some(port) = service.ports.iter().find(is_port) else {
        return Vec::new();
    };
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
    use crate::balance::Balance;
    use model::{ObjectName, Protocol};

    fn upstream(ports: &[u16]) -> Upstream {
        let name = ServicePortName {
            service: ObjectName::new("ns", "s"),
            port: "".into(),
            protocol: Protocol::Tcp,
        };
        let upstream = Upstream::new(name);
        upstream.set(&addresses(ports));
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
        choice.tried = &all;
        assert_eq!(upstream.pick(&choice).unwrap_err(), Reason::NoEndpoint);
        upstream.set(&[]);
        choice.tried = &[];
        assert_eq!(upstream.pick(&choice).unwrap_err(), Reason::NoEndpoint);
    }

    #[test]
    fn an_endpoint_stays_the_same_while_lists_around_it_change() {
        let upstream = upstream(&[1, 2]);
        let now = Instant::now();
        let kept = upstream.pick(&Choice::new(now)).unwrap();
        kept.succeeded(now, now + Duration::from_millis(8));
        upstream.set(&addresses(&[3, 1]));
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
        upstream.set(&addresses(&[1, 2]));
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
}
