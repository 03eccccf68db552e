//! The cases of Http11Probe, each sent as it stands.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::cases::filled;
use crate::cases::http11probe::{ACCEPTED, ANSWERED, INCOMPLETE, LAST, REFUSED};
use crate::client::raw;
use crate::harness::{Gateway, PATIENCE, ingress, service_of};

/// How many there are.
const ALL: usize = 113;

async fn gateway(more: &[&str]) -> (Gateway, Backend) {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    (Gateway::start(&objects, more), backend)
}

fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    status.unwrap_or(0)
}

/// How many answers there are. What a backend tells of a request may name the protocol too, but never with a status.
fn status_lines(answer: &str) -> usize {
    let is_status = |rest: &&str| rest.as_bytes().first().is_some_and(u8::is_ascii_digit);
    answer.split("HTTP/1.1 ").skip(1).filter(is_status).count()
}

/// The head and the body of the one answer to `bytes`, on a connection that need not end with it.
async fn answer(gateway: &Gateway, bytes: &[u8]) -> (String, String) {
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    stream.write_all(&filled(bytes)).await.unwrap();
    let reading = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.split('\r').next());
        let is_head = bytes.starts_with(b"HEAD");
        let length = length
            .filter(|_| !is_head)
            .map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        (head, String::from_utf8(body).unwrap())
    };
    timeout(PATIENCE, reading).await.unwrap()
}

#[test]
fn no_case_is_left_out() {
    let named = [REFUSED, LAST, INCOMPLETE, ANSWERED].concat();
    let named = named.iter().map(|(name, _)| *name);
    let all: std::collections::BTreeSet<&str> = named
        .chain(ACCEPTED.iter().map(|(name, ..)| *name))
        .collect();
    assert_eq!(all.len(), ALL);
}

#[tokio::test]
async fn what_must_be_refused_is_and_ends_the_connection() {
    let (gateway, _backend) = gateway(&[]).await;
    let mut wrong = Vec::new();
    for (name, bytes) in REFUSED {
        let answer = raw(gateway.http, &filled(bytes)).await;
        let is_once = status_lines(&answer) <= 1;
        if !matches!(status(&answer), 400 | 501) || !is_once {
            wrong.push((name, answer));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn what_is_ambiguous_is_the_last_of_its_connection() {
    let (gateway, _backend) = gateway(&[]).await;
    let mut wrong = Vec::new();
    for (name, bytes) in LAST {
        let answer = raw(gateway.http, &filled(bytes)).await;
        let is_once = status_lines(&answer) == 1;
        if !matches!(status(&answer), 200 | 400 | 501) || !is_once {
            wrong.push((name, answer));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn bodies_that_do_not_come_whole_are_never_passed_for_whole() {
    let (gateway, backend) = gateway(&["--client-timeout=200ms"]).await;
    for (name, bytes) in INCOMPLETE {
        let answer = raw(gateway.http, &filled(bytes)).await;
        assert!(matches!(status(&answer), 408 | 413), "{name}: {answer}");
    }
    assert!(backend.requests() <= 2, "{}", backend.requests());
}

#[tokio::test]
async fn what_must_arrive_does() {
    let (gateway, _backend) = gateway(&[]).await;
    for (name, bytes, body) in ACCEPTED {
        let (head, seen) = answer(&gateway, bytes).await;
        assert_eq!(status(&head), 200, "{name}: {head}");
        let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
        assert_eq!(seen["body"], *body, "{name}");
    }
}

#[tokio::test]
async fn what_must_be_answered_is() {
    let (gateway, _backend) = gateway(&[]).await;
    for (name, bytes) in ANSWERED {
        let (head, _) = answer(&gateway, bytes).await;
        assert_eq!(status(&head), 200, "{name}: {head}");
        assert!(head.contains("\r\ndate: "), "{name}: {head}");
    }
    let close = b"GET / HTTP/1.1\r\n{H}Connection: close\r\n\r\n";
    let answer = raw(gateway.http, &filled(close)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
