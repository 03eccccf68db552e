//! A pod's link: a veth pair with addresses, neighbours and routes on both ends.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use futures::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use sha2::{Digest, Sha256};

use super::{NetError, Node, ROUTE_PROTOCOL, exists, namespace, netlink};

/// The pod's next hop: an address that exists on no link, whose hardware address the pod is told.
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Hardware address of the node's end of every pair, locally administered. Pairs do not see each other.
const NODE_MAC: [u8; 6] = [0x02, 0x70, 0x6f, 0x72, 0x74, 0x00];
/// Hardware address of the pod's end of every pair.
const POD_MAC: [u8; 6] = [0x02, 0x70, 0x6f, 0x72, 0x74, 0x01];
const POD_DEVICE: &str = "eth0";
const DEFAULT_MTU: u32 = 1500;

/// A pod's end of the network.
#[derive(Debug)]
pub(crate) struct PodLink {
    /// Name of the node's end.
    device: String,
    addresses: Vec<IpAddr>,
}

impl PodLink {
    /// The link of the pod with this uid.
    pub(crate) fn new(uid: &str, addresses: &[IpAddr]) -> Self {
        let hash = Sha256::digest(uid);
        let hex: String = hash
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self {
            device: format!("pt{hex}"),
            addresses: addresses.to_vec(),
        }
    }

    /// Makes the pair. `pod` speaks netlink in the pod's namespace.
    pub(crate) async fn create(&self, node: &Node, pod: &Handle) -> Result<(), NetError> {
        // Made in the pod, where the name eth0 is free, and the other end moved out.
        let pair = LinkVeth::new(POD_DEVICE, &self.device)
            .mtu(node.mtu)
            .address(POD_MAC.to_vec())
            .build();
        pod.link()
            .add(pair)
            .execute()
            .await
            .map_err(netlink("making a veth pair"))?;
        let outside = File::open("/proc/thread-self/ns/net")?;
        let moved = LinkUnspec::new_with_name(&self.device)
            .setns_by_fd(outside.as_raw_fd())
            .build();
        pod.link()
            .set(moved)
            .execute()
            .await
            .map_err(netlink("moving a veth end to the node"))?;
        self.set_up_node_end(node).await?;
        self.set_up_pod_end(pod).await
    }

    async fn set_up_pod_end(&self, pod: &Handle) -> Result<(), NetError> {
        let index = index_of(pod, POD_DEVICE).await?;
        up(pod, index_of(pod, "lo").await?).await?;
        for &address in &self.addresses {
            let mut request = pod.address().add(index, address, host_prefix(address));
            // Nobody else can have it, and a tentative address could not be used for a second.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            request
                .execute()
                .await
                .map_err(netlink("adding the pod's address"))?;
        }
        up(pod, index).await?;
        for &address in &self.addresses {
            let gateway = match address {
                IpAddr::V4(_) => GATEWAY_V4.into(),
                IpAddr::V6(_) => GATEWAY_V6.into(),
            };
            neighbour(pod, index, gateway, NODE_MAC).await?;
            for route in default_routes(index, address) {
                pod.route()
                    .add(route)
                    .execute()
                    .await
                    .map_err(netlink("adding the pod's default route"))?;
            }
        }
        Ok(())
    }

    async fn set_up_node_end(&self, node: &Node) -> Result<(), NetError> {
        let handle = &node.handle;
        let index = index_of(handle, &self.device).await?;
        // A pod may answer from an address that the node would reach by another way.
        namespace::set_sysctl(&format!("ipv4/conf/{}/rp_filter", self.device), "0")?;
        if self.addresses.iter().any(IpAddr::is_ipv6) {
            namespace::set_sysctl(&format!("ipv6/conf/{}/accept_dad", self.device), "0")?;
        }
        let set = LinkUnspec::new_with_index(index)
            .address(NODE_MAC.to_vec())
            .mtu(node.mtu)
            .up()
            .build();
        handle
            .link()
            .set(set)
            .execute()
            .await
            .map_err(netlink("bringing up the node's veth end"))?;
        for &address in &self.addresses {
            neighbour(handle, index, address, POD_MAC).await?;
            let route = host_route(index, address)
                .protocol(RouteProtocol::from(ROUTE_PROTOCOL))
                .build();
            handle
                .route()
                .add(route)
                .replace()
                .execute()
                .await
                .map_err(netlink("adding the route to the pod"))?;
        }
        Ok(())
    }
}

