//! What the programs are told once, before anything is attached: which way packets go through the node, and until when
//! connections that nobody knows belong to the proxy that was here before.

use std::time::Duration;

use clap::ValueEnum;
use dataplane_ebpf::abi::{Node, moment};

use crate::maps::{Error, Maps};

/// The way of packets between a client and a backend on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Forwarding {
    /// From device to device, past the node's own rules for what it forwards.
    Direct,
    /// Through the node's network stack, its netfilter rules and all.
    Stack,
}

/// Tells the programs. On a node where they have never run, connections of another proxy go on for `migration` from `now`
/// on, a [`moment`]; that end is kept when the daemon starts again.
pub fn write(
    maps: &mut impl Maps,
    forwarding: Forwarding,
    migration: Duration,
    now: u32,
) -> Result<(), Error> {
    let old = maps.node()?;
    let mut new = old;
    new.flags = match forwarding {
        Forwarding::Direct => old.flags & !Node::THROUGH_STACK,
        Forwarding::Stack => old.flags | Node::THROUGH_STACK,
    };
    // The seed is drawn when everything is listed for the first time, and then stays.
    let is_first = old.seed == 0 && old.migration_end == 0;
    if is_first && !migration.is_zero() {
        let units = moment(u64::try_from(migration.as_nanos()).unwrap_or(u64::MAX));
        new.migration_end = now.saturating_add(units).max(1);
    }
    if new != old {
        maps.write_node(new)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::{Fake, Sizes};

    const HOUR: Duration = Duration::from_secs(3600);

    fn maps() -> Fake {
        Fake::new(Sizes {
            services: 1,
            backends: 1,
            slots: 1,
        })
    }

    #[track_caller]
    fn check(maps: &mut Fake, forwarding: Forwarding, now: u32, expected: (u32, u32)) {
        write(maps, forwarding, HOUR, now).expect("nothing fails");
        let node = maps.node().expect("nothing fails");
        assert_eq!((node.migration_end, node.flags), expected);
    }

    #[test]
    fn the_migration_begins_at_the_first_start_and_ends_once() {
        let mut maps = maps();
        let end = 1000 + 3352;
        check(&mut maps, Forwarding::Direct, 1000, (end, 0));
        check(&mut maps, Forwarding::Direct, 2000, (end, 0));
    }

    #[test]
    fn nothing_migrates_where_the_programs_have_been_before() {
        let mut maps = maps();
        let known = Node {
            seed: 7,
            ..Node::default()
        };
        maps.write_node(known).expect("nothing fails");
        check(&mut maps, Forwarding::Direct, 1000, (0, 0));
    }

    #[test]
    fn the_way_of_packets_changes_with_the_flag() {
        let mut maps = maps();
        write(&mut maps, Forwarding::Stack, Duration::ZERO, 5).expect("nothing fails");
        let node = maps.node().expect("nothing fails");
        assert_eq!((node.migration_end, node.flags), (0, Node::THROUGH_STACK));
        write(&mut maps, Forwarding::Direct, Duration::ZERO, 5).expect("nothing fails");
        assert_eq!(maps.node().expect("nothing fails").flags, 0);
    }
}
