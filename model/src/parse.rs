//! Addresses and ranges in the spellings that the Kubernetes API has let in over the years.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// Parses an address. Decimal fields may have leading zeros, which old API servers stored and which never meant octal
/// (CVE-2021-29923); an IPv4 address written as IPv6 counts as IPv4.
pub fn address(text: &str) -> Option<IpAddr> {
    let plain: Option<IpAddr> = text.parse().ok();
    let address = plain.or_else(|| without_leading_zeros(text)?.parse().ok())?;
    Some(address.to_canonical())
}

/// Parses a range like `10.0.0.0/8`, with blanks around it and bits beyond the prefix forgiven.
pub fn range(text: &str) -> Option<IpNetwork> {
    let (ip, prefix) = text.trim().split_once('/')?;
    let (ip, prefix) = (address(ip)?, prefix.parse().ok()?);
    let network = IpNetwork::new(ip, prefix).ok()?;
    IpNetwork::new(network.network(), prefix).ok()
}

/// `text` with the dotted quad at its end in canonical decimal, if it has one.
fn without_leading_zeros(text: &str) -> Option<String> {
    let start = text.rfind(':').map_or(0, |colon| colon + 1);
    let (head, quad) = text.split_at(start);
    let fields: Option<Vec<String>> = quad.split('.').map(decimal).collect();
    Some(format!("{head}{}", fields?.join(".")))
}

fn decimal(field: &str) -> Option<String> {
    let digits = !field.is_empty() && field.bytes().all(|b| b.is_ascii_digit());
    let value: u8 = digits.then(|| field.parse().ok())??;
    Some(value.to_string())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn addresses_are_canonical_and_leading_zeros_are_decimal() {
        let rows = [
            ("10.0.0.1", Some("10.0.0.1")),
            ("010.0.000.011", Some("10.0.0.11")),
            ("0127.0.0.01", Some("127.0.0.1")),
            ("fd00::0001", Some("fd00::1")),
            ("::ffff:10.1.2.3", Some("10.1.2.3")),
            ("::ffff:010.1.2.3", Some("10.1.2.3")),
            ("0x10.0.0.1", None),
            ("10.0.0.256", None),
            ("10.0.0", None),
            ("10.0.0.+1", None),
            ("None", None),
            ("", None),
        ];
        for (text, expected) in rows {
            let expected: Option<IpAddr> = expected.map(|e| e.parse().unwrap());
            assert_eq!(address(text), expected, "{text}");
        }
    }

    #[test]
    fn ranges_are_trimmed_and_cut_to_their_prefix() {
        let rows = [
            (" 10.0.0.0/8 ", Some("10.0.0.0/8")),
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("010.0.0.0/08", Some("10.0.0.0/8")),
            ("fd00::1/64", Some("fd00::/64")),
            ("10.0.0.0/33", None),
            ("10.0.0.0", None),
        ];
        for (text, expected) in rows {
            let expected: Option<IpNetwork> = expected.map(|e| e.parse().unwrap());
            assert_eq!(range(text), expected, "{text}");
        }
    }
}
