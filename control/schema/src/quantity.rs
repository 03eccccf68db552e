//! Quantities as `100m` or `1Gi`: parse, compare, canonical form.
//!
//! Held exactly, as a number of nano units (as upstream, anything finer is rounded up), with the family of suffixes it
//! was written in, which the canonical form keeps: `1024Mi` becomes `1Gi`, `1000m` becomes `1`, `0.5` becomes `500m`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A resource quantity; compares by value, whatever the suffix.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// The suffixes a quantity was written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Binary,
    Decimal,
    Exponent,
}

/// Text that is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It does not have the form of one.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// The number is fine but its suffix is not.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANO: i128 = 1_000_000_000;
const BINARY: [(&str, u32); 6] = [
    ("Ki", 10),
    ("Mi", 20),
    ("Gi", 30),
    ("Ti", 40),
    ("Pi", 50),
    ("Ei", 60),
];
/// Suffix and power of ten.
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

impl Quantity {
    /// A whole number.
    pub const fn from_units(units: i64) -> Self {
        Self {
            nano: units as i128 * NANO,
            format: Format::Decimal,
        }
    }

    /// Thousandths, rounded up: CPU in millicores.
    pub fn milli(&self) -> i64 {
        saturate(ceil_div(self.nano, NANO / 1000))
    }

    /// Whole units, rounded up: bytes of memory.
    pub fn units(&self) -> i64 {
        saturate(ceil_div(self.nano, NANO))
    }

    /// Whether it is below zero.
    pub const fn is_negative(&self) -> bool {
        self.nano < 0
    }

    /// Whether it has no fraction.
    pub const fn is_whole(&self) -> bool {
        self.nano % NANO == 0
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;

    /// The sum, in the left operand's suffixes.
    fn add(self, other: Self) -> Self {
        Self {
            nano: self.nano.saturating_add(other.nano),
            format: self.format,
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let number_end = text
            .char_indices()
            .find(|&(i, c)| !(c.is_ascii_digit() || c == '.' || (i == 0 && (c == '+' || c == '-'))))
            .map_or(text.len(), |(i, _)| i);
        let (number, suffix) = text.split_at(number_end);
        let (negative, digits, scale) = decimal(number).ok_or(ParseError::Format)?;
        let (format, binary, power) = self::suffix(suffix)?;
        let nano = scaled(digits, binary, power - scale + 9);
        Ok(Self {
            nano: if negative { -nano } else { nano },
            format,
        })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Below 1024 and with fractions, upstream turns to decimal suffixes.
        if self.format == Format::Binary && self.is_whole() && self.nano.abs() >= 1024 * NANO {
            let units = self.nano / NANO;
            let (suffix, shift) = BINARY
                .iter()
                .rev()
                .find(|(_, shift)| units % (1 << shift) == 0)
                .unwrap_or(&("", 0));
            return write!(f, "{}{suffix}", units >> shift);
        }
        let (mut number, mut power) = (self.nano, -9);
        while number != 0 && number % 1000 == 0 && power < 18 {
            number /= 1000;
            power += 3;
        }
        match DECIMAL.iter().find(|(_, p)| *p == power) {
            _ if number == 0 => write!(f, "0"),
            Some(_) if self.format == Format::Exponent && power != 0 => {
                write!(f, "{number}e{power}")
            }
            Some((suffix, _)) => write!(f, "{number}{suffix}"),
            None => write!(f, "{number}e{power}"),
        }
    }
}

/// Sign, digits without the point, and how many of them followed the point.
fn decimal(text: &str) -> Option<(bool, &str, i32)> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let is_number = (!whole.is_empty() || !fraction.is_empty()) && !fraction.contains('.');
    is_number.then(|| {
        (
            text.starts_with('-'),
            unsigned,
            i32::try_from(fraction.len()).unwrap_or(i32::MAX),
        )
    })
}

/// The suffix's family, its power of two, its power of ten.
fn suffix(text: &str) -> Result<(Format, u32, i32), ParseError> {
    if let Some((_, shift)) = BINARY.iter().find(|(s, _)| *s == text) {
        return Ok((Format::Binary, *shift, 0));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(s, _)| *s == text) {
        return Ok((Format::Decimal, 0, *power));
    }
    let is_known = |c: char| "eEinumkKMGTP+-".contains(c) || c.is_ascii_digit();
    if !text.chars().all(is_known) {
        return Err(ParseError::Format);
    }
    let exponent = text.strip_prefix(['e', 'E']).ok_or(ParseError::Suffix)?;
    let power = exponent.parse::<i32>().map_err(|_| ParseError::Suffix)?;
    Ok((Format::Exponent, 0, power.clamp(-1000, 1000)))
}

/// `digits` (a point in them is ignored) times 2^binary times 10^power, rounded up, at most what `i128` holds.
fn scaled(digits: &str, binary: u32, power: i32) -> i128 {
    let mut value: i128 = 0;
    for digit in digits.bytes().filter(u8::is_ascii_digit) {
        value = value
            .saturating_mul(10)
            .saturating_add(i128::from(digit - b'0'));
    }
    value = value.saturating_mul(1 << binary);
    for _ in 0..power.clamp(0, 40) {
        value = value.saturating_mul(10);
    }
    let mut divisor: i128 = 1;
    for _ in 0..power.saturating_neg().clamp(0, 38) {
        divisor = divisor.saturating_mul(10);
    }
    ceil_div(value, divisor).min(i128::from(i64::MAX) * NANO)
}

fn ceil_div(value: i128, divisor: i128) -> i128 {
    value / divisor + i128::from(value % divisor > 0)
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, canonical) in [
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1023Ki", "1023Ki"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1000k", "1M"),
            ("1E", "1E"),
            ("12e6", "12e6"),
            ("0", "0"),
            ("0Gi", "0"),
            ("-1.5", "-1500m"),
            ("+2", "2"),
            (".5", "500m"),
            ("1.", "1"),
            ("0.1n", "1n"),
            ("1500Mi", "1500Mi"),
            ("99999999999999999999E", "9223372036854775807"),
        ] {
            assert_eq!(
                text.parse::<Quantity>().map(|q| q.to_string()),
                Ok(canonical.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "m", "1..2", "1.2.3", "abc", "1 Gi", "1Gi ", "--1", "1!"] {
            assert_eq!(text.parse::<Quantity>(), Err(ParseError::Format), "{text}");
        }
        for text in ["1mm", "1K", "1Kim", "1ee3", "1e"] {
            assert_eq!(text.parse::<Quantity>(), Err(ParseError::Suffix), "{text}");
        }
    }

    #[test]
    fn values_compare_and_round_up() {
        let parse = |text: &str| text.parse::<Quantity>().expect("a quantity");
        assert_eq!(parse("1Gi"), parse("1073741824"));
        assert!(parse("1G") < parse("1Gi"));
        assert_eq!(parse("1.0001").milli(), 1001);
        assert_eq!(parse("1500m").units(), 2);
        assert_eq!((parse("250m") + parse("0.75")).to_string(), "1");
    }
}