/// The prefix length that means one address.
fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// A builder of routes of the address' family that leave by link `index` to that one address.
fn host_route(index: u32, address: IpAddr) -> RouteMessageBuilder<IpAddr> {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .output_interface(index)
        .scope(RouteScope::Link);
    builder
        .destination_prefix(address, host_prefix(address))
        .expect("a host prefix fits its address")
}

/// The pod's routes of one family: to the gateway, and through it to everything.
fn default_routes(index: u32, address: IpAddr) -> Vec<RouteMessage> {
    match address {
        IpAddr::V4(_) => vec![
            host_route(index, GATEWAY_V4.into()).build(),
            RouteMessageBuilder::<Ipv4Addr>::new()
                .gateway(GATEWAY_V4)
                .output_interface(index)
                .build(),
        ],
        // A link-local gateway needs no route.
        IpAddr::V6(_) => {
            vec![
                RouteMessageBuilder::<Ipv6Addr>::new()
                    .gateway(GATEWAY_V6)
                    .output_interface(index)
                    .build(),
            ]
        }
    }
}

async fn neighbour(
    handle: &Handle,
    index: u32,
    address: IpAddr,
    mac: [u8; 6],
) -> Result<(), NetError> {
    let request = handle
        .neighbours()
        .add(index, address)
        .link_layer_address(&mac)
        .state(NeighbourState::Permanent);
    request
        .replace()
        .execute()
        .await
        .map_err(netlink("adding a neighbour"))
}

async fn up(handle: &Handle, index: u32) -> Result<(), NetError> {
    let request = handle
        .link()
        .set(LinkUnspec::new_with_index(index).up().build());
    request
        .execute()
        .await
        .map_err(netlink("bringing a link up"))
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32, NetError> {
    let mut links = handle.link().get().match_name(name).execute();
    let link = links
        .try_next()
        .await
        .map_err(netlink("looking for a link"))?;
    link.map(|link| link.header.index)
        .ok_or_else(|| NetError::NoLink(name.to_owned()))
}

/// The MTU of the link that has one of the addresses.
pub(super) async fn mtu_of(handle: &Handle, addresses: &[IpAddr]) -> Result<u32, NetError> {
    let mut found = handle.address().get().execute();
    while let Some(message) = found
        .try_next()
        .await
        .map_err(netlink("listing addresses"))?
    {
        let is_ours = message.attributes.iter().any(|attribute| {
            matches!(attribute, AddressAttribute::Address(address) | AddressAttribute::Local(address) if addresses.contains(address))
        });
        if is_ours {
            let mut links = handle
                .link()
                .get()
                .match_index(message.header.index)
                .execute();
            let link = links
                .try_next()
                .await
                .map_err(netlink("looking for a link"))?;
            let mtu = link.and_then(|link| {
                link.attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        LinkAttribute::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    })
            });
            // Loopback's 64 KiB would be of no use on a pod's link.
            return Ok(mtu.unwrap_or(DEFAULT_MTU).min(9000));
        }
    }
    Ok(DEFAULT_MTU)
}

/// Adds a route that may be there already.
pub(super) async fn ensure_route(handle: &Handle, route: RouteMessage) -> Result<(), NetError> {
    match handle.route().add(route).replace().execute().await {
        Err(error) if !exists(&error) => Err(netlink("adding a route")(error)),
        _ => Ok(()),
    }
}
