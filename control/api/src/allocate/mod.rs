//! Cluster addresses and node ports of Services: what is taken, in memory, recovered from the Services at start.
//!
//! A [`Claim`] takes things before a write and gives them back when it is dropped, unless the write succeeded.

mod address;
mod port;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard};

use ipnetwork::IpNetwork;

pub(crate) use address::{Addresses, Family};
pub(crate) use port::Ports;

/// The two pools.
#[derive(Debug)]
pub(crate) struct Allocators {
    addresses: Mutex<Addresses>,
    ports: Mutex<Ports>,
}

/// Something taken from a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item {
    Address(IpAddr),
    Port(u16),
}

impl Allocators {
    pub(crate) fn new(networks: &[IpNetwork], ports: RangeInclusive<u16>) -> Self {
        Self {
            addresses: Mutex::new(Addresses::new(networks)),
            ports: Mutex::new(Ports::new(ports)),
        }
    }

    pub(crate) fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().expect("no holder of the lock panics")
    }

    pub(crate) fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().expect("no holder of the lock panics")
    }

    pub(crate) fn release(&self, item: Item) {
        match item {
            Item::Address(address) => self.addresses().release(address),
            Item::Port(port) => self.ports().release(port),
        }
    }
}

/// What a write takes and gives up.
#[derive(Debug, Default)]
pub(crate) struct Claim<'a> {
    pools: Option<&'a Allocators>,
    taken: Vec<Item>,
    given_up: Vec<Item>,
}

impl<'a> Claim<'a> {
    /// For writes that take nothing.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    pub(crate) fn on(pools: &'a Allocators) -> Self {
        Self {
            pools: Some(pools),
            taken: Vec::new(),
            given_up: Vec::new(),
        }
    }

    /// Notes something that has been taken from its pool.
    pub(crate) fn took(&mut self, item: Item) {
        self.taken.push(item);
    }

    /// Notes something to be released when the write has succeeded.
    pub(crate) fn give_up(&mut self, item: Item) {
        self.given_up.push(item);
    }

    /// The write has succeeded.
    pub(crate) fn keep(mut self) {
        self.taken = std::mem::take(&mut self.given_up);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(pools) = self.pools {
            self.taken.drain(..).for_each(|item| pools.release(item));
        }
    }
}
