//! Clients and backends that take nothing: what the gateway keeps for each.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::apart::alone;
use crate::backend::{Backend, read_head};
use crate::harness::{Gateway, annotated, eventually, ingress, service_of};
use crate::heap;

/// Clients at a time.
const MANY: usize = 50;
const KIB: u64 = 1024;
/// What a request has beside what is read ahead: four buffers of parsers, of 8 KiB each, the channel between them, its task
/// and its own state.
const BESIDE: u64 = 48 * KIB;
/// What is read ahead of a client's request, and kept of an answer that it does not take.
const CLIENT: u64 = 128 * KIB;
/// The same of a backend.
const BACKEND: u64 = 64 * KIB;

fn gateway(backend: &Backend) -> Gateway {
    // No limit, so that it is not what bounds memory.
    let plain = annotated(
        ingress("i", &[("a.org", "/", "s")]),
        &[("proxy-body-size", "0")],
    );
    let mut objects = vec![plain];
    objects.extend(service_of("s", &[backend.address]));
    Gateway::start(&objects, &["--workers=1"])
}

/// Waits until `count` has begun to grow and does so no more.
async fn settled(mut count: impl FnMut() -> u64) {
    let (mut last, mut same) = (0, 0);
    eventually("an end of the growth", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = count();
        same = if now > 0 && now == last { same + 1 } else { 0 };
        last = now;
        (same == 5).then_some(())
    })
    .await;
}

#[test]
fn an_answer_that_nobody_reads_is_kept_in_part() {
    alone(
        "floods::an_answer_that_nobody_reads_is_kept_in_part",
        async || {
            let _profiler = dhat::Profiler::builder().testing().build();
            let sent = Arc::<AtomicU64>::default();
            let counter = sent.clone();
            let backend = Backend::serve(move |mut stream, _| {
                let counter = counter.clone();
                async move {
                    static PIECE: [u8; 16 * 1024] = [b'a'; 16 * 1024];
                    read_head(&mut stream).await;
                    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
                    drop(stream.write_all(head).await);
                    while let Ok(count) = stream.write(&PIECE).await {
                        counter.fetch_add(count as u64, Ordering::Relaxed);
                    }
                }
            })
            .await;
            let gateway = gateway(&backend);
            let mut clients = Vec::with_capacity(MANY);
            let before = heap();
            for _ in 0..MANY {
                let mut client = TcpStream::connect(gateway.http).unwrap();
                let request = b"GET / HTTP/1.1\r\nHost: a.org\r\n\r\n";
                client.write_all(request).unwrap();
                clients.push(client);
            }
            settled(|| sent.load(Ordering::Relaxed)).await;
            let each = (heap() - before) / MANY as u64;
            // What the client does not take, and one buffer that is read into: it grows by a whole read beyond what is in it.
            let most = CLIENT + 2 * BACKEND + BESIDE;
            assert!(each <= most, "{each} bytes");
        },
    );
}

#[test]
fn a_body_that_no_backend_reads_is_kept_in_part() {
    alone(
        "floods::a_body_that_no_backend_reads_is_kept_in_part",
        async || {
            let _profiler = dhat::Profiler::builder().testing().build();
            // It accepts, and no more.
            let backend = Backend::serve(async |stream, _| {
                std::future::pending::<()>().await;
                drop(stream);
            })
            .await;
            let gateway = gateway(&backend);
            let mut clients = Vec::with_capacity(MANY);
            let before = heap();
            for _ in 0..MANY {
                let mut client = TcpStream::connect(gateway.http).unwrap();
                let head = b"POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 1000000000\r\n\r\n";
                client.write_all(head).unwrap();
                client.set_nonblocking(true).unwrap();
                clients.push(client);
            }
            let mut sent = 0;
            settled(|| {
                sent += clients.iter_mut().map(write_what_goes).sum::<u64>();
                sent
            })
            .await;
            let each = (heap() - before) / MANY as u64;
            // One buffer that is read into, and one that what the backend does not take is a part of.
            let most = 2 * (2 * CLIENT) + BESIDE;
            assert!(each <= most, "{each} bytes");
        },
    );
}

/// Writes until nothing more can be written at once.
fn write_what_goes(client: &mut TcpStream) -> u64 {
    let mut sent = 0;
    loop {
        match client.write(&[b'a'; 4096]) {
            Ok(count) => sent += count as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return sent,
            Err(error) => panic!("{error}"),
        }
    }
}
