//! The wires of a local cluster: a bridge on the host, one link to each node, and the host's routes to pods and Services.

use std::net::IpAddr;

use anyhow::{Context, Result};
use futures::TryStreamExt as _;
use ipnetwork::IpNetwork;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use super::layout::{Layout, NodeLayout, UNDERLAY_PREFIXES};
use super::place;

/// The name of a node's own end of its link.
const UPLINK: &str = "eth0";

/// Makes the bridge and gives the host its addresses on it; what is there already is kept.
pub(crate) async fn create_bridge(layout: &Layout) -> Result<()> {
    let netlink = Netlink::open()?;
    let name = layout.bridge();
    if netlink.index(&name).await?.is_none() {
        let bridge = LinkBridge::new(&name).up().build();
        netlink
            .handle
            .link()
            .add(bridge)
            .execute()
            .await
            .with_context(|| format!("creating bridge {name}"))?;
    }
    let index = netlink.expect_index(&name).await?;
    netlink.add_addresses(index, layout.host_addresses()).await
}

/// Removes the bridge and with it the host's routes into the cluster.
pub(crate) async fn remove_bridge(layout: &Layout) -> Result<()> {
    let netlink = Netlink::open()?;
    let links = layout
        .node_layouts()
        .into_iter()
        .map(|node| node.host_link)
        .chain([layout.bridge()]);
    for name in links {
        if let Some(index) = netlink.index(&name).await? {
            netlink
                .handle
                .link()
                .del(index)
                .execute()
                .await
                .with_context(|| format!("removing link {name}"))?;
        }
    }
    Ok(())
}

/// Joins the node's namespace to the bridge and configures its end.
pub(crate) async fn connect_node(layout: &Layout, node: &NodeLayout) -> Result<()> {
    let netlink = Netlink::open()?;
    if netlink.index(&node.host_link).await?.is_none() {
        netlink
            .create_pair(layout, node)
            .await
            .with_context(|| format!("linking {} to the bridge", node.name))?;
    }
    let (node, gateways) = (node.clone(), layout.host_addresses());
    let name = node.netns.clone();
    tokio::task::spawn_blocking(move || {
        place::in_netns(&name, move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(configure_uplink(&node, gateways))
        })
    })
    .await?
}

/// Runs inside the node's namespace.
async fn configure_uplink(node: &NodeLayout, gateways: [IpAddr; 2]) -> Result<()> {
    let netlink = Netlink::open()?;
    for name in ["lo", UPLINK] {
        let index = netlink.expect_index(name).await?;
        netlink
            .set_up(index)
            .await
            .with_context(|| format!("bringing {name} up in {}", node.netns))?;
    }
    let uplink = netlink.expect_index(UPLINK).await?;
    netlink.add_addresses(uplink, node.addresses).await?;
    for gateway in gateways {
        let everywhere = if gateway.is_ipv4() {
            "0.0.0.0/0"
        } else {
            "::/0"
        };
        netlink.add_route(everywhere.parse()?, gateway).await?;
    }
    Ok(())
}

/// Lets the host reach `destination` through a node.
pub(crate) async fn add_host_route(destination: IpNetwork, via: &NodeLayout) -> Result<()> {
    let gateway = if destination.is_ipv4() {
        via.addresses[0]
    } else {
        via.addresses[1]
    };
    Netlink::open()?.add_route(destination, gateway).await
}

/// A netlink connection of the calling thread's namespace.
struct Netlink {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Netlink {
    fn open() -> Result<Netlink> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("opening a netlink socket")?;
        Ok(Netlink {
            handle,
            connection: tokio::spawn(connection),
        })
    }

    async fn index(&self, name: &str) -> Result<Option<u32>> {
        let mut links = self.handle.link().get().match_name(name).execute();
        match links.try_next().await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => {
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("looking for link {name}")),
        }
    }

    async fn expect_index(&self, name: &str) -> Result<u32> {
        self.index(name)
            .await?
            .with_context(|| format!("link {name} is missing"))
    }

    async fn create_pair(&self, layout: &Layout, node: &NodeLayout) -> Result<()> {
        let peer = format!("{}p", node.host_link);
        self.handle
            .link()
            .add(LinkVeth::new(&node.host_link, &peer).build())
            .execute()
            .await?;
        let bridge = self.expect_index(&layout.bridge()).await?;
        let host = self.expect_index(&node.host_link).await?;
        self.set(LinkUnspec::new_with_index(host).controller(bridge).up())
            .await?;
        let inside = self.expect_index(&peer).await?;
        let netns = std::fs::File::open(place::netns_path(&node.netns))?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&netns);
        self.set(
            LinkUnspec::new_with_index(inside)
                .name(UPLINK)
                .setns_by_fd(fd),
        )
        .await
    }

    async fn set(&self, link: LinkMessageBuilder<LinkUnspec>) -> Result<()> {
        Ok(self.handle.link().set(link.build()).execute().await?)
    }

    async fn set_up(&self, index: u32) -> Result<()> {
        self.set(LinkUnspec::new_with_index(index).up()).await
    }

    async fn add_addresses(&self, index: u32, [v4, v6]: [IpAddr; 2]) -> Result<()> {
        self.set_up(index).await?;
        for (address, prefix) in [(v4, UNDERLAY_PREFIXES.0), (v6, UNDERLAY_PREFIXES.1)] {
            let mut request = self.handle.address().add(index, address, prefix);
            without_duplicate_detection(request.message_mut());
            ignore_existing(request.execute().await)
                .with_context(|| format!("adding address {address}"))?;
        }
        Ok(())
    }

    async fn add_route(&self, destination: IpNetwork, gateway: IpAddr) -> Result<()> {
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.ip(), destination.prefix())?
            .gateway(gateway)?
            .build();
        let request = self.handle.route().add(route).replace();
        ignore_existing(request.execute().await)
            .with_context(|| format!("routing {destination} via {gateway}"))
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// An IPv6 address is unusable for a second or two while the kernel looks for duplicates; ours are ours alone.
fn without_duplicate_detection(message: &mut netlink_packet_route::address::AddressMessage) {
    use netlink_packet_route::address::{AddressAttribute, AddressFlags};
    message
        .attributes
        .push(AddressAttribute::Flags(AddressFlags::Nodad));
}

fn ignore_existing(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EEXIST => Ok(()),
        other => other,
    }
}
