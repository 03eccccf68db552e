//! The node's uplinks, the devices towards its pods, and its addresses, followed as they change.
//!
//! Pods come and go all the time, so a message about a device changes what is known about that one device. Routes and
//! addresses change rarely and their order counts, so a message about those leads to a fresh look at everything, and so
//! does a timer: a missed message costs latency, never correctness. What the addresses mean is decided in
//! [`crate::addresses`].

mod link;
mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{Stream, StreamExt};
use netlink_packet_route::RouteNetlinkMessage;
use nix::net::if_::{if_indextoname, if_nametoindex};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::addresses::LocalAddress;
use link::Links;

/// How long changes are gathered: a device that comes up reports a dozen. A pod waits no longer for its program.
const GATHER: Duration = Duration::from_millis(50);
/// How often everything is looked at, reported or not.
const RESYNC: Duration = Duration::from_secs(60);

/// The wait before netlink is asked again after it failed.
const RETRY: Duration = Duration::from_secs(1);

/// The index of the loopback device in every network namespace.
const LOOPBACK: u32 = 1;

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
}

impl Device {
    /// Whether it is still there under its name.
    pub fn exists(&self) -> bool {
        if_nametoindex(self.name.as_str()).is_ok_and(|index| index == self.index)
    }
}

/// The node's network as the proxy sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Devices {
    /// The devices towards the outside.
    pub uplinks: BTreeSet<Device>,
    /// Those of them that are hardware with a driver of its own.
    pub physical: BTreeSet<Device>,
    /// The Ethernet addresses of the uplinks, by index.
    pub macs: BTreeMap<u32, [u8; 6]>,
    /// The devices towards pods: this node's ends of their links, also where those are ports of a bridge.
    pub pods: BTreeSet<Device>,
    /// The names of those that should be uplinks but cannot, because the programs expect Ethernet frames.
    pub left_out: BTreeSet<String>,
    /// All usable addresses of all devices, in the kernel's order.
    pub addresses: Vec<LocalAddress>,
}

impl Devices {
    /// The devices that have one of the node's `internal` addresses and are no uplinks, with that address: what comes to it
    /// may arrive where no program looks at it. An address of the loopback device is one that uplinks bring.
    pub fn passed_by(&self, internal: &[IpAddr]) -> BTreeMap<u32, IpAddr> {
        let is_uplink = |index| self.uplinks.iter().any(|device| device.index == index);
        if self.uplinks.is_empty() {
            return BTreeMap::new();
        }
        let addresses = self.addresses.iter().filter(|address| {
            let device = address.device;
            internal.contains(&address.ip) && device != LOOPBACK && !is_uplink(device)
        });
        let passed_by = addresses.map(|address| (address.device, address.ip));
        passed_by.collect()
    }
}

/// Says of each device that is `passed_by` how it becomes an uplink.
pub fn warn_of_passed_by(passed_by: &BTreeMap<u32, IpAddr>) {
    for (index, address) in passed_by {
        let device = if_indextoname(*index);
        let device =
            device.map_or_else(|_| index.to_string(), |name| name.to_string_lossy().into());
        warn!(
            device,
            %address,
            "the node's address is on a device that is neither hardware nor has a default route; services are not answered \
             on it unless --devices names it, together with the others"
        );
    }
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

/// What is known, from which [`Devices`] follow.
#[derive(Debug)]
struct View {
    links: Links,
    /// The indices of the devices of the default routes.
    routes: BTreeSet<u32>,
    addresses: Vec<LocalAddress>,
}

/// Looks once. `names` are the uplinks by name; empty, they are the devices of the default routes, and those that lead to
/// other machines by wire and have an address of more than local meaning.
pub async fn look(names: &[String]) -> Result<Devices, Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Open)?;
    let connection = tokio::spawn(connection);
    let view = View::look(&handle).await;
    connection.abort();
    let devices = view?.devices(names);
    warn_of_left_out(&devices);
    Ok(devices)
}

