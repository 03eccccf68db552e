//! What every client may do: the part of h2spec that it calls generic, sections 1 to 4. Section 5 is in `compression`.

use super::*;

#[tokio::test]
async fn what_is_legal_is_served() {
    let update = |stream| frame(WINDOW_UPDATE, 0, stream, &1_u32.to_be_bytes());
    let reset = frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    let data = |flags, text: &[u8]| frame(DATA, flags, 1, text);
    let trailers = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &block(&[("x-t", "1")]),
    );
    let flags = END_HEADERS | END_STREAM;
    let padded = [&[3][..], &block(&GET), &[0; 3]].concat();
    let prioritised = [&[0, 0, 0, 0, 15][..], &block(&GET)].concat();
    let head = [(":method", "HEAD"), GET[1], GET[2], GET[3]];
    let (half, rest) = (block(&GET[..2]), block(&GET[2..]));
    let served = End::Status(200);
    check(&[
        ("1 the preface", vec![], End::Nothing),
        (
            "2 PRIORITY on an idle stream",
            [priority(1, 0, 15), get(1)].concat(),
            served,
        ),
        (
            "2 WINDOW_UPDATE on a half-closed stream",
            [get(1), update(1)].concat(),
            served,
        ),
        (
            "2 PRIORITY on a half-closed stream",
            [get(1), priority(1, 0, 15)].concat(),
            served,
        ),
        (
            "2 RST_STREAM on a half-closed stream",
            [get(1), reset.clone()].concat(),
            End::Nothing,
        ),
        (
            "3.1 DATA",
            [post(1), data(END_STREAM, b"test")].concat(),
            served,
        ),
        (
            "3.1 several DATA",
            [post(1), data(0, b"test"), data(END_STREAM, b"test")].concat(),
            served,
        ),
        (
            "3.1 DATA with padding",
            [post(1), data(END_STREAM | PADDED, b"\x03test\0\0\0")].concat(),
            served,
        ),
        ("3.2 HEADERS", get(1), served),
        (
            "3.2 HEADERS with padding",
            frame(HEADERS, flags | PADDED, 1, &padded),
            served,
        ),
        (
            "3.2 HEADERS with priority",
            frame(HEADERS, flags | WITH_PRIORITY, 1, &prioritised),
            served,
        ),
        (
            "3.3 PRIORITY of 1",
            [priority(1, 0, 0), get(1)].concat(),
            served,
        ),
        (
            "3.3 PRIORITY of 256",
            [priority(1, 0, 255), get(1)].concat(),
            served,
        ),
        (
            "3.3 PRIORITY that depends on another",
            [priority(1, 3, 255), get(1)].concat(),
            served,
        ),
        (
            "3.3 PRIORITY that wants another for itself",
            [priority(1, 3 | 1 << 31, 255), get(1)].concat(),
            served,
        ),
        (
            "3.3 PRIORITY on an idle stream, then HEADERS on a lower one",
            [priority(5, 0, 255), get(3)].concat(),
            served,
        ),
        ("3.4 RST_STREAM", [post(1), reset].concat(), End::Nothing),
        ("3.5 SETTINGS", [setting(3, 100), get(1)].concat(), served),
        ("3.7 PING", frame(PING, 0, 0, b"h2spec\0\0"), End::Nothing),
        (
            "3.8 GOAWAY",
            frame(GOAWAY, 0, 0, &[0; 8]),
            End::NothingOrConnection,
        ),
        (
            "3.9 WINDOW_UPDATE on the connection",
            [update(0), get(1)].concat(),
            served,
        ),
        (
            "3.9 WINDOW_UPDATE on a stream",
            [get(1), update(1)].concat(),
            served,
        ),
        (
            "3.10 CONTINUATION",
            [
                frame(HEADERS, END_STREAM, 1, &half),
                frame(CONTINUATION, END_HEADERS, 1, &rest),
            ]
            .concat(),
            served,
        ),
        (
            "3.10 several CONTINUATION",
            [
                frame(HEADERS, END_STREAM, 1, &half),
                frame(CONTINUATION, 0, 1, &rest),
                frame(CONTINUATION, END_HEADERS, 1, &field("x-a", "1")),
            ]
            .concat(),
            served,
        ),
        ("4 GET", get(1), served),
        ("4 HEAD", frame(HEADERS, flags, 1, &block(&head)), served),
        (
            "4 POST",
            [post(1), data(END_STREAM, b"test")].concat(),
            served,
        ),
        (
            "4 POST with trailers",
            [post(1), data(0, b"test"), trailers].concat(),
            served,
        ),
    ])
    .await;
}
