//! Routes to the pods of other nodes, and the one that says that an address of this node's range is nobody's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType,
};

use super::pod::ensure_route;
use super::{NetError, Node, ROUTE_PROTOCOL, netlink};

/// The way to a range of pod addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeRoute {
    /// The range.
    pub(crate) range: IpNetwork,
    /// The node that has it; none for this node's own range, whose unused addresses are unreachable.
    pub(crate) via: Option<IpAddr>,
}

/// The routes this agent has made.
#[derive(Debug)]
pub(crate) struct Routes {
    node: Node,
    installed: BTreeSet<NodeRoute>,
}

impl Routes {
    /// Takes over the routes of an earlier agent.
    pub(crate) async fn adopt(node: &Node) -> Result<Self, NetError> {
        let mut installed = BTreeSet::new();
        for query in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            let mut routes = node.handle.route().get(query).execute();
            while let Some(route) = routes.try_next().await.map_err(netlink("listing routes"))? {
                installed.extend(ours(&route));
            }
        }
        Ok(Self {
            node: node.clone(),
            installed,
        })
    }

    /// Makes the routes exactly these. A route that cannot be made keeps no other from being made.
    pub(crate) async fn set(&mut self, wanted: BTreeSet<NodeRoute>) -> Result<(), NetError> {
        let mut outcome = Ok(());
        let stale: Vec<NodeRoute> = self.installed.difference(&wanted).copied().collect();
        for &route in wanted.difference(&self.installed.clone()) {
            match ensure_route(&self.node.handle, message(route)).await {
                Ok(()) => {
                    self.installed.insert(route);
                }
                Err(error) => outcome = Err(error),
            }
        }
        for route in stale {
            // A new way to the same range has replaced the old one already.
            if !self
                .installed
                .iter()
                .any(|other| other.range == route.range && *other != route)
            {
                let deleted = self.node.handle.route().del(message(route)).execute().await;
                if let Err(error) = deleted {
                    tracing::debug!(?route, %error, "a route was gone already");
                }
            }
            self.installed.remove(&route);
        }
        outcome
    }
}

fn message(route: NodeRoute) -> RouteMessage {
    let range = route.range;
    let builder =
        RouteMessageBuilder::<IpAddr>::new().protocol(RouteProtocol::from(ROUTE_PROTOCOL));
    let builder = builder
        .destination_prefix(range.network(), range.prefix())
        .expect("a network has a valid prefix");
    match route.via {
        Some(via) => match builder.clone().gateway(via) {
            Ok(builder) => builder.build(),
            Err(_) => builder.kind(RouteType::Unreachable).build(),
        },
        None => builder.kind(RouteType::Unreachable).build(),
    }
}

/// The route, if an agent made it.
fn ours(route: &RouteMessage) -> Option<NodeRoute> {
    if route.header.protocol != RouteProtocol::from(ROUTE_PROTOCOL) {
        return None;
    }
    let address = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => Some(IpAddr::from(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::from(*address)),
        _ => None,
    };
    let destination = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(destination) => address(destination),
            _ => None,
        })?;
    let via = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Gateway(gateway) => address(gateway),
            _ => None,
        });
    if via.is_none() && route.header.kind != RouteType::Unreachable {
        // The route to a pod, which goes with its link.
        return None;
    }
    Some(NodeRoute {
        range: IpNetwork::new(destination, route.header.destination_prefix_length).ok()?,
        via,
    })
}
