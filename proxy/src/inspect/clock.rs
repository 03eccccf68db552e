//! The monotonic clock, by which the programs note when something happened.

use std::time::Duration;

use dataplane_ebpf::abi::{self, moment};
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since some time in the past.
pub(super) fn nanoseconds() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How many seconds ago `seen` was, which is in units of [`moment`]. What is seen after the clock was read is no time ago.
pub(super) fn age(seen: u32, now: u64) -> u64 {
    (u64::from(abi::age(seen, moment(now))) << 30) / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_in_seconds_and_never_negative() {
        let now = 1000 << 30;
        assert_eq!(age(1000, now), 0);
        assert_eq!(age(900, now), 107);
        assert_eq!(age(1001, now), 0);
    }
}
