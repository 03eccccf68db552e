//! The cookies of a request.

use http::HeaderMap;
use http::header::COOKIE;

/// The value of the cookie `name`. As nginx reads them: names in any case, and the first one counts.
pub fn find<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let lines = headers.get_all(COOKIE).iter();
    let mut pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (found, value) = (pair[..equals].trim_ascii(), &pair[equals + 1..]);
        let is_it = found.eq_ignore_ascii_case(name.as_bytes());
        is_it.then(|| value.trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn cookies_are_found_by_name_in_any_case_and_the_first_counts() {
        let mut headers = HeaderMap::new();
        let first = "xcanary=1; CANARY = 2 ;canary=3; word";
        headers.append(COOKIE, HeaderValue::from_static(first));
        headers.append(COOKIE, HeaderValue::from_static("other==x; empty="));
        for (name, expected) in [
            ("canary", Some("2")),
            ("ary", None),
            ("word", None),
            ("other", Some("=x")),
            ("empty", Some("")),
        ] {
            assert_eq!(find(&headers, name), expected.map(str::as_bytes), "{name}");
        }
    }
}
