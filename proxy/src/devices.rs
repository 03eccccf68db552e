//! The node's uplinks and addresses, followed as they change.
//!
//! Every change that netlink reports, and a timer, leads to a fresh look at everything: a missed message costs latency,
//! never correctness. What the addresses mean is decided in [`crate::addresses`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::addresses::LocalAddress;

/// How long changes are gathered: an interface that comes up reports a dozen.
const SETTLE: Duration = Duration::from_millis(100);
/// How often everything is looked at, reported or not.
const RESYNC: Duration = Duration::from_secs(60);

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// The node's network as the proxy sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Devices {
    /// The devices towards the outside.
    pub uplinks: BTreeSet<Device>,
    /// All usable addresses of all devices, in the kernel's order.
    pub addresses: Vec<LocalAddress>,
}

/// Netlink could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// A request failed.
    #[error("cannot list {what} by netlink")]
    List {
        /// What was asked for.
        what: &'static str,
        /// Why it failed.
        source: rtnetlink::Error,
    },
}

/// Looks once. `names` are the uplinks by name; empty, they are the devices of the default routes.
pub async fn look(names: &[String]) -> Result<Devices, Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Open)?;
    let connection = tokio::spawn(connection);
    let devices = snapshot(&handle, names).await;
    connection.abort();
    devices
}

/// Publishes the devices to `sender` whenever they change, until `shutdown`.
pub async fn follow(
    names: Vec<String>,
    sender: watch::Sender<Devices>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, handle, mut messages) =
        rtnetlink::new_multicast_connection(&groups).map_err(Error::Open)?;
    let connection = tokio::spawn(connection);
    loop {
        match snapshot(&handle, &names).await {
            Ok(devices) => publish(&sender, devices),
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "the node's devices are unknown for now"
            ),
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(RESYNC) => {}
            Some(_) = messages.next() => settle(&mut messages).await,
        }
    }
    connection.abort();
    Ok(())
}

/// Waits until no message has come for a moment, though not forever: some hosts never fall silent.
async fn settle(messages: &mut (impl Stream + Unpin)) {
    let silence = async {
        while tokio::time::timeout(SETTLE, messages.next())
            .await
            .is_ok_and(|m| m.is_some())
        {}
    };
    if tokio::time::timeout(10 * SETTLE, silence).await.is_err() {
        tracing::debug!("devices change without pause");
    }
}

fn publish(sender: &watch::Sender<Devices>, devices: Devices) {
    sender.send_if_modified(|known| {
        let changed = *known != devices;
        if changed {
            let uplinks: Vec<&str> = devices.uplinks.iter().map(|device| &*device.name).collect();
            info!(
                ?uplinks,
                addresses = devices.addresses.len(),
                "the node's devices changed"
            );
            *known = devices;
        }
        changed
    });
}

async fn snapshot(handle: &Handle, names: &[String]) -> Result<Devices, Error> {
    let links = links(handle).await?;
    let uplinks = if names.is_empty() {
        default_route_devices(handle).await?
    } else {
        links
            .iter()
            .filter(|(_, name)| names.contains(name))
            .map(|(index, _)| *index)
            .collect()
    };
    let uplinks = uplinks.into_iter().filter_map(|index| {
        let name = links.get(&index)?.clone();
        Some(Device { index, name })
    });
    Ok(Devices {
        uplinks: uplinks.collect(),
        addresses: addresses(handle).await?,
    })
}

/// The names of all devices but loopback ones.
async fn links(handle: &Handle) -> Result<BTreeMap<u32, String>, Error> {
    let failed = |source| Error::List {
        what: "links",
        source,
    };
    let links: Vec<LinkMessage> = handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(failed)?;
    let named = links.into_iter().filter_map(|link| {
        let loopback = link.header.flags.contains(LinkFlags::Loopback);
        let name = link
            .attributes
            .into_iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
        (!loopback).then_some((link.header.index, name?))
    });
    Ok(named.collect())
}

async fn default_route_devices(handle: &Handle) -> Result<BTreeSet<u32>, Error> {
    let failed = |source| Error::List {
        what: "routes",
        source,
    };
    let mut devices = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessageBuilder::<IpAddr>::new().build();
        request.header.address_family = family;
        let routes: Vec<RouteMessage> = handle
            .route()
            .get(request)
            .execute()
            .try_collect()
            .await
            .map_err(failed)?;
        devices.extend(
            routes
                .iter()
                .filter(|route| is_default(route))
                .flat_map(outputs),
        );
    }
    Ok(devices)
}

fn is_default(route: &RouteMessage) -> bool {
    let header = &route.header;
    header.destination_prefix_length == 0
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
}

fn outputs(route: &RouteMessage) -> Vec<u32> {
    let outputs = route
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => vec![*index],
            RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
            _ => Vec::new(),
        });
    outputs.collect()
}

async fn addresses(handle: &Handle) -> Result<Vec<LocalAddress>, Error> {
    let failed = |source| Error::List {
        what: "addresses",
        source,
    };
    let all: Vec<AddressMessage> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(failed)?;
    Ok(all.iter().filter_map(local_address).collect())
}

/// An address on which the node can be reached; not one that is still being probed for duplicates.
fn local_address(message: &AddressMessage) -> Option<LocalAddress> {
    let header = &message.header;
    if header
        .flags
        .intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed)
    {
        return None;
    }
    // On a point-to-point link `Address` is the peer's; IPv6 then has no `Local`.
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        });
    Some(LocalAddress {
        ip: local.or(address)?,
        device: header.index,
        global: header.scope == AddressScope::Universe,
    })
}
