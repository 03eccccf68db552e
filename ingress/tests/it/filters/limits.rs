//! How much a client may ask for, and how fast it is answered.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::backend::{Backend, read_head};
use crate::harness::{annotated, eventually, ingress};
use crate::one_route::{gateway, get};

#[tokio::test]
async fn who_sends_too_much_is_told_when_to_try_again() {
    let backend = Backend::echo("b").await;
    let annotations = [("limit-rpm", "1"), ("limit-burst-multiplier", "2")];
    for (arguments, status) in [(&[][..], 429), (&["--limit-status-code=503"], 503)] {
        let before = backend.requests();
        let gateway = gateway(&backend, &annotations, &[], arguments);
        for _ in 0..3 {
            assert_eq!(get(&gateway, &[]).await.status, 200);
        }
        let answer = get(&gateway, &[]).await;
        assert_eq!(answer.status, status);
        let wait: u64 = answer.headers["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        assert_eq!(backend.requests() - before, 3);
        let line = gateway.log_line(|line| line["status"] == status).await;
        assert_eq!(line["reason"], "rate_limited");
    }
}

#[tokio::test]
async fn the_exempt_are_not_limited_and_a_change_elsewhere_gives_nobody_a_new_burst() {
    let backend = Backend::echo("b").await;
    let exempt = gateway(
        &backend,
        &[("limit-rpm", "1"), ("limit-whitelist", "127.0.0.0/8")],
        &[],
        &[],
    );
    for _ in 0..20 {
        assert_eq!(get(&exempt, &[]).await.status, 200);
    }
    let mut gateway = gateway(
        &backend,
        &[("limit-rpm", "1"), ("limit-burst-multiplier", "0")],
        &[],
        &[],
    );
    assert_eq!(get(&gateway, &[]).await.status, 200);
    gateway.apply(annotated(
        ingress("i", &[("a.org", "/", "s"), ("b.org", "/", "s")]),
        &[("limit-rpm", "1"), ("limit-burst-multiplier", "0")],
    ));
    assert_eq!(get(&gateway, &[]).await.status, 429);
}

#[tokio::test]
async fn requests_at_a_time_are_limited_until_their_answers_are_through() {
    // Answers are given out one for each permit.
    let (permits, waiting) = tokio::sync::watch::channel(0);
    let backend = Backend::serve(move |mut stream, requests| {
        let mut waiting = waiting.clone();
        async move {
            while read_head(&mut stream).await.is_some() {
                let number = requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let permitted = waiting
                    .wait_for(|permits| *permits > number)
                    .await
                    .map(drop);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                if permitted.is_err() || stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let gateway = gateway(&backend, &[("limit-connections", "1")], &[], &[]);
    let one = get(&gateway, &[]);
    let others = async {
        eventually("the first request", async || {
            (backend.requests() == 1).then_some(())
        })
        .await;
        assert_eq!(get(&gateway, &[]).await.status, 429);
        permits.send_replace(usize::MAX);
    };
    let (one, ()) = tokio::join!(one, others);
    assert_eq!(one.status, 200);
    eventually("the place to be free", async || {
        (get(&gateway, &[]).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn answers_are_no_faster_than_their_pace() {
    // A kilobyte is free and another one in advance, so the last two take two seconds.
    const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4096\r\n\r\n";
    let backend = Backend::serve(|mut stream, _| async move {
        while read_head(&mut stream).await.is_some() {
            let answer = [ANSWER.as_bytes(), &[b'x'; 4096]].concat();
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    })
    .await;
    let gateway = gateway(
        &backend,
        &[("limit-rate", "1"), ("limit-rate-after", "1")],
        &[],
        &[],
    );
    let started = Instant::now();
    let answer = get(&gateway, &[]).await;
    assert_eq!(answer.body, "x".repeat(4096));
    assert!(
        started.elapsed() >= Duration::from_millis(1900),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn an_ipv6_network_is_one_client() {
    let backend = Backend::echo("b").await;
    let annotations = [("limit-rpm", "1"), ("limit-burst-multiplier", "0")];
    let by = |from: &'static str| [("x-forwarded-for", from)];
    for (argument, expected) in [
        ("--limit-ipv6-prefix=64", 429),
        ("--limit-ipv6-prefix=128", 200),
    ] {
        let arguments = ["--trusted-proxies=127.0.0.0/8", argument];
        let gateway = gateway(&backend, &annotations, &[], &arguments);
        assert_eq!(get(&gateway, &by("2001:db8:0:1::1")).await.status, 200);
        let neighbour = get(&gateway, &by("2001:db8:0:1:a:b:c:d")).await;
        assert_eq!(neighbour.status, expected, "{argument}");
        assert_eq!(get(&gateway, &by("2001:db8:0:2::1")).await.status, 200);
        assert_eq!(get(&gateway, &by("2001:db8:0:1::1")).await.status, 429);
    }
}
