//! Frames for themselves, settings and windows: sections 3.5, 4, 5.4, 6.1 to 6.9, 7 and 8.2.

use super::*;

#[tokio::test]
async fn frames_and_their_sizes() {
    let padded = |length: u8| [&[length][..], &block(&GET)].concat();
    let data = |length: u8, rest: &[u8]| {
        [
            post(1),
            frame(DATA, PADDED | END_STREAM, 1, &[&[length], rest].concat()),
        ]
        .concat()
    };
    let flags = END_HEADERS | END_STREAM;
    check(&[
        ("3.5 nothing odd", get(1), End::Status(200)),
        (
            "4.1 a frame of unknown type",
            [frame(0x16, 0, 0, b"x"), get(1)].concat(),
            End::Status(200),
        ),
        (
            "4.1 unknown flags",
            frame(PING, 0x16, 0, b"12345678"),
            End::Nothing,
        ),
        (
            "4.1 the reserved bit",
            frame(PING, 0, 1 << 31, b"12345678"),
            End::Nothing,
        ),
        (
            "4.2 DATA of the largest size",
            [post(1), frame(DATA, END_STREAM, 1, &[0; 16_384])].concat(),
            End::Status(200),
        ),
        (
            "4.2 DATA beyond it",
            [post(1), frame(DATA, END_STREAM, 1, &[0; 16_385])].concat(),
            End::Stream,
        ),
        (
            "4.2 HEADERS beyond it",
            frame(HEADERS, flags, 1, &[0; 16_385]),
            End::Connection,
        ),
        (
            "6.1 DATA on stream 0",
            frame(DATA, 0, 0, b"x"),
            End::Connection,
        ),
        (
            "6.1 DATA on a stream that is not open",
            frame(DATA, END_STREAM, 1, b"x"),
            End::Connection,
        ),
        (
            "6.1 padding as long as DATA",
            data(6, b"test"),
            End::Connection,
        ),
        (
            "6.1 padding within DATA",
            data(3, b"testxxx"),
            End::Status(200),
        ),
        (
            "6.2 HEADERS on stream 0",
            frame(HEADERS, flags, 0, &block(&GET)),
            End::Connection,
        ),
        (
            "6.2 padding longer than HEADERS",
            frame(HEADERS, flags | PADDED, 1, &padded(255)),
            End::Connection,
        ),
        (
            "6.3 PRIORITY on stream 0",
            frame(PRIORITY, 0, 0, &[0, 0, 0, 3, 16]),
            End::Connection,
        ),
        (
            "6.3 PRIORITY of another size",
            frame(PRIORITY, 0, 1, &[0, 0, 0, 3]),
            End::Stream,
        ),
        (
            "6.4 RST_STREAM on stream 0",
            frame(RST_STREAM, 0, 0, &[0, 0, 0, 8]),
            End::Connection,
        ),
        (
            "6.4 RST_STREAM on an idle stream",
            frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
            End::Connection,
        ),
        (
            "6.4 RST_STREAM of another size",
            [post(1), frame(RST_STREAM, 0, 1, &[0, 0, 8])].concat(),
            End::Connection,
        ),
        (
            "6.6 PUSH_PROMISE from a client",
            [
                post(1),
                frame(
                    PUSH_PROMISE,
                    END_HEADERS,
                    1,
                    &[&[0, 0, 0, 2], &block(&GET)[..]].concat(),
                ),
            ]
            .concat(),
            End::Connection,
        ),
        ("6.7 PING", frame(PING, 0, 0, b"12345678"), End::Nothing),
        (
            "6.7 PING that is an answer",
            frame(PING, ACK, 0, b"12345678"),
            End::Nothing,
        ),
        (
            "6.7 PING on a stream",
            frame(PING, 0, 1, b"12345678"),
            End::Connection,
        ),
        (
            "6.7 PING of another size",
            frame(PING, 0, 0, b"123456"),
            End::Connection,
        ),
        (
            "6.8 GOAWAY on a stream",
            frame(GOAWAY, 0, 1, &[0; 8]),
            End::Connection,
        ),
        (
            "6.2 PRIORITY before the end of a block",
            [
                frame(HEADERS, END_STREAM, 1, &block(&GET)),
                priority(1, 0, 255),
            ]
            .concat(),
            End::Connection,
        ),
        (
            "6.2 HEADERS of another stream before the end of a block",
            [frame(HEADERS, END_STREAM, 1, &block(&GET)), get(3)].concat(),
            End::Connection,
        ),
        (
            "7 GOAWAY for a reason that nobody knows",
            frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff]),
            End::NothingOrConnection,
        ),
        (
            "7 RST_STREAM for a reason that nobody knows",
            [post(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 0xff])].concat(),
            End::Nothing,
        ),
        (
            "8.2 PUSH_PROMISE on no stream",
            frame(PUSH_PROMISE, END_HEADERS, 0, &[0, 0, 0, 2]),
            End::Connection,
        ),
    ])
    .await;
}

