//! What annotation values look like: text in, value or the reason why not out.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ipnetwork::IpNetwork;
use model::ObjectName;

type Result<T> = std::result::Result<T, String>;

/// A truth value as Go's `strconv.ParseBool` takes it.
pub fn flag(text: &str) -> Result<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// A number in `range`.
pub fn number<T: FromStr + PartialOrd + Display>(
    text: &str,
    range: &RangeInclusive<T>,
) -> Result<T> {
    let parsed = text.parse().ok().filter(|number| range.contains(number));
    parsed.ok_or_else(|| {
        let (least, most) = (range.start(), range.end());
        format!("{text:?} is not a number from {least} to {most}")
    })
}

/// A time: whole seconds, or a number with the unit `ms`, `s`, `m`, `h` or `d`.
pub fn seconds(text: &str) -> Result<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis: Option<u64> = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let number = number.parse::<u64>().ok();
    let time = number
        .zip(millis)
        .and_then(|(number, millis)| number.checked_mul(millis));
    let time = time.map(Duration::from_millis);
    time.ok_or_else(|| format!("{text:?} is not a time in seconds, like 60 or 60s"))
}

/// A size in bytes, with nginx's units `k`, `m` and `g`.
pub fn size(text: &str) -> Result<u64> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, unit)) if !unit.is_ascii_digit() => (&text[..at], Some(unit)),
        _ => (text, None),
    };
    let factor = match unit.map(|unit| unit.to_ascii_lowercase()) {
        None => Some(1),
        Some('k') => Some(1 << 10),
        Some('m') => Some(1 << 20),
        Some('g') => Some(1_u64 << 30),
        Some(_) => None,
    };
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse::<u64>().ok().filter(|_| is_plain);
    let size = number
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor));
    size.ok_or_else(|| format!("{text:?} is not a size, like 8k or 1m"))
}

/// The elements of a list separated by commas.
pub fn list(text: &str) -> Result<Vec<&str>> {
    let elements = text.split(',').map(str::trim);
    let elements: Vec<&str> = elements.filter(|element| !element.is_empty()).collect();
    if elements.is_empty() {
        return Err(format!("{text:?} is an empty list"));
    }
    Ok(elements)
}

/// A list of addresses and ranges of them.
pub fn cidrs(text: &str) -> Result<Vec<IpNetwork>> {
    list(text)?.into_iter().map(cidr).collect()
}

fn cidr(text: &str) -> Result<IpNetwork> {
    let address = text.parse::<IpAddr>().map(IpNetwork::from);
    let range = address.or_else(|_| text.parse());
    range.map_err(|_| format!("{text:?} is neither an address nor a range"))
}

/// One of `choices`, by its name.
pub fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T> {
    let found = choices.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("{text:?} is none of {}", names.join(", "))
    })
}

/// The name of a header.
pub fn header_name(text: &str) -> Result<HeaderName> {
    HeaderName::try_from(text).map_err(|_| format!("{text:?} is not the name of a header"))
}

/// The value of a header.
pub fn header_value(text: &str) -> Result<HeaderValue> {
    HeaderValue::try_from(text).map_err(|_| format!("{text:?} is not the value of a header"))
}

/// The name of an object in `namespace`, with or without it.
pub fn object_name(text: &str, namespace: &str) -> Result<ObjectName> {
    let (given, name) = text.split_once('/').unwrap_or((namespace, text));
    if name.is_empty() || name.contains('/') {
        return Err(format!("{text:?} is not the name of an object"));
    }
    if given != namespace {
        return Err(format!(
            "{text:?} is in another namespace, which is not allowed"
        ));
    }
    Ok(ObjectName::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: PartialEq + std::fmt::Debug>(
        parse: impl Fn(&str) -> Result<T>,
        good: impl IntoIterator<Item = (&'static str, T)>,
        bad: &[&str],
    ) {
        for (text, value) in good {
            assert_eq!(parse(text), Ok(value), "{text:?}");
        }
        for text in bad {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn flags_are_spelled_as_in_go() {
        check(
            flag,
            [("true", true), ("T", true), ("0", false), ("False", false)],
            &["yes", "tRUE", ""],
        );
    }

    #[test]
    fn numbers_are_bounded() {
        check(
            |text| number(text, &(1..=100_u8)),
            [("1", 1), ("100", 100)],
            &["0", "101", "-1", "1.5", "", "999"],
        );
    }

    #[test]
    fn times_are_in_seconds_unless_they_say_otherwise() {
        let good = [
            ("60", 60_000),
            ("0", 0),
            ("60s", 60_000),
            ("500ms", 500),
            ("5m", 300_000),
            ("1h", 3_600_000),
        ];
        let good = good.map(|(text, millis)| (text, Duration::from_millis(millis)));
        check(
            seconds,
            good,
            &[
                "",
                "s",
                "-1",
                "1.5",
                "5 s",
                "5w",
                "99999999999999999999",
                "18446744073709551615",
            ],
        );
    }

    #[test]
    fn sizes_have_the_units_of_nginx() {
        let good = [
            ("0", 0),
            ("8192", 8192),
            ("8k", 8192),
            ("1m", 1 << 20),
            ("2G", 2 << 30),
        ];
        check(
            size,
            good,
            &[
                "",
                "m",
                "-1",
                "+1",
                "1mb",
                "1.5m",
                "1t",
                "99999999999g",
                "é",
            ],
        );
    }

    #[test]
    fn lists_have_elements() {
        check(
            |text| list(text).map(|list| list.join("|")),
            [(" a, b ,,c", "a|b|c".to_owned())],
            &["", ", ,"],
        );
    }

    #[test]
    fn ranges_may_be_single_addresses() {
        let text = |text: &str| {
            cidrs(text).map(|ranges| {
                ranges
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
            })
        };
        let good = [("10.0.0.0/8, ::1", "10.0.0.0/8 ::1/128".to_owned())];
        check(text, good, &["", "10.0.0.0/33", "a", "10.0.0.1,b"]);
    }

    #[test]
    fn objects_are_in_the_namespace_of_the_ingress() {
        let good = [
            ("s", ObjectName::new("ns", "s")),
            ("ns/s", ObjectName::new("ns", "s")),
        ];
        check(
            |text| object_name(text, "ns"),
            good,
            &["other/s", "ns/", "/s", "a/b/c", ""],
        );
    }
}
