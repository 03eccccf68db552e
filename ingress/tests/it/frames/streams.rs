//! The states of streams, and blocks in several frames: sections 4.3, 5.1, 5.3, 5.5, 6.10 and 8.1.

use super::*;

#[tokio::test]
async fn streams() {
    let reset = frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    let end = frame(DATA, END_STREAM, 1, b"x");
    let more = frame(DATA, END_STREAM, 1, b"y");
    let trailers = |flags| frame(HEADERS, END_HEADERS | flags, 1, &block(&[("x-t", "1")]));
    let on_itself = [&[0, 0, 0, 1, 255][..], &block(&GET)].concat();
    let flags = END_HEADERS | END_STREAM | WITH_PRIORITY;
    let go_on = frame(CONTINUATION, END_HEADERS, 1, &block(&GET));
    check(&[
        (
            "5.1 CONTINUATION on an idle stream",
            frame(CONTINUATION, END_HEADERS, 1, &block(&GET)),
            End::Connection,
        ),
        (
            "5.1 DATA after END_STREAM",
            [post(1), end.clone(), more.clone()].concat(),
            End::Stream,
        ),
        (
            "5.1 HEADERS after END_STREAM",
            [get(1), get(1)].concat(),
            End::Stream,
        ),
        (
            "5.1 DATA after RST_STREAM",
            [post(1), reset.clone(), more].concat(),
            End::Stream,
        ),
        ("5.1.1 an even stream", get(2), End::Connection),
        (
            "5.1.1 a lower stream than before",
            [get(5), get(3)].concat(),
            End::Connection,
        ),
        (
            "5.3.1 a stream that depends on itself",
            frame(HEADERS, flags, 1, &on_itself),
            End::Stream,
        ),
        (
            "8.1 trailers",
            [post(1), frame(DATA, 0, 1, b"x"), trailers(END_STREAM)].concat(),
            End::Status(200),
        ),
        (
            "8.1 trailers that are not the end",
            [post(1), frame(DATA, 0, 1, b"x"), trailers(0)].concat(),
            End::Stream,
        ),
        (
            "5.1 CONTINUATION after END_STREAM",
            [get(1), go_on.clone()].concat(),
            End::Connection,
        ),
        (
            "5.1 HEADERS after RST_STREAM",
            [post(1), reset.clone(), get(1)].concat(),
            End::Stream,
        ),
        (
            "5.1 CONTINUATION after RST_STREAM",
            [post(1), reset, go_on].concat(),
            End::Connection,
        ),
        (
            "5.1.2 more streams than are allowed",
            (0..=128).flat_map(|n| post(2 * n + 1)).collect(),
            End::Stream,
        ),
        (
            "5.3.1 PRIORITY that depends on itself",
            priority(1, 1, 255),
            End::Stream,
        ),
    ])
    .await;
}

#[tokio::test]
async fn closed_streams() {
    let data = frame(DATA, END_STREAM, 1, b"x");
    let go_on = frame(CONTINUATION, END_HEADERS, 1, &block(&GET));
    check_after_answer(&[
        ("5.1 DATA", data, End::Stream),
        ("5.1 HEADERS", get(1), End::Stream),
        ("5.1 CONTINUATION", go_on, End::Connection),
        ("generic 2 PRIORITY", priority(1, 0, 255), End::Nothing),
        ("another request", get(3), End::Status(200)),
    ])
    .await;
}

#[tokio::test]
async fn continuations() {
    let (half, rest) = (block(&GET[..2]), block(&GET[2..]));
    let begin = frame(HEADERS, END_STREAM, 1, &half);
    let go_on = |flags, stream| frame(CONTINUATION, flags, stream, &rest);
    check(&[
        (
            "6.10 in two",
            [begin.clone(), go_on(END_HEADERS, 1)].concat(),
            End::Status(200),
        ),
        (
            "6.10 in four",
            [
                begin.clone(),
                go_on(0, 1),
                frame(CONTINUATION, 0, 1, &[]),
                frame(CONTINUATION, END_HEADERS, 1, &[]),
            ]
            .concat(),
            End::Status(200),
        ),
        (
            "6.10 on another stream",
            [begin.clone(), go_on(END_HEADERS, 3)].concat(),
            End::Connection,
        ),
        (
            "6.10 on stream 0",
            [begin.clone(), go_on(END_HEADERS, 0)].concat(),
            End::Connection,
        ),
        (
            "6.10 after END_HEADERS",
            [get(1), go_on(END_HEADERS, 1)].concat(),
            End::Connection,
        ),
        (
            "6.10 DATA between",
            [
                begin.clone(),
                frame(DATA, 0, 1, b"x"),
                go_on(END_HEADERS, 1),
            ]
            .concat(),
            End::Connection,
        ),
        (
            "5.5 an unknown frame between",
            [
                begin.clone(),
                frame(0x16, 0, 0, b"x"),
                go_on(END_HEADERS, 1),
            ]
            .concat(),
            End::Connection,
        ),
        (
            "6.10 after a CONTINUATION with END_HEADERS",
            [begin.clone(), go_on(END_HEADERS, 1), go_on(END_HEADERS, 1)].concat(),
            End::Connection,
        ),
        (
            "6.10 after DATA",
            [post(1), frame(DATA, 0, 1, b"x"), go_on(END_HEADERS, 1)].concat(),
            End::Connection,
        ),
        (
            "4.3 PRIORITY between",
            [begin.clone(), priority(1, 0, 255), go_on(END_HEADERS, 1)].concat(),
            End::Connection,
        ),
        (
            "4.3 HEADERS of another stream between",
            [begin, get(3), go_on(END_HEADERS, 1)].concat(),
            End::Connection,
        ),
    ])
    .await;
}
