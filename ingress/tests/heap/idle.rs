//! Connections on which nothing happens.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::apart::alone;
use crate::backend::Backend;
use crate::harness::{Gateway, annotated, eventually, ingress, service_of};
use crate::heap;

/// Connections that have had an answer, and wait.
const MANY: usize = 400;
/// What one may keep: its task (768 bytes), what the runtime knows of its socket (256), what is known of its client (192),
/// and a few words beside. With what the program's allocator rounds up and spoils this has to stay below 2 KiB.
const MOST: u64 = 1_400;

#[test]
fn a_connection_between_requests_keeps_little() {
    alone(
        "idle::a_connection_between_requests_keeps_little",
        async || {
            let _profiler = dhat::Profiler::builder().testing().build();
            let backend = Backend::echo("b").await;
            let plain = ingress("i", &[("a.org", "/", "s")]);
            // The harness keeps the log.
            let mut objects = vec![annotated(plain, &[("enable-access-log", "false")])];
            objects.extend(service_of("s", &[backend.address]));
            let gateway = Gateway::start(&objects, &["--workers=1"]);
            let mut clients = Vec::with_capacity(2 * MANY);
            let mut kept = Vec::with_capacity(2);
            for round in 1..=2 {
                while clients.len() < round * MANY {
                    clients.push(answered(gateway.http));
                }
                eventually("all of them to be parked", async || {
                    (gateway.shared.metrics.parked() as usize == clients.len()).then_some(())
                })
                .await;
                kept.push(heap());
            }
            let each = (kept[1] - kept[0]) / MANY as u64;
            assert!(each <= MOST, "{each} bytes");
        },
    );
}

/// A connection that has had an answer to a request.
fn answered(gateway: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(gateway).unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: a.org\r\n\r\n";
    client.write_all(request).unwrap();
    let mut answer = [0; 4096];
    assert!(client.read(&mut answer).unwrap() > 0);
    client
}
