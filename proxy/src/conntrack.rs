//! Sweeps the connection table: removes what is over or idle, so that the kernel need not evict what is alive.
//!
//! Nothing depends on the sweep for correctness. The programs see by themselves that a connection is stale.

use std::time::Duration;

use dataplane_ebpf::abi::{Connection, HALF_OPEN_IDLE, age, moment};
use dataplane_ebpf::addr::Protocol;
use nix::time::{ClockId, clock_gettime};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::maps::Conntrack;
use crate::metrics::Metrics;

/// How often the table is swept.
const PERIOD: Duration = Duration::from_secs(30);
/// How long a finished TCP connection stays, in units of [`moment`]: the two minutes of TIME-WAIT.
const TCP_OVER: u32 = 112;

/// Sweeps until `shutdown`. A sweep that is under way then is finished.
pub async fn run(mut conntrack: Conntrack, metrics: Metrics, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(PERIOD) => {}
        }
        // A full table takes some tenths of a second: too long for the thread that everything else runs on.
        let swept = tokio::task::spawn_blocking(move || {
            let now = now();
            let swept = conntrack.sweep(
                |one| may_be_expired(one, now),
                |one, other| is_expired(one, other, now),
            );
            (conntrack, swept)
        });
        let Ok((returned, swept)) = swept.await else {
            break;
        };
        conntrack = returned;
        match swept {
            Ok(swept) => {
                debug!(?swept, "swept the connections");
                metrics.sweep(swept);
            }
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "the connections could not be swept"
            ),
        }
    }
}

/// Whether the `other` direction has to be looked at, too, to tell what [`is_expired`] does. Most connections in a table
/// were used a moment ago.
fn may_be_expired(one: &Connection, now: u32) -> bool {
    age(one.seen, now) > HALF_OPEN_IDLE
}

/// Whether `one` direction of a connection, whose `other` direction may have been evicted, has had its time.
fn is_expired(one: &Connection, other: Option<&Connection>, now: u32) -> bool {
    let other = other.unwrap_or(one);
    let protocol = one.to.protocol;
    let limit = if protocol == Protocol::TCP && Connection::is_over(one.flags, other.flags) {
        TCP_OVER
    } else {
        Connection::idle_limit(protocol, one.flags, other.flags)
    };
    age(one.seen.max(other.seen), now) > limit
}

/// The present moment on the clock that the programs read.
pub fn now() -> u32 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    moment(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane_ebpf::abi::{SCTP_IDLE, TCP_IDLE, UDP_IDLE};
    use dataplane_ebpf::addr::{Addr, Port};
    use dataplane_ebpf::flow::Flow;

    const NOW: u32 = 1_000_000;

    fn direction(protocol: Protocol, idle: u32, flags: u32) -> Connection {
        let end = (Addr::UNSPECIFIED, Port::NONE);
        Connection {
            to: Flow::new(end, end, protocol),
            service: 0,
            service_generation: 0,
            backend: 0,
            backend_generation: 0,
            seen: NOW.wrapping_sub(idle),
            flags,
        }
    }

    #[track_caller]
    fn check(protocol: Protocol, one: (u32, u32), other: Option<(u32, u32)>, expired: bool) {
        let one = direction(protocol, one.0, one.1);
        let other = other.map(|(idle, flags)| direction(protocol, idle, flags));
        assert_eq!(is_expired(&one, other.as_ref(), NOW), expired);
        assert!(may_be_expired(&one, NOW) || !expired);
    }

    #[test]
    fn a_udp_flow_expires_when_both_directions_are_idle() {
        check(Protocol::UDP, (UDP_IDLE, 0), Some((UDP_IDLE, 0)), false);
        check(
            Protocol::UDP,
            (UDP_IDLE + 1, 0),
            Some((UDP_IDLE + 1, 0)),
            true,
        );
        check(Protocol::UDP, (UDP_IDLE + 1, 0), Some((0, 0)), false);
        check(Protocol::UDP, (UDP_IDLE + 1, 0), None, true);
    }

    #[test]
    fn a_tcp_connection_expires_soon_after_its_end_and_late_otherwise() {
        let (fin, rst) = (Connection::FIN, Connection::RST);
        check(
            Protocol::TCP,
            (TCP_OVER + 1, 0),
            Some((TCP_OVER + 1, 0)),
            false,
        );
        check(
            Protocol::TCP,
            (TCP_OVER + 1, fin),
            Some((TCP_OVER + 1, 0)),
            false,
        );
        check(
            Protocol::TCP,
            (TCP_OVER + 1, fin),
            Some((TCP_OVER + 1, fin)),
            true,
        );
        check(
            Protocol::TCP,
            (TCP_OVER + 1, 0),
            Some((TCP_OVER + 1, rst)),
            true,
        );
        check(Protocol::TCP, (TCP_OVER, rst), Some((TCP_OVER, rst)), false);
        check(
            Protocol::TCP,
            (TCP_IDLE + 1, 0),
            Some((TCP_IDLE + 1, 0)),
            true,
        );
    }

    #[test]
    fn a_connection_that_was_never_completed_expires_soon() {
        let half = Connection::HALF_OPEN;
        let idle = HALF_OPEN_IDLE + 1;
        for protocol in [Protocol::TCP, Protocol::SCTP] {
            check(protocol, (idle, half), Some((idle, half)), true);
            check(protocol, (idle, half), None, true);
            check(protocol, (idle - 1, half), Some((idle, half)), false);
            check(protocol, (idle, 0), Some((idle, half)), false);
            check(protocol, (idle, half), Some((idle, 0)), false);
        }
    }

    #[test]
    fn an_association_expires_when_its_heartbeats_have_ceased() {
        let idle = SCTP_IDLE + 1;
        check(Protocol::SCTP, (idle, 0), Some((idle, 0)), true);
        check(Protocol::SCTP, (idle - 1, 0), Some((idle, 0)), false);
    }

    #[test]
    fn a_direction_used_after_the_clock_was_read_is_alive() {
        check(
            Protocol::UDP,
            (1u32.wrapping_neg(), 0),
            Some((UDP_IDLE + 1, 0)),
            false,
        );
    }
}
