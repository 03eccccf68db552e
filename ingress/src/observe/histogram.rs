//! Histograms with fixed bounds: counting is two additions to atomic numbers.

use std::fmt::{self, Display};
use std::time::Duration;

use crate::observe::metrics::{Counter, sample};

/// Upper bounds in microseconds: Prometheus' usual ones, like ingress-nginx.
const TIMES: [u64; 11] = [
    5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];
/// Upper bounds in bytes.
const SIZES: [u64; 7] = [10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];

/// How long things took.
#[derive(Debug, Default)]
pub(super) struct Times(Histogram<{ TIMES.len() }>);

/// How large things were.
#[derive(Debug, Default)]
pub(super) struct Sizes(Histogram<{ SIZES.len() }>);

#[derive(Debug)]
struct Histogram<const N: usize> {
    /// How many values were up to each bound and above the one before.
    buckets: [Counter; N],
    /// How many were above all.
    beyond: Counter,
    sum: Counter,
}

/// A histogram as it is written.
#[derive(Debug)]
pub(super) struct Reading {
    /// The bounds with what is up to each.
    bounds: Vec<(f64, u64)>,
    sum: f64,
    count: u64,
}

impl Times {
    /// Counts one that took `time`.
    pub(super) fn observe(&self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.observe(&TIMES, time);
    }

    /// What there is to write, in seconds.
    pub(super) fn read(&self) -> Reading {
        let seconds = |microseconds: u64| Duration::from_micros(microseconds).as_secs_f64();
        self.0.read(&TIMES, seconds)
    }
}

impl Sizes {
    /// Counts one of so many bytes.
    pub(super) fn observe(&self, bytes: u64) {
        self.0.observe(&SIZES, bytes);
    }

    /// What there is to write, in bytes.
    pub(super) fn read(&self) -> Reading {
        self.0.read(&SIZES, |bytes| bytes as f64)
    }
}

impl<const N: usize> Histogram<N> {
    fn observe(&self, bounds: &[u64; N], value: u64) {
        let at = bounds.partition_point(|bound| *bound < value);
        self.buckets.get(at).unwrap_or(&self.beyond).count();
        if value > 0 {
            self.sum.add(value);
        }
    }

    fn read(&self, bounds: &[u64; N], unit: impl Fn(u64) -> f64) -> Reading {
        let mut count = 0;
        let bounds = bounds.iter().zip(&self.buckets).map(|(bound, bucket)| {
            count += bucket.get();
            (unit(*bound), count)
        });
        let bounds = bounds.collect();
        Reading {
            bounds,
            sum: unit(self.sum.get()),
            count: count + self.beyond.get(),
        }
    }
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Counter::default()),
            beyond: Counter::default(),
            sum: Counter::default(),
        }
    }
}

impl Reading {
    /// How many values there were.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The same with further values of 0, so that there are `count`.
    pub(super) fn with_zeros_up_to(mut self, count: u64) -> Self {
        let zeros = count.saturating_sub(self.count);
        self.bounds
            .iter_mut()
            .for_each(|(_, up_to)| *up_to += zeros);
        self.count += zeros;
        self
    }

    /// Writes it as the histogram `name`, unless there was no value.
    pub(super) fn write(&self, out: &mut String, name: &str, labels: &impl Display) -> fmt::Result {
        let Self { bounds, sum, count } = self;
        if *count == 0 {
            return Ok(());
        }
        let bucket = format!("{name}_bucket");
        for (bound, up_to) in bounds {
            sample(out, &bucket, format_args!("{labels},le=\"{bound}\""), up_to)?;
        }
        sample(out, &bucket, format_args!("{labels},le=\"+Inf\""), count)?;
        sample(out, &format!("{name}_sum"), labels, sum)?;
        sample(out, &format!("{name}_count"), labels, count)
    }
}
