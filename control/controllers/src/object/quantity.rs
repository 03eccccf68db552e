//! Resource quantities ("250m", "1.5Gi", "2e3") as whole numbers.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A quantity in thousandths, rounded up; what cannot be parsed counts as nothing.
pub(crate) fn milli(quantity: &Quantity) -> i64 {
    parse_milli(&quantity.0).unwrap_or(0)
}

/// A quantity in whole units, rounded up.
pub(crate) fn units(quantity: &Quantity) -> i64 {
    milli(quantity).saturating_add(999) / 1000
}

fn parse_milli(text: &str) -> Option<i64> {
    let text = text.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let negative = whole.starts_with('-');
    let digits = format!("{}{fraction}", whole.trim_start_matches(['+', '-']));
    let mantissa: i128 = digits.parse().ok()?;
    let (multiplier, divisor) = scale(suffix)?;
    let divisor = divisor.checked_mul(10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let scaled = mantissa.checked_mul(multiplier)?.checked_mul(1000)?;
    let rounded = scaled.checked_add(divisor - 1)? / divisor;
    let value = i64::try_from(rounded).unwrap_or(i64::MAX);
    Some(if negative { -value } else { value })
}

/// A suffix as multiplier and divisor.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("250m", Some(250)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("1k", Some(1_000_000)),
            ("2e3", Some(2_000_000)),
            ("2E-3", Some(2)),
            ("1n", Some(1)),
            ("100Mi", Some(104_857_600_000)),
            ("-1", Some(-1000)),
            ("8Ei", Some(i64::MAX)),
            ("", None),
            ("Gi", None),
            ("1x", None),
            ("1.2.3", None),
            ("1e999", None),
        ] {
            assert_eq!(parse_milli(text), expected, "{text}");
        }
        assert_eq!(units(&Quantity("1500m".to_owned())), 2);
    }
}
