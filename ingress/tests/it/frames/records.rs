//! What frames of the gateway are sent in: records of TLS.

use std::io::Read;
use std::sync::Arc;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::*;
use crate::client::config;
use crate::harness::{annotated, secure_ingress};
use crate::tls::authority;

/// A client that looks at the records which it gets.
struct Client {
    stream: TcpStream,
    session: ClientConnection,
}

impl Client {
    async fn send(&mut self) {
        let mut bytes = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut bytes).unwrap();
        }
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// What the next record carries for the application.
    async fn record(&mut self) -> Vec<u8> {
        let mut record = vec![0; 5];
        self.stream.read_exact(&mut record).await.unwrap();
        let length = u16::from_be_bytes([record[3], record[4]]);
        record.resize(5 + usize::from(length), 0);
        self.stream.read_exact(&mut record[5..]).await.unwrap();
        let mut rest = &record[..];
        while !rest.is_empty() {
            self.session.read_tls(&mut rest).unwrap();
        }
        let state = self.session.process_new_packets().unwrap();
        let mut carried = vec![0; state.plaintext_bytes_to_read()];
        self.session.reader().read_exact(&mut carried).unwrap();
        carried
    }
}

/// How many of these frames end a stream.
fn ends(mut frames: &[u8]) -> usize {
    let mut ends = 0;
    while let [high, middle, low, kind, flags, ..] = *frames {
        let length = u32::from_be_bytes([0, high, middle, low]);
        let Some(rest) = frames.get(9 + usize::try_from(length).unwrap()..) else {
            break;
        };
        ends += usize::from(kind == DATA && flags & END_STREAM != 0);
        frames = rest;
    }
    ends
}

#[tokio::test]
async fn answers_that_are_ready_together_share_a_record() {
    const STREAMS: u32 = 32;
    let authority = authority();
    // A text that is long enough for h2 to flush after it.
    let answer = format!("200 {}", "a".repeat(300));
    let plain = secure_ingress("i", "a.org", "s", "cert");
    let objects = [
        annotated(plain, &[("portolan.dev/return", &answer)]),
        authority.secret("cert", &["a.org"]),
    ];
    let gateway = Gateway::start(&objects, &[]);
    let config = Arc::new(config(&authority.der(), b"h2", None));
    let name = ServerName::try_from("a.org").unwrap();
    let mut client = Client {
        stream: TcpStream::connect(gateway.https).await.unwrap(),
        session: ClientConnection::new(config, name).unwrap(),
    };
    client.send().await;
    while client.session.is_handshaking() {
        client.record().await;
        client.send().await;
    }
    // All requests in one record, and so in one turn of the gateway, which has nobody to ask for answers to them.
    let fields = [&GET[..1], &[(":scheme", "https")], &GET[2..]].concat();
    let request = |number| {
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            2 * number + 1,
            &block(&fields),
        )
    };
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let requests = [begin, (0..STREAMS).flat_map(request).collect()].concat();
    std::io::Write::write_all(&mut client.session.writer(), &requests).unwrap();
    client.send().await;
    let (mut frames, mut records) = (Vec::new(), 0);
    let all = async {
        while ends(&frames) < STREAMS as usize {
            let carried = client.record().await;
            records += u32::from(!carried.is_empty());
            frames.extend(carried);
        }
    };
    timeout(PATIENCE, all).await.unwrap();
    assert!(
        records < STREAMS / 4,
        "{records} records for {STREAMS} answers"
    );
}
