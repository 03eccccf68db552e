//! The node's uplinks and addresses, followed as they change.
//!
//! Every change that netlink reports, and a timer, leads to a fresh look at everything: a missed message costs latency,
//! never correctness. What the addresses mean is decided in [`crate::addresses`].

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
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
    /// The names of those that should be uplinks but cannot, because the programs expect Ethernet frames.
    pub left_out: BTreeSet<String>,
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
    if let Ok(devices) = &devices {
        warn_of_left_out(devices);
    }
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
            if known.left_out != devices.left_out {
                warn_of_left_out(&devices);
            }
            *known = devices;
        }
        changed
    });
}

fn warn_of_left_out(devices: &Devices) {
    if !devices.left_out.is_empty() {
        warn!(
            devices = ?devices.left_out,
            "left out: not there, or no Ethernet devices; services are not answered on them"
        );
    }
}

async fn snapshot(handle: &Handle, names: &[String]) -> Result<Devices, Error> {
    let links = links(handle).await?;
    let (uplinks, left_out) = if names.is_empty() {
        by_index(&links, &default_route_devices(handle).await?)
    } else {
        by_name(&links, names)
    };
    Ok(Devices {
        uplinks,
        left_out,
        addresses: addresses(handle).await?,
    })
}

/// The devices with one of the `indices`, and the names of those among them that cannot be uplinks.
fn by_index(links: &[Link], indices: &BTreeSet<u32>) -> (BTreeSet<Device>, BTreeSet<String>) {
    let chosen = links
        .iter()
        .filter(|link| indices.contains(&link.device.index));
    let (fit, unfit): (Vec<&Link>, Vec<&Link>) = chosen.partition(|link| link.fit);
    let uplinks = fit.into_iter().map(|link| link.device.clone());
    let left_out = unfit.into_iter().map(|link| link.device.name.clone());
    (uplinks.collect(), left_out.collect())
}

/// The devices with one of the `names`, and those names that no device has which can be an uplink.
fn by_name(links: &[Link], names: &[String]) -> (BTreeSet<Device>, BTreeSet<String>) {
    let chosen = links
        .iter()
        .filter(|link| link.fit && names.contains(&link.device.name));
    let uplinks: BTreeSet<Device> = chosen.map(|link| link.device.clone()).collect();
    let left_out = names
        .iter()
        .filter(|name| uplinks.iter().all(|device| device.name != **name));
    let left_out = left_out.cloned().collect();
    (uplinks, left_out)
}

/// A device, and whether it can be an uplink.
#[derive(Debug, Clone)]
struct Link {
    device: Device,
    fit: bool,
}

async fn links(handle: &Handle) -> Result<Vec<Link>, Error> {
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
    Ok(links.into_iter().filter_map(link).collect())
}

/// The packets of tunnels such as WireGuard begin with the IP header, where the programs look for an Ethernet header.
fn link(message: LinkMessage) -> Option<Link> {
    let header = &message.header;
    let fit = header.link_layer_type == LinkLayerType::Ether
        && !header.flags.contains(LinkFlags::Loopback);
    let index = header.index;
    let name = message
        .attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })?;
    Some(Link {
        device: Device { index, name },
        fit,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Vec<Link> {
        let rows = [
            (1, "lo", LinkLayerType::Loopback, LinkFlags::Loopback),
            (2, "eth0", LinkLayerType::Ether, LinkFlags::Up),
            (3, "wg0", LinkLayerType::None, LinkFlags::Up),
            (4, "ppp0", LinkLayerType::Ppp, LinkFlags::Up),
        ];
        let links = rows.into_iter().map(|(index, name, kind, flags)| {
            let mut message = LinkMessage::default();
            message.header.index = index;
            message.header.link_layer_type = kind;
            message.header.flags = flags;
            message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
            link(message).expect("the link has a name")
        });
        links.collect()
    }

    fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        names.into_iter().map(str::to_owned).collect()
    }

    #[track_caller]
    fn check(
        (uplinks, left_out): (BTreeSet<Device>, BTreeSet<String>),
        expected: &[&str],
        expected_out: &[&str],
    ) {
        let uplinks: Vec<String> = uplinks.into_iter().map(|device| device.name).collect();
        assert_eq!(uplinks, expected);
        assert_eq!(Vec::from_iter(left_out), expected_out);
    }

    #[test]
    fn default_routes_make_uplinks_of_ethernet_devices_only() {
        check(
            by_index(&links(), &BTreeSet::from([2, 3, 4])),
            &["eth0"],
            &["ppp0", "wg0"],
        );
    }

    #[test]
    fn names_make_uplinks_of_ethernet_devices_only() {
        check(
            by_name(&links(), &names(["eth0", "wg0", "lo", "gone"])),
            &["eth0"],
            &["gone", "lo", "wg0"],
        );
    }
}
