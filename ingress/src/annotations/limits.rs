//! How much a client may ask for, and how fast it is answered: `limit-*`.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Annotations;
use crate::filters::limits::{Limits, Rate};
use crate::filters::pace::Pace;

/// How many times a rate may come at once, as in ingress-nginx.
const DEFAULT_BURST: u32 = 5;
const MAX: u32 = 1_000_000;

/// What each client is limited to.
pub fn parse(from: &mut Annotations<'_>) -> Limits {
    let mut number = |name| from.number(name, 0..=MAX);
    let (per_minute, per_second) = (number("limit-rpm"), number("limit-rps"));
    let at_a_time = number("limit-connections");
    let multiplier = number("limit-burst-multiplier").unwrap_or(DEFAULT_BURST);
    let exempt = from.cidrs("limit-allowlist").unwrap_or_default();
    let rate = |count: Option<u32>, period| {
        let count = NonZeroU32::new(count?)?;
        Some(Rate::new(
            count,
            period,
            count.get().saturating_mul(multiplier),
        ))
    };
    let limits = Limits {
        per_minute: rate(per_minute, Duration::from_secs(60)),
        per_second: rate(per_second, Duration::from_secs(1)),
        at_a_time: at_a_time.and_then(NonZeroU32::new),
        exempt: exempt.into_iter().collect(),
    };
    if limits.is_none() {
        Limits::default()
    } else {
        limits
    }
}

/// How fast answers are sent, in the kilobytes that ingress-nginx counts in.
pub fn pace(from: &mut Annotations<'_>) -> Option<Pace> {
    let mut kilobytes = |name| {
        let number = from.number(name, 0..=MAX).unwrap_or_default();
        u64::from(number) * 1024
    };
    let (rate, after) = (kilobytes("limit-rate"), kilobytes("limit-rate-after"));
    Pace::new(rate, after)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::annotations::policy::tests::{read, verdict};

    fn rate(count: u32, period: u64, burst: u32) -> Option<Rate> {
        Some(Rate::new(
            NonZeroU32::new(count).unwrap(),
            Duration::from_secs(period),
            burst,
        ))
    }

    #[test]
    fn limits_are_read_and_their_burst_is_a_multiple() {
        let policy = read(&[
            ("limit-rps", "10"),
            ("limit-rpm", "30"),
            ("limit-connections", "3"),
            ("limit-whitelist", "10.0.0.0/8"),
        ]);
        let limits = *policy.policy.unwrap_or_default().limits.clone().unwrap();
        assert_eq!(
            (limits.per_second, limits.per_minute),
            (rate(10, 1, 50), rate(30, 60, 150))
        );
        assert_eq!(limits.at_a_time.map(NonZeroU32::get), Some(3));
        assert!(limits.exempt.contains([10, 0, 0, 1].into()));
        let policy = read(&[("limit-rps", "10"), ("limit-burst-multiplier", "2")]);
        let limits = policy.policy.unwrap_or_default().limits.clone().unwrap();
        assert_eq!(limits.per_second, rate(10, 1, 20));
    }

    #[test]
    fn zero_is_no_limit_and_what_is_no_number_is_said() {
        let nothing = [
            ("limit-rps", "0"),
            ("limit-connections", "0"),
            ("limit-allowlist", "10.0.0.0/8"),
            ("limit-rate", "0"),
            ("limit-rate-after", "5"),
        ];
        assert_eq!(read(&nothing).policy, None);
        for name in [
            "limit-rps",
            "limit-rpm",
            "limit-connections",
            "limit-burst-multiplier",
            "limit-allowlist",
            "limit-rate",
            "limit-rate-after",
        ] {
            let reading = read(&[(name, "many")]);
            assert_eq!(verdict(&reading, name).0, "invalid", "{name}");
            assert_eq!(reading.policy, None, "{name}");
        }
    }

    #[test]
    fn the_pace_is_in_kilobytes() {
        let policy = read(&[("limit-rate", "100"), ("limit-rate-after", "10")])
            .policy
            .unwrap_or_default();
        assert_eq!(policy.pace.as_deref().copied(), Pace::new(102_400, 10_240));
    }
}
