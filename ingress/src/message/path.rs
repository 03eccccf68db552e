//! The one form of a path that is both matched and forwarded.
//!
//! If a gateway matches one form and sends another, what the rules protect and what the backend serves are two things.
//! So a path is normalised once (RFC 3986 section 6.2.2): escapes of unreserved characters are decoded, the others are
//! written in upper case and stay what they are (`%2F` is data, not a separator), dot segments are resolved, and runs of
//! slashes are merged unless the settings say otherwise.

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// It does not begin with a slash.
    #[error("does not begin with a slash")]
    NotAbsolute,
    /// A control character, a blank or anything outside ASCII stands in it unescaped.
    #[error("contains a character that must be escaped")]
    RawByte,
    /// A percent sign is not followed by two hexadecimal digits.
    #[error("contains a broken escape")]
    BrokenEscape,
    /// It contains `%00`.
    #[error("contains an escaped NUL")]
    Nul,
}

/// Whether runs of slashes are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slashes {
    /// `//` counts as `/`.
    Merge,
    /// `//` is an empty element.
    Keep,
}

/// Normalises `path`. One that is in normal form already is not copied.
pub fn normalise(path: &str, slashes: Slashes) -> Result<Cow<'_, str>, BadPath> {
    if !path.starts_with('/') {
        return Err(BadPath::NotAbsolute);
    }
    if is_plain(path, slashes) {
        return Ok(Cow::Borrowed(path));
    }
    let escaped = normalise_escapes(path)?;
    Ok(Cow::Owned(resolve_dots(&escaped, slashes)))
}

/// Whether an encoded slash or backslash stands in `path`, which is in normal form.
pub fn has_encoded_slash(path: &str) -> bool {
    let mut escapes = path.match_indices('%');
    escapes.any(|(at, _)| matches!(&path[at..], escape if escape.starts_with("%2F") || escape.starts_with("%5C")))
}

/// Whether `path` is in normal form, told by a single pass: no escape, no odd byte, no dot after a slash (a name that
/// begins with a dot takes the longer way) and no double slash.
fn is_plain(path: &str, slashes: Slashes) -> bool {
    let mut after_slash = false;
    path.bytes().all(|byte| {
        let special = match byte {
            b'.' => after_slash,
            b'/' => after_slash && slashes == Slashes::Merge,
            _ => !byte.is_ascii_graphic() || matches!(byte, b'%' | b'\\'),
        };
        after_slash = byte == b'/';
        !special
    })
}

fn normalise_escapes(path: &str) -> Result<String, BadPath> {
    let mut out = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => push_escape(&mut out, unescape(bytes.next(), bytes.next())?)?,
            // Some backends take it for a slash; escaped, nobody does.
            b'\\' => out.push_str("%5C"),
            _ if byte.is_ascii_graphic() => out.push(byte.into()),
            _ => return Err(BadPath::RawByte),
        }
    }
    Ok(out)
}

fn unescape(high: Option<u8>, low: Option<u8>) -> Result<u8, BadPath> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    let value = digit(high)
        .zip(digit(low))
        .map(|(high, low)| high << 4 | low);
    let value = value.and_then(|value| u8::try_from(value).ok());
    value.ok_or(BadPath::BrokenEscape)
}