/// Publishes the devices to `sender` whenever they change, until `shutdown`.
pub async fn follow(
    names: Vec<String>,
    sender: watch::Sender<Devices>,
    shutdown: CancellationToken,
) {
    let following = follow_sockets(Netlink::open, &names, &sender);
    shutdown.run_until_cancelled(following).await;
}

/// A message of the kernel's, and who sent it.
type Told = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

/// A netlink socket by which to ask, and by which the kernel tells of changes. Dropped, it is closed.
struct Netlink<S> {
    handle: Handle,
    messages: S,
    _connection: JoinSet<()>,
}

impl Netlink<UnboundedReceiver<Told>> {
    fn open() -> Result<Self, Error> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (task, handle, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(Error::Open)?;
        let mut connection = JoinSet::new();
        connection.spawn(task);
        Ok(Self {
            handle,
            messages,
            _connection: connection,
        })
    }
}

/// Follows by one socket after the other: one that is closed or does not answer is followed by another.
async fn follow_sockets<S: Stream<Item = Told> + Unpin>(
    mut open: impl FnMut() -> Result<Netlink<S>, Error>,
    names: &[String],
    sender: &watch::Sender<Devices>,
) {
    loop {
        let followed = async { follow_socket(open()?, names, sender).await };
        match followed.await {
            Ok(()) => warn!("the netlink socket is closed; it is opened again"),
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "the node's devices are unknown for now"
            ),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Follows until the socket is closed or does not answer.
async fn follow_socket<S: Stream<Item = Told> + Unpin>(
    mut netlink: Netlink<S>,
    names: &[String],
    sender: &watch::Sender<Devices>,
) -> Result<(), Error> {
    let mut view = None;
    loop {
        let mut known = match view.take() {
            Some(known) => known,
            None => View::look(&netlink.handle).await?,
        };
        publish(sender, known.devices(names));
        tokio::select! {
            () = tokio::time::sleep(RESYNC) => {}
            first = netlink.messages.next() => {
                let Some((first, _)) = first else {
                    return Ok(());
                };
                if gather(&mut known, first, &mut netlink.messages).await {
                    view = Some(known);
                }
            }
        }
    }
}

/// Takes in `first` and what comes soon after it. False if only a fresh look tells what changed.
async fn gather(
    view: &mut View,
    first: NetlinkMessage<RouteNetlinkMessage>,
    messages: &mut (impl Stream<Item = Told> + Unpin),
) -> bool {
    let end = Instant::now() + GATHER;
    let mut is_enough = view.see(first);
    while let Ok(Some((message, _))) = tokio::time::timeout_at(end, messages.next()).await {
        is_enough &= view.see(message);
    }
    is_enough
}

fn publish(sender: &watch::Sender<Devices>, devices: Devices) {
    sender.send_if_modified(|known| {
        let changed = *known != devices;
        if changed {
            if known.uplinks != devices.uplinks || known.addresses != devices.addresses {
                let uplinks: Vec<&str> =
                    devices.uplinks.iter().map(|device| &*device.name).collect();
                info!(
                    ?uplinks,
                    addresses = devices.addresses.len(),
                    "the node's devices changed"
                );
            }
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

impl View {
    async fn look(handle: &Handle) -> Result<Self, Error> {
        Ok(Self {
            links: look::links(handle).await?,
            routes: look::default_route_devices(handle).await?,
            addresses: look::addresses(handle).await?,
        })
    }

    /// Takes in a message of the kernel's. False if only a fresh look tells what changed.
    fn see(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) -> bool {
        let message = match message.payload {
            NetlinkPayload::InnerMessage(message) => message,
            // Messages were lost.
            NetlinkPayload::Overrun(_) => return false,
            _ => return true,
        };
        match message {
            RouteNetlinkMessage::NewLink(link) => self.links.insert(link),
            RouteNetlinkMessage::DelLink(link) => self.links.remove(&link),
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
                return look::is_link_local(&address);
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                return !look::is_default(&route);
            }
            _ => {}
        }
        true
    }

    /// The devices that lead to other machines by wire, as far as those can know them by an address.
    fn wired(&self) -> BTreeSet<u32> {
        let global = self.addresses.iter().filter(|address| address.global);
        self.links
            .wired(&global.map(|address| address.device).collect())
    }

    fn devices(&self, names: &[String]) -> Devices {
        let (uplinks, left_out) = if names.is_empty() {
            self.links.by_index(&(&self.routes | &self.wired()))
        } else {
            self.links.by_name(names)
        };
        Devices {
            physical: self.links.physical(&uplinks),
            macs: self.links.macs(&uplinks),
            pods: self.links.pods(&uplinks),
            uplinks,
            left_out,
            addresses: self.addresses.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures::stream::poll_fn;

    use super::*;

    /// The first socket cannot be opened, the next does not answer, the third is closed, and the last is listened to.
    #[tokio::test]
    async fn a_netlink_socket_that_dies_is_followed_by_another() {
        let mut opened = 0;
        let (listening, mut listened) = tokio::sync::mpsc::unbounded_channel();
        let open = || {
            opened += 1;
            let number = opened;
            if number == 1 {
                return Err(Error::Open(io::ErrorKind::OutOfMemory.into()));
            }
            let mut netlink = Netlink::open()?;
            if number == 2 {
                netlink._connection.abort_all();
            }
            let listening = listening.clone();
            let messages = poll_fn(move |_| {
                listening.send(number).expect("the test goes on");
                match number {
                    3 => Poll::Ready(None),
                    _ => Poll::Pending,
                }
            });
            Ok(Netlink {
                handle: netlink.handle,
                messages,
                _connection: netlink._connection,
            })
        };
        let (sender, _seen) = watch::channel(Devices::default());
        let last = async { while listened.recv().await != Some(4) {} };
        let following = follow_sockets(open, &[], &sender);
        let end = tokio::time::sleep(Duration::from_secs(60));
        tokio::select! {
            () = last => {}
            () = following => unreachable!("it goes on for ever"),
            () = end => panic!("not followed"),
        }
    }

    #[track_caller]
    fn check(uplinks: &[u32], internal: [u8; 4], expected: Option<u32>) {
        let local = |ip: [u8; 4], device| LocalAddress {
            ip: ip.into(),
            device,
            global: true,
        };
        let uplink = |index: &u32| Device {
            index: *index,
            name: format!("eth{index}"),
        };
        let devices = Devices {
            uplinks: uplinks.iter().map(uplink).collect(),
            addresses: vec![
                local([192, 0, 2, 1], LOOPBACK),
                local([192, 0, 2, 2], 2),
                local([192, 0, 2, 3], 3),
            ],
            ..Devices::default()
        };
        let found = devices.passed_by(&[internal.into()]);
        assert_eq!(found.into_keys().next(), expected);
    }

    #[test]
    fn a_device_with_an_address_of_the_node_is_missed_when_it_is_no_uplink() {
        check(&[2], [192, 0, 2, 3], Some(3));
        check(&[2, 3], [192, 0, 2, 3], None);
        check(&[2], [192, 0, 2, 2], None);
        check(&[2], [192, 0, 2, 1], None);
        check(&[2], [192, 0, 2, 4], None);
        // Which is another complaint.
        check(&[], [192, 0, 2, 3], None);
    }

    /// Of hardware and what is made of it, and of all that has a default route.
    #[test]
    fn uplinks_have_a_default_route_or_a_wire_and_an_address() {
        let local = |device, global| LocalAddress {
            ip: [192, 0, 2, 1].into(),
            device,
            global,
        };
        let (eth0, veth5, bridge, bond0, vlan) = (2, 5, 7, 11, 12);
        let view = View {
            links: link::tests::links(),
            routes: BTreeSet::from([veth5]),
            addresses: vec![local(eth0, false), local(bridge, true), local(vlan, true)],
        };
        let uplinks = |names: &[String]| {
            let uplinks = view.devices(names).uplinks.into_iter();
            uplinks.map(|device| device.index).collect::<Vec<_>>()
        };
        assert_eq!(uplinks(&[]), [veth5, vlan]);
        assert_eq!(uplinks(&["bond0".to_owned()]), [bond0]);
    }
}
