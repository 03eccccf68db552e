//! Giving the node the addresses that DNS is served on. This is the only thing done to the network namespace.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use rtnetlink::packet_route::address::AddressHeaderFlags;

use crate::Error;

/// The loopback device has this index in every network namespace (the kernel's `LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// Puts those of `addresses` that are not the node's on the loopback device, as addresses of a single host.
pub(crate) async fn ensure(addresses: &[SocketAddr]) -> Result<(), Error> {
    let missing: Vec<IpAddr> = addresses
        .iter()
        .map(SocketAddr::ip)
        .filter(|ip| !is_local(*ip))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Netlink)?;
    let connection = tokio::spawn(connection);
    let mut added = Ok(());
    for address in missing {
        added = added.and(add(&handle, address).await);
    }
    connection.abort();
    added
}

/// True if a socket may have this address: asking the kernel for one is shorter than reading its tables, and is just what
/// the server will do.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

async fn add(handle: &rtnetlink::Handle, address: IpAddr) -> Result<(), Error> {
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    let mut request = handle.address().add(LOOPBACK, address, prefix).replace();
    if address.is_ipv6() {
        // Otherwise the kernel lets nobody bind it before it has looked for duplicates.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    request
        .execute()
        .await
        .map_err(|source| Error::Address { address, source })?;
    tracing::info!(%address, "put on the loopback device");
    Ok(())
}
