//! The connections that the programs track, and removing those that are over.

use std::os::fd::{AsFd, OwnedFd};

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError};
use dataplane_ebpf::abi::{Connection, maps};
use dataplane_ebpf::flow::Flow;

use super::Error;
use super::kernel::{absent_is_fine, failed, io_failed, take, unexpected};
use crate::sys::BatchReader;

/// The connections that the programs track.
#[derive(Debug)]
pub struct Conntrack {
    connections: HashMap<MapData, Flow, Connection>,
    /// The same, to read many at once.
    map: OwnedFd,
}

/// What a sweep found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Entries that stay.
    pub kept: u64,
    /// Entries that were removed.
    pub removed: u64,
}

impl Conntrack {
    /// Takes the map out of what was loaded.
    pub fn take(programs: &mut Ebpf) -> Result<Self, Error> {
        let name = maps::CONNTRACK;
        let map = take(programs, name)?;
        let Map::LruHashMap(data) = &map else {
            return Err(unexpected(name));
        };
        let shared = data.fd().as_fd().try_clone_to_owned();
        Ok(Self {
            map: shared.map_err(io_failed("open", name))?,
            connections: HashMap::try_from(map).map_err(failed("open", name))?,
        })
    }

    /// Removes every connection for which `is_expired` is true; it gets an entry and its partner of the other direction,
    /// but only of entries for which `may_be_expired`. The kernel goes on writing meanwhile, so whatever has expired is
    /// looked at once more right before it is removed.
    pub fn sweep(
        &mut self,
        may_be_expired: impl Fn(&Connection) -> bool,
        is_expired: impl Fn(&Connection, Option<&Connection>) -> bool,
    ) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        let mut expired = Vec::new();
        let mut reader =
            BatchReader::new(self.map.as_fd(), size_of::<Flow>(), size_of::<Connection>());
        while let Some(entries) = reader.next().map_err(io_failed("list", maps::CONNTRACK))? {
            for (flow, connection) in entries.typed::<Flow, Connection>() {
                let expires = may_be_expired(&connection) && {
                    let partner = self.find_partner(&flow, &connection)?;
                    is_expired(&connection, partner.as_ref())
                };
                match expires {
                    true => expired.push(flow),
                    false => swept.kept += 1,
                }
            }
        }
        for flow in expired {
            let Some(connection) = self.find(&flow)? else {
                continue;
            };
            let partner = self.find_partner(&flow, &connection)?;
            if !is_expired(&connection, partner.as_ref()) {
                swept.kept += 1;
                continue;
            }
            self.remove(&flow, &mut swept)?;
            // Together, for one direction alone no longer tells that the connection is over.
            if partner.is_some() {
                self.remove(&connection.partner(), &mut swept)?;
            }
        }
        Ok(swept)
    }

    /// The other direction of `connection`, whose entry is `flow`'s.
    fn find_partner(
        &self,
        flow: &Flow,
        connection: &Connection,
    ) -> Result<Option<Connection>, Error> {
        let other = self.find(&connection.partner())?;
        Ok(other.filter(|other| connection.is_partner(flow, other)))
    }

    fn find(&self, flow: &Flow) -> Result<Option<Connection>, Error> {
        match self.connections.get(flow, 0) {
            Ok(connection) => Ok(Some(connection)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed("read", maps::CONNTRACK)(error)),
        }
    }

    fn remove(&mut self, flow: &Flow, swept: &mut Swept) -> Result<(), Error> {
        absent_is_fine(self.connections.remove(flow), maps::CONNTRACK)?;
        swept.removed += 1;
        Ok(())
    }
}
