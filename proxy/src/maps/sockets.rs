//! The services that sockets addressed, as the programs remember them.

use std::net::SocketAddr;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use dataplane_ebpf::abi::{Peer, SocketKey, maps};
use dataplane_ebpf::addr::{Addr, Port};

use super::Error;
use super::kernel::{failed, hash};

/// The peers of UDP sockets.
#[derive(Debug)]
pub struct Sockets {
    peers: HashMap<MapData, SocketKey, Peer>,
}

impl Sockets {
    /// Takes the map out of what was loaded.
    pub fn take(programs: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            peers: hash(programs, maps::SOCKETS)?,
        })
    }

    /// By which service the socket with this `cookie` got the backend at `address`, if it did by any.
    pub(crate) fn backend(&self, cookie: u64, address: SocketAddr) -> Result<Option<Peer>, Error> {
        let (ip, port) = (Addr::from(address.ip()), Port::new(address.port()));
        let key = SocketKey::new(cookie, ip, port, SocketKey::BACKEND);
        match self.peers.get(&key, 0) {
            Ok(peer) => Ok(Some(peer)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed("read", maps::SOCKETS)(error)),
        }
    }
}
