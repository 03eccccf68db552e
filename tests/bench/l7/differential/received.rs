//! What a backend was sent, read as a careless one would, and judged as a careful one would.

use std::fmt::{self, Display};

/// All that came for one case.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) requests: Vec<Request>,
    /// Whether the last connection ends within a request.
    is_cut: bool,
}

/// A request as it was sent: its lines, and how its body was chunked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    head: Vec<u8>,
    doubts: Vec<&'static str>,
}

impl Received {
    /// Reads the bytes of all `connections`.
    pub(super) fn of<B: AsRef<[u8]>>(connections: impl IntoIterator<Item = B>) -> Self {
        let mut received = Self::default();
        for connection in connections {
            let mut rest = connection.as_ref();
            while !rest.is_empty() {
                let (request, length) = read(rest);
                received.requests.push(request);
                received.is_cut = length.is_none();
                rest = &rest[length.unwrap_or(rest.len())..];
            }
        }
        received
    }

    /// Whether anything came.
    pub(super) fn has_anything(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Whether a request came to its end.
    pub(super) fn is_whole(&self) -> bool {
        self.requests.len() > usize::from(self.is_cut)
    }

    /// Why others may read it in another way.
    pub(super) fn doubts(&self) -> Vec<&'static str> {
        let all = self.requests.iter().flat_map(|request| &request.doubts);
        let mut doubts: Vec<_> = all.copied().collect();
        doubts.sort_unstable();
        doubts.dedup();
        doubts
    }
}

impl Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requests = self.requests.iter().map(Request::to_string);
        let requests: Vec<String> = requests.collect();
        if requests.len() > 1 {
            write!(f, "{} requests: ", requests.len())?;
        }
        f.write_str(&requests.join(" + "))?;
        f.write_str(if self.is_cut { " (cut)" } else { "" })
    }
}

impl Display for Request {
    /// The request line and the fields that say where it goes and where it ends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interesting = |line: &&[u8]| {
            let name = line.split(|byte| !byte.is_ascii_alphanumeric() && !b"-_".contains(byte));
            let name = name.map(<[u8]>::to_ascii_lowercase).next();
            let name = name.unwrap_or_default();
            let names = [
                &b"host"[..],
                b"content-length",
                b"transfer-encoding",
                b"expect",
                b"upgrade",
                b"forwarded",
                b"x_forwarded_for",
                b"x-secret",
            ];
            names.contains(&&name[..])
        };
        let mut lines = lines(&self.head);
        let first = lines.next().unwrap_or_default();
        write!(f, "`{}`", shown(first))?;
        for line in lines.filter(interesting) {
            write!(f, " `{}`", shown(line))?;
        }
        Ok(())
    }
}

/// A line in a form that can be printed, cut where it is long.
fn shown(line: &[u8]) -> String {
    let text: String = line.escape_ascii().to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.replace("\\\'", "'").replace("\\\"", "\""),
    }
}

/// The lines of a head, whatever ends them.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = head.split(|byte| *byte == b'\n');
    lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

// Reading.

/// The request that `bytes` begin with, and its length if it is whole.
fn read(bytes: &[u8]) -> (Request, Option<usize>) {
    let (head, body) = split_head(bytes);
    let mut doubts = doubts_of_head(head);
    let length = body.and_then(|body| {
        let length = body_length(head, &bytes[body..], &mut doubts);
        length.map(|length| body + length)
    });
    let head = head.to_vec();
    (Request { head, doubts }, length)
}

/// The head, and where the body begins if the head is whole.
fn split_head(bytes: &[u8]) -> (&[u8], Option<usize>) {
    for at in 0..bytes.len() {
        for end in [&b"\r\n\r\n"[..], b"\n\n"] {
            if bytes[at..].starts_with(end) {
                return (&bytes[..at], Some(at + end.len()));
            }
        }
    }
    (bytes, None)
}

/// How long the body is that `bytes` begin with, if it is whole.
fn body_length(head: &[u8], bytes: &[u8], doubts: &mut Vec<&'static str>) -> Option<usize> {
    let encodings = values(head, "transfer-encoding");
    if encodings
        .iter()
        .any(|value| value.to_ascii_lowercase().contains("chunked"))
    {
        return chunks_length(bytes, doubts);
    }
    let length = values(head, "content-length");
    let length = length.first().and_then(|value| value.parse().ok());
    let length: usize = length.unwrap_or(0);
    (bytes.len() >= length).then_some(length)
}

/// How long a chunked body is with its trailers, if it is whole.
fn chunks_length(bytes: &[u8], doubts: &mut Vec<&'static str>) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = line_at(bytes, at)?;
        let size = line.strip_suffix(b"\r\n");
        let size = size.and_then(|size| std::str::from_utf8(size).ok());
        let digits = size.map(|size| size.split(';').next().unwrap_or_default());
        let is_strict = digits.is_some_and(|digits| {
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        let size = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok());
        let Some(size) = size.filter(|_| is_strict) else {
            doubts.push("bad chunk size");
            return Some(bytes.len());
        };
        at += line.len();
        if size == 0 {
            break;
        }
        let end = at.checked_add(size).and_then(|end| end.checked_add(2));
        let chunk = bytes.get(at..end?)?;
        if !chunk.ends_with(b"\r\n") {
            doubts.push("bad end of a chunk");
            return Some(bytes.len());
        }
        at += chunk.len();
    }
    loop {
        let line = line_at(bytes, at)?;
        at += line.len();
        if matches!(line, b"\r\n" | b"\n") {
            return Some(at);
        }
    }
}

