//! EndpointSlices as the rules see them: endpoints, their conditions and hints, and the ports they serve.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::SystemTime;

use crate::node::Place;
use crate::service::{Family, Protocol, ServiceName, ServicePort, SliceName};

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Its name.
    pub name: SliceName,
    /// The Service it belongs to.
    pub service: ServiceName,
    /// The family of all its addresses.
    pub family: Family,
    /// The ports that each endpoint serves.
    pub ports: Vec<SlicePort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// When that happened for which it was last changed, if the API says so.
    pub triggered: Option<SystemTime>,
}

/// A port of an EndpointSlice. It serves the Service port of the same name and protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// Its name; empty when it has none.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the endpoint's address.
    pub port: NonZeroU16,
}

/// An endpoint, with its conditions resolved: what the API leaves out has its default here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its first address, the only one that counts.
    pub ip: IpAddr,
    /// Whether it takes new connections. True for a terminating endpoint too, if its Service publishes unready ones.
    pub ready: bool,
    /// Whether it answers, terminating or not.
    pub serving: bool,
    /// Whether it is on its way out.
    pub terminating: bool,
    /// The node it runs on, if the API says so.
    pub node: Option<Arc<str>>,
    /// For whom it is meant, when the cluster keeps traffic close. Few have any.
    pub hints: Option<Box<Hints>>,
}

/// The nodes and zones that an endpoint is meant for. Empty lists are no hints.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hints {
    /// Names of nodes.
    pub nodes: Vec<Box<str>>,
    /// Names of zones.
    pub zones: Vec<Box<str>>,
}

/// An endpoint together with the port at which it serves one Service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend<'a> {
    /// Where it listens.
    pub address: SocketAddr,
    /// The endpoint.
    pub endpoint: &'a Endpoint,
}

// Slices.

impl Slice {
    /// The backends that this slice has for `port` of its Service.
    pub fn backends(&self, port: &ServicePort) -> impl Iterator<Item = Backend<'_>> {
        let served = self.ports.iter().filter(|served| served.serves(port));
        served.flat_map(|served| {
            self.endpoints
                .iter()
                .map(|endpoint| endpoint.at(served.port))
        })
    }
}

impl SlicePort {
    /// Whether this port is the one behind `port` of the Service.
    fn serves(&self, port: &ServicePort) -> bool {
        self.name == port.name && self.protocol == port.protocol
    }
}

// Endpoints.

impl Endpoint {
    /// This endpoint at `port`.
    pub fn at(&self, port: NonZeroU16) -> Backend<'_> {
        Backend {
            address: SocketAddr::new(self.ip, port.get()),
            endpoint: self,
        }
    }

    /// Whether it runs on the node of `place`. An endpoint without a node name runs nowhere we know of.
    pub fn is_local(&self, place: Place<'_>) -> bool {
        self.node.as_deref() == Some(place.node)
    }

    /// For whom it is meant; by default for nobody in particular.
    pub fn hints(&self) -> &Hints {
        static NONE: Hints = Hints {
            nodes: Vec::new(),
            zones: Vec::new(),
        };
        self.hints.as_deref().unwrap_or(&NONE)
    }

    /// Whether it is on its way out, yet still answers.
    pub fn is_last_resort(&self) -> bool {
        self.serving && self.terminating
    }
}

impl Hints {
    /// Whether a hint names the node of `place`.
    pub fn name_node_of(&self, place: Place<'_>) -> bool {
        self.nodes.iter().any(|node| **node == *place.node)
    }

    /// Whether a hint names the zone of `place`.
    pub fn name_zone_of(&self, place: Place<'_>) -> bool {
        self.zones.iter().any(|zone| Some(&**zone) == place.zone)
    }
}
