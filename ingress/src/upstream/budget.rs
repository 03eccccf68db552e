//! How many of a Service's requests may be sent again (a retry budget, as Finagle and Linkerd have it).
//!
//! While few requests fail, sending them again helps; when most do, it multiplies the load that makes them fail. So
//! retries are a share of the requests: 20 % of those of the last ten seconds, and ten a second in any case. Requests are
//! counted by the upstream, which does so anyway; the budget is only looked at when a retry is wanted.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Retries for each request.
const SHARE: f64 = 0.2;
/// Retries a second in any case.
const RESERVE: f64 = 10.0;
/// For how long what is not used remains, in seconds.
const WINDOW: f64 = 10.0;

/// The budget of one Service.
#[derive(Debug)]
pub(crate) struct Budget(Mutex<Account>);

#[derive(Debug)]
struct Account {
    /// Retries that may still be made.
    left: f64,
    /// When that was so, and how many requests there had been by then.
    at: Instant,
    requests: usize,
}

impl Budget {
    /// A budget of a Service that has had no requests.
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Account {
            left: RESERVE * WINDOW,
            at: now,
            requests: 0,
        }))
    }

    /// Takes a retry out of the budget, if one is left. The Service has had so many `requests` by `now`.
    pub(crate) fn withdraw(&self, requests: usize, now: Instant) -> bool {
        let mut account = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        account.earn(requests, now);
        let is_left = account.left >= 1.0;
        if is_left {
            account.left -= 1.0;
        }
        is_left
    }
}

impl Account {
    /// Adds what new requests and time have earned, up to what a window of them earns; what is as old has expired.
    fn earn(&mut self, requests: usize, now: Instant) {
        let seconds = (now - self.at).as_secs_f64();
        let new = requests.wrapping_sub(self.requests) as f64;
        let recent = (WINDOW / seconds.max(f64::MIN_POSITIVE)).min(1.0);
        let earned = (new * SHARE + seconds * RESERVE) * recent;
        let kept = (1.0 - seconds / WINDOW).max(0.0);
        self.left = self.left * kept + earned;
        self.at = now;
        self.requests = requests;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// How many retries are granted when one is asked for after each of `requests`, a millisecond apart.
    fn granted(budget: &Budget, start: Instant, requests: std::ops::Range<u32>) -> usize {
        let grants = requests.map(|number| {
            let now = start + Duration::from_millis(u64::from(number));
            budget.withdraw(number as usize, now)
        });
        grants.filter(|granted| *granted).count()
    }

    #[test]
    fn retries_are_a_share_of_the_requests() {
        let start = Instant::now();
        let budget = Budget::new(start);
        // The reserve of ten seconds at once, later a share of 20 % and 1 % that is ten a second.
        let first = granted(&budget, start, 1..1_000);
        assert!((250..320).contains(&first), "{first}");
        granted(&budget, start, 1_000..20_000);
        let later = granted(&budget, start, 20_000..30_000);
        assert!((2_050..2_150).contains(&later), "{later}");
    }

    #[test]
    fn a_service_without_load_has_its_reserve() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let burst = |now| (0..1_000).filter(|_| budget.withdraw(0, now)).count();
        assert_eq!(burst(at(0)), 100);
        assert_eq!(burst(at(0)), 0);
        assert_eq!(burst(at(1)), 10);
        assert_eq!(burst(at(3600)), 100);
    }

    #[test]
    fn a_sudden_failure_finds_what_the_load_before_has_earned() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let now = start + Duration::from_secs(100);
        // A thousand requests a second.
        let burst = (0..10_000).filter(|_| budget.withdraw(100_000, now));
        assert_eq!(burst.count(), 2_100);
    }
}