#[tokio::test]
async fn settings() {
    check(&[
        (
            "6.5 an answer with content",
            frame(SETTINGS, ACK, 0, &[0]),
            End::Connection,
        ),
        (
            "6.5 on a stream",
            frame(SETTINGS, 0, 1, &[0, 3, 0, 0, 0, 100]),
            End::Connection,
        ),
        (
            "6.5 of another size",
            frame(SETTINGS, 0, 0, &[0, 3, 0]),
            End::Connection,
        ),
        ("6.5.2 ENABLE_PUSH of 2", setting(2, 2), End::Connection),
        (
            "6.5.2 INITIAL_WINDOW_SIZE beyond 2^31-1",
            setting(4, 1 << 31),
            End::Connection,
        ),
        (
            "6.5.2 MAX_FRAME_SIZE below 2^14",
            setting(5, 16_383),
            End::Connection,
        ),
        (
            "6.5.2 MAX_FRAME_SIZE beyond 2^24-1",
            setting(5, 1 << 24),
            End::Connection,
        ),
        (
            "6.5.2 an unknown setting",
            [setting(0xff, 1), get(1)].concat(),
            End::Status(200),
        ),
        (
            "6.5.3 the last of two values counts",
            [setting(4, 1), setting(4, 65_535), get(1)].concat(),
            End::Status(200),
        ),
    ])
    .await;
}

#[tokio::test]
async fn windows() {
    let update = |stream, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let most = (1 << 31) - 1;
    check(&[
        ("6.9 an increment of 0", update(0, 0), End::Connection),
        (
            "6.9 an increment of 0 on a stream",
            [post(1), update(1, 0)].concat(),
            End::Stream,
        ),
        (
            "6.9 of another size",
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1]),
            End::Connection,
        ),
        (
            "6.9.1 a window beyond 2^31-1",
            [update(0, most), update(0, most)].concat(),
            End::Connection,
        ),
        (
            "6.9.1 a stream's window beyond 2^31-1",
            [post(1), update(1, most), update(1, most)].concat(),
            End::Stream,
        ),
        (
            "5.1 WINDOW_UPDATE on an idle stream",
            update(1, 100),
            End::Connection,
        ),
        (
            "6.9.2 a SETTINGS_INITIAL_WINDOW_SIZE beyond 2^31-1 behind a request",
            [post(1), setting(4, 1 << 31)].concat(),
            End::Connection,
        ),
    ])
    .await;
}

/// Sends `parts`, each once all bytes of bodies that those before it allow for have come, and checks that no more come.
async fn check_bytes(name: &str, parts: &[(Vec<u8>, usize)]) {
    let (gateway, _backend) = gateway().await;
    let mut stream = open(&gateway, &[]).await;
    let mut total = 0;
    for (bytes, allowed) in parts {
        stream.write_all(bytes).await.unwrap();
        while total < *allowed {
            let read = timeout(PATIENCE, read_frame(&mut stream)).await;
            let frame = read.unwrap().unwrap();
            total += if frame.kind == DATA {
                frame.payload.len()
            } else {
                0
            };
        }
        assert_eq!(total, *allowed, "{name}");
    }
    while let Ok(read) = timeout(PATIENCE / 40, read_frame(&mut stream)).await {
        assert_ne!(read.unwrap().kind, DATA, "{name}");
    }
}

#[tokio::test]
async fn no_more_is_sent_than_windows_allow() {
    let update = frame(WINDOW_UPDATE, 0, 1, &2_u32.to_be_bytes());
    let one = [(setting(4, 1), 0), (get(1), 1)];
    check_bytes("6.9.1 a window of 1", &one).await;
    let later = [(setting(4, 0), 0), (get(1), 0), (setting(4, 1), 1)];
    check_bytes("6.9.2 a window that grows behind the request", &later).await;
    let negative = [
        (setting(4, 3), 0),
        (get(1), 3),
        (setting(4, 2), 3),
        (update, 4),
    ];
    check_bytes("6.9.2 a window below 0", &negative).await;
}

#[tokio::test]
async fn every_settings_frame_is_acknowledged() {
    let (gateway, _backend) = gateway().await;
    let mut stream = open(&gateway, &setting(3, 100)).await;
    let mut acknowledged = 0;
    while acknowledged < 2 {
        let read = timeout(PATIENCE, read_frame(&mut stream)).await;
        let frame = read.unwrap().unwrap();
        acknowledged += u32::from(frame.kind == SETTINGS && frame.flags & ACK != 0);
    }
}

#[tokio::test]
async fn a_connection_that_is_broken_is_told_why_and_closed() {
    let (gateway, _backend) = gateway().await;
    // 5.4.1, both cases.
    let mut stream = open(&gateway, &frame(PING, 0, 3, b"12345678")).await;
    let mut last = None;
    while let Some(frame) = timeout(PATIENCE, read_frame(&mut stream)).await.unwrap() {
        last = Some(frame);
    }
    let last = last.unwrap();
    assert_eq!(last.kind, GOAWAY);
    // PROTOCOL_ERROR.
    assert_eq!(last.payload[4..8], [0, 0, 0, 1]);
}

#[tokio::test]
async fn another_preface_is_not_http2() {
    let (gateway, _backend) = gateway().await;
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    let bytes = b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n";
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // Closing with bytes unread resets the connection.
    drop(ended.expect("the end of the connection in time"));
}
