//! The backends that routes lead to, by name: all routes to a Service port share one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{ServiceName, ServicePortName};

use crate::upstream::{Reach, Sources, Upstream};

/// All backends that are in use. Requests never come here: a route carries its own.
#[derive(Debug, Default)]
pub struct Upstreams(Mutex<ByService>);

type ByService = BTreeMap<ServiceName, Vec<Arc<Upstream>>>;

impl Upstreams {
    /// The upstream called `name` that is reached like this: the one that is in use, else a new one with the endpoints that
    /// it has now.
    pub fn get(&self, from: Sources<'_>, name: ServicePortName, reach: Reach) -> Arc<Upstream> {
        let mut all = self.lock();
        let of_service = all.entry(name.service.clone()).or_default();
        let is_it = |known: &&Arc<Upstream>| *known.name() == name && known.reach() == reach;
        if let Some(known) = of_service.iter().find(is_it) {
            return known.clone();
        }
        let upstream = Arc::new(Upstream::new(name, reach));
        upstream.refresh(from);
        of_service.push(upstream.clone());
        upstream
    }

    /// Takes over the endpoints that `services` have now.
    pub fn refresh(&self, from: Sources<'_>, services: &BTreeSet<ServiceName>) {
        let all = self.lock();
        for upstream in services.iter().filter_map(|name| all.get(name)).flatten() {
            upstream.refresh(from);
        }
    }

    /// Takes over where the names lead now that Services stand for.
    pub fn refresh_external(&self, from: Sources<'_>) {
        for upstream in self.lock().values().flatten() {
            if matches!(upstream.reach(), Reach::ExternalName(_)) {
                upstream.refresh(from);
            }
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
    use crate::upstream::external::Names;
    use model::{ObjectName, Protocol, World};

    #[test]
    fn a_backend_is_shared_while_somebody_uses_it() {
        let (upstreams, world, names) = (Upstreams::default(), World::new(""), Names::default());
        let from = Sources {
            world: &world,
            names: &names,
        };
        let get = |service: &str, port: &str| {
            let name = ServicePortName {
                service: ObjectName::new("ns", service),
                port: port.into(),
                protocol: Protocol::Tcp,
            };
            upstreams.get(from, name, Reach::Endpoints)
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
