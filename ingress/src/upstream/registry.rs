//! The backends that routes lead to, by name: all routes to a Service port share one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{ServiceName, ServicePortName, World};

use crate::upstream::{Reach, Upstream};

/// All backends that are in use. Requests never come here: a route carries its own.
#[derive(Debug, Default)]
pub struct Upstreams(Mutex<ByService>);

type ByService = BTreeMap<ServiceName, Vec<Arc<Upstream>>>;

impl Upstreams {
    /// The upstream called `name` that is reached like this: the one that is in use, else a new one with the endpoints that
    /// `world` knows.
    pub fn get(&self, world: &World, name: ServicePortName, reach: Reach) -> Arc<Upstream> {
        let mut all = self.lock();
        let of_service = all.entry(name.service.clone()).or_default();
        let is_it = |known: &&Arc<Upstream>| *known.name() == name && known.reach() == reach;
        if let Some(known) = of_service.iter().find(is_it) {
            return known.clone();
        }
        let upstream = Arc::new(Upstream::new(name, reach));
        upstream.refresh(world);
        of_service.push(upstream.clone());
        upstream
    }

    /// Takes over the endpoints that `services` have in `world`.
    pub fn refresh(&self, world: &World, services: &BTreeSet<ServiceName>) {
        let all = self.lock();
        for upstream in services.iter().filter_map(|name| all.get(name)).flatten() {
            upstream.refresh(world);
        }
    }

    /// Drops those that no route leads to any more.
    pub fn drop_unused(&self) {
        self.lock().retain(|_, of_service| {
            of_service.retain(|upstream| Arc::strong_count(upstream) > 1);
            !of_service.is_empty()
        });
    }

    /// All of them, in order of Services.
    pub fn all(&self) -> Vec<Arc<Upstream>> {
        self.lock().values().flatten().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, ByService> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{ObjectName, Protocol};

    #[test]
    fn a_backend_is_shared_while_somebody_uses_it() {
        let (upstreams, world) = (Upstreams::default(), World::new(""));
        let get = |service: &str, port: &str| {
            let name = ServicePortName {
                service: ObjectName::new("ns", service),
                port: port.into(),
                protocol: Protocol::Tcp,
            };
            upstreams.get(&world, name, Reach::Endpoints)
        };
        let first = get("a", "http");
        assert!(Arc::ptr_eq(&first, &get("a", "http")));
        assert!(!Arc::ptr_eq(&first, &get("a", "https")));
        upstreams.drop_unused();
        assert_eq!(upstreams.all().len(), 1);
        assert!(Arc::ptr_eq(&first, &upstreams.all()[0]));
        drop(first);
        upstreams.drop_unused();
        assert!(upstreams.all().is_empty());
    }
}