fn push_escape(out: &mut String, byte: u8) -> Result<(), BadPath> {
    match byte {
        0 => return Err(BadPath::Nul),
        _ if is_unreserved(byte) => out.push(byte.into()),
        _ => {
            const HEX: [u8; 16] = *b"0123456789ABCDEF";
            let digit = |nibble: u8| char::from(HEX[usize::from(nibble)]);
            out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    Ok(())
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Resolves `.` and `..` in a `path` that begins with a slash (RFC 3986 section 5.2.4; above the root there is the root).
pub(crate) fn resolve_dots(path: &str, slashes: Slashes) -> String {
    let mut out = String::with_capacity(path.len());
    let mut elements = path[1..].split('/').peekable();
    while let Some(element) = elements.next() {
        let is_last = elements.peek().is_none();
        match element {
            "." => {}
            ".." => out.truncate(out.rfind('/').unwrap_or(0)),
            "" if slashes == Slashes::Merge => {}
            _ => {
                out.push('/');
                out.push_str(element);
                continue;
            }
        }
        // What was dropped at the end leaves its slash behind.
        if is_last {
            out.push('/');
        }
    }
    out
}

/// Brings the path of a rule into the form that requests are matched in. What a request would have to escape is escaped.
pub fn normalise_rule(path: &str) -> Result<String, BadPath> {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'%' => escaped.push('%'),
            _ if byte.is_ascii_graphic() => escaped.push(byte.into()),
            _ => push_escape(&mut escaped, byte)?,
        }
    }
    normalise(&escaped, Slashes::Keep).map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_once() {
        let rows = [
            ("/", Ok("/")),
            ("/a/b", Ok("/a/b")),
            ("/a/b/", Ok("/a/b/")),
            ("/a/../b", Ok("/b")),
            ("/a/%2e%2e/b", Ok("/b")),
            ("/a/%2E%2e/%2e/b", Ok("/b")),
            ("/a/./b", Ok("/a/b")),
            ("/a/.", Ok("/a/")),
            ("/a/b/..", Ok("/a/")),
            ("/..", Ok("/")),
            ("/../../a", Ok("/a")),
            ("/a//b", Ok("/a/b")),
            ("//", Ok("/")),
            ("//a", Ok("/a")),
            ("/a//../b", Ok("/b")),
            ("/.well-known/x", Ok("/.well-known/x")),
            ("/a/...", Ok("/a/...")),
            ("/%41%7e%2d", Ok("/A~-")),
            ("/a%2fb", Ok("/a%2Fb")),
            ("/a%5cb", Ok("/a%5Cb")),
            ("/a\\b", Ok("/a%5Cb")),
            ("/%c3%bc", Ok("/%C3%BC")),
            ("/a%20b", Ok("/a%20b")),
            ("/%25%32%66", Ok("/%252f")),
            ("/a;v=1,2@x:y!$&'()*+", Ok("/a;v=1,2@x:y!$&'()*+")),
            ("a", Err(BadPath::NotAbsolute)),
            ("", Err(BadPath::NotAbsolute)),
            ("/%00", Err(BadPath::Nul)),
            ("/%", Err(BadPath::BrokenEscape)),
            ("/%4", Err(BadPath::BrokenEscape)),
            ("/%zz", Err(BadPath::BrokenEscape)),
            ("/%+1", Err(BadPath::BrokenEscape)),
            ("/a b", Err(BadPath::RawByte)),
            ("/\u{fc}", Err(BadPath::RawByte)),
            ("/a\u{7f}", Err(BadPath::RawByte)),
        ];
        for (path, expected) in rows {
            let expected = expected.map(Cow::Borrowed);
            assert_eq!(normalise(path, Slashes::Merge), expected, "{path:?}");
        }
    }

    #[test]
    fn empty_elements_stay_where_slashes_are_kept() {
        for (path, expected) in [
            ("/a//b", "/a//b"),
            ("//", "//"),
            ("/a//../b", "/a/b"),
            ("/a//%2e/", "/a//"),
        ] {
            assert_eq!(normalise(path, Slashes::Keep).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn paths_of_rules_are_escaped_like_those_of_requests() {
        for (path, expected) in [
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/a b", "/a%20b"),
            ("/%7euser", "/~user"),
            ("/foo/", "/foo/"),
        ] {
            assert_eq!(normalise_rule(path).as_deref(), Ok(expected));
        }
    }

    proptest::proptest! {
        #[test]
        fn normal_form_is_a_fixed_point(path in "/[a./%2eE5c\\\\]{0,24}") {
            for slashes in [Slashes::Merge, Slashes::Keep] {
                if let Ok(once) = normalise(&path, slashes) {
                    let twice = normalise(&once, slashes);
                    proptest::prop_assert_eq!(twice.as_deref(), Ok(&*once));
                }
            }
        }
    }
}
