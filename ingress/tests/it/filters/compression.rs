//! Compressed answers.

use http::StatusCode;
use tokio::io::AsyncWriteExt;

use crate::backend::{Backend, read_head};
use crate::one_route::{gateway, get};

#[tokio::test]
async fn answers_are_compressed_as_client_and_operator_agree() {
    let backend = Backend::serve(|mut stream, _| async move {
        while read_head(&mut stream).await.is_some() {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 50000\r\netag: \"x\"\r\n\r\n";
            let answer = [head.as_bytes(), &b"hello".repeat(10_000)].concat();
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    })
    .await;
    let gateway = gateway(&backend, &[], &[], &["--compress=br,gzip"]);
    for (accepts, expected) in [
        ("gzip", Some("gzip")),
        ("gzip, br", Some("br")),
        ("zstd", None),
        ("", None),
    ] {
        let answer = get(&gateway, &[("accept-encoding", accepts)]).await;
        let coding = answer
            .headers
            .get("content-encoding")
            .map(|coding| coding.to_str().unwrap());
        assert_eq!(
            (answer.status, coding),
            (StatusCode::OK, expected),
            "{accepts}"
        );
        assert_eq!(answer.headers["vary"], "Accept-Encoding");
        assert_eq!(
            answer.headers["etag"],
            if expected.is_some() {
                "W/\"x\""
            } else {
                "\"x\""
            }
        );
        let plain = match coding {
            Some("gzip") => {
                std::io::read_to_string(flate2::read::GzDecoder::new(&answer.bytes[..])).unwrap()
            }
            Some(_) => {
                std::io::read_to_string(brotli::Decompressor::new(&answer.bytes[..], 4096)).unwrap()
            }
            None => answer.body,
        };
        assert_eq!(plain, "hello".repeat(10_000), "{accepts}");
        assert!(
            coding.is_none() || answer.bytes.len() < 5000,
            "{accepts}: {}",
            answer.bytes.len()
        );
    }
}

#[tokio::test]
async fn what_a_backend_sends_before_a_pause_is_not_held_back_to_be_compressed() {
    let (seen, waiting) = tokio::sync::watch::channel(false);
    let backend = Backend::serve(move |mut stream, _| {
        let mut waiting = waiting.clone();
        async move {
            read_head(&mut stream).await.unwrap();
            let head =
                b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
            stream.write_all(head).await.unwrap();
            // The rest comes only once the client has the beginning.
            waiting.wait_for(|seen| *seen).await.unwrap();
            stream.write_all(b"5\r\nworld\r\n0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let gateway = gateway(&backend, &[], &[], &["--compress=gzip"]);
    let mut stream = tokio::net::TcpStream::connect(gateway.http).await.unwrap();
    let request =
        b"GET / HTTP/1.1\r\nhost: a.org\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let head = read_head(&mut stream).await.unwrap();
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let mut body = Vec::new();
    let beginning = async {
        // The header of gzip, and then some.
        while body.len() < 20 {
            body.push(tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap());
        }
    };
    tokio::time::timeout(crate::harness::PATIENCE, beginning)
        .await
        .unwrap();
    seen.send_replace(true);
    tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut body)
        .await
        .unwrap();
    assert!(body.ends_with(b"0\r\n\r\n"));
}
