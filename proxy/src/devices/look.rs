//! Questions to the kernel about devices, routes and addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::Error;
use super::link::Links;
use crate::addresses::LocalAddress;

pub(super) async fn links(handle: &Handle) -> Result<Links, Error> {
    let failed = |source| Error::List {
        what: "links",
        source,
    };
    let mut links = Links::default();
    let mut messages = handle.link().get().execute();
    while let Some(message) = messages.try_next().await.map_err(failed)? {
        links.insert(message);
    }
    Ok(links)
}

pub(super) async fn default_route_devices(handle: &Handle) -> Result<BTreeSet<u32>, Error> {
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

pub(super) fn is_default(route: &RouteMessage) -> bool {
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

pub(super) async fn addresses(handle: &Handle) -> Result<Vec<LocalAddress>, Error> {
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
    if is_link_local(message) {
        return None;
    }
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

/// Whether it is about an IPv6 address of the link alone: no Service or backend can have one, and every device has.
pub(super) fn is_link_local(message: &AddressMessage) -> bool {
    message.header.family == AddressFamily::Inet6 && message.header.scope == AddressScope::Link
}
