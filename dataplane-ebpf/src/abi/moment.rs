//! Time, as coarse as entries need it.

/// A coarse moment: units of 2^30 ns (1.07 s) of the monotonic clock, which fit a word for 146 years.
#[inline(always)]
pub const fn moment(nanoseconds: u64) -> u32 {
    (nanoseconds >> 30) as u32
}

/// How many units of [`moment`] ago `seen` was. What another CPU, whose clock is ahead a little, has seen after `now` is
/// no time ago.
#[inline(always)]
pub const fn age(seen: u32, now: u32) -> u32 {
    now.saturating_sub(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_after_the_clock_was_read_is_no_time_ago() {
        assert_eq!(age(90, 100), 10);
        assert_eq!(age(100, 100), 0);
        assert_eq!(age(101, 100), 0);
    }
}
