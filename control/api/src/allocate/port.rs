//! Node ports, one pool for all protocols. The lowest part of the range is left to those who ask for a port by number, until
//! the rest is used up.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use rand::Rng as _;

/// How many random picks are tried before the range is searched.
const PICKS: usize = 32;

/// A port cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PortError {
    #[error("provided port is already allocated")]
    Taken,
    #[error("provided port is not in the valid range. The range of valid ports is {0}-{1}")]
    OutOfRange(u16, u16),
    #[error("range is full")]
    Full,
}

/// The pool.
#[derive(Debug)]
pub(crate) struct Ports {
    range: RangeInclusive<u16>,
    /// The first port that is handed out without being asked for.
    dynamic: u16,
    taken: HashSet<u16>,
}

impl Ports {
    pub(crate) fn new(range: RangeInclusive<u16>) -> Self {
        let size = range.end() - range.start();
        let reserved = (size / 32).clamp(16, 128);
        let dynamic = if reserved >= size {
            *range.start()
        } else {
            range.start() + reserved
        };
        Self {
            range,
            dynamic,
            taken: HashSet::new(),
        }
    }

    /// Takes any free port.
    pub(crate) fn take(&mut self) -> Result<u16, PortError> {
        let mut random = rand::rng();
        let (first, last) = (*self.range.start(), *self.range.end());
        let picks = (0..PICKS).map(|_| random.random_range(self.dynamic..=last));
        let port = picks
            .chain(self.dynamic..=last)
            .chain(first..self.dynamic)
            .find(|port| !self.taken.contains(port));
        let port = port.ok_or(PortError::Full)?;
        self.taken.insert(port);
        Ok(port)
    }

    /// Takes the port asked for.
    pub(crate) fn take_this(&mut self, port: u16) -> Result<(), PortError> {
        if !self.range.contains(&port) {
            return Err(PortError::OutOfRange(
                *self.range.start(),
                *self.range.end(),
            ));
        }
        if self.taken.insert(port) {
            Ok(())
        } else {
            Err(PortError::Taken)
        }
    }

    pub(crate) fn release(&mut self, port: u16) {
        self.taken.remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_low_ports_are_left_to_those_who_ask() {
        let mut ports = Ports::new(30000..=30099);
        let all: Vec<u16> = std::iter::from_fn(|| ports.take().ok()).collect();
        assert_eq!(all.len(), 100);
        assert!(all[..84].iter().all(|port| *port >= 30016));
        assert!(all[84..].iter().all(|port| *port < 30016));
    }

    #[test]
    fn a_port_asked_for_is_taken_until_it_is_released() {
        let mut ports = Ports::new(30000..=32767);
        assert_eq!(ports.take_this(30080), Ok(()));
        assert_eq!(ports.take_this(30080), Err(PortError::Taken));
        ports.release(30080);
        assert_eq!(ports.take_this(30080), Ok(()));
        assert_eq!(
            ports.take_this(80),
            Err(PortError::OutOfRange(30000, 32767))
        );
    }
}
