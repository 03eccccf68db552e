//! A successor takes the listening sockets over, and no client notices.

use std::time::Duration;

use ingress::server::handover;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::backend::{Backend, read_head};
use crate::client::get;
use crate::harness::{Gateway, PATIENCE, eventually, ingress, service_of};

#[tokio::test]
async fn what_waits_to_be_accepted_is_served_by_the_successor() {
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = Backend::serve(move |mut stream, requests| {
        let mut released = released.clone();
        async move {
            while read_head(&mut stream).await.is_some() {
                requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                released.wait_for(|released| *released).await.unwrap();
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow";
                stream.write_all(answer).await.unwrap();
            }
        }
    })
    .await;
    let fast = Backend::echo("fast").await;
    let mut objects = vec![ingress(
        "i",
        &[("slow.org", "/", "slow"), ("a.org", "/", "fast")],
    )];
    objects.extend(service_of("slow", &[slow.address]));
    objects.extend(service_of("fast", &[fast.address]));
    // The old one has room for one connection, which is busy.
    let flags = ["--workers=1", "--max-connections=1"];
    let (mut old, offered) = Gateway::start_with(&objects, &flags, Vec::new());
    let mut busy = TcpStream::connect(old.http).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: slow.org\r\n\r\n";
    busy.write_all(request).await.unwrap();
    eventually("the request", async || (slow.requests() == 1).then_some(())).await;
    let waiting = tokio::spawn({
        let address = old.http;
        async move { get(address, "a.org", "/").await }
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("handover");
    let offering = tokio::spawn({
        let (path, shutdown) = (path.clone(), old.shutdown.clone());
        async move { handover::offer(&path, offered, shutdown).await }
    });
    let (predecessor, inherited) = eventually("somebody who offers", async || {
        handover::take_over(&path).await.unwrap()
    })
    .await;
    assert_eq!(inherited.len(), 2);
    // More threads than sockets: the rest is bound beside them.
    let http = format!("--http-bind={}", old.http);
    let https = format!("--https-bind={}", old.https);
    let flags = [http.as_str(), https.as_str(), "--workers=2"];
    let (new, _) = Gateway::start_with(&objects, &flags, inherited);
    assert_eq!(new.http, old.http);
    let answer = timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert_eq!(answer.backend(), "fast");
    new.log_line(|line| line["host"] == "a.org").await;
    assert!(!old.shutdown.is_cancelled());
    predecessor.retire().await.unwrap();
    timeout(PATIENCE, offering).await.unwrap().unwrap();
    assert!(old.shutdown.is_cancelled());
    // The old one finishes what it has begun.
    release.send(true).unwrap();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("slow"), "{answer}");
    let finished = old.serving.take().unwrap().finished();
    timeout(Duration::from_secs(5), finished)
        .await
        .unwrap()
        .unwrap();
    for _ in 0..20 {
        assert_eq!(get(new.http, "a.org", "/").await.backend(), "fast");
    }
}

#[tokio::test]
async fn a_successor_that_fails_changes_nothing() {
    let backend = Backend::echo("b").await;
    let mut objects = vec![ingress("i", &[("a.org", "/", "s")])];
    objects.extend(service_of("s", &[backend.address]));
    let (old, offered) = Gateway::start_with(&objects, &[], Vec::new());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("handover");
    assert!(handover::take_over(&path).await.unwrap().is_none());
    let offering = tokio::spawn({
        let (path, shutdown) = (path.clone(), old.shutdown.clone());
        async move { handover::offer(&path, offered, shutdown).await }
    });
    for _ in 0..3 {
        let taken = eventually("somebody who offers", async || {
            handover::take_over(&path).await.unwrap()
        })
        .await;
        drop(taken);
        assert_eq!(get(old.http, "a.org", "/").await.backend(), "b");
    }
    assert!(!old.shutdown.is_cancelled());
    old.shutdown.cancel();
    timeout(PATIENCE, offering).await.unwrap().unwrap();
}