/// The line that begins at `at`, with its end.
fn line_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    Some(&rest[..=end])
}

/// The values of all fields of this name, as a careless reader finds them.
fn values(head: &[u8], name: &str) -> Vec<String> {
    let fields = lines(head).skip(1).filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (found, value) = line.split_at(colon);
        let is_it = found.trim_ascii().eq_ignore_ascii_case(name.as_bytes());
        is_it.then(|| String::from_utf8_lossy(value[1..].trim_ascii()).into_owned())
    });
    fields.collect()
}

// Judging.

fn doubts_of_head(head: &[u8]) -> Vec<&'static str> {
    let mut doubts = Vec::new();
    let mut doubt = |is_there: bool, what| {
        if is_there {
            doubts.push(what);
        }
    };
    let first = lines(head).next().unwrap_or_default();
    let mut words = first.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let target = target.unwrap_or_default();
    let is_version = matches!(version, Some(b"HTTP/1.1" | b"HTTP/1.0"));
    doubt(!is_version || words.next().is_some(), "bad request line");
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'#';
    doubt(!target.iter().all(is_plain), "bad target");

    let text = String::from_utf8_lossy(head);
    let without = text.replace("\r\n", "");
    doubt(without.contains(['\r', '\n']), "bare CR or LF");
    doubt(without.contains('\0'), "NUL");
    let fields: Vec<&[u8]> = lines(head).skip(1).collect();
    let is_folded = |line: &&[u8]| line.starts_with(b" ") || line.starts_with(b"\t");
    doubt(fields.iter().any(is_folded), "folded line");
    let is_named = |line: &&[u8]| {
        let name = line.split(|byte| *byte == b':').next();
        let name = name.filter(|name| name.len() < line.len() && !name.is_empty());
        name.is_some_and(|name| name.iter().all(is_token))
    };
    doubt(!fields.iter().all(is_named), "bad field name");

    let hosts = values(head, "host");
    let is_host = |host: &String| {
        !host.is_empty()
            && host
                .bytes()
                .all(|byte| b"@/, \t".iter().all(|bad| *bad != byte))
    };
    doubt(hosts.is_empty() && version == Some(b"HTTP/1.1"), "no Host");
    doubt(hosts.len() > 1, "several Hosts");
    doubt(hosts.len() == 1 && !hosts.iter().all(is_host), "bad Host");
    let authority = std::str::from_utf8(target).ok();
    let authority = authority.and_then(|target| target.split_once("://"));
    let authority = authority.and_then(|(_, rest)| rest.split('/').next());
    doubt(
        method != Some(b"CONNECT") && authority.is_some_and(|authority| hosts != [authority]),
        "target is not for Host",
    );

    let (lengths, encodings) = (
        values(head, "content-length"),
        values(head, "transfer-encoding"),
    );
    let is_number =
        |value: &String| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    doubt(!lengths.iter().all(is_number), "bad Content-Length");
    doubt(lengths.len() > 1, "several Content-Lengths");
    doubt(
        !lengths.is_empty() && !encodings.is_empty(),
        "length and encoding",
    );
    doubt(encodings.len() > 1, "several Transfer-Encodings");
    let is_chunked = |value: &String| value.eq_ignore_ascii_case("chunked");
    doubt(!encodings.iter().all(is_chunked), "bad Transfer-Encoding");
    doubt(
        !encodings.is_empty() && version == Some(b"HTTP/1.0"),
        "Transfer-Encoding in HTTP/1.0",
    );
    doubts
}

/// Whether it may be in the name of a field (RFC 9110 section 5.6.2).
fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_well_formed_leaves_no_doubt_and_what_is_not_is_named() {
        for (bytes, requests, is_whole, doubts) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], 1, true, &[][..]),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", 1, true, &[]),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab", 1, false, &[]),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\nT: 1\r\n\r\n", 1, true, &[]),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", 1, false, &[]),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\naGET / HTTP/1.1\r\nHost: a\r\n\r\n", 2, true, &[]),
            (b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 1, true, &["bad field name", "folded line"]),
            (b"GET / HTTP/1.1\nHost: a\n\n", 1, true, &["bare CR or LF"]),
            (b"GET / HTTP/1.1\r\n\r\n", 1, true, &["no Host"]),
            (b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 1, true, &["bad Host"]),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 1, true, &["several Hosts"]),
            (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 1, true, &["target is not for Host"]),
            (b"GET /\xfc HTTP/1.1\r\nHost: a\r\n\r\n", 1, true, &["bad target"]),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n", 1, true, &["bad chunk size"]),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", 1, true, &["bad end of a chunk"]),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 1, true, &["bad Transfer-Encoding"]),
            (
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                1,
                true,
                &["length and encoding"],
            ),
        ] {
            let received = Received::of([bytes]);
            let text = bytes.escape_ascii();
            assert_eq!(received.requests.len(), requests, "{text}");
            assert_eq!(received.is_whole(), is_whole, "{text}");
            assert_eq!(received.doubts(), doubts, "{text}");
        }
    }
}
