//! Requests: section 8.1.2, and what RFC 9113 adds to it.

use super::*;

#[tokio::test]
async fn messages() {
    let without = |name: &str| {
        let rest: Vec<_> = GET
            .into_iter()
            .filter(|(other, _)| *other != name)
            .collect();
        only(&rest)
    };
    let twice = |name: &str| {
        let again = GET.into_iter().filter(|(other, _)| *other == name);
        only(&GET.into_iter().chain(again).collect::<Vec<_>>())
    };
    let late = [&[("x-a", "1")], &GET[..]].concat();
    let empty = [GET[0], GET[1], (":path", ""), GET[3]];
    let sized = |length: &'static str, parts: &[&[u8]]| {
        let fields = [&POST[..], &[("content-length", length)]].concat();
        let mut bytes = frame(HEADERS, END_HEADERS, 1, &block(&fields));
        for (number, part) in parts.iter().enumerate() {
            let is_last = number + 1 == parts.len();
            bytes.extend(frame(DATA, if is_last { END_STREAM } else { 0 }, 1, part));
        }
        bytes
    };
    let trailer = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &block(&[(":method", "GET")]),
    );
    check(&[
        (
            "8.1.2 a name in upper case",
            with(&[("X-A", "1")]),
            End::Stream,
        ),
        (
            "8.1.2.1 an unknown pseudo-header",
            with(&[(":test", "1")]),
            End::Stream,
        ),
        (
            "8.1.2.1 that of a response",
            with(&[(":status", "200")]),
            End::Stream,
        ),
        (
            "8.1.2.1 one in trailers, which is left out",
            [post(1), frame(DATA, 0, 1, b"x"), trailer].concat(),
            End::Status(200),
        ),
        ("8.1.2.1 one after a field", only(&late), End::Stream),
        (
            "8.1.2.2 Connection",
            with(&[("connection", "keep-alive")]),
            End::Stream,
        ),
        (
            "8.1.2.2 TE other than trailers",
            with(&[("te", "trailers, deflate")]),
            End::Stream,
        ),
        (
            "8.1.2.2 TE: trailers",
            with(&[("te", "trailers")]),
            End::Status(200),
        ),
        ("8.1.2.3 an empty :path", only(&empty), End::Stream),
        ("8.1.2.3 no :method", without(":method"), End::Stream),
        ("8.1.2.3 no :scheme", without(":scheme"), End::Stream),
        ("8.1.2.3 no :path", without(":path"), End::Stream),
        ("8.1.2.3 two :method", twice(":method"), End::Stream),
        ("8.1.2.3 two :scheme", twice(":scheme"), End::Stream),
        ("8.1.2.3 two :path", twice(":path"), End::Stream),
        (
            "8.1.2.6 a length that DATA keeps",
            sized("4", &[b"te", b"st"]),
            End::Status(200),
        ),
        (
            "8.1.2.6 a length that DATA does not keep",
            sized("1", &[b"test"]),
            End::Stream,
        ),
        (
            "8.1.2.6 nor in several",
            sized("1", &[b"te", b"st"]),
            End::Stream,
        ),
        (
            "10.3 a line feed in a value",
            with(&[("x-a", "1\nx-b: 2")]),
            End::Stream,
        ),
        (
            "10.3 a NUL in a value",
            with(&[("x-a", "1\0")]),
            End::Stream,
        ),
        (
            "8.2.1 a space in a name",
            with(&[("x a", "1")]),
            End::Stream,
        ),
    ])
    .await;
}
