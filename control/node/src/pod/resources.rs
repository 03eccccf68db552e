//! Quantities, and what resource requests and limits mean to the kernel. No I/O.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::kinds::containers;
use crate::runtime::Limits;

const THOUSAND: u128 = 1000;

/// A pod's class of service: the cgroup its own is in, and the order in which memory is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    /// Every container has limits for CPU and memory, and requests equal to them.
    Guaranteed,
    /// Some container has a request or a limit.
    Burstable,
    /// None has.
    BestEffort,
}

impl Qos {
    /// All classes.
    pub(crate) const ALL: [Self; 3] = [Self::Guaranteed, Self::Burstable, Self::BestEffort];

    /// The name of the cgroup that its pods are in.
    pub(crate) fn cgroup(self) -> String {
        self.name().to_lowercase()
    }

    /// The API's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The class of a pod.
    pub(crate) fn of(spec: &PodSpec) -> Self {
        let mut any = false;
        let mut guaranteed = true;
        for (_, container) in containers(spec) {
            for resource in ["cpu", "memory"] {
                let (request, limit) = (request(container, resource), limit(container, resource));
                any |= request.is_some() || limit.is_some();
                guaranteed &=
                    limit.is_some_and(|limit| request.is_none_or(|request| request == limit));
            }
        }
        match (guaranteed, any) {
            (true, _) => Self::Guaranteed,
            (false, true) => Self::Burstable,
            (false, false) => Self::BestEffort,
        }
    }
}

/// The cgroup limits of a container.
pub(crate) fn limits(container: &Container) -> Limits {
    let milli = |value: Option<u128>| {
        value.map(|value| u64::try_from(value).unwrap_or(u64::MAX / THOUSAND as u64))
    };
    let whole = |value: Option<u128>| {
        value.map(|value| u64::try_from(value / THOUSAND).unwrap_or(u64::MAX))
    };
    let cpu_limit = milli(limit(container, "cpu")).filter(|&milli| milli > 0);
    Limits {
        cpu_request: milli(request(container, "cpu")).or(cpu_limit).unwrap_or(0),
        cpu_limit,
        memory_limit: whole(limit(container, "memory")).filter(|&bytes| bytes > 0),
        pids_limit: None,
    }
}

/// What the kernel adds to a container's badness when memory is short, on a node with `capacity` bytes.
pub(crate) fn oom_score(qos: Qos, container: &Container, capacity: u64) -> i32 {
    let request = request(container, "memory")
        .or_else(|| limit(container, "memory"))
        .unwrap_or(0)
        / THOUSAND;
    match qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let share = request * 1000 / u128::from(capacity.max(1));
            let score = 1000 - i32::try_from(share.min(1000)).unwrap_or(1000);
            score.clamp(3, 999)
        }
    }
}

/// A container's request of a resource, in thousandths.
pub(crate) fn request(container: &Container, resource: &str) -> Option<u128> {
    lookup(container.resources.as_ref()?.requests.as_ref(), resource)
}

/// A container's limit of a resource, in thousandths.
pub(crate) fn limit(container: &Container, resource: &str) -> Option<u128> {
    lookup(container.resources.as_ref()?.limits.as_ref(), resource)
}

fn lookup(list: Option<&BTreeMap<String, Quantity>>, resource: &str) -> Option<u128> {
    parse(&list?.get(resource)?.0)
}

/// A quantity in thousandths, rounded up; none if it is not one or negative.
pub(crate) fn parse(text: &str) -> Option<u128> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (multiplier, divisor): (u128, u128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "" => (THOUSAND, 1),
        "k" => (THOUSAND * 1000, 1),
        "M" => (THOUSAND * 1_000_000, 1),
        "G" => (THOUSAND * 1_000_000_000, 1),
        "T" => (THOUSAND * 1_000_000_000_000, 1),
        "P" => (THOUSAND * 1_000_000_000_000_000, 1),
        "E" => (THOUSAND * 1_000_000_000_000_000_000, 1),
        "Ki" => (THOUSAND << 10, 1),
        "Mi" => (THOUSAND << 20, 1),
        "Gi" => (THOUSAND << 30, 1),
        "Ti" => (THOUSAND << 40, 1),
        "Pi" => (THOUSAND << 50, 1),
        "Ei" => (THOUSAND << 60, 1),
        _ => exponent(suffix)?,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let divisor = divisor.checked_mul(10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    Some(digits.checked_mul(multiplier)?.div_ceil(divisor))
}

fn exponent(suffix: &str) -> Option<(u128, u128)> {
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10u128.checked_pow(exponent.unsigned_abs())?;
    if exponent < 0 {
        Some((THOUSAND, power))
    } else {
        Some((THOUSAND.checked_mul(power)?, 1))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing step fails the test")]

    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_read_in_thousandths() {
        for (text, milli) in [
            ("1", Some(1000)),
            ("100m", Some(100)),
            ("0.1", Some(100)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("64Mi", Some(67_108_864_000)),
            ("1k", Some(1_000_000)),
            ("1e3", Some(1_000_000)),
            ("1500u", Some(2)),
            ("-1", None),
            ("1x", None),
            ("", None),
            ("99999999999999999999999999999999999999E", None),
        ] {
            assert_eq!(parse(text), milli, "{text:?}");
        }
    }

    fn container(requests: serde_json::Value, limits: serde_json::Value) -> Container {
        let resources = json!({"requests": requests, "limits": limits});
        serde_json::from_value(json!({"name": "a", "resources": resources})).unwrap()
    }

    fn check(container: Container, qos: Qos, limits_expected: Limits, score: i32) {
        let spec = PodSpec {
            containers: vec![container.clone()],
            ..PodSpec::default()
        };
        assert_eq!(Qos::of(&spec), qos);
        assert_eq!(limits(&container), limits_expected);
        assert_eq!(oom_score(qos, &container, 4 << 30), score);
    }

    #[test]
    fn requests_and_limits_become_a_class_and_cgroup_limits() {
        check(
            container(json!({}), json!({})),
            Qos::BestEffort,
            Limits::default(),
            1000,
        );
        check(
            container(json!({"cpu": "250m", "memory": "1Gi"}), json!({})),
            Qos::Burstable,
            Limits {
                cpu_request: 250,
                ..Limits::default()
            },
            750,
        );
        check(
            container(json!({}), json!({"cpu": "1", "memory": "64Mi"})),
            Qos::Guaranteed,
            Limits {
                cpu_request: 1000,
                cpu_limit: Some(1000),
                memory_limit: Some(64 << 20),
                pids_limit: None,
            },
            -997,
        );
        check(
            container(
                json!({"memory": "32Mi"}),
                json!({"cpu": "1", "memory": "64Mi"}),
            ),
            Qos::Burstable,
            Limits {
                cpu_request: 1000,
                cpu_limit: Some(1000),
                memory_limit: Some(64 << 20),
                pids_limit: None,
            },
            993,
        );
    }
}
