//! What is counted about admission reviews: how each Ingress fared, and how long the last review took.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::ObjectName;

use super::series::MAX_SERIES;
use crate::observe::metrics::{family, sample};

/// All reviews so far.
#[derive(Debug, Default)]
pub struct Reviews(Mutex<Tally>);

#[derive(Debug, Default)]
struct Tally {
    /// Those that were passed and those that were refused. Beyond [`MAX_SERIES`] names the rest is counted together.
    of: BTreeMap<ObjectName, [u64; 2]>,
    /// How long the last one took.
    last: Option<Duration>,
}

impl Reviews {
    /// Counts a review of `ingress` that `took` so long.
    pub fn count(&self, ingress: ObjectName, is_refused: bool, took: Duration) {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = tally.of.len() >= MAX_SERIES && !tally.of.contains_key(&ingress);
        let name = match is_full {
            // No object can have this name.
            true => ObjectName::new("_other", "_other"),
            false => ingress,
        };
        tally.of.entry(name).or_default()[usize::from(is_refused)] += 1;
        tally.last = Some(took);
    }

    pub(super) fn write(&self, out: &mut String, common: &str) -> fmt::Result {
        let tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, name, help) in [
            (0, "check_success", "Reviews of an Ingress that passed it"),
            (1, "check_errors", "Reviews of an Ingress that refused it"),
        ] {
            let name = format!("nginx_ingress_controller_{name}");
            family(out, &name, "counter", help)?;
            for (ingress, counts) in &tally.of {
                let (namespace, ingress) = (&ingress.namespace, &ingress.name);
                let labels =
                    format_args!("{common},namespace=\"{namespace}\",ingress=\"{ingress}\"");
                sample(out, &name, labels, counts[at])?;
            }
        }
        // Nothing is rendered or tested beside the judgement, so that is all there is.
        let took = tally.last.map(|took| took.as_secs_f64());
        for (name, help, value) in [
            ("roundtrip_duration", "Seconds of the last review", took),
            ("tested_duration", "Seconds of the last judgement", took),
            (
                "tested_ingresses",
                "Ingresses of the last review",
                took.map(|_| 1.0),
            ),
        ] {
            let name = format!("nginx_ingress_controller_admission_{name}");
            family(out, &name, "gauge", help)?;
            if let Some(value) = value {
                sample(out, &name, common, value)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reviews_are_counted_by_ingress_within_bounds() {
        let reviews = Reviews::default();
        let review = |number: usize, is_refused| {
            let name = ObjectName::new("ns", format!("i{number}"));
            reviews.count(name, is_refused, Duration::from_millis(2));
        };
        (0..MAX_SERIES + 2).for_each(|number| review(number, false));
        review(0, true);
        let mut text = String::new();
        reviews.write(&mut text, "pod=\"p\"").expect("text");
        for line in [
            "check_success{pod=\"p\",namespace=\"ns\",ingress=\"i0\"} 1",
            "check_errors{pod=\"p\",namespace=\"ns\",ingress=\"i0\"} 1",
            "check_errors{pod=\"p\",namespace=\"ns\",ingress=\"i1\"} 0",
            "check_success{pod=\"p\",namespace=\"_other\",ingress=\"_other\"} 2",
            "admission_roundtrip_duration{pod=\"p\"} 0.002",
        ] {
            let line = format!("nginx_ingress_controller_{line}");
            assert!(text.lines().any(|found| found == line), "{line}");
        }
    }
}
