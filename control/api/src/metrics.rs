//! A few numbers about the server itself, in the text form Prometheus reads.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the request duration histogram, in seconds.
const BUCKETS: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 60.0];

/// Counters of requests.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    by_class: [AtomicU64; 5],
    buckets: [AtomicU64; BUCKETS.len()],
    microseconds: AtomicU64,
}

impl Metrics {
    /// Counts an answered request.
    pub(crate) fn answered(&self, code: u16, took: Duration) {
        let class = usize::from(code / 100).clamp(1, 5) - 1;
        self.by_class[class].fetch_add(1, Ordering::Relaxed);
        let seconds = took.as_secs_f64();
        if let Some(bucket) = BUCKETS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(took, Ordering::Relaxed);
    }

    /// The text form; `revision` is the store's.
    pub(crate) fn text(&self, revision: u64) -> String {
        let mut out = String::from("# TYPE apiserver_request_total counter\n");
        let counts: Vec<u64> = self
            .by_class
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        let total: u64 = counts.iter().sum();
        for (class, count) in counts.iter().enumerate() {
            line(
                &mut out,
                &format!(
                    "apiserver_request_total{{code=\"{}xx\"}} {count}",
                    class + 1
                ),
            );
        }
        line(
            &mut out,
            "# TYPE apiserver_request_duration_seconds histogram",
        );
        let mut below = 0;
        for (bound, bucket) in BUCKETS.iter().zip(&self.buckets) {
            below += bucket.load(Ordering::Relaxed);
            line(
                &mut out,
                &format!("apiserver_request_duration_seconds_bucket{{le=\"{bound}\"}} {below}"),
            );
        }
        line(
            &mut out,
            &format!("apiserver_request_duration_seconds_bucket{{le=\"+Inf\"}} {total}"),
        );
        let seconds =
            Duration::from_micros(self.microseconds.load(Ordering::Relaxed)).as_secs_f64();
        line(
            &mut out,
            &format!("apiserver_request_duration_seconds_sum {seconds}"),
        );
        line(
            &mut out,
            &format!("apiserver_request_duration_seconds_count {total}"),
        );
        line(&mut out, "# TYPE portolan_store_revision gauge");
        line(&mut out, &format!("portolan_store_revision {revision}"));
        out
    }
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("a string takes whatever is written");
}
